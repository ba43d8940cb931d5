// `piko forward`: all local ports of a configuration. It ends at the first signal: who stops it wants his prompt back, and
// the bytes that are on their way are still sent.

internal import Base
internal import Config
internal import Reactor
internal import Telemetry

/// A running `forward`.
final class ForwardProgram {
    private let context: ProgramContext
    private var forwarders: [Forwarder] = []

    init(_ config: ForwardConfig, environment: ProxyEnvironment) throws(ProgramError) {
        context = try ProgramContext(backend: config.ioBackend, log: config.log)
        let credentials: AgentCredentials
        do {
            credentials = try AgentCredentials(reading: config, environment: environment)
        } catch {
            throw ProgramError("\(error)")
        }
        context.announce(credentials.routes)
        let connector = ServerConnector(
            loop: context.loop, resolver: context.resolver, url: config.connect.url, timeout: config.connect.timeout,
            token: config.connect.token, route: credentials.routes[0],
            tls: context.target(credentials.server, host: config.connect.url.host))
        let sockets = BoundSockets(loop: context.loop, resolver: context.resolver, owner: "piko forward")
        for port in config.ports {
            let context = context
            var opened: [Forwarder] = []
            try sockets.open(port.address.bindAddress) { (descriptor, address) throws(SystemError) in
                opened.append(
                    try Forwarder(
                        descriptor, address: address, endpoint: port.endpointID, loop: context.loop, connector: connector,
                        logger: context.logger, transport: config.connect.transport))
            }
            for forwarder in opened {
                context.logger.info(.forwarder, "listening") {
                    $0.field("endpoint-id", port.endpointID)
                    $0.field("addr", forwarder.address.description)
                }
            }
            forwarders += opened
        }
        try context.watchSignals { [unowned self] _ in self.stop() }
    }

    /// Runs until a signal; the exit status.
    func run() -> Int32 { context.run() }

    private func stop() {
        for forwarder in forwarders { forwarder.close() }
        context.logger.info(.main, "stopped")
        context.end(0, lingerMax: .seconds(2))
    }
}
