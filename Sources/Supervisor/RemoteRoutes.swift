// What this node knows of the others: how they are, where their proxy ports are, and who listens there. Gossip fills it in; workers
// are told of nodes at once, and of endpoints when they ask.
//
// Endpoints may be many (a million in the cluster), nodes are few: a route is a short list of node and count, and a node that goes
// away is looked for in all of them, which is seldom.
//
// Invariants: no count is 0; an endpoint is in the table exactly while some node has it; nodes that are not known yet, because
// their endpoints came first, have no status and are not told to workers.

import Base
import Control
import Reactor

/// Another node of the cluster.
struct RemoteNode: Equatable {
    let id: String
    /// Nil: only its endpoints are known so far.
    var status: NodeStatus?
    var proxyAddress: SocketAddress?
}

/// Endpoint to nodes to counts.
struct RemoteRoutes {
    private struct Listener {
        var node: UInt32
        var count: UInt32
    }

    /// By number. A number of a node that is gone is used again.
    private var slots: [RemoteNode?] = []
    private var numbers: [String: UInt32] = [:]
    private var routes: [ExactName: [Listener]] = [:]
    /// Endpoints of which a worker may have kept an answer that depends on other nodes. Nil: they may be any.
    private var asked: Set<ExactName>? = []

    /// More than a worker keeps.
    static let askedMax = 65_536

    /// The nodes that workers may know.
    var nodes: [RemoteNode] { slots.compactMap { $0 }.filter { $0.status != nil } }
    /// The node of that identifier.
    func node(_ id: String) -> RemoteNode? { numbers[id].flatMap { slots[Int($0)] } }
    /// How many endpoints other nodes have.
    var endpointCount: Int { routes.count }

    private mutating func number(of id: String) -> UInt32 {
        if let known = numbers[id] { return known }
        let free = slots.firstIndex { $0 == nil } ?? slots.count
        if free == slots.count { slots.append(nil) }
        slots[free] = RemoteNode(id: id)
        numbers[id] = UInt32(free)
        return UInt32(free)
    }

    /// Sets how a node is; false when nothing changed.
    mutating func setNode(_ id: String, _ status: NodeStatus, _ proxyAddress: SocketAddress?) -> Bool {
        let number = Int(number(of: id))
        let node = RemoteNode(id: id, status: status, proxyAddress: proxyAddress)
        if slots[number] == node { return false }
        slots[number] = node
        return true
    }

    /// Takes a node out, with all that it has; the endpoints that changed, and whether another node has them. Nil: there was no
    /// such node.
    mutating func removeNode(_ id: String) -> [(endpoint: String, isLeft: Bool)]? {
        guard let number = numbers.removeValue(forKey: id) else { return nil }
        slots[Int(number)] = nil
        var changed: [(endpoint: String, isLeft: Bool)] = []
        for (endpoint, listeners) in routes where listeners.contains(where: { $0.node == number }) {
            let left = listeners.filter { $0.node != number }
            changed.append((endpoint.text, !left.isEmpty))
        }
        for (endpoint, isLeft) in changed {
            if isLeft { routes[endpoint]?.removeAll { $0.node == number } } else { routes[endpoint] = nil }
        }
        return changed
    }

    /// What came of `set`.
    enum Change { case nothing, changed, lost }

    /// Sets how many agents listen on the endpoint at a node; 0: none any more.
    mutating func set(_ endpoint: String, node id: String, count: UInt32) -> Change {
        guard count > 0 else { return clear(endpoint, node: id) }
        let number = number(of: id)
        let index = routes[endpoint]?.firstIndex { $0.node == number }
        if let index {
            guard routes[endpoint]?[index].count != count else { return .nothing }
            routes[endpoint]?[index].count = count
        } else {
            routes[endpoint, default: []].append(Listener(node: number, count: count))
        }
        return .changed
    }

    private mutating func clear(_ endpoint: String, node id: String) -> Change {
        guard let number = numbers[id], let index = routes[endpoint]?.firstIndex(where: { $0.node == number }) else { return .nothing }
        routes[endpoint]?.remove(at: index)
        guard routes[endpoint]?.isEmpty == true else { return .changed }
        routes[endpoint] = nil
        return .lost
    }

    /// A worker keeps what it was told of the endpoint, until it is told that this changed.
    mutating func noteAsked(_ endpoint: String) {
        asked?.insert(ExactName(endpoint))
        if let count = asked?.count, count > Self.askedMax { asked = nil }
    }

    /// Workers may have kept answers that this table does not know of.
    mutating func assumeAllAsked() { asked = nil }

    /// Whether workers have to be told that the endpoint changed; they are.
    mutating func mustTell(_ endpoint: String) -> Bool {
        guard asked != nil else { return true }
        return asked?.remove(ExactName(endpoint)) != nil
    }

    /// The nodes that have the endpoint. Of more than a worker is told, those from a random one on.
    func lookup(_ endpoint: String) -> [RemoteEntry] {
        guard let listeners = routes[endpoint] else { return [] }
        let isLong = listeners.count > ControlLimits.remotesMax
        let start = isLong ? Int.random(in: 0..<listeners.count) : 0
        return (0..<min(listeners.count, ControlLimits.remotesMax)).compactMap { step in
            let listener = listeners[(start + step) % listeners.count]
            return slots[Int(listener.node)].map { RemoteEntry(node: $0.id, listeners: listener.count) }
        }
    }
}
