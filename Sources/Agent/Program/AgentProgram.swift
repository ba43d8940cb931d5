// `piko agent`: all listeners of a configuration, the metrics port, and the end.

internal import Base
internal import Config
internal import Reactor
internal import Telemetry
internal import Transport

/// A running agent.
final class AgentProgram {
    private let context: ProgramContext
    private let config: AgentConfig
    private var machine = ProgramMachine()
    private var listeners: [TunnelListener] = []
    private var finishedCount = 0
    private var metricsServer: MetricsServer?
    private var grace: CallbackTimer?

    init(_ config: AgentConfig) throws(ProgramError) {
        self.config = config
        context = try ProgramContext(backend: config.ioBackend, log: config.log)
        grace = CallbackTimer(context.loop) { [unowned self] in self.send(.graceExpired) }
        try context.watchSignals { [unowned self] in self.send(.signal) }
        let connector = ServerConnector(
            loop: context.loop, resolver: context.resolver, url: config.connect.url, timeout: config.connect.timeout)
        var metrics: [EndpointMetrics] = []
        for listener in config.listeners { listeners.append(makeListener(listener, connector, &metrics)) }
        if config.metrics.isEnabled { try startMetrics(metrics) }
    }

    /// Runs until a signal; the exit status.
    func run() -> Int32 {
        for listener in listeners { listener.start() }
        return context.run()
    }

    private func makeListener(
        _ listener: ListenerConfig, _ connector: ServerConnector, _ metrics: inout [EndpointMetrics]
    ) -> TunnelListener {
        let dialer = Dialer(
            loop: context.loop, resolver: context.resolver, host: listener.address.host, port: listener.address.port)
        let service: TunnelService
        switch listener.protocol {
        case .http:
            // Two listeners of one endpoint share its metrics.
            let counted = metrics.first { $0.endpoint == listener.endpointID } ?? EndpointMetrics(endpoint: listener.endpointID)
            if !metrics.contains(where: { $0 === counted }) { metrics.append(counted) }
            service = HTTPService(
                endpoint: listener.endpointID, loop: context.loop, dialer: dialer, settings: HTTPServiceSettings(listener),
                metrics: counted, logger: context.logger)
        case .tcp:
            service = TCPService(
                endpoint: listener.endpointID, loop: context.loop, dialer: dialer, settings: TCPServiceSettings(listener),
                logger: context.logger)
        }
        context.logger.info(.main, "starting listener") {
            $0.field("endpoint-id", listener.endpointID)
            $0.field("protocol", listener.protocol.rawValue)
            $0.field("addr", listener.address.settingText)
        }
        return TunnelListener(
            endpoint: listener.endpointID, loop: context.loop, connector: connector, service: service, logger: context.logger,
            transport: config.connect.transport
        ) { [unowned self] in
            self.listenerFinished()
        }
    }

    private func startMetrics(_ metrics: [EndpointMetrics]) throws(ProgramError) {
        let server = MetricsServer(loop: context.loop, metrics: metrics)
        let logger = context.logger
        let sockets = BoundSockets(loop: context.loop, resolver: context.resolver, owner: "config: server.bind_addr")
        try sockets.open(config.metrics.bindAddress) { (descriptor, address) throws(SystemError) in
            let name = SocketAddress.name(of: descriptor.raw) ?? address
            try server.add(descriptor)
            logger.info(.server, "listening") { $0.field("addr", name.description) }
        }
        metricsServer = server
    }

    private func listenerFinished() {
        finishedCount += 1
        if finishedCount == listeners.count { send(.workFinished) }
    }

    private func send(_ event: ProgramMachine.Event) {
        switch machine.handle(event) {
        case .none:
            break
        case .drain:
            context.logger.info(.main, "draining") { $0.field("grace_period", config.gracePeriod) }
            grace?.schedule(after: config.gracePeriod)
            for listener in listeners { listener.stop() }
        case .end(let code, let cutting):
            if cutting {
                context.logger.warn(.main, "cutting what still runs")
                for listener in listeners { listener.abandon() }
            }
            metricsServer?.close()
            context.logger.info(.main, "stopped")
            context.end(code, lingerMax: cutting ? .milliseconds(100) : .seconds(2))
        }
    }
}

extension AccessLogSettings {
    init(_ config: AccessLogConfig) {
        self.init(
            isDisabled: config.isDisabled, level: config.level,
            requestHeaders: Telemetry.HeaderFilter(allow: config.requestHeaders.allowList, block: config.requestHeaders.blockList),
            responseHeaders: Telemetry.HeaderFilter(
                allow: config.responseHeaders.allowList, block: config.responseHeaders.blockList))
    }
}

extension HTTPServiceSettings {
    init(_ listener: ListenerConfig) {
        timeout = listener.timeout
        keepAliveInterval = listener.httpClient.keepAliveTimeout
        idleTimeout = listener.httpClient.idleConnectionTimeout
        idleMax = listener.httpClient.idleConnectionsMax < 0 ? .max : listener.httpClient.idleConnectionsMax
        pathPrefix = listener.address.pathPrefix
        accessLog = AccessLogSettings(listener.accessLog)
    }
}

extension TCPServiceSettings {
    init(_ listener: ListenerConfig) {
        timeout = listener.timeout
        accessLog = AccessLogSettings(listener.accessLog)
    }
}
