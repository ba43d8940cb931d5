// The node's place in its cluster, as far as routing is concerned: what gossip learned of other nodes goes to the workers here, and
// what they ask for comes from here. Gossip itself hears of this node's endpoints by `localCountChanged`.

import Base
import Control
import Reactor

extension Node {
    // MARK: From gossip

    /// Another node is there, or changed: how it is, and where its proxy port is. Workers are told at once.
    func setNode(_ id: String, status: NodeStatus, proxyAddress: SocketAddress?) {
        guard id != nodeID, !id.isEmpty, id.utf8.count <= ControlLimits.nodeBytesMax,
            routes.remote.setNode(id, status, proxyAddress), let node = routes.remote.node(id)
        else { return }
        noteNodes()
        for process in processes.workers where process.isLinked { tell(process.link, node) }
    }

    /// The ports know who the other nodes are.
    private func noteNodes() {
        dispatcher.gate.clients.nodes = Set(routes.remote.nodes.compactMap { $0.proxyAddress?.ip })
    }

    /// A node left, or has been gone for so long that it is forgotten. What it had goes with it.
    func removeNode(_ id: String) {
        guard let changed = routes.remote.removeNode(id) else { return }
        noteNodes()
        for process in processes.workers where process.isLinked && process.link.knowsNodes { process.link.send(.nodeGone(id: id)) }
        for (endpoint, isLeft) in changed { remoteChanged(endpoint, isLost: !isLeft) }
    }

    /// So many agents listen on the endpoint at that node; 0: none any more.
    func setRemote(_ endpoint: String, node id: String, count: UInt32) {
        guard id != nodeID, !id.isEmpty, id.utf8.count <= ControlLimits.nodeBytesMax,
            !endpoint.isEmpty, endpoint.utf8.count <= ControlLimits.endpointBytesMax
        else { return }
        switch routes.remote.set(endpoint, node: id, count: count) {
        case .nothing: break
        case .changed: remoteChanged(endpoint, isLost: false)
        case .lost: remoteChanged(endpoint, isLost: true)
        }
    }

    private func remoteChanged(_ endpoint: String, isLost: Bool) {
        if isLost { routes.noteRemoteLoss(endpoint, now: loop.now) }
        let version = routes.noteRemoteChange()
        // In a large cluster most endpoints are of no interest here; a worker that has not asked for one has nothing to forget.
        guard routes.remote.mustTell(endpoint) else { return }
        for process in processes.workers where process.isLinked && process.link.knowsNodes {
            process.link.routeChanged(endpoint, version: version)
        }
    }

    // MARK: To gossip

    /// Every endpoint that is listened on here, with the number of listeners.
    var localCounts: [(endpoint: String, count: UInt32)] { routes.localCounts }

    /// Calls `localCountChanged` when the endpoint's count is another than before.
    func tellCount(_ endpoint: String, before: UInt32) {
        let count = routes.localCount(endpoint)
        if count != before { localCountChanged(endpoint, count) }
    }

    /// Takes a worker's tunnels out of the table; how many there were.
    @discardableResult
    func removeRoutes(of worker: UInt32) -> Int {
        let before = routes.endpoints(of: worker).map { ($0.text, routes.localCount($0.text)) }
        let lost = routes.remove(worker: worker, now: loop.now)
        for (endpoint, count) in before { tellCount(endpoint, before: count) }
        return lost
    }

    // MARK: Workers

    /// Tells a worker that has just come of every other node.
    func tellNodes(_ link: WorkerLink) {
        for node in routes.remote.nodes { tell(link, node) }
    }

    private func tell(_ link: WorkerLink, _ node: RemoteNode) {
        guard link.knowsNodes, let status = node.status else { return }
        let address = node.proxyAddress.flatMap { PeerAddress(encoded: $0.encoded.span) } ?? .none
        link.send(.node(id: node.id, status: status, proxy: address))
    }

    /// Says who has the endpoint, here and elsewhere.
    func answer(_ link: WorkerLink, lookup endpoint: String) {
        let (version, entries) = routes.lookup(endpoint)
        let remote = routes.remote.lookup(endpoint)
        let isServed = !remote.isEmpty || entries.contains { $0.tunnels > 0 }
        let lost = isServed ? nil : routes.lostFor(endpoint, now: loop.now)
        // With a session here, what other nodes have does not matter; of an endpoint that nobody has nothing is kept.
        if entries.allSatisfy({ $0.tunnels == 0 }), !entries.isEmpty || !remote.isEmpty || lost != nil {
            routes.remote.noteAsked(endpoint)
        }
        let milliseconds = lost.map { UInt32(clamping: $0.clampedNanoseconds / 1_000_000) }
        link.send(.routes(endpoint: endpoint, version: version, lostFor: milliseconds, entries: entries, remote: remote))
    }

    /// Connects to another node's proxy port for a worker.
    func dial(_ link: WorkerLink, _ request: UInt64, _ id: String) {
        let fail = { (code: UInt32) in _ = link.send(.dialFailed(request: request, code: code)) }
        guard let node = routes.remote.node(id) else { return fail(DialCode.unknownNode) }
        guard !isFrozen else { return fail(DialCode.notNow) }
        guard let address = node.proxyAddress else { return fail(DialCode.unreachable) }
        dials.dial(link, request, address)
    }

    /// Connects to another node's admin port for a worker.
    func dialAdmin(_ link: WorkerLink, _ request: UInt64, _ id: String) {
        let fail = { (code: UInt32) in _ = link.send(.dialFailed(request: request, code: code)) }
        guard let cluster, cluster.knows(id) else { return fail(DialCode.unknownNode) }
        guard !isFrozen else { return fail(DialCode.notNow) }
        guard let address = cluster.adminAddress(of: id) else { return fail(DialCode.unreachable) }
        dials.dial(link, request, address)
    }
}
