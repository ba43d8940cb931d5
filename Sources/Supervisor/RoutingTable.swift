// The node's routing table: which worker holds how many tunnels of which endpoint. The workers' caches are copies of parts of
// it; the supervisor tells them what changed.
//
// A worker says of each tunnel that it came and that it went, under a number of its own. The table keeps every tunnel, so
// that a worker can take back only what it brought, and so that all of a dead worker's are known.
//
// Invariants: an endpoint is in the table exactly when it has tunnels; the sum of a route's counts is the number of its
// tunnels; versions only grow.

import Control

/// The most that the table holds.
struct RoutingLimits {
    /// Tunnels over all workers. One takes some 200 bytes.
    var tunnelsMax = 262_144
}

/// What came of a registration.
enum Registration: Equatable {
    /// The route changed; this is its version now.
    case added(version: UInt64)
    /// The table is full.
    case full
    /// The worker has a tunnel of that number already: it is broken.
    case duplicate
}

/// Endpoint to workers to tunnels.
struct RoutingTable {
    private struct Route {
        var version: UInt64
        /// Few workers, so a list.
        var entries: [RouteEntry]
    }

    private let limits: RoutingLimits
    private var routes: [String: Route] = [:]
    /// The endpoint of each tunnel, by worker.
    private var tunnels: [UInt32: [UInt64: String]] = [:]
    private var version: UInt64 = 0

    /// How many tunnels there are.
    private(set) var tunnelCount = 0
    /// How many endpoints have tunnels.
    var endpointCount: Int { routes.count }

    init(limits: RoutingLimits = RoutingLimits()) { self.limits = limits }

    /// Adds a tunnel.
    mutating func register(worker: UInt32, tunnel: UInt64, endpoint: String) -> Registration {
        guard tunnels[worker]?[tunnel] == nil else { return .duplicate }
        guard tunnelCount < limits.tunnelsMax else { return .full }
        tunnels[worker, default: [:]][tunnel] = endpoint
        tunnelCount += 1
        version += 1
        var route = routes[endpoint] ?? Route(version: version, entries: [])
        route.version = version
        if let index = route.entries.firstIndex(where: { $0.worker == worker }) {
            route.entries[index].tunnels += 1
        } else {
            route.entries.append(RouteEntry(worker: worker, tunnels: 1))
        }
        routes[endpoint] = route
        return .added(version: version)
    }

    /// Removes a tunnel; the route's new version, or nil when the worker has no such tunnel of that endpoint (it was
    /// refused, say).
    mutating func unregister(worker: UInt32, tunnel: UInt64, endpoint: String) -> UInt64? {
        guard tunnels[worker]?[tunnel] == endpoint else { return nil }
        tunnels[worker]?[tunnel] = nil
        version += 1
        forget(worker: worker, endpoint: endpoint, count: 1)
        return version
    }

    /// Removes all tunnels of a worker and returns how many there were.
    @discardableResult
    mutating func remove(worker: UInt32) -> Int {
        guard let lost = tunnels.removeValue(forKey: worker) else { return 0 }
        version += 1
        for endpoint in lost.values { forget(worker: worker, endpoint: endpoint, count: 1) }
        return lost.count
    }

    private mutating func forget(worker: UInt32, endpoint: String, count: UInt32) {
        guard var route = routes[endpoint], let index = route.entries.firstIndex(where: { $0.worker == worker }) else {
            preconditionFailure("a tunnel without its route")
        }
        tunnelCount -= Int(count)
        route.version = version
        route.entries[index].tunnels -= count
        if route.entries[index].tunnels == 0 { route.entries.remove(at: index) }
        routes[endpoint] = route.entries.isEmpty ? nil : route
    }

    /// The workers that hold tunnels of the endpoint, and the version of that knowledge.
    func lookup(_ endpoint: String) -> (version: UInt64, entries: [RouteEntry]) {
        guard let route = routes[endpoint] else { return (version, []) }
        return (route.version, route.entries)
    }

    /// Every endpoint with the number of its tunnels, by name.
    var endpoints: [StatusEntry] {
        routes.map { name, route in
            StatusEntry(name: name, value: route.entries.reduce(0) { $0 + UInt64($1.tunnels) })
        }.sorted { $0.name < $1.name }
    }
}
