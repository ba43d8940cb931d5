// What this worker knows of endpoints: its own tunnels, a cached copy of the supervisor's answer, and who waits for one.
//
// The supervisor's table is the truth. An answer is cached until the supervisor says that the endpoint changed
// (`routeChanged`, sent to every worker before anybody can rely on the change). "Nobody has it" is never cached: a question
// costs some microseconds, and a stale no would refuse an agent that has just come. A flood of unknown names is held by
// the rate of questions instead.

import Base
import Control

/// An endpoint that this worker has tunnels of, or was asked for.
final class Endpoint {
    let name: String
    let bytes: [UInt8]
    /// This worker's own tunnels.
    fileprivate(set) var tunnels: [Tunnel] = []
    /// This worker's data connections; nil: it has none.
    var direct: DirectPool?
    /// The supervisor's answer: all workers that hold tunnels. nil: not asked, or out of date.
    fileprivate(set) var route: [RouteEntry]?
    fileprivate var waiting: [ProxyConnection] = []
    /// Whose requests wait until a tunnel takes another stream, in the order in which they came.
    private var waitingForStream: [ProxyConnection] = []
    private var isServingWaiting = false
    fileprivate var nextTunnel = 0
    fileprivate var isAsked = false
    /// Whether the table has it; one that was forgotten is of no use to whoever still holds it.
    fileprivate var isKnown = true

    fileprivate init(_ name: String) {
        self.name = name
        bytes = Array(name.utf8)
    }

    /// Whether nothing of this worker hangs on it.
    fileprivate var isUnused: Bool { tunnels.isEmpty && direct == nil && waiting.isEmpty }

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
        direct != nil || tunnels.contains { $0.agent != nil } || route?.contains { $0.directTunnels > 0 || $0.hasData } ?? false
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
        while served < count, hasIdleData || !isServedHere || tunnels.contains(where: { !$0.isFull }) {
            let connection = waitingForStream[served]
            served += 1
            connection.streamMayOpen()
        }
        waitingForStream.removeFirst(served)
    }

    /// The own tunnels in turn, beginning behind the one that began the last time.
    func rotateTunnels() -> Int {
        nextTunnel &+= 1
        if nextTunnel >= tunnels.count { nextTunnel = 0 }
        return nextTunnel
    }
}

/// Where a request goes next.
enum RouteChoice: Equatable {
    /// A tunnel of this worker.
    case own
    /// The sibling with that number.
    case sibling(UInt32)
    /// The supervisor has to be asked.
    case unknown
    /// Nobody on this node listens.
    case none
}

/// The endpoints of one worker.
final class RouteTable {
    private var endpoints: [String: Endpoint] = [:]
    private let worker: UInt32
    /// Workers that share the node's clients.
    var workerCount = 1
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
        return true
    }

    /// Where a request for the endpoint goes. `mayMove`: the connection is new and its client was not promised to this
    /// worker yet, so that it can even out the tunnels. `avoidsOwn`: the worker's own tunnels broke under this request.
    func choice(_ endpoint: Endpoint, mayMove: Bool, avoidsOwn: Bool = false) -> RouteChoice {
        if endpoint.hasIdleData && !avoidsOwn { return .own }
        let own = endpoint.tunnels.count
        guard let route = endpoint.route else { return own > 0 && !avoidsOwn ? .own : .unknown }
        if own > 0 && !avoidsOwn {
            // Data connections come to every worker, and even things out by themselves.
            guard mayMove, !endpoint.isDirect, let sibling = Self.surplus(own: own, route: route, self: worker, workers: workerCount, using: &random)
            else { return .own }
            return .sibling(sibling)
        }
        return Self.other(route, self: worker, workers: workerCount, using: &random).map { .sibling($0) } ?? .none
    }

    /// A sibling, with a probability that evens out how often each tunnel is chosen, when connections come to all workers
    /// alike: a worker with more than its share of the tunnels keeps all of its clients, one with less gives some away
    /// to those with more. nil: keep the client.
    static func surplus(
        own: Int, route: [RouteEntry], self worker: UInt32, workers: Int, using random: inout some RandomNumberGenerator
    ) -> UInt32? {
        var total = own
        for entry in route where entry.worker != worker { total += Int(entry.tunnels) }
        // Each worker is given total / workers of the load, in units of one tunnel's share.
        let given = own * workers
        guard given < total, Int.random(in: 0..<total, using: &random) >= given else { return nil }
        return sibling(route, self: worker, using: &random) { max(0, Int($0.tunnels) * workers - total) }
    }

    /// A sibling for a client that can't be served here, chosen by what each has above its share; nil when none has any.
    static func other(
        _ route: [RouteEntry], self worker: UInt32, workers: Int, using random: inout some RandomNumberGenerator
    ) -> UInt32? {
        var total = 0
        for entry in route where entry.worker != worker { total += Int(entry.tunnels) }
        return sibling(route, self: worker, using: &random) { max(0, Int($0.tunnels) * workers - total) }
            ?? sibling(route, self: worker, using: &random) { Int($0.tunnels) }
            ?? sibling(route, self: worker, using: &random) { $0.hasData ? 1 : 0 }
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
    func answered(_ name: String, _ entries: [RouteEntry]) -> (endpoint: Endpoint, waiting: [ProxyConnection]) {
        let endpoint = endpoint(named: name)
        endpoint.isAsked = false
        endpoint.route = entries
        let waiting = endpoint.waiting
        endpoint.waiting = []
        return (endpoint, waiting)
    }

    /// Ends the time in which an answer counts that named nobody.
    func forgetIfEmpty(_ endpoint: Endpoint) {
        if endpoint.route?.isEmpty == true { endpoint.route = nil }
        if endpoint.isUnused, endpoint.route == nil { forget(endpoint) }
    }

    /// The supervisor says that what is cached is out of date.
    func changed(_ name: String) {
        endpoints[name]?.route = nil
    }

    /// A sibling ended: nobody is sent there any more.
    func siblingGone(_ worker: UInt32) {
        for endpoint in endpoints.values {
            if endpoint.route?.contains(where: { $0.worker == worker }) == true { endpoint.route = nil }
        }
    }
}
