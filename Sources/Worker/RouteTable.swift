// What this worker knows of endpoints: its own tunnels, a cached copy of the supervisor's answer, and who waits for one.
//
// The supervisor's table is the truth. An answer is cached until the supervisor says that the endpoint changed
// (`routeChanged`, sent to every worker before anybody can rely on the change). "Nobody has it" is never cached: a question
// costs some microseconds, and a stale no would refuse an agent that has just come. A flood of unknown names is held by
// the rate of questions instead.

import Base
import Control
import Memory
import Wire

/// An endpoint that this worker has tunnels of, or was asked for.
final class Endpoint {
    /// The whole name: "TENANT/ENDPOINT" of a tenant's.
    let name: String
    let bytes: [UInt8]
    /// The tenant's name; empty: none.
    let tenant: [UInt8]
    /// The name without the tenant's, as text and bytes.
    let ownName: String
    let ownBytes: [UInt8]
    /// This worker's own tunnels.
    fileprivate(set) var tunnels: [Tunnel] = [] {
        didSet { plainTunnels = tunnels.filter { $0.agent == nil } }
    }
    /// Those whose agent opens no data connections.
    private(set) var plainTunnels: [Tunnel] = []
    /// How far the turn of the sessions without data connections has come; see `choosesData`.
    private var plainTurn = 0
    /// This worker's data connections; nil: it has none.
    var direct: DirectPool?
    /// The supervisor's answer: all workers that hold tunnels. nil: not asked, or out of date.
    fileprivate(set) var route: [RouteEntry]? {
        didSet { if route == nil { remote = [] } }
    }
    /// And the other nodes that do; empty without a route.
    fileprivate(set) var remote: [RemoteEntry] = []
    /// When the node lost its last tunnel; nil: it has one, or that is long ago.
    fileprivate(set) var lostAt: Instant?
    /// Whether its last session went away a moment ago, though data connections may be left.
    var hasLostSessions: Bool { lostAt != nil && route?.allSatisfy { $0.tunnels == 0 } ?? true }
    fileprivate var waiting: [ProxyConnection] = []
    /// Whose requests wait until a tunnel takes another stream, in the order in which they came.
    private var waitingForStream: [ProxyConnection] = []
    private var isServingWaiting = false
    /// Where its traffic is counted.
    var traffic: TrafficPlace?
    /// Whose requests wait until some worker of the node has a tunnel again.
    private var waitingForTunnel: [ProxyConnection] = []
    private var turn = 0
    fileprivate var isAsked = false
    /// Whether the table has it; one that was forgotten is of no use to whoever still holds it.
    fileprivate var isKnown = true

    fileprivate init(_ name: String) {
        self.name = name
        let bytes = Array(name.utf8)
        let slash = bytes.firstIndex(of: EndpointName.separator)
        self.bytes = bytes
        tenant = slash.map { Array(bytes[..<$0]) } ?? []
        ownBytes = slash.map { Array(bytes[($0 + 1)...]) } ?? bytes
        ownName = slash == nil ? name : String(decoding: ownBytes, as: UTF8.self)
    }

    /// Whether nothing of this worker hangs on it.
    fileprivate var isUnused: Bool { tunnels.isEmpty && direct == nil && waiting.isEmpty && waitingForTunnel.isEmpty }

    /// Whether it is the table's endpoint for the name of these bytes.
    func isNamed(_ name: Span<UInt8>) -> Bool {
        guard isKnown, name.count == bytes.count else { return false }
        for index in name.indices where name[index] != bytes[index] { return false }
        return true
    }

    /// Whether a data connection waits here.
    var hasIdleData: Bool { direct?.hasIdle ?? false }

    /// Whether agents open data connections for the endpoint, as far as it is known here.
    var isDirect: Bool {
        direct != nil || plainTunnels.count < tunnels.count || route?.contains { $0.directTunnels > 0 || $0.hasData } ?? false
    }

    /// Whether the next request goes over a data connection. A session whose agent opens none is served by this worker alone,
    /// data connections by all, so it has that many turns for one of an agent with data connections.
    func choosesData(workers: Int) -> Bool {
        guard let direct, !plainTunnels.isEmpty else { return true }
        let plain = plainTunnels.count * workers
        let total = plain + direct.agentCount
        plainTurn += plain
        if plainTurn < total { return true }
        plainTurn -= total
        return false
    }

    /// Whether this worker alone can serve it, now or in a moment.
    var isServedHere: Bool { !tunnels.isEmpty || (direct?.count ?? 0) > 0 }

    /// Notes that the request of `connection` waits for room in one of the tunnels; its `streamMayOpen` follows.
    func waitForStream(_ connection: ProxyConnection) { waitingForStream.append(connection) }

    /// Some tunnel has room again, or is no longer there: those that waited longest go first. Who finds no room waits again.
    func serveWaiting() {
        // The last of them may end a drain, which closes the tunnels.
        guard !isServingWaiting, !waitingForStream.isEmpty else { return }
        isServingWaiting = true
        defer { isServingWaiting = false }
        let count = waitingForStream.count
        var served = 0
        while served < count, hasIdleData || !isServedHere || tunnels.contains(where: { !$0.isFull || $0.hasIdle }) {
            let connection = waitingForStream[served]
            served += 1
            connection.streamMayOpen()
        }
        waitingForStream.removeFirst(served)
    }

    /// Nobody has a tunnel of it, whatever the table says.
    func noteLoss(at now: Instant) { if lostAt == nil { lostAt = now } }

    /// Notes that the request of `connection` waits for an agent to come back; its `tunnelMayBeBack` follows.
    func waitForTunnel(_ connection: ProxyConnection) { waitingForTunnel.append(connection) }

    /// The request waits no longer.
    func stopWaiting(_ connection: ProxyConnection) { waitingForTunnel.removeAll { $0 === connection } }

    /// A tunnel may be back: all that wait for one are routed anew.
    func serveWaitingForTunnel() {
        let woken = waitingForTunnel
        waitingForTunnel = []
        for connection in woken { connection.tunnelMayBeBack() }
    }

    /// A number that is one higher each time, to begin with another tunnel.
    func nextTurn() -> Int {
        turn &+= 1
        return turn
    }
}

/// Where a request goes next.
enum RouteChoice: Equatable {
    /// A tunnel of this worker.
    case own
    /// The sibling with that number, for this worker has nothing to serve it with.
    case sibling(UInt32)
    /// The sibling with that number, which has more than its share of the tunnels, though this worker could serve it.
    case fuller(UInt32)
    /// The supervisor has to be asked.
    case unknown
    /// Only workers have it that are about to end: its tunnel is on its way from one to another.
    case movingOn
    /// Nobody on this node listens, or nobody whose data connections are sure to be idle; other nodes do.
    case remote
    /// Nobody listens.
    case none
}

/// The endpoints of one worker.
final class RouteTable {
    private var endpoints: [ExactName: Endpoint] = [:]
    private let worker: UInt32
    /// Workers that share the node's clients.
    var workerCount = 1
    /// Whether clients can be sent to that sibling. The table may name one that is about to end.
    var isLinked: (UInt32) -> Bool = { _ in true }
    private var random: SystemRandomNumberGenerator = SystemRandomNumberGenerator()
    private var second: UInt64 = 0
    private var askedInSecond = 0

    /// Questions to the supervisor that one second may bring.
    static let questionsPerSecondMax = 5_000
    /// Endpoints remembered that have no tunnel here.
    static let cachedMax = 65_536

    init(worker: UInt32) {
        self.worker = worker
    }

    /// The endpoint of that name, made when it is new.
    func endpoint(named name: String) -> Endpoint {
        if let known = endpoints[name] { return known }
        if endpoints.count >= Self.cachedMax { forgetUnused() }
        let fresh = Endpoint(name)
        endpoints[name] = fresh
        return fresh
    }

    /// The endpoint of that name, if there is one.
    func known(_ name: String) -> Endpoint? { endpoints[name] }

    /// Closes all data connections that wait, and takes no more.
    func closeData() {
        for endpoint in endpoints.values { endpoint.direct?.close() }
    }

    private func forgetUnused() {
        for endpoint in endpoints.values where endpoint.isUnused { forget(endpoint) }
    }

    private func forget(_ endpoint: Endpoint) {
        endpoint.isKnown = false
        endpoints[endpoint.name] = nil
    }

    func add(_ tunnel: Tunnel) {
        // It may have been forgotten while the tunnel waited for its registration.
        if !tunnel.endpoint.isKnown { tunnel.endpoint = endpoint(named: tunnel.endpoint.name) }
        tunnel.endpoint.tunnels.append(tunnel)
    }

    /// Takes the tunnel out of routing; false when it was out already.
    func remove(_ tunnel: Tunnel) -> Bool {
        guard let index = tunnel.endpoint.tunnels.firstIndex(where: { $0 === tunnel }) else { return false }
        tunnel.endpoint.tunnels.remove(at: index)
        // Who else has one, and since when nobody has, is asked anew.
        tunnel.endpoint.route = nil
        return true
    }

    /// Where a request for the endpoint goes. `mayMove`: the connection is new and its client was not promised to this
    /// worker yet, so that it can even out the tunnels. `avoidsOwn`: the worker's own tunnels broke under this request.
    /// `avoidsNodes`: it came from another node, or no other is left to be tried.
    func choice(_ endpoint: Endpoint, mayMove: Bool, avoidsOwn: Bool = false, avoidsNodes: Bool = false) -> RouteChoice {
        let isServed = !avoidsOwn && (!endpoint.tunnels.isEmpty || endpoint.hasIdleData)
        guard let known = endpoint.route else { return isServed ? .own : .unknown }
        let route = known.allSatisfy { $0.worker == worker || isLinked($0.worker) }
            ? known : known.filter { $0.worker == worker || isLinked($0.worker) }
        if isServed {
            guard mayMove, let sibling = surplus(endpoint, route) else { return .own }
            return .fuller(sibling)
        }
        let hasNodes = !avoidsNodes && !endpoint.remote.isEmpty
        if let sibling = Self.other(route, self: worker, workers: workerCount, withData: !hasNodes, using: &random) {
            return .sibling(sibling)
        }
        if hasNodes { return .remote }
        return route.count < known.count ? .movingOn : .none
    }

    /// A sibling, with a probability that evens out how often each tunnel is chosen, when connections come to all workers
    /// alike: a worker with more than its share of the tunnels keeps all of its clients, one with less gives some away
    /// to those with more. Agents with data connections are at every worker alike. nil: keep the client. `own`: this
    /// worker's sessions without data connections.
    static func surplus(
        own: Int, route: [RouteEntry], self worker: UInt32, workers: Int, using random: inout some RandomNumberGenerator
    ) -> UInt32? {
        let direct = route.reduce(0) { $0 + Int($1.directTunnels) }
        var total = own + direct
        for entry in route where entry.worker != worker { total += entry.plainTunnels }
        // Each worker is given total / workers of the load, in units of one tunnel's share.
        let given = own * workers + direct
        guard given < total, Int.random(in: 0..<total, using: &random) >= given else { return nil }
        return sibling(route, self: worker, using: &random) { max(0, $0.plainTunnels * workers + direct - total) }
    }

    /// A sibling for a client that can't be served here, chosen by what each has above its share; nil when none has any.
    /// `withData`: also one that has only data connections, which may all be in use.
    static func other(
        _ route: [RouteEntry], self worker: UInt32, workers: Int, withData: Bool = true, using random: inout some RandomNumberGenerator
    ) -> UInt32? {
        var total = 0
        for entry in route where entry.worker != worker { total += Int(entry.tunnels) }
        return sibling(route, self: worker, using: &random) { max(0, Int($0.tunnels) * workers - total) }
            ?? sibling(route, self: worker, using: &random) { Int($0.tunnels) }
            ?? sibling(route, self: worker, using: &random) { withData && $0.hasData ? 1 : 0 }
    }

    private static func sibling(
        _ route: [RouteEntry], self worker: UInt32, using random: inout some RandomNumberGenerator,
        by weight: (RouteEntry) -> Int
    ) -> UInt32? {
        var sum = 0
        for entry in route where entry.worker != worker { sum += weight(entry) }
        guard sum > 0 else { return nil }
        var pick = Int.random(in: 0..<sum, using: &random)
        for entry in route where entry.worker != worker {
            pick -= weight(entry)
            if pick < 0 { return entry.worker }
        }
        return nil
    }

    /// The same as `surplus` for a worker that serves the endpoint, as far as anything is known of the others.
    private func surplus(_ endpoint: Endpoint, _ route: [RouteEntry]) -> UInt32? {
        // Before its first data connection a worker has nothing of the agents that open them.
        let hasPlain = route.contains { $0.plainTunnels > 0 }
        guard hasPlain else { return nil }
        return Self.surplus(own: endpoint.plainTunnels.count, route: route, self: worker, workers: workerCount, using: &random)
    }

    // MARK: Questions to the supervisor

    /// Notes that `connection` waits for the supervisor's answer. nil: the rate of questions is used up. True: the
    /// question must be sent; false: it is on its way already.
    func ask(_ asked: Endpoint, for connection: ProxyConnection?, now: Instant) -> Bool? {
        // The answer goes to the table's endpoint of that name.
        let endpoint = asked.isKnown ? asked : endpoint(named: asked.name)
        if !endpoint.isAsked {
            let second = now.nanoseconds / 1_000_000_000
            if second != self.second {
                self.second = second
                askedInSecond = 0
            }
            guard askedInSecond < Self.questionsPerSecondMax else { return nil }
            askedInSecond += 1
        }
        if let connection { endpoint.waiting.append(connection) }
        defer { endpoint.isAsked = true }
        return !endpoint.isAsked
    }

    /// The supervisor's answer; returns who waited for it.
    func answered(
        _ name: String, _ entries: [RouteEntry], remote: [RemoteEntry] = [], lostAt: Instant?
    ) -> (endpoint: Endpoint, waiting: [ProxyConnection]) {
        let endpoint = endpoint(named: name)
        endpoint.isAsked = false
        endpoint.route = entries
        endpoint.remote = remote
        endpoint.lostAt = lostAt
        let waiting = endpoint.waiting
        endpoint.waiting = []
        return (endpoint, waiting)
    }

    /// Ends the time in which an answer counts that named nobody.
    func forgetIfEmpty(_ endpoint: Endpoint) {
        if endpoint.route?.isEmpty == true, endpoint.remote.isEmpty { endpoint.route = nil }
        if endpoint.isUnused, endpoint.route == nil { forget(endpoint) }
    }

    /// What is cached turned out to be wrong: it is asked for again.
    func doubt(_ endpoint: Endpoint) { endpoint.route = nil }

    /// The supervisor says that what is cached is out of date.
    func changed(_ name: String) {
        guard let endpoint = known(name) else { return }
        endpoint.route = nil
        endpoint.serveWaitingForTunnel()
    }

    /// The endpoints of which there are data connections here.
    var endpointsWithData: [Endpoint] { endpoints.values.filter { $0.direct != nil } }

    /// A sibling ended: nobody is sent there any more.
    func siblingGone(_ worker: UInt32) {
        for endpoint in endpoints.values {
            if endpoint.route?.contains(where: { $0.worker == worker }) == true { endpoint.route = nil }
        }
    }
}

extension RouteEntry {
    /// Sessions whose agents open no data connections.
    var plainTunnels: Int { Int(tunnels) - Int(directTunnels) }
}
