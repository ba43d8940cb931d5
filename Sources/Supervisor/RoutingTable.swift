// The node's routing table: which worker holds how many tunnels of which endpoint. The workers' caches are copies of parts of
// it; the supervisor tells them what changed.
//
// A worker says of each tunnel that it came and that it went, under a number of its own. The table keeps every tunnel, so
// that a worker can take back only what it brought, and so that all of a dead worker's are known. The data connections that a
// worker holds for an endpoint are one entry together, however many they are: they come and go with every client.
//
// What other nodes have is beside it, in `remote`.
//
// Invariants: an endpoint is in the table exactly when a worker has something of it; the sum of a route's counts is the
// number of its tunnels; versions only grow.

import Base
import Control

/// The most that the table holds.
struct RoutingLimits {
    /// Tunnels over all workers. One takes some 200 bytes.
    var tunnelsMax = 262_144
    /// Endpoints of which it is remembered that they have just lost their last tunnel, and for how long.
    var lossesMax = 16_384
    var lossTime = Duration.seconds(60)
}

/// A tunnel as it was registered.
struct RegisteredTunnel: Equatable {
    var worker: UInt32
    var tunnel: UInt64
    var endpoint: String
    var kind: TunnelKind
    /// What it draws from.
    var quotas: [Quota] = []
}

/// What came of a registration.
enum Registration: Equatable {
    /// The route changed; this is its version now.
    case added(version: UInt64)
    /// The table is full, or somebody has as many as he may.
    case refused(TunnelRefusal)
    /// The worker has a tunnel of that number already: it is broken.
    case duplicate
}

/// Endpoint to workers to tunnels.
struct RoutingTable {
    private struct Registered {
        var endpoint: String
        var kind: TunnelKind
        var quotas: [Quota]
    }

    private struct Route {
        var version: UInt64
        /// Few workers, so a list.
        var entries: [RouteEntry]
    }

    var limits: RoutingLimits
    /// What other nodes of the cluster have.
    var remote = RemoteRoutes()
    /// How much each subject of a quota has.
    private(set) var quotas = QuotaTable()
    private var routes: [ExactName: Route] = [:]
    /// What each worker registered.
    private var registered: [UInt32: [UInt64: Registered]] = [:]
    private var version: UInt64 = 0
    private var count = 0
    /// When the endpoints lost their last tunnels, of those that lost it a moment ago; the oldest first in `losses`.
    private var lost: [ExactName: Instant] = [:]
    private var losses: [(endpoint: String, at: Instant)] = []
    private var firstLoss = 0

    /// How many agents' sessions there are.
    private(set) var tunnelCount = 0
    /// How many endpoints have tunnels.
    var endpointCount: Int { routes.count }

    init(limits: RoutingLimits = RoutingLimits()) { self.limits = limits }

    /// Adds a tunnel. `quotas`: what it draws from.
    mutating func register(
        worker: UInt32, tunnel: UInt64, endpoint: String, kind: TunnelKind, quotas drawn: TunnelQuotas = TunnelQuotas()
    ) -> Registration {
        guard registered[worker]?[tunnel] == nil else { return .duplicate }
        guard count < limits.tunnelsMax else { return .refused(.tableFull) }
        if !drawn.isMoved, let refusal = quotas.refusal(endpoint, drawn.quotas) { return .refused(refusal) }
        quotas.add(endpoint, drawn.quotas)
        registered[worker, default: [:]][tunnel] = Registered(endpoint: endpoint, kind: kind, quotas: drawn.quotas)
        count += 1
        version += 1
        var route = routes[endpoint] ?? Route(version: version, entries: [])
        route.version = version
        let index = route.entries.firstIndex { $0.worker == worker } ?? route.entries.count
        if index == route.entries.count { route.entries.append(RouteEntry(worker: worker, tunnels: 0)) }
        switch kind {
        case .session: route.entries[index].tunnels += 1
        case .directSession:
            route.entries[index].tunnels += 1
            route.entries[index].directTunnels += 1
        case .dataConnections: route.entries[index].hasData = true
        }
        if kind != .dataConnections { tunnelCount += 1 }
        routes[endpoint] = route
        if kind != .dataConnections, !lost.isEmpty { lost[endpoint] = nil }
        return .added(version: version)
    }

    /// Takes a tunnel out of its quotas; it stays in the table.
    mutating func release(worker: UInt32, tunnel: UInt64) {
        guard let known = registered[worker]?[tunnel] else { return }
        quotas.remove(known.endpoint, known.quotas)
        registered[worker]?[tunnel]?.quotas = []
    }

    /// Removes a tunnel; the route's new version, or nil when the worker has no such tunnel of that endpoint (it was
    /// refused, say).
    mutating func unregister(worker: UInt32, tunnel: UInt64, endpoint: String, now: Instant) -> UInt64? {
        guard let known = registered[worker]?[tunnel], known.endpoint == endpoint else { return nil }
        registered[worker]?[tunnel] = nil
        version += 1
        forget(worker: worker, known, now)
        return version
    }

    /// Removes all tunnels of a worker and returns how many there were.
    @discardableResult
    mutating func remove(worker: UInt32, now: Instant) -> Int {
        guard let taken = registered.removeValue(forKey: worker) else { return 0 }
        version += 1
        for known in taken.values { forget(worker: worker, known, now) }
        return taken.values.count { $0.kind != .dataConnections }
    }

    private mutating func forget(worker: UInt32, _ known: Registered, _ now: Instant) {
        guard var route = routes[known.endpoint], let index = route.entries.firstIndex(where: { $0.worker == worker }) else {
            preconditionFailure("a tunnel without its route")
        }
        count -= 1
        quotas.remove(known.endpoint, known.quotas)
        route.version = version
        switch known.kind {
        case .session: route.entries[index].tunnels -= 1
        case .directSession:
            route.entries[index].tunnels -= 1
            route.entries[index].directTunnels -= 1
        case .dataConnections: route.entries[index].hasData = false
        }
        if known.kind != .dataConnections { tunnelCount -= 1 }
        if route.entries[index].tunnels == 0, !route.entries[index].hasData { route.entries.remove(at: index) }
        routes[known.endpoint] = route.entries.isEmpty ? nil : route
        // Data connections outlive their agent's session by a moment; it is as good as gone.
        if known.kind != .dataConnections, route.entries.allSatisfy({ $0.tunnels == 0 }) { noteLoss(known.endpoint, now) }
    }

    /// Notes that no other node has the endpoint any more. It is lost when this one has no session of it either.
    mutating func noteRemoteLoss(_ endpoint: String, now: Instant) {
        if routes[endpoint]?.entries.allSatisfy({ $0.tunnels == 0 }) ?? true { noteLoss(endpoint, now) }
    }

    /// Counts a change of what other nodes have; the version of the route now.
    mutating func noteRemoteChange() -> UInt64 {
        version += 1
        return version
    }

    /// How many agents listen here, as other nodes are told: sessions, or, when there are none, that there are data connections.
    func localCount(_ endpoint: String) -> UInt32 {
        guard let route = routes[endpoint] else { return 0 }
        return Self.localCount(route)
    }

    private static func localCount(_ route: Route) -> UInt32 {
        let sessions = route.entries.reduce(0) { $0 &+ $1.tunnels }
        return sessions > 0 ? sessions : route.entries.contains { $0.hasData } ? 1 : 0
    }

    /// Every endpoint of this node with its `localCount`.
    var localCounts: [(endpoint: String, count: UInt32)] { routes.map { ($0.key.text, Self.localCount($0.value)) } }

    /// The endpoints of which the worker has something.
    func endpoints(of worker: UInt32) -> Set<ExactName> { Set((registered[worker] ?? [:]).values.map { ExactName($0.endpoint) }) }

    /// How many agents' sessions the worker has.
    func sessions(of worker: UInt32) -> Int { (registered[worker] ?? [:]).values.count { $0.kind != .dataConnections } }

    private mutating func noteLoss(_ endpoint: String, _ now: Instant) {
        lost[endpoint] = now
        losses.append((endpoint, now))
        while losses.count - firstLoss > limits.lossesMax || losses[firstLoss].at + limits.lossTime < now {
            let oldest = losses[firstLoss]
            if lost[oldest.endpoint] == oldest.at { lost[oldest.endpoint] = nil }
            firstLoss += 1
        }
        if firstLoss > losses.count / 2 {
            losses.removeFirst(firstLoss)
            firstLoss = 0
        }
    }

    /// How long ago the endpoint lost its last tunnel; nil: it has one, or that is long ago.
    func lostFor(_ endpoint: String, now: Instant) -> Duration? {
        guard let at = lost[endpoint], at + limits.lossTime >= now else { return nil }
        return now - at
    }

    /// Every tunnel, for another program that takes the table over.
    var tunnels: [RegisteredTunnel] {
        registered.flatMap { worker, tunnels in
            tunnels.map { RegisteredTunnel(worker: worker, tunnel: $0.key, endpoint: $0.value.endpoint, kind: $0.value.kind, quotas: $0.value.quotas) }
        }
    }

    /// The number of the last change.
    var lastVersion: UInt64 { version }

    /// A table with these tunnels, whose versions go on from `version`.
    init(taking tunnels: [RegisteredTunnel], version: UInt64) {
        self.init()
        self.version = version
        for tunnel in tunnels {
            _ = register(
                worker: tunnel.worker, tunnel: tunnel.tunnel, endpoint: tunnel.endpoint, kind: tunnel.kind,
                quotas: TunnelQuotas(tunnel.quotas, isMoved: true))
        }
    }

    /// The workers that hold tunnels of the endpoint, and the version of that knowledge.
    func lookup(_ endpoint: String) -> (version: UInt64, entries: [RouteEntry]) {
        guard let route = routes[endpoint] else { return (version, []) }
        return (route.version, route.entries)
    }

    /// Every endpoint with the number of its agents' sessions, by name. One of which there are only data connections is not
    /// among them.
    var endpoints: [StatusEntry] {
        routes.compactMap { name, route in
            let sessions = route.entries.reduce(0) { $0 + UInt64($1.tunnels) }
            return sessions == 0 ? nil : StatusEntry(name: name.text, value: sessions)
        }.sorted { $0.name < $1.name }
    }
}
