// The other nodes of the cluster, as the supervisor tells of them, and this worker's connections to their proxy ports: kept alive,
// used for one request after another, bounded. The supervisor makes them: a worker can connect nowhere.
//
// A request takes an idle connection, or waits for the next one, dialled or come back. A dial that fails sends all that wait for
// that node elsewhere, and the node is avoided for a moment, so that not every request has to find out that it is gone before
// gossip does.
//
// A connection that an upgrade turned into a byte stream is its client's, and no more counted here.
//
// Invariants: `connections` holds those that are open and are used for requests; who waits for a node is in its `waiting` once.

import Base
import Config
import Control
import Memory
import Reactor
import Transport
import Wire

/// Another node.
final class PeerNode {
    let id: String
    fileprivate(set) var status: NodeStatus
    /// Where requests to it are counted.
    var traffic: TrafficPlace?
    /// Where its proxy port is; nil: not known.
    fileprivate(set) var address: SocketAddress?
    fileprivate let pool: UpstreamPool
    fileprivate var connections: [ObjectIdentifier: NodeConnection] = [:]
    fileprivate var waiting: [ProxyConnection] = []
    fileprivate var dialing = 0
    /// Since when connections are being made without one that was; nil: none is.
    fileprivate var dialingSince: Instant?
    /// Until then it is chosen only when there is no other: it could not be reached.
    fileprivate var doubtedUntil = Instant(nanoseconds: 0)
    fileprivate var isGone = false

    fileprivate init(_ id: String, _ status: NodeStatus, _ address: SocketAddress?, pool: UpstreamPool) {
        self.id = id
        self.status = status
        self.address = address
        self.pool = pool
    }

    /// The lower, the sooner it is chosen.
    fileprivate func rank(_ now: Instant) -> Int {
        if status == .unreachable || now < doubtedUntil { return 2 }
        if let dialingSince, now - dialingSince >= NodeTable.doubtTime { return 2 }
        return status == .draining ? 1 : 0
    }
}

/// A connection to another node's proxy port.
final class NodeConnection: HTTPUpstream {
    fileprivate let node: PeerNode
    private unowned let table: NodeTable

    fileprivate init(_ channel: Channel, to node: PeerNode, in table: NodeTable, headLimits: HeadLimits) {
        self.node = node
        self.table = table
        super.init(channel, pool: node.pool, headLimits: headLimits)
        node.connections[ObjectIdentifier(self)] = self
        retires = node.status != .active
    }

    override func ended() { table.ended(self) }

    override func becameIdle() { table.serveWaiting(node) }
}

/// The other nodes.
final class NodeTable {
    private unowned let worker: Worker
    private var nodes: [String: PeerNode] = [:]
    /// Their addresses, with port 0.
    private var members: Set<SocketAddress> = []
    private var dials: [UInt64: (node: PeerNode, since: Instant)] = [:]
    private var nextDial: UInt64 = 1
    private var watch: CallbackTimer?
    private var random = SystemRandomNumberGenerator()

    /// Connections to one node, in use, idle and wanted.
    static let connectionsMax = 8_192
    /// Those that are kept idle, and for how long at most.
    static let idleMax = 256
    static let idleTime = Duration.seconds(30)
    /// Connections to one node that are asked for at the same time.
    static let dialsMax = 64
    /// The supervisor answers sooner; unless it was replaced meanwhile.
    static let answerTime = Duration.seconds(6)
    /// How long a node is avoided that refused a connection, and a connection may take before its node is. Where it took longer
    /// to find out, the node is avoided for so many times that, so that few requests pay for it.
    static let doubtTime = Duration.seconds(1)
    static let doubtFactor = 6
    static let doubtMax = Duration.seconds(30)

    init(_ worker: Worker) {
        self.worker = worker
        watch = CallbackTimer(worker.loop) { [unowned self] in dropLateDials() }
    }

    /// Whether this node is alone.
    var isEmpty: Bool { nodes.isEmpty }

    /// The node of that identifier.
    func node(_ id: String) -> PeerNode? { nodes[id] }

    /// Whether a known node has that address.
    func isMember(_ peer: PeerAddress) -> Bool {
        guard var address = SocketAddress(encoded: peer.bytes.span) else { return false }
        address.port = 0
        return members.contains(address)
    }

    // MARK: From the supervisor

    /// A node is new or changed.
    func set(_ id: String, _ status: NodeStatus, _ proxy: PeerAddress) {
        let address = proxy == .none ? nil : SocketAddress(encoded: proxy.bytes.span)
        if let node = nodes[id] {
            let wasThere = node.status
            if node.address != address {
                node.address = address
                node.doubtedUntil = Instant(nanoseconds: 0)
                node.dialingSince = node.dialing == 0 ? nil : worker.loop.now
                leave(node)
            }
            node.status = status
            if status != wasThere { changed(node) }
        } else {
            nodes[id] = PeerNode(
                id, status, address, pool: UpstreamPool(worker.loop, idleMax: Self.idleMax, idleTimeout: idleTimeout))
        }
        noteMembers()
    }

    /// A node is not in the cluster any more. What runs over its connections goes on.
    func remove(_ id: String) {
        guard let node = nodes.removeValue(forKey: id) else { return }
        node.isGone = true
        leave(node)
        node.pool.close()
        sendElsewhere(node)
        noteMembers()
    }

    /// Its own time for idle clients must be the longer one, so that it does not close what we are about to use.
    private var idleTimeout: Duration {
        let configured = worker.config.proxy.http.idleTimeout
        return configured == .zero ? Self.idleTime : min(Self.idleTime, configured / 2)
    }

    private func noteMembers() {
        members = Set(nodes.values.compactMap { node in
            guard var address = node.address else { return nil }
            address.port = 0
            return address
        })
    }

    private func changed(_ node: PeerNode) {
        switch node.status {
        case .active: node.doubtedUntil = Instant(nanoseconds: 0)
        case .draining: leave(node)
        case .unreachable:
            leave(node)
            for connection in Array(node.connections.values) { connection.giveUp() }
            sendElsewhere(node)
        }
    }

    /// Closes what is idle; what is in use ends with its request.
    private func leave(_ node: PeerNode) {
        for connection in node.connections.values { connection.retires = true }
        node.pool.close { _ in true }
    }

    // MARK: Choice

    /// One of the nodes that have an endpoint, by chance, each as likely as it has listeners; one that is about to leave or that
    /// could not be reached only when there is no other. Nil: all have been tried.
    func choose(_ entries: [RemoteEntry], avoiding tried: [String]) -> PeerNode? {
        let now = worker.loop.now
        var candidates: [(node: PeerNode, weight: Int)] = []
        var best = Int.max
        for entry in entries {
            guard let node = nodes[entry.node], node.address != nil, !tried.contains(entry.node) else { continue }
            let rank = node.rank(now)
            if rank > best { continue }
            if rank < best { candidates = [] }
            best = rank
            candidates.append((node, Int(entry.listeners)))
        }
        return Self.pick(candidates, using: &random)
    }

    /// One of them by chance, weighted.
    static func pick<Item>(_ items: [(node: Item, weight: Int)], using random: inout some RandomNumberGenerator) -> Item? {
        var left = Int.random(in: 0..<max(1, items.reduce(0) { $0 + $1.weight }), using: &random)
        for item in items {
            left -= item.weight
            if left < 0 { return item.node }
        }
        return items.first?.node
    }

    // MARK: Connections

    /// Gets the request a connection to the node: its `nodeConnected` follows, at once or later, or `nodeFailed`.
    /// `isRepeatable`: the request may be sent again, so that an old connection may be tried; `isFresh`: one was, in vain.
    func connect(_ request: ProxyConnection, to node: PeerNode, isRepeatable: Bool, isFresh: Bool) {
        if !isFresh, let next = node.pool.next, isRepeatable || worker.loop.now - next.idleSince < HTTPUpstream.doubtAfter,
            let idle = node.pool.take()
        {
            request.nodeConnected(idle, node)
            return
        }
        guard node.connections.count + node.waiting.count < Self.connectionsMax else {
            worker.telemetry.nodeConnectionRefused()
            request.nodeFailed(node)
            return
        }
        node.waiting.append(request)
        dial(node)
    }

    /// The request waits no longer.
    func forget(_ request: ProxyConnection, at node: PeerNode) { node.waiting.removeAll { $0 === request } }

    private func dial(_ node: PeerNode) {
        while node.dialing < min(node.waiting.count, Self.dialsMax) {
            if node.dialing == 0 { node.dialingSince = worker.loop.now }
            node.dialing += 1
            dials[nextDial] = (node, worker.loop.now)
            worker.dial(nextDial, node.id)
            nextDial += 1
        }
        if let watch, !watch.isScheduled, !dials.isEmpty { watch.schedule(after: Self.answerTime) }
    }

    /// The supervisor made a connection.
    func dialed(_ request: UInt64, _ descriptor: consuming OwnedDescriptor) {
        guard let dial = dials.removeValue(forKey: request) else { return }
        dial.node.dialing -= 1
        dial.node.dialingSince = dial.node.dialing == 0 ? nil : worker.loop.now
        guard !dial.node.isGone else { return }
        let channel: Channel
        do {
            channel = try worker.tls.channelToNode(descriptor, .proxy)
        } catch {
            failed(dial.node, after: .zero)
            return
        }
        channel.setNoDelay()
        channel.limitUnsent()
        channel.setKeepAlive(idle: .seconds(10), interval: .seconds(5), count: 3, userTimeout: .zero)
        worker.telemetry.nodeConnectionOpened()
        dial.node.doubtedUntil = Instant(nanoseconds: 0)
        let connection = NodeConnection(
            channel, to: dial.node, in: self, headLimits: worker.proxyContext.settings.headLimits)
        if let first = dial.node.takeWaiting() {
            first.nodeConnected(connection, dial.node)
        } else {
            _ = dial.node.pool.add(connection)
        }
    }

    /// There is no connection to be had. Unless it was tried, that says nothing of the node.
    func dialFailed(_ request: UInt64, wasTried: Bool = true) {
        guard let dial = dials.removeValue(forKey: request) else { return }
        dial.node.dialing -= 1
        if dial.node.dialing == 0 { dial.node.dialingSince = nil }
        worker.telemetry.nodeDialFailed()
        if wasTried { failed(dial.node, after: worker.loop.now - dial.since) } else { sendElsewhere(dial.node) }
    }

    private func failed(_ node: PeerNode, after time: Duration) {
        node.doubtedUntil = worker.loop.now + min(max(Self.doubtTime, time * Self.doubtFactor), Self.doubtMax)
        sendElsewhere(node)
    }

    private func sendElsewhere(_ node: PeerNode) {
        let waiting = node.waiting
        node.waiting = []
        for request in waiting { request.nodeFailed(node) }
    }

    private func dropLateDials() {
        for (request, dial) in dials where worker.loop.now - dial.since >= Self.answerTime {
            dialFailed(request, wasTried: false)
        }
        if !dials.isEmpty { watch?.schedule(after: Self.answerTime) }
    }

    fileprivate func ended(_ connection: NodeConnection) {
        guard connection.node.connections.removeValue(forKey: ObjectIdentifier(connection)) != nil else { return }
        worker.telemetry.nodeConnectionClosed()
        // Who waited for it to come back needs another one.
        if !connection.node.isGone { dial(connection.node) }
    }

    fileprivate func serveWaiting(_ node: PeerNode) {
        guard !node.waiting.isEmpty, let idle = node.pool.take(), let first = node.takeWaiting() else { return }
        first.nodeConnected(idle, node)
    }
}

extension PeerNode {
    fileprivate func takeWaiting() -> ProxyConnection? { waiting.isEmpty ? nil : waiting.removeFirst() }
}
