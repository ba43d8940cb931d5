// The listeners of an agent over reloads: those that serve, and those that leave.
//
// Make before break: a listener that was replaced goes on until its successor is connected, or has had the time of one attempt
// for it; then it says go-away and finishes what runs. One that is not connected itself has nothing to keep and goes at once.
// Both serve for a moment, `overlap`: requests that the server's processes passed on among themselves for the sake of the old
// one, before they knew of the new one, still find it.

internal import Base
internal import Config
internal import Crypto
internal import Reactor
internal import Telemetry
internal import Wire

/// The listeners of the process.
final class ListenerSet {
    /// A listener of the configuration.
    private final class Entry {
        var config: ListenerConfig
        /// One for each server that it is connected to at once.
        var tunnels: [TunnelListener] = []
        /// How many of them have not ended.
        var tunnelsLeft = 0
        /// Which server each of them goes to.
        var places: ServerPlaces
        let service: TunnelService

        init(_ config: ListenerConfig, _ service: TunnelService, _ places: ServerPlaces) {
            self.config = config
            self.service = service
            self.places = places
        }

        /// Whether requests can reach the service.
        var isConnected: Bool { tunnels.contains(where: \.isConnected) }
        var hasTried: Bool { tunnels.allSatisfy(\.hasTried) }

        // Any of these may end tunnels, and the last one the entry, within the call.
        func start() { for tunnel in tunnels { tunnel.start() } }
        func stop() { for tunnel in tunnels { tunnel.stop() } }
        func abandon() { for tunnel in tunnels { tunnel.abandon() } }
    }

    /// A listener that is not in the configuration any more.
    private final class Leaving {
        let entry: Entry
        /// The one that it waits for; nil: it drains.
        var successor: Entry?
        /// The end of the wait, then of the drain.
        var timer: CallbackTimer?

        init(_ entry: Entry, successor: Entry?) {
            self.entry = entry
            self.successor = successor
        }
    }

    /// How long the old and the new one both serve.
    static let overlap = Duration.milliseconds(250)
    /// Listeners that finish what runs, for each that serves, and at least: beyond that the oldest is cut.
    static let drainingPerListener = 4
    static let drainingLeast = 64

    private let context: ProgramContext
    private let registry: MetricsRegistry
    private var config: AgentConfig
    /// In the order of the configuration.
    private var servers: [ServerConnector]
    /// In the order of the configuration.
    private var entries: [Entry] = []
    /// Oldest first.
    private var leaving: [Leaving] = []
    private var isStopping = false
    /// How long a listener that was replaced waits for its successor.
    private var holdTime = Duration.zero
    /// Called when a listener's connection came or went, or a first attempt failed.
    var changed: () -> Void = {}
    /// Called when nothing is left after `stop`.
    var finished: () -> Void = {}

    init(_ context: ProgramContext, _ registry: MetricsRegistry, _ config: AgentConfig, _ credentials: AgentCredentials) {
        self.context = context
        self.registry = registry
        self.config = config
        servers = Self.connectors(context, config, credentials)
        entries = zip(config.listeners, credentials.services).map { makeEntry($0, $1) }
    }

    var count: Int { entries.count }
    var connectedCount: Int { entries.count(where: \.isConnected) }
    /// Whether each is connected or has failed to connect.
    var isSettled: Bool { entries.allSatisfy { $0.isConnected || $0.hasTried } }
    /// The tunnels of all listeners, and how many of them are connected.
    var tunnelCounts: (all: Int, connected: Int) {
        let tunnels = entries.flatMap(\.tunnels)
        return (tunnels.count, tunnels.count(where: \.isConnected))
    }

    /// Connects all.
    func start() {
        for entry in entries { entry.start() }
    }

    /// Goes over to the next configuration, as the plan for it says.
    func apply(_ plan: ReloadPlan, _ next: AgentConfig, _ credentials: AgentCredentials) {
        let urls = next.connect.servers
        if urls == config.connect.servers, next.connect.tls == config.connect.tls {
            for (index, server) in servers.enumerated() {
                server.timeout = next.connect.timeout
                server.use(context.target(urls[index].isSecure ? credentials.server : nil, host: urls[index].host))
                server.token = next.connect.token
                server.route = credentials.routes[index]
            }
        } else {
            servers = Self.connectors(context, next, credentials)
        }
        // What may come back stays until it is known that it does not have to.
        let mayRevert = max(config.revertAfter, next.revertAfter)
        holdTime = mayRevert > .zero ? mayRevert + next.connect.timeout : next.connect.timeout
        config = next
        let old = entries
        var fresh: [Entry] = []
        var replaced: [(Entry, by: Entry)] = []
        entries = zip(plan.sources, zip(next.listeners, credentials.services)).map { source, listener in
            let (config, secure) = listener
            let entry: Entry
            switch source {
            case .kept(let index):
                old[index].service.use(context.target(secure, host: config.address.host))
                return old[index]
            case .keptWithOtherLog(let index):
                old[index].config = config
                old[index].service.use(context.target(secure, host: config.address.host))
                old[index].service.change(AccessLogSettings(config.accessLog))
                return old[index]
            case .replaces(let index):
                entry = makeEntry(config, secure)
                replaced.append((old[index], by: entry))
            case .added:
                entry = makeEntry(config, secure)
            }
            fresh.append(entry)
            return entry
        }
        for entry in fresh { entry.start() }
        for (entry, successor) in replaced { leave(entry, successor) }
        for index in plan.removed { leave(old[index], nil) }
    }

    /// Takes nothing new and ends when what runs is done; `finished` is called then.
    func stop() {
        if isStopping { return }
        isStopping = true
        for entry in entries { leaving.append(Leaving(entry, successor: nil)) }
        entries = []
        for one in leaving {
            one.successor = nil
            one.timer?.cancel()
            one.entry.stop()
        }
        tellIfFinished()
    }

    /// Ends at once.
    func abandon() {
        for one in leaving { one.entry.abandon() }
    }

    // MARK: Making

    private static func connectors(_ context: ProgramContext, _ config: AgentConfig, _ credentials: AgentCredentials) -> [ServerConnector] {
        zip(config.connect.servers, credentials.routes).map { url, route in
            ServerConnector(
                loop: context.loop, resolver: context.resolver, url: url, timeout: config.connect.timeout,
                token: config.connect.token, route: route,
                tls: context.target(url.isSecure ? credentials.server : nil, host: url.host))
        }
    }

    private func makeEntry(_ listener: ListenerConfig, _ secure: TLSContext?) -> Entry {
        let entry = Entry(
            listener, makeService(listener, context.target(secure, host: listener.address.host)),
            ServerPlaces(servers: servers.count, tunnels: config.connect.redundancy, first: Int(Random.number() & 0xffff)))
        // A tunnel that leaves after a reload goes on to the servers that it was made for.
        let servers = servers
        for (number, place) in entry.places.places.enumerated() {
            let tunnel = TunnelListener(
                endpoint: listener.endpointID, loop: context.loop, connector: servers[place], service: entry.service,
                logger: context.logger, transport: config.connect.transport
            ) { [unowned self, unowned entry] in
                self.tunnelEnded(of: entry)
            }
            tunnel.gauge.metrics = registry.connections(of: listener.endpointID)
            tunnel.changed = { [unowned self] in self.noteChange() }
            tunnel.serverCount = servers.count - config.connect.redundancy + 1
            if servers.count > 1 { tunnel.nextServer = { [unowned entry] in servers[entry.places.move(number)] } }
            entry.tunnels.append(tunnel)
        }
        entry.tunnelsLeft = entry.tunnels.count
        context.logger.info(.main, "starting listener") {
            $0.field("endpoint-id", listener.endpointID)
            $0.field("protocol", listener.protocol.rawValue)
            $0.field("addr", listener.address.settingText)
        }
        return entry
    }

    private func makeService(_ listener: ListenerConfig, _ tls: TLSTarget?) -> TunnelService {
        let dialer = Dialer(
            loop: context.loop, resolver: context.resolver, host: listener.address.host, port: listener.address.port)
        switch listener.protocol {
        case .http:
            return HTTPService(
                endpoint: listener.endpointID, loop: context.loop, dialer: dialer, tls: tls, settings: HTTPServiceSettings(listener),
                metrics: registry.metrics(of: listener.endpointID), logger: context.logger)
        case .tcp:
            return TCPService(
                endpoint: listener.endpointID, loop: context.loop, dialer: dialer, settings: TCPServiceSettings(listener),
                logger: context.logger)
        }
    }

    // MARK: Leaving

    private func leave(_ entry: Entry, _ successor: Entry?) {
        let waits = successor != nil && entry.isConnected
        // Those that waited for this one wait for its successor, if it has one.
        for one in leaving where one.successor === entry {
            if let successor { one.successor = successor } else { drain(one) }
        }
        let one = Leaving(entry, successor: waits ? successor : nil)
        leaving.append(one)
        if waits {
            one.timer = CallbackTimer(context.loop) { [unowned self, unowned one] in
                self.context.logger.warn(.main, "the changed listener is not connected yet; the old one goes") {
                    $0.field("endpoint-id", one.entry.config.endpointID)
                }
                self.drain(one)
            }
            one.timer?.schedule(after: holdTime)
        } else {
            drain(one)
        }
        let draining = leaving.filter { $0.successor == nil }
        if draining.count > max(Self.drainingLeast, Self.drainingPerListener * entries.count) { draining[0].entry.abandon() }
    }

    private func noteChange() {
        for one in leaving where one.successor?.isConnected == true {
            one.successor = nil
            one.timer = CallbackTimer(context.loop) { [unowned self, unowned one] in self.drain(one) }
            one.timer?.schedule(after: Self.overlap)
        }
        changed()
    }

    private func drain(_ one: Leaving) {
        one.successor = nil
        one.timer?.cancel()
        if config.drainTimeout > .zero {
            one.timer = CallbackTimer(context.loop) { [unowned self, unowned one] in
                self.context.logger.warn(.main, "cutting what still runs") { $0.field("endpoint-id", one.entry.config.endpointID) }
                one.entry.abandon()
            }
            one.timer?.schedule(after: config.drainTimeout)
        }
        context.logger.info(.main, "listener drains") { $0.field("endpoint-id", one.entry.config.endpointID) }
        one.entry.stop()
    }

    private func tunnelEnded(of entry: Entry) {
        entry.tunnelsLeft -= 1
        guard entry.tunnelsLeft == 0 else { return }
        entry.service.close()
        ended(entry)
    }

    private func ended(_ entry: Entry) {
        // It may have ended within `stop` or `abandon`, whose callers still use it.
        guard let index = leaving.firstIndex(where: { $0.entry === entry }) else { return }
        let one = leaving.remove(at: index)
        one.timer?.cancel()
        context.logger.info(.main, "listener ended") { $0.field("endpoint-id", entry.config.endpointID) }
        registry.keep(only: Set((entries + leaving.map(\.entry)).map(\.config.endpointID)))
        tellIfFinished()
    }

    private func tellIfFinished() {
        if isStopping, leaving.isEmpty { finished() }
    }
}

extension AccessLogSettings {
    init(_ config: AccessLogConfig) {
        self.init(
            isDisabled: config.isDisabled, level: config.level,
            requestHeaders: Telemetry.HeaderFilter(
                allow: config.requestHeaders.allowList, block: config.requestHeaders.blockList, showsSecrets: config.showsSecrets),
            responseHeaders: Telemetry.HeaderFilter(
                allow: config.responseHeaders.allowList, block: config.responseHeaders.blockList, showsSecrets: config.showsSecrets),
            isCombined: config.form == .combined, sample: config.sample)
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
        switch listener.proxyProtocol {
        case .off: break
        case .v1: proxyProtocol = .one
        case .v2: proxyProtocol = .two
        }
        accessLog = AccessLogSettings(listener.accessLog)
    }
}
