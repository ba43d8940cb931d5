// One worker: a loop, the connections that the supervisor handed over, the tunnels, and what the worker knows of routes.
// This file holds the life of tunnels and connections; what comes from the supervisor is in ControlClient.swift.

import Base
import Config
import Control
import Crypto
import Memory
import Reactor
import Telemetry
import Transport
import Wire

/// A connection in the worker's list, so that a drain finds it.
protocol TrackedConnection: HTTPConnection {
    /// The port it came in at.
    var listener: ListenerKind { get }
    /// Its place in the list; -1: not in it.
    var trackedIndex: Int { get set }
    /// Whether a sibling relays requests over it, which are for tunnels of this worker.
    var isRelayed: Bool { get }
}

/// The state of one worker process.
final class Worker {
    let loop: Loop
    let setup: WorkerSetup
    let config: ServerConfig
    let telemetry: WorkerTelemetry
    let quotas: QuotaAccount
    let routes: RouteTable
    let proxyContext: HTTPContext
    let upstreamContext: HTTPContext
    let adminContext: HTTPContext
    let yamuxLimits: YamuxLimits
    let credentials: DirectCredentials
    let hopProof: HopProof
    let tls: WorkerTLS
    let proxyAuthentication: PortAuthentication
    let upstreamAuthentication: PortAuthentication
    let adminAuthentication: PortAuthentication
    let tenants: TenantTable
    private(set) var nodes: NodeTable!
    private(set) var siblings: SiblingTable!
    private(set) var entrances: Entrances!
    /// The node's readiness, as the supervisor told it last.
    var isReady = false {
        // Who is not to come is told so.
        didSet { proxyContext.endsConnections = !isReady }
    }
    private(set) var isDraining = false
    /// Set once a newer generation serves.
    private(set) var retirement: Retirement?
    /// Whether new tunnels are taken, as far as the node's people decide.
    private var tunnelsWanted = true
    var admitsTunnels: Bool { tunnelsWanted && !isDraining }
    unowned let control: ControlClient
    private var connections: [any TrackedConnection] = []
    var openConnections: [any TrackedConnection] { connections }
    private var tunnels: [UInt64: Tunnel] = [:]
    private var registering: [UInt64: UpstreamConnection] = [:]
    /// Tunnels that another worker gave, until they are registered: where they came from, and the number of the handover.
    private var arriving: [UInt64: (tunnel: Tunnel, sibling: UInt32, handover: UInt64)] = [:]
    /// Bridges to users of streams in other workers.
    private var bridgeCount = 0
    /// Bridges to sessions in other workers, of streams that are used here.
    let bridgesOut = BridgeCount()
    private var dataCount = 0
    private var leftAgents = LeftAgents()
    private(set) var parkedCount = 0
    private var parkedBytes = 0
    private var nextTunnel: UInt64 = 1
    private(set) var relayCount = 0
    var questions = AdminQuestions()
    private var drainTimer: CallbackTimer?
    private var drainEarliest = Instant.never
    private var agentsLeaveBy = Instant.never
    /// Looks again whether what was queued is sent.
    private var sendingTimer: CallbackTimer?
    private static let sendingStep = Duration.milliseconds(20)
    private var shedWarning = WarningLimit()
    private var clockWarning = WarningLimit()
    private var publishTimer: CallbackTimer?

    init(
        _ loop: Loop, setup: WorkerSetup, config: ServerConfig, telemetry: WorkerTelemetry, quotas: QuotaAccount, control: ControlClient
    ) {
        self.loop = loop
        self.setup = setup
        self.config = config
        self.telemetry = telemetry
        self.quotas = quotas
        self.control = control
        yamuxLimits = Self.yamuxLimits(config)
        credentials = DirectCredentials(keys: setup.clusterKeys + [setup.directKey])
        hopProof = HopProof(keys: setup.clusterKeys, nodeID: setup.nodeID)
        proxyAuthentication = PortAuthentication(.proxy, config.proxy.auth, subjectKey: setup.directKey)
        upstreamAuthentication = PortAuthentication(.upstream, config.upstream.auth, subjectKey: setup.directKey)
        adminAuthentication = PortAuthentication(.admin, config.admin.auth, subjectKey: setup.directKey)
        tenants = TenantTable(config.upstream.tenants, subjectKey: setup.directKey)
        routes = RouteTable(worker: setup.worker)
        proxyContext = HTTPContext(loop, settings: Self.proxySettings(config))
        upstreamContext = HTTPContext(loop, settings: Self.ownSettings())
        adminContext = HTTPContext(loop, settings: Self.ownSettings())
        tls = WorkerTLS(loop, config: config)
        siblings = SiblingTable(self)
        entrances = Entrances(self, config)
        routes.isLinked = { [unowned self] in siblings.isLinked($0) }
        nodes = NodeTable(self)
        tls.engine.handshakeDone = { [unowned self] session in self.telemetry.handshakeDone(isResumed: session.isResumed) }
        tls.engine.handshakeFailed = { [unowned self] text, channel in handshakeFailed(text, channel) }
        bridgesOut.fell = { [unowned self] in checkDrained() }
        sendingTimer = CallbackTimer(loop) { [unowned self] in checkDrained() }
        let timer = CallbackTimer(loop) { [unowned self] in self.publish() }
        publishTimer = timer
        timer.schedule(after: Self.publishInterval)
    }

    /// How often gauges that nobody asks this worker for are brought up to date.
    private static let publishInterval = Duration.seconds(5)

    private func publish() {
        telemetry.publishLoop()
        var streams = 0
        for tunnel in tunnels.values { streams += tunnel.session?.streamCount ?? 0 }
        telemetry.streams(streams)
        publishTimer?.schedule(after: Self.publishInterval)
    }

    /// The address as text, for X-Forwarded-For and logs.
    func hostText(of peer: PeerAddress) -> [UInt8] {
        SocketAddress(encoded: peer.bytes.span).map { Array($0.host.utf8) } ?? []
    }

    // MARK: Connections

    /// A connection that the supervisor accepted (`isNew`), or a sibling moved here.
    func adopt(
        _ descriptor: consuming OwnedDescriptor, listener: ListenerKind, peer: PeerAddress, moves: UInt8 = 0,
        from sibling: UInt32? = nil, isNew: Bool = false, input: consuming ByteBuffer = ByteBuffer()
    ) {
        let isAnnounced = isNew && entrances.isAnnounced(listener, peer)
        let channel: Channel
        do {
            // What was served before was without TLS: with it, nothing moves. A load balancer's header comes before it.
            switch isNew && !isAnnounced ? tls.beginning(listener) : .plain {
            case .plain: channel = try Stream(loop, adopting: descriptor)
            case .secure(let context): channel = try TLSChannel(tls.engine, adopting: descriptor, context: context)
            case .refused:
                if isNew { entrances.lost(listener, peer) }
                return withoutCertificate(listener)
            }
        } catch {
            if isNew { entrances.lost(listener, peer) }
            shed(listener)
            if shedWarning.isDue(loop.now) {
                telemetry.log.warn(.server, "connection dropped") { $0.field("error", error.description) }
            }
            return
        }
        channel.setNoDelay()
        channel.limitUnsent()
        telemetry.connectionOpened(listener, isMoved: sibling != nil)
        if isAnnounced, let stream = channel as? Stream {
            return entrances.read(stream, listener, peer)
        }
        entrances.lease(channel, listener, accepted: isNew ? peer : nil)
        serve(channel, listener: listener, peer: peer, moves: moves, from: sibling, input: input)
    }

    /// Serves a connection that is counted, and whose client is known.
    func serve(
        _ channel: Channel, listener: ListenerKind, peer: PeerAddress, moves: UInt8 = 0, from sibling: UInt32? = nil,
        input: consuming ByteBuffer
    ) {
        let connection: any TrackedConnection =
            switch listener {
            case .proxy: ProxyConnection(self, channel: channel, peer: peer, moves: moves, from: sibling, input: input)
            case .upstream: UpstreamConnection(self, channel: channel, peer: peer, input: input)
            case .admin: AdminConnection(self, channel: channel, peer: peer, input: input)
            }
        connection.trackedIndex = connections.count
        connections.append(connection)
        connection.start(isKept: sibling != nil)
        // The admin port answers to the end: that the node drains is read there.
        if isDraining, listener != .admin { connection.finishSoon(quiet: Self.drainQuiet) }
        if let retirement, !isDraining, retirement.successor() != nil, !connection.isRelayed || !retirement.keepsSessions {
            connection.moveSoon()
        }
    }

    /// The connection left its loop between two requests: it goes to a worker of the newest generation.
    func moveOn(
        _ connection: any TrackedConnection, _ descriptor: consuming OwnedDescriptor, peer: PeerAddress, moves: UInt8,
        input: Span<UInt8>
    ) {
        let listener = connection.listener
        untrack(connection)
        if let successor = retirement?.successor() {
            siblings.move(descriptor, to: successor, listener: listener, client: peer, moves: moves, input: input)
            retirement?.check()
            return
        }
        var kept = ByteBuffer()
        kept.append(input)
        adopt(descriptor, listener: listener, peer: peer, moves: moves, input: kept)
    }

    /// A connection ended that was counted and never served.
    func connectionNotServed(_ listener: ListenerKind) {
        telemetry.connectionClosed(listener)
        checkDrained()
    }

    func reportClients(_ listener: ListenerKind, came: [PeerAddress], went: [PeerAddress]) {
        control.send(.clients(listener: listener, came: came, went: went))
    }

    /// Another node proves its requests with a time that is not ours.
    func warnOfClocks() {
        guard clockWarning.isDue(loop.now) else { return }
        telemetry.log.warn(.proxy, "a request of another node is too old; do the clocks of the nodes differ by more than 30 s?")
    }

    /// The port is to speak TLS, and its certificates did not come.
    private func withoutCertificate(_ listener: ListenerKind) {
        shed(listener)
        warnOfCertificate(listener)
    }

    func warnOfCertificate(_ listener: ListenerKind) {
        guard shedWarning.isDue(loop.now) else { return }
        telemetry.log.error(.server, "no certificate for the port; connections are dropped") { $0.field("port", listener.settingName) }
    }

    private func handshakeFailed(_ text: String, _ channel: TLSChannel) {
        telemetry.handshakeFailed()
        telemetry.log.debug(.server, "TLS handshake failed") {
            if let peer = channel.peer { $0.field("peer", peer.description) }
            $0.field("is_client", channel.isServer ? "no" : "yes")
            $0.field("err", text)
        }
    }

    /// A connection that could not be taken: this process is out of descriptors or of handles.
    func shed(_ listener: ListenerKind) { telemetry.connectionLost(listener) }

    /// A message came with fewer descriptors than it was sent with.
    func descriptorsMissing() {
        guard shedWarning.isDue(loop.now) else { return }
        telemetry.log.warn(.server, "out of descriptors; connections are dropped")
    }

    /// The connection is over, moved, or, with `isOpen`, became a tunnel, which is still counted as a connection.
    func untrack(_ connection: any TrackedConnection, isOpen: Bool = false) {
        let index = connection.trackedIndex
        guard index >= 0 else { return }
        connection.trackedIndex = -1
        let last = connections.removeLast()
        if last !== connection {
            connections[index] = last
            last.trackedIndex = index
        }
        if !isOpen { telemetry.connectionClosed(connection.listener) }
        checkDrained()
    }

    func relayOpened() {
        relayCount += 1
    }

    func relayClosed() {
        relayCount -= 1
        checkDrained()
    }

    // MARK: Routes

    /// Asks the supervisor who has tunnels of the endpoint; the connection's `routeKnown` follows. False: too many
    /// questions.
    @discardableResult
    func ask(_ endpoint: Endpoint, for connection: ProxyConnection?) -> Bool {
        guard let isNew = routes.ask(endpoint, for: connection, now: loop.now) else {
            telemetry.lookupRefused()
            return false
        }
        if isNew { control.send(.lookup(endpoint: endpoint.name)) }
        return true
    }

    /// Asks the supervisor for a connection to another node.
    func dial(_ request: UInt64, _ node: String) { control.send(.dial(request: request, node: node)) }

    // MARK: Tunnels

    /// Begins to register a tunnel of the endpoint; `registered` or `registrationRefused` follows.
    func register(
        _ connection: UpstreamConnection, endpoint name: String, agent: [UInt8]?, hasPreambles: Bool, expiry: UInt64?, quotas: [Quota]
    ) -> Tunnel {
        let tunnel = Tunnel(
            self, id: nextTunnel, endpoint: routes.endpoint(named: name), agent: agent, hasPreambles: hasPreambles, expiry: expiry,
            quotas: quotas)
        nextTunnel += 1
        registering[tunnel.id] = connection
        let kind = agent == nil ? TunnelKind.session : .directSession
        control.send(.register(tunnel: tunnel.id, endpoint: name, kind: kind, quotas: TunnelQuotas(quotas)))
        return tunnel
    }

    func registrationAnswered(_ id: UInt64, refusal: TunnelRefusal?) {
        let isTaken = refusal == nil
        if let arrived = arriving.removeValue(forKey: id) {
            if isTaken {
                tunnelOpened(arrived.tunnel)
            } else {
                tunnels[id] = arrived.tunnel
                arrived.tunnel.session?.goAway()
            }
            siblings.tell(arrived.sibling, .sessionTaken(handover: arrived.handover, isTaken: isTaken))
            return
        }
        guard let connection = registering.removeValue(forKey: id) else { return }
        if let refusal { connection.registrationRefused(refusal) } else { connection.registered() }
    }

    /// The agent left before its registration was answered.
    func registrationAbandoned(_ tunnel: Tunnel) {
        registering[tunnel.id] = nil
        control.send(.unregister(tunnel: tunnel.id, endpoint: tunnel.endpoint.name))
    }

    /// The tunnel serves from now on.
    func tunnelOpened(_ tunnel: Tunnel) {
        tunnels[tunnel.id] = tunnel
        if tunnel.session?.isGoingAway ?? false {
            // It said go-away while it was on its way from another worker: it finishes what it has.
            control.send(.unregister(tunnel: tunnel.id, endpoint: tunnel.endpoint.name))
            return
        }
        routes.add(tunnel)
        tunnel.endpoint.serveWaiting()
        tunnel.endpoint.serveWaitingForTunnel()
        telemetry.log.debug(.upstream, "upstream connected") {
            $0.field("endpoint-id", tunnel.endpoint.name)
        }
        if !admitsTunnels { tunnel.session?.askToLeave() }
        retirement?.moveSessions()
    }

    /// The tunnel takes no new streams.
    func tunnelLeft(_ tunnel: Tunnel) {
        guard routes.remove(tunnel) else { return }
        control.send(.unregister(tunnel: tunnel.id, endpoint: tunnel.endpoint.name))
        tunnel.endpoint.serveWaiting()
    }

    /// The time of the tunnel's token is over; it is about to be closed.
    func tunnelExpired(_ tunnel: Tunnel) {
        telemetry.tunnelExpired()
        telemetry.log.info(.upstream, "token expired; the tunnel is closed") { $0.field("endpoint-id", tunnel.endpoint.name) }
        if let agent = tunnel.agent { agentLeft(tunnel.endpoint.name, agent, tellsSiblings: true) }
    }

    /// The tunnel is gone.
    func tunnelEnded(_ tunnel: Tunnel, error: ChannelError?) {
        tunnelLeft(tunnel)
        tunnels[tunnel.id] = nil
        if let arrived = arriving.removeValue(forKey: tunnel.id) {
            registrationAbandoned(tunnel)
            siblings.tell(arrived.sibling, .sessionTaken(handover: arrived.handover, isTaken: false))
        }
        if let agent = tunnel.agent, bindsDataToSessions { agentLeft(tunnel.endpoint.name, agent, tellsSiblings: true) }
        retirement?.ended(tunnel)
        telemetry.connectionClosed(.upstream)
        let failure = tunnel.session?.failure
        if failure != nil { telemetry.tunnelBrokeProtocol() }
        telemetry.log.debug(.upstream, "upstream disconnected") {
            $0.field("endpoint-id", tunnel.endpoint.name)
            if let failure { $0.field("error", "\(failure.reason)") }
        }
        checkDrained()
    }

    // MARK: Handover of tunnels

    /// The tunnels that serve.
    var openTunnels: Dictionary<UInt64, Tunnel>.Values { tunnels.values }

    /// Another worker has the tunnel now.
    func tunnelMoved(_ tunnel: Tunnel) {
        tunnelLeft(tunnel)
        tunnels[tunnel.id] = nil
        telemetry.connectionClosed(.upstream)
        telemetry.tunnelMoved()
        checkDrained()
    }

    /// Goes on with a session that another worker gave away.
    func adoptSession(
        _ handover: UInt64, from sibling: UInt32, endpoint name: String, _ descriptor: consuming OwnedDescriptor,
        description: Span<UInt8>, bridges: [Int32]
    ) {
        telemetry.connectionOpened(.upstream, isMoved: true)
        let ends = bridges.map { number in
            BridgeEnd(loop, adopting: OwnedDescriptor(number)) { [unowned self] in
                bridgeCount -= 1
                checkDrained()
            }
        }
        bridgeCount += ends.count
        do {
            var agent: [UInt8]?
            var expiry: UInt64?
            var state = ByteBuffer()
            var hasPreambles = false
            var quotas: [Quota] = []
            var origin = TunnelOrigin()
            try MovedTunnel.read(
                description, agent: &agent, hasPreambles: &hasPreambles, expiry: &expiry, quotas: &quotas,
                origin: &origin, isDetailed: siblings.knowsInquiries(sibling), state: &state)
            let tunnel = Tunnel(
                self, id: nextTunnel, endpoint: routes.endpoint(named: name), agent: agent, hasPreambles: hasPreambles, expiry: expiry,
                quotas: quotas)
            tunnel.origin = origin
            nextTunnel += 1
            let stream = try Stream(loop, adopting: descriptor)
            entrances.lease(stream, .upstream)
            do {
                try tunnel.resume(over: stream, state: state.span, bridges: ends)
            } catch {
                stream.abort()
                throw error
            }
            arriving[tunnel.id] = (tunnel, sibling, handover)
            let kind = agent == nil ? TunnelKind.session : .directSession
            control.send(.register(tunnel: tunnel.id, endpoint: name, kind: kind, quotas: TunnelQuotas(quotas, isMoved: true)))
        } catch {
            telemetry.connectionClosed(.upstream)
            telemetry.moveFailed()
            for end in ends { end.drop() }
            bridgeCount -= ends.count
            telemetry.log.error(.server, "a tunnel could not be taken over from another worker") {
                $0.field("endpoint-id", name)
                $0.field("error", "\(error)")
            }
            siblings.tell(sibling, .sessionTaken(handover: handover, isTaken: false))
        }
    }

    // MARK: Requests that wait for an agent

    /// Lets the request wait until an agent of the endpoint is back; until when. Nil: it does not wait. `atLeast`: how long
    /// whatever the configuration says.
    func park(_ connection: ProxyConnection, _ endpoint: Endpoint, atLeast: Duration = .zero) -> Instant? {
        // When this node ends, the agent comes back at another, if there is one.
        guard let lostAt = endpoint.lostAt, !isDraining || !nodes.isEmpty else { return nil }
        let deadline = lostAt + max(config.proxy.reconnectWait, atLeast)
        guard loop.now < deadline else { return nil }
        guard parkedCount < config.proxy.waitingMax, parkedBytes + connection.keptBytes <= config.proxy.waitingBytesMax else {
            telemetry.parkRefused()
            return nil
        }
        parkedCount += 1
        parkedBytes += connection.keptBytes
        connection.parkedBytes = connection.keptBytes
        endpoint.waitForTunnel(connection)
        telemetry.parked()
        return deadline
    }

    func unparked(_ connection: ProxyConnection) {
        parkedCount -= 1
        parkedBytes -= connection.parkedBytes
        connection.parkedBytes = 0
    }

    // MARK: Data connections

    /// Takes over a data connection of the endpoint: its upgrade is done, or a sibling gave it.
    func adoptData(_ channel: Channel, endpoint: Endpoint, agent: [UInt8], isUsed: Bool, limit: UInt64? = nil) {
        guard !leftAgents.contains(agent) else {
            telemetry.connectionClosed(.upstream)
            return channel.close()
        }
        // A peer that vanished is noticed before long while nothing is sent. No user timeout: that would also end a stream
        // whose reader merely pauses, and would count instead of the probes.
        dataCount += 1
        entrances.lease(channel, .upstream)
        channel.setKeepAlive(idle: .seconds(5), interval: .seconds(2), count: 3, userTimeout: .zero)
        let known = routes.endpoint(named: endpoint.name)
        if let pool = known.direct {
            pool.add(channel, agent: agent, isUsed: isUsed, limit: limit)
            return
        }
        let pool = DirectPool(self, id: nextTunnel, endpoint: known)
        nextTunnel += 1
        known.direct = pool
        control.send(.register(tunnel: pool.id, endpoint: known.name, kind: .dataConnections))
        pool.add(channel, agent: agent, isUsed: isUsed, limit: limit)
    }

    /// Gives a data connection that is not needed here to a sibling that relayed a request for want of one.
    func giveData(_ endpoint: Endpoint, to sibling: UInt32) {
        guard siblings.isLinked(sibling), let connection = endpoint.direct?.spare() else { return }
        _ = DataGift(self, connection, of: endpoint, to: sibling)
    }

    /// There has been no data connection of the endpoint for a while.
    func directPoolEmptied(_ endpoint: Endpoint) {
        guard let pool = endpoint.direct else { return }
        endpoint.direct = nil
        pool.close()
        control.send(.unregister(tunnel: pool.id, endpoint: endpoint.name))
        routes.forgetIfEmpty(endpoint)
    }

    /// Whether the agent's session said go-away a moment ago.
    func hasLeft(_ agent: [UInt8]) -> Bool { leftAgents.contains(agent) }

    /// An agent takes no new streams. Its session was here when `tellsSiblings`, which may have data connections of it.
    func agentLeft(_ endpoint: String, _ agent: [UInt8], tellsSiblings: Bool) {
        leftAgents.insert(agent)
        routes.known(endpoint)?.direct?.agentLeft(agent)
        if tellsSiblings { siblings.tellAgentLeft(endpoint, agent) }
    }

    /// A token names a key that this worker was not told. The supervisor looks for it, if it may be published by now.
    func keyMissing(_ port: TokenPort) { control.send(.keyMissing(port: port)) }

    /// Asks some agents to connect anew: other nodes have fewer.
    func shed(_ count: Int) {
        guard !isDraining else { return }
        let chosen = Array(tunnels.values.lazy.filter { !$0.wasShed && $0.session != nil }.prefix(count))
        for tunnel in chosen {
            tunnel.wasShed = true
            tunnel.session?.askToLeave()
        }
    }

    // MARK: Drain

    /// A newer generation serves. The time is the supervisor's to keep.
    func retire(within time: Duration) {
        guard retirement == nil, !isDraining else { return }
        let retirement = Retirement(self)
        self.retirement = retirement
        telemetry.log.debug(.server, "retiring") {
            $0.field("connections", connections.count)
            if time > .zero { $0.field("within", time) }
        }
        giveAway()
    }

    /// Gives everything that can move to those that follow. Called again when there are new ones.
    func giveAway() {
        guard let retirement, !isDraining, retirement.successor() != nil else { return }
        let keepsRelays = retirement.keepsSessions
        for connection in connections where !(connection.isRelayed && keepsRelays) { connection.moveSoon() }
        for endpoint in routes.endpointsWithData { endpoint.direct?.giveIfRetiring() }
        retirement.moveSessions()
        retirement.check()
    }

    /// Whether nothing is left that a worker has to stay for.
    var isEmpty: Bool {
        connections.isEmpty && relayCount == 0 && tunnels.isEmpty && registering.isEmpty && arriving.isEmpty && bridgeCount == 0
            && dataCount == 0 && bridgesOut.count == 0 && entrances.isIdle
    }

    func dataConnectionEnded() {
        dataCount -= 1
        telemetry.dataConnectionClosed()
        retirement?.check()
    }

    /// Logs what a worker that retires stays for.
    func logWhatStays(_ more: (inout LogLine) -> Void) {
        telemetry.log.debug(.server, "retiring still") { line in
            line.field("connections", connections.count)
            line.field("relays", relayCount)
            line.field("tunnels", tunnels.count + registering.count + arriving.count)
            line.field("bridges", bridgeCount + bridgesOut.count)
            line.field("data_connections", dataCount)
            line.field("unsent", Int(loop.counters.handlesLingering))
            more(&line)
        }
    }

    /// Whether connections that were closed have sent what was queued.
    var isSent: Bool { loop.counters.handlesLingering == 0 && tls.engine.counters.closing == 0 }

    func sayDrained() { control.send(.drained) }

    /// Whether new tunnels are wanted; when not, those that are there are asked to go elsewhere.
    func admitTunnels(_ admits: Bool) {
        tunnelsWanted = admits
        guard !admits else { return }
        for tunnel in tunnels.values { tunnel.session?.askToLeave() }
    }

    /// How long clients must have been silent for their connections to be closed at the end: what is on its way is not lost.
    private static let drainQuiet = Duration.seconds(1)

    /// The least time that a drain takes: connections that were accepted before it may still be on their way here.
    private static let drainMin = Duration.milliseconds(100)
    /// How long agents may take to connect to another node before their sessions are closed.
    private static let leaveTime = Duration.seconds(3)

    /// Takes nothing new, lets what runs finish within the time, says `drained`.
    func drain(within time: Duration) {
        guard !isDraining else { return }
        isDraining = true
        // Requests that clients have sent already still reach their agents.
        for tunnel in tunnels.values { tunnel.session?.askToLeave() }
        routes.closeData()
        entrances.close()
        for connection in connections where connection.listener != .admin { connection.finishSoon(quiet: Self.drainQuiet) }
        // In a cluster agents have another node to go to, and other nodes may just be sending something.
        drainEarliest = loop.now + (nodes.isEmpty ? Self.drainMin : Self.drainQuiet)
        agentsLeaveBy = nodes.isEmpty ? loop.now : loop.now + Self.leaveTime
        let timer = CallbackTimer(loop) { [unowned self] in self.endDrain() }
        drainTimer = timer
        timer.schedule(after: time)
        checkDrained()
    }

    /// Requests and relays hold a drain up, tunnels for the time only that their agents need to leave.
    private func checkDrained() {
        retirement?.check()
        guard isDraining, drainTimer != nil, relayCount == 0 else { return }
        guard !connections.contains(where: { $0 is ProxyConnection }) else { return }
        guard isSent, loop.now >= drainEarliest, tunnels.isEmpty || loop.now >= agentsLeaveBy else {
            sendingTimer?.schedule(after: Self.sendingStep)
            return
        }
        endDrain()
    }

    private func endDrain() {
        guard drainTimer != nil else { return }
        drainTimer?.cancel()
        drainTimer = nil
        sendingTimer?.cancel()
        for tunnel in Array(tunnels.values) { tunnel.session?.close() }
        control.send(.drained)
    }
}
