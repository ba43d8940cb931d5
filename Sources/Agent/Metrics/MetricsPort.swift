// The agent's own port over its life: opened at the start or taken over from the process before, moved by a reload, handed to
// the process after.

internal import Config
internal import Reactor
internal import Telemetry

/// Where the metrics are served, if they are.
final class MetricsPort {
    private let context: ProgramContext
    private let registry: MetricsRegistry
    private(set) var settings = AgentConfig.Metrics()
    private var server: MetricsServer?

    init(_ context: ProgramContext, _ registry: MetricsRegistry) {
        self.context = context
        self.registry = registry
    }

    /// The listening sockets, which stay this port's.
    var descriptors: [Int32] { server?.descriptors ?? [] }

    /// Starts, before the loop runs.
    func open(_ settings: AgentConfig.Metrics) throws(ProgramError) {
        self.settings = settings
        guard settings.isEnabled else { return }
        let server = MetricsServer(loop: context.loop, registry: registry)
        try sockets.open(settings.bindAddress, use: listen(server))
        self.server = server
    }

    /// Serves on sockets that another process opened for the same address.
    func open(_ settings: AgentConfig.Metrics, inherited: [Int32]) {
        self.settings = settings
        let server = MetricsServer(loop: context.loop, registry: registry)
        for number in inherited {
            let descriptor = OwnedDescriptor(number)
            guard let name = SocketAddress.name(of: number) else { continue }
            do {
                try listen(server)(descriptor, name)
            } catch {
                context.logger.error(.server, "can't use an inherited socket") { $0.field("err", error.description) }
            }
        }
        self.server = server
    }

    /// Serves as the settings say from now on. When that fails all stays as it is.
    func change(to settings: AgentConfig.Metrics, completion: @escaping (ProgramError?) -> Void) {
        let isSamePlace = self.settings.bindAddress == settings.bindAddress
        guard settings.isEnabled, !(self.settings.isEnabled && isSamePlace) else {
            use(settings, settings.isEnabled ? server : nil)
            completion(nil)
            return
        }
        let server = MetricsServer(loop: context.loop, registry: registry)
        sockets.openLater(settings.bindAddress, use: listen(server)) { [self] failure in
            if failure == nil { use(settings, server) } else { server.close() }
            completion(failure)
        }
    }

    /// Another process serves from now on.
    func release() {
        server?.release()
        server = nil
    }

    /// The end.
    func close() {
        server?.close()
        server = nil
    }

    private func use(_ settings: AgentConfig.Metrics, _ next: MetricsServer?) {
        if server !== next { server?.release() }
        server = next
        self.settings = settings
    }

    private var sockets: BoundSockets {
        BoundSockets(loop: context.loop, resolver: context.resolver, owner: "config: server.bind_addr")
    }

    private func listen(_ server: MetricsServer) -> BoundSockets.Use {
        let logger = context.logger
        return { (descriptor, address) throws(SystemError) in
            let name = SocketAddress.name(of: descriptor.raw) ?? address
            try server.add(descriptor)
            logger.info(.server, "listening") { $0.field("addr", name.description) }
        }
    }
}
