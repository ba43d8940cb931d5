// A client on the proxy port: finds the endpoint of each request and brings it to a tunnel, here or on a sibling worker.
//
// Where a request goes. An idle data connection of this worker serves it, or a stream of a session here. If only siblings
// have tunnels, the client's socket moves to one of them, with every byte that was read and not served. A connection that has
// moved twice stays where it is, and its requests are relayed: the sibling gets them over a socket pair and serves them as
// any plain client's, from its own tunnels only, so that a request never circles.
//
// Clients of an endpoint whose agents open data connections do not move: those connections come to every worker. Until they
// do, requests are relayed, and the sibling gives one of its idle data connections along.

import Authentication
import Base
import Control
import Memory
import Reactor
import Transport
import Wire

/// One client connection of the proxy port.
final class ProxyConnection: HTTPConnection, TrackedConnection {
    let worker: Worker
    let peer: PeerAddress
    /// How often the connection has moved between workers.
    private let moves: UInt8
    /// Whether a sibling relays to us: then only our own tunnels serve it, and the sibling counts and logs its requests.
    let isRelayed: Bool
    /// The sibling that it came from.
    private let sibling: UInt32?
    /// Whether that sibling says the tenant itself.
    private let saysTenant: Bool
    private(set) var endpoint: Endpoint?
    /// The tenant that the request is for, as far as this worker knows tenants.
    private var tenant: Tenant?
    /// Whether another node sent the request: then only this node's tunnels serve it.
    private(set) var isFromNode = false
    /// Whether a node sent the request, be it that its proof is too old: no other node gets it.
    private var hopIsSpent = false
    /// Its way over other nodes.
    var nodes = NodeRoute()
    /// What it went over last.
    var way = RequestWay.none
    private(set) var isTCP = false
    /// Whether the client of a TCP connection takes its bytes without WebSocket.
    private var isRaw = false
    private var hasServed = false
    private var wasAnswered = false
    /// How often it was tried over this worker's tunnels.
    private var ownAttempts = 0
    private var waitsForStream = false
    private var destination: UInt32?
    private var isParked = false
    /// When its patience with an agent that went away ends.
    private var patience: Instant?
    private var isDeclined = false
    /// What the request drew from quotas.
    var drawn = QuotaHold()
    /// What it holds while it waits for an agent.
    var parkedBytes = 0
    private var relays: [UInt32: HTTPUpstream] = [:]
    let listener = ListenerKind.proxy
    var trackedIndex = -1
    /// The response's head, kept for the access log.
    var responseHead = Head()
    var responseBytes = ByteBuffer()

    /// Moves after which a connection stays.
    static let movesMax: UInt8 = 2
    /// `moves` of a connection that is relayed by a sibling.
    static let relayedMark: UInt8 = 255
    /// The number of moves of one that came over so many relays that it is not relayed again.
    private static let relayedLast: UInt8 = 253
    /// What is less in both for a client that came over TLS. Siblings know it since version 5.
    private static let relayedSecurely: UInt8 = 3

    init(
        _ worker: Worker, channel: Channel, peer: PeerAddress, moves: UInt8, from sibling: UInt32?, input: consuming ByteBuffer
    ) {
        self.sibling = sibling
        saysTenant = sibling.map { worker.siblings.knowsTenants($0) } ?? false
        self.worker = worker
        self.peer = peer
        self.moves = moves
        isRelayed = moves >= Self.relayedLast - Self.relayedSecurely
        super.init(
            worker.proxyContext, channel: channel, clientHost: worker.hostText(of: peer),
            isFromOurs: isRelayed || !worker.nodes.isEmpty && worker.nodes.isMember(peer), input: input)
        forwarding = worker.entrances.forwarding(from: peer)
        isSecure = channel is TLSChannel || isRelayed && moves < Self.relayedLast
    }

    private var isRelayedLast: Bool { moves == Self.relayedLast || moves == Self.relayedLast - Self.relayedSecurely }

    // MARK: Routing

    override func requestArrived() {
        if !isRelayed { worker.telemetry.requestStarted() }
        wasAnswered = false
        waitsForStream = false
        isFromNode = false
        hopIsSpent = false
        isDeclined = false
        way = .none
        forgetNodes()
        ownAttempts = 0
        patience = nil
        do throws(HTTPError) {
            guard head.method != .connect else {
                (endpoint, tenant) = (nil, nil)
                throw HTTPError(status: 501, reason: "CONNECT is not supported")
            }
            let saysNode = head.contains(.xPikoNode) || head.contains(.xPikoForward)
            var found = try authenticatedEndpoint(isOurs: isRelayed || saysNode)
            if saysNode { judgeHop(found) }
            // Somebody else may not say everything that a node may.
            if saysNode, !hopIsSpent, !isRelayed { found = try authenticatedEndpoint(isOurs: false) }
            endpoint = found
            if tokens.isEnabled, hopIsSpent, !isFromNode {
                // A node sent it on without the client's token, and can't prove it any more: it looks elsewhere.
                giveUp()
                return
            }
            try authorise(found)
        } catch {
            respondError(status: error.status, error.reason)
            return
        }
        route()
    }

    /// The endpoint; who has no token does not learn what is wrong with his request.
    private func authenticatedEndpoint(isOurs: Bool) throws(HTTPError) -> Endpoint {
        do throws(HTTPError) {
            return try findEndpoint(isOurs: isOurs)
        } catch {
            endpoint = nil
            if !isRelayed {
                try withHeadBytes { bytes throws(HTTPError) in try tokens.authenticate(head, bytes, worker) }
            }
            throw error
        }
    }

    /// Who checks the request's token.
    private var tokens: PortAuthentication { tenant?.proxy ?? worker.proxyAuthentication }

    /// Refuses the request of a client who may not use the endpoint. What a sibling or another node sends has been checked there.
    private func authorise(_ endpoint: Endpoint) throws(HTTPError) {
        guard !isRelayed, !isFromNode else { return }
        let permission = try withHeadBytes { bytes throws(HTTPError) in
            // A tenant's own tokens are for names of its own; those of the port, for all names as they are seen from outside.
            try tokens.authorise(head, bytes, endpoint: tenant?.proxy == nil ? endpoint.bytes : endpoint.ownBytes, worker)
        }
        // The token's, and the tenant's.
        if permission?.quotas.isEmpty ?? true, tenant?.requestQuotas.isEmpty ?? true { return }
        try draw((permission?.quotas ?? []) + (tenant?.requestQuotas ?? []))
    }

    /// Whether another node sent the request, or somebody who only says so.
    private func judgeHop(_ endpoint: Endpoint) {
        let verdict = withHeadBytes { bytes in
            worker.hopProof.judge(
                head, bytes, endpoint: endpoint.bytes, tenant: endpoint.tenant, now: Self.unixSeconds
            ) { worker.nodes.isMember(peer) }
        }
        isFromNode = verdict == .node
        hopIsSpent = verdict == .node || verdict == .stale
        if isRelayed { return }
        switch verdict {
        case .client: break
        case .forged: worker.telemetry.nodeProofRefused()
        case .stale:
            worker.telemetry.nodeProofRefused()
            worker.warnOfClocks()
        case .node: break
        }
    }

    /// The endpoint that the request is for. `isOurs`: a process or node of ours sent it, or says so; it names the tenant, if there is
    /// one, and no host does.
    private func findEndpoint(isOurs: Bool) throws(HTTPError) -> Endpoint {
        try withHeadBytes { bytes throws(HTTPError) in
            isTCP = false
            let prefix = try tenantPrefix(bytes, isOurs: isOurs)
            let path = head.path(in: bytes)
            if ReservedPath.isReserved(bytes.extracting(path)) {
                let name = try ReservedPath.tcpEndpoint(bytes.extracting(path))
                isRaw = RawUpgrade.isOffered(head, bytes, Direct.rawProtocol)
                if let problem = isRaw ? RawUpgrade.problem(head, bytes) : WebSocketUpgrade.problem(head, bytes) { throw problem }
                isTCP = true
                return try endpoint(prefix, Array(name.utf8).span)
            }
            guard let range = try EndpointName.endpoint(from: head, bytes: bytes) else {
                throw HTTPError(status: 400, reason: "missing endpoint id")
            }
            let name = bytes.extracting(range)
            return try endpoint(prefix, name)
        }
    }

    /// What stands before the endpoint's name: the tenant's and a slash, or nothing.
    private func tenantPrefix(_ bytes: Span<UInt8>, isOurs: Bool) throws(HTTPError) -> [UInt8] {
        tenant = nil
        guard isOurs else {
            tenant = try worker.tenants.ofClient(head, bytes)
            return tenant?.prefix ?? []
        }
        // Who does not know tenants passes on what clients say.
        if isRelayed, !saysTenant { return [] }
        let claim = try TenantTable.claim(head, bytes)
        if claim.isEmpty { return [] }
        guard !claim.contains(EndpointName.separator), let id = ReservedPath.text(claim.span) else { throw TenantTable.unknown }
        tenant = worker.tenants.named(id)
        return claim + [EndpointName.separator]
    }

    private func endpoint(_ prefix: [UInt8], _ name: Span<UInt8>) throws(HTTPError) -> Endpoint {
        if prefix.isEmpty, let endpoint, endpoint.isNamed(name) { return endpoint }
        let whole = prefix + [UInt8](copying: name)
        if let endpoint, endpoint.isNamed(whole.span) { return endpoint }
        guard whole.count <= EndpointName.bytesMax, let text = ReservedPath.text(whole.span) else {
            throw HTTPError(status: 400, reason: "invalid endpoint id")
        }
        return worker.routes.endpoint(named: text)
    }

    /// The table may have forgotten the endpoint, and made another of the name, while the request was elsewhere.
    private func takeKnownEndpoint() {
        if let known = endpoint { endpoint = worker.routes.endpoint(named: known.name) }
    }

    /// The supervisor answered.
    func routeKnown() {
        guard isRouting else { return }
        takeKnownEndpoint()
        wasAnswered = true
        route()
    }

    func route() {
        guard let endpoint else { return }
        // Whoever relayed a request without a body looks again where it is served. One with a body may have sent some of it, so
        // this worker sends it on: its tunnel moved from here while it was on its way.
        if isRelayed, endpoint.isServedHere || !hasBodyToSend || isRelayedLast {
            if endpoint.isServedHere { serveHere(endpoint) } else { noUpstream() }
            return
        }
        // A request whose tunnel broke tries each tunnel of this worker once, and then those of the others.
        let avoidsOwn = ownAttempts > 0 && ownAttempts >= max(endpoint.tunnels.count, endpoint.hasIdleData ? 2 : 0)
        let avoidsNodes = hopIsSpent || nodes.isExhausted
        switch worker.routes.choice(
            endpoint, mayMove: !hasServed && moves == 0 && canMove, avoidsOwn: avoidsOwn, avoidsNodes: avoidsNodes)
        {
        case .own:
            // Where else it is served must be known before it can be shared out.
            if !hasServed && moves == 0 && endpoint.route == nil { worker.ask(endpoint, for: nil) }
            serveHere(endpoint)
        case .sibling(let sibling):
            // Of an agent that is gone only data connections are left, and those not for long.
            if endpoint.hasLostSessions, !isFromNode, waitsForTunnel(endpoint) { return }
            // Its data connections will come here, too.
            // What becomes a byte stream moves: a relay between workers can't tell a reset from an end.
            serve(at: sibling, moves: isTCP || head.upgradePresent || !endpoint.isDirect)
        case .fuller(let sibling):
            serve(at: sibling, moves: true)
        case .movingOn:
            // Its next worker says so in a moment.
            endpoint.noteLoss(at: context.loop.now)
            if !waitsForTunnel(endpoint, atLeast: Self.moveTime) { noUpstream() }
        case .remote: serveAtNode(endpoint)
        case .unknown where !wasAnswered:
            if !worker.ask(endpoint, for: self) { noUpstream() }
        case .unknown, .none:
            if endpoint.isServedHere { serveHere(endpoint) } else { noUpstream() }
        }
    }

    private func noUpstream() {
        if isRelayed {
            // It may be served elsewhere by now; whoever sent it here looks, and can't repeat a body.
            if let endpoint, hasBodyToSend, waitsForTunnel(endpoint) { return }
            decline()
            return
        }
        // The node that sent it here looks elsewhere, and waits.
        if let endpoint, !hopIsSpent {
            if nodes.wasDeclined { endpoint.noteLoss(at: context.loop.now) }
            if waitsForTunnel(endpoint) { return }
        }
        giveUp()
    }

    /// Nobody serves the endpoint.
    private func giveUp() {
        if hopIsSpent {
            isDeclined = true
            worker.telemetry.nodeRequestDeclined()
            declineForNode()
            return
        }
        worker.telemetry.withoutUpstream()
        respondError(status: 502, "no available upstreams")
    }

    /// Routes the request again, by what the supervisor knows now.
    func routeAnew() {
        takeKnownEndpoint()
        if let endpoint { worker.routes.doubt(endpoint) }
        wasAnswered = false
        route()
    }

    /// Whether the request waits for the endpoint's last agent, which went away a moment ago, to come back.
    private func waitsForTunnel(_ endpoint: Endpoint, atLeast: Duration = .zero) -> Bool {
        let now = context.loop.now
        guard !isParked, now < patience ?? .never, let deadline = worker.park(self, endpoint, atLeast: atLeast) else { return false }
        isParked = true
        let end = min(deadline, patience ?? deadline)
        patience = end
        // What another node has may have changed there and back before news of it came here.
        limitRouting(until: nodes.wasDeclined ? min(end, now + Self.declinedTime) : end)
        return true
    }

    /// How long a tunnel may be on its way from one worker to another.
    private static let moveTime = Duration.seconds(5)

    /// An agent of the endpoint may be back.
    func tunnelMayBeBack() {
        guard isParked else { return }
        unpark()
        guard isRouting else { return }
        takeKnownEndpoint()
        nodes = NodeRoute()
        wasAnswered = false
        route()
    }

    /// How long a request waits until it tries a node again that declined it.
    private static let declinedTime = Duration.milliseconds(200)

    private func unpark() {
        guard isParked else { return }
        isParked = false
        endpoint?.stopWaiting(self)
        worker.unparked(self)
    }

    override func routingTimedOut() {
        guard isParked else {
            forgetNodes()
            return super.routingTimedOut()
        }
        if nodes.wasDeclined, let patience, let endpoint, context.loop.now < patience {
            worker.routes.doubt(endpoint)
            tunnelMayBeBack()
            return
        }
        unpark()
        giveUp()
    }

    override func upstreamDeclined() -> Bool {
        guard let endpoint else { return false }
        if let node = nodes.current {
            nodeDeclined(node)
            return true
        }
        worker.telemetry.retried()
        if summary.attempts < Self.declinesMax {
            worker.routes.changed(endpoint.name)
            wasAnswered = false
            route()
        } else {
            // The table has it there, but nothing is behind it any more: an agent that is about to come back, most likely.
            endpoint.noteLoss(at: context.loop.now)
            noUpstream()
        }
        return true
    }

    /// A request that was sent on so often in vain waits for an agent.
    private static let declinesMax = 2

    // MARK: Serving

    private func serveHere(_ endpoint: Endpoint) {
        hasServed = true
        // The sibling's help is not needed any more.
        if !relays.isEmpty { closeRelays() }
        if isTCP {
            serveTCP(endpoint)
            return
        }
        // After a failure the way that depends on nothing old comes first.
        let isRepeatable = head.method.isIdempotent
        // What a sibling relays goes through the session: so the agent learns that data connections are short.
        let prefersData = summary.attempts == 0 && !isRelayed && endpoint.choosesData(workers: worker.routes.workerCount)
        if prefersData, serveOverData(endpoint, isRepeatable: isRepeatable) { return }
        let isPlainsTurn = summary.attempts == 0 && !isRelayed && !prefersData
        if serveOverSession(endpoint, of: isPlainsTurn ? endpoint.plainTunnels : endpoint.tunnels) { return }
        if serveOverData(endpoint, isRepeatable: true) || serveOverSession(endpoint, of: endpoint.tunnels) { return }
        noStream(endpoint)
    }

    /// Serves the request over a stream of one of the sessions, each in turn; false when none is to be had.
    private func serveOverSession(_ endpoint: Endpoint, of tunnels: [Tunnel]) -> Bool {
        // A stream that was idle may be one that the agent or the service has just given up. Only a request that may be sent
        // again is put on one (RFC 9112 section 9.3.1).
        let fresh = !head.method.isIdempotent || summary.attempts > 0
        let first = endpoint.nextTurn()
        for step in tunnels.indices {
            let tunnel = tunnels[(first &+ step) % tunnels.count]
            guard let upstream = tunnel.upstream(fresh: fresh, for: clientAddress) else { continue }
            if tunnel.agent != nil { worker.telemetry.dataShortage() }
            way = .session(tunnel.id)
            serve(over: upstream)
            if isRelayed, let sibling { worker.giveData(endpoint, to: sibling) }
            return true
        }
        return false
    }

    /// Serves the request over a data connection; false when none is to be had.
    private func serveOverData(_ endpoint: Endpoint, isRepeatable: Bool) -> Bool {
        guard let pool = endpoint.direct, let connection = pool.take(isRepeatable: isRepeatable) else { return false }
        connection.open(for: clientAddress.bytes.span)
        way = .data(pool.id)
        serve(over: connection)
        if isRelayed, let sibling { worker.giveData(endpoint, to: sibling) }
        return true
    }

    private func serve(over upstream: HTTPUpstream) {
        ownAttempts += 1
        worker.telemetry.upstreamRequest()
        proceed(with: upstream, as: isFromNode ? .serviceAfterNode : .service)
    }

    /// No tunnel opened a stream. An agent that has not yet accepted as many as may wait for that will: so does the request.
    private func noStream(_ endpoint: Endpoint) {
        // A raw stream needs a connection that was never used: those that serve requests do not become one.
        guard endpoint.tunnels.contains(where: \.isFull) || !isTCP && (endpoint.direct?.count ?? 0) > 0 else {
            noUpstream()
            return
        }
        waitsForStream = true
        endpoint.waitForStream(self)
        limitRouting()
    }

    /// A tunnel takes streams again, or left.
    func streamMayOpen() {
        guard waitsForStream, isRouting else { return }
        waitsForStream = false
        // What was answered before the wait is out of date: a tunnel that left is at another worker now.
        wasAnswered = false
        route()
    }

    private func serveTCP(_ endpoint: Endpoint) {
        if endpoint.choosesData(workers: worker.routes.workerCount), let pool = endpoint.direct, let connection = pool.takeUnused() {
            connection.open(for: clientAddress.bytes.span)
            way = .data(pool.id)
            relayTCP(to: connection.takeChannel())
            return
        }
        let first = endpoint.nextTurn()
        let tunnels = endpoint.tunnels
        for step in tunnels.indices {
            let tunnel = tunnels[(first &+ step) % tunnels.count]
            guard let channel = tunnel.open(for: clientAddress) else { continue }
            if endpoint.isDirect { worker.telemetry.dataShortage() }
            way = .session(tunnel.id)
            relayTCP(to: channel)
            return
        }
        noStream(endpoint)
    }

    /// Agrees to the upgrade and joins the client to the stream.
    private func relayTCP(to service: Channel) {
        worker.telemetry.upstreamRequest()
        var answer = ByteBuffer()
        withHeadBytes { bytes in
            if isRaw {
                RawUpgrade.writeAcceptance(Direct.rawProtocol, into: &answer)
            } else {
                WebSocketUpgrade.writeAcceptance(head, bytes, into: &answer)
            }
        }
        answer.append("\r\n")
        var summary = self.summary
        summary.status = 101
        if !isRelayed {
            if isFromNode { worker.telemetry.nodeRequest() }
            worker.telemetry.requestFinished(head, summary, countedEndpoint)
        }
        let log = worker.telemetry.accessLog
        // It is written at the connection's end, when the head is gone.
        var entry = log.isEnabled && !isRelayed ? accessEntry(summary) : nil
        let requestID = entry == nil ? [] : requestIDText
        var leftover = ByteBuffer()
        let hasEnded = clientHasEnded
        let client = takeOver(leftover: &leftover)
        client.write(answer.span)
        let early = isRaw ? leftover.count : 0
        if isRaw { service.write(leftover.span) }
        let left = isRaw
            ? client : WebSocketChannel(context.loop, over: client, role: .server, leftover: leftover, hasEnded: hasEnded)
        worker.relayOpened()
        let relay = Relay(left, service) { [self] outcome in
            if !isRelayed {
                worker.telemetry.streamEnded(countedEndpoint, received: outcome.leftBytes + UInt64(early), sent: outcome.rightBytes)
            }
            entry?.end(outcome, early: early, duration: context.loop.now - summary.started)
            if let entry { log.connection(entry, requestID: requestID) }
            giveBackDrawn()
            worker.relayClosed()
            worker.untrack(self)
        }
        relay.start()
        if isRaw, hasEnded { relay.channelEnded(client) }
    }

    override func requestIsTooSlow() { worker.telemetry.requestTooSlow() }

    override func upstreamDiedUnnoticed(_ upstream: HTTPUpstream) {
        if let connection = upstream as? DataConnection { endpoint?.direct?.diedUnnoticed(connection) }
    }

    override func upstreamBroke(repeatable: Bool) -> Bool {
        guard repeatable, endpoint != nil else {
            worker.telemetry.upstreamError()
            return false
        }
        worker.telemetry.retried()
        if let node = nodes.current {
            nodeBroke(node)
            return true
        }
        wasAnswered = false
        route()
        return true
    }

    // MARK: Siblings

    private func serve(at sibling: UInt32, moves mayMove: Bool) {
        guard worker.siblings.isLinked(sibling) else {
            noUpstream()
            return
        }
        if canMove, moves < Self.movesMax, summary.attempts == 0, mayMove {
            destination = sibling
            worker.telemetry.requestMoved()
            moveAway()
        } else {
            relay(to: sibling)
        }
    }

    override func movedAway(descriptor: consuming OwnedDescriptor, input: Span<UInt8>) {
        // Who serves the request draws again.
        giveBackDrawn(withRate: true)
        guard let destination else {
            closeRelays()
            worker.moveOn(self, descriptor, peer: peer, moves: isRelayed ? moves : 0, input: input)
            return
        }
        worker.untrack(self)
        guard worker.siblings.isLinked(destination) else {
            // It ended meanwhile: the client stays, and its request is routed anew.
            var kept = ByteBuffer()
            kept.append(input)
            worker.adopt(descriptor, listener: .proxy, peer: peer, moves: moves + 1, input: kept)
            return
        }
        worker.siblings.move(
            descriptor, to: destination, listener: .proxy, client: peer, moves: moves + 1, input: input)
    }

    private func relay(to sibling: UInt32) {
        hasServed = true
        way = .sibling(sibling)
        let passage = Passage.sibling(
            saysContinue: worker.siblings.saysContinue(sibling), fields: HopProof.tenantField(endpoint?.tenant ?? []))
        if let idle = relays[sibling], idle.isIdle {
            proceed(with: idle, as: passage)
            return
        }
        var mark = isRelayed ? moves - 1 : Self.relayedMark
        let saysSecure = isSecure && worker.siblings.knowsSecureRelays(sibling)
        if isRelayed, isSecure, !saysSecure { mark += Self.relayedSecurely }
        if !isRelayed, saysSecure { mark -= Self.relayedSecurely }
        guard !isRelayed || worker.siblings.takesRelaysOfRelays(sibling), let stream = worker.siblings.openRelay(to: sibling, client: peer, moves: mark) else {
            noUpstream()
            return
        }
        worker.telemetry.relayed()
        let upstream = HTTPUpstream(stream, pool: nil, keepsOpen: true, headLimits: context.settings.headLimits)
        relays[sibling] = upstream
        proceed(with: upstream, as: passage)
    }

    // MARK: Ends

    override var comesFromOurs: Bool { isRelayed || hopIsSpent }

    override func relayStarted(_ relay: Relay) { worker.relayOpened() }

    override func willRespond(status: Int, head: borrowing Head, bytes: Span<UInt8>) {
        responseBytes.removeAll()
        guard worker.telemetry.accessLog.keepsResponses, !isRelayed else { return }
        responseHead = copy head
        responseBytes.append(bytes)
    }

    override func requestRefused(status: Int) {
        if !isRelayed { worker.telemetry.headRefused() }
    }

    /// Whose traffic it is: that of a request from another node is counted there.
    private var countedEndpoint: Endpoint? { isFromNode ? nil : endpoint }

    override func exchangeFinished() {
        giveBackDrawn()
        if summary.wasUpgraded { worker.relayClosed() }
        if isRelayed { return }
        if isFromNode { worker.telemetry.nodeRequest() }
        if isDeclined {
            // The node that sent it counts it.
            worker.telemetry.requestMoved()
            return
        }
        worker.telemetry.requestFinished(head, summary, countedEndpoint, trace)
        logExchange()
    }

    override func connectionClosed() {
        giveBackDrawn()
        unpark()
        forgetNodes()
        closeRelays()
        worker.untrack(self)
    }

    private func closeRelays() {
        for upstream in relays.values { upstream.closeIfIdle() }
        relays = [:]
    }
}
