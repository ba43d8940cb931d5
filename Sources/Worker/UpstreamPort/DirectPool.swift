// The data connections of one endpoint at this worker: each is one TCP connection that an agent opened ahead of its use, and
// carries one raw stream, or one HTTP exchange after another. docs/protocol-direct.md says how they come about.
//
// Each agent's are a group, and the groups take turns, so that agents share the load. Of a group, whichever was used last is
// taken next, so that those that are not needed age and are closed. All of them together are one entry in the node's routing
// table, from the first one's arrival until there has been none for a while.
//
// Invariants: `connections` holds exactly those that are open, each at the place it knows; one that waits is in its group's
// `idle` too; a group is there exactly while it has a connection.

import Base
import Config
import Memory
import Reactor
import Transport
import Wire

/// One data connection.
final class DataConnection: HTTPUpstream {
    /// Which agent's listener opened it.
    let agent: [UInt8]
    private let owner: DirectPool
    fileprivate var place = -1

    fileprivate init(
        _ channel: Channel, agent: [UInt8], isUsed: Bool, owner: DirectPool, pool: UpstreamPool, headLimits: HeadLimits
    ) {
        self.agent = agent
        self.owner = owner
        super.init(channel, pool: pool, isReused: isUsed, headLimits: headLimits)
    }

    /// Writes the preamble, which goes before the first bytes of the first stream.
    func open(for client: Span<UInt8>) {
        guard !isReused else { return }
        var preamble = ByteBuffer()
        DirectPreamble.write(client: client, into: &preamble)
        channel.write(preamble.span)
    }

    override func ended() { owner.remove(self) }

    override func becameIdle() {
        owner.endpoint.serveWaiting()
        if isIdle { owner.giveIfRetiring() }
    }
}

/// The data connections of one agent's session: a unit of load, as a session is.
private final class DirectGroup {
    let agent: [UInt8]
    let idle: UpstreamPool
    var count = 0
    /// When the agent's token ends, and its connections with it; nil: never.
    var limit: ExpiryTimer?

    init(agent: [UInt8], idle: UpstreamPool) {
        self.agent = agent
        self.idle = idle
    }
}

/// The data connections of one endpoint.
final class DirectPool {
    /// The number under which the worker registered them.
    let id: UInt64
    private unowned let worker: Worker
    fileprivate unowned let endpoint: Endpoint
    private var groups: [DirectGroup] = []
    private var nextGroup = 0
    private var connections: [DataConnection] = []
    private var retirement: CallbackTimer?
    private var isClosed = false

    /// How long the pool stays registered without a connection.
    private static let emptyTime = Duration.seconds(5)

    init(_ worker: Worker, id: UInt64, endpoint: Endpoint) {
        self.worker = worker
        self.id = id
        self.endpoint = endpoint
        retirement = CallbackTimer(worker.loop) { [unowned self] in self.retireIfEmpty() }
    }

    /// Data connections that are open.
    var count: Int { connections.count }

    /// How many agents they are of.
    var agentCount: Int { groups.count }

    /// Whether one waits for a stream.
    var hasIdle: Bool {
        for group in groups where group.idle.count > 0 { return true }
        return false
    }

    /// Whether another one is taken.
    var hasRoom: Bool { !isClosed && connections.count < worker.config.upstream.direct.connectionsMax }

    // MARK: Coming and going

    /// Takes over a data connection whose upgrade is done, or which a sibling gave. `limit`: when the agent's token ends.
    func add(_ channel: Channel, agent: [UInt8], isUsed: Bool, limit: UInt64? = nil) {
        let group = self.group(of: agent)
        if let limit, group.limit == nil {
            group.limit = ExpiryTimer(worker.loop, at: limit) { [unowned self] in agentLeft(agent) }
        }
        let connection = DataConnection(
            channel, agent: agent, isUsed: isUsed, owner: self, pool: group.idle,
            headLimits: worker.proxyContext.settings.headLimits)
        connection.place = connections.count
        connections.append(connection)
        group.count += 1
        retirement?.cancel()
        worker.telemetry.dataConnectionOpened()
        if group.idle.add(connection) {
            endpoint.serveWaiting()
            giveIfRetiring()
        }
    }

    /// Gives what waits to the workers that follow, when this one retires; with TLS it is closed, and the agent opens others.
    func giveIfRetiring() {
        guard let retirement = worker.retirement else { return }
        for group in groups {
            // Whoever gets one would not know when it ends.
            if group.limit != nil {
                group.idle.close()
                continue
            }
            while group.idle.count > 0, let sibling = retirement.successor(), let idle = group.idle.take() as? DataConnection {
                _ = DataGift(worker, idle, of: endpoint, to: sibling)
            }
        }
    }

    private func group(of agent: [UInt8]) -> DirectGroup {
        if let known = groups.first(where: { $0.agent == agent }) { return known }
        let direct = worker.config.upstream.direct
        let pool = UpstreamPool(worker.loop, idleMax: direct.connectionsMax, idleTimeout: direct.idleTimeout)
        if isClosed { pool.close() }
        let fresh = DirectGroup(agent: agent, idle: pool)
        groups.append(fresh)
        return fresh
    }

    fileprivate func remove(_ connection: DataConnection) {
        guard connection.place >= 0 else { return }
        let last = connections.removeLast()
        if last !== connection {
            connections[connection.place] = last
            last.place = connection.place
        }
        connection.place = -1
        if let index = groups.firstIndex(where: { $0.agent == connection.agent }) {
            groups[index].count -= 1
            if groups[index].count == 0 { groups.remove(at: index) }
        }
        worker.dataConnectionEnded()
        if connections.isEmpty, !isClosed { retirement?.schedule(after: Self.emptyTime) }
    }

    private func retireIfEmpty() {
        if connections.isEmpty { worker.directPoolEmptied(endpoint) }
    }

    /// The agent takes no new streams: what waits is closed, what serves ends with its exchange.
    func agentLeft(_ agent: [UInt8]) {
        for connection in connections where connection.agent == agent { connection.retires = true }
        groups.first { $0.agent == agent }?.idle.close()
    }

    /// Closes all that wait, and takes no more.
    func close() {
        isClosed = true
        retirement?.cancel()
        for group in groups { group.idle.close() }
    }

    // MARK: Use

    /// A connection for an exchange, of each agent in turn. `isRepeatable`: the request may be sent again. One that may not is
    /// not put on a connection that has been idle for so long that it may be dead, if it has another way.
    func take(isRepeatable: Bool) -> DataConnection? {
        take { pool in
            guard let next = pool.next else { return nil }
            if !isRepeatable, worker.loop.now - next.idleSince >= HTTPUpstream.doubtAfter { return nil }
            return pool.take()
        }
    }

    /// A connection on which nothing was sent yet, for a raw stream.
    func takeUnused() -> DataConnection? { take { $0.takeUnused() } }

    private func take(_ of: (UpstreamPool) -> HTTPUpstream?) -> DataConnection? {
        for step in 0..<groups.count {
            let index = (nextGroup + step) % groups.count
            guard let connection = of(groups[index].idle) as? DataConnection else { continue }
            nextGroup = index + 1
            worker.telemetry.dataStream()
            return connection
        }
        return nil
    }

    /// One died without a word: those that have been idle for longer died with it, most likely.
    func diedUnnoticed(_ connection: DataConnection) {
        groups.first { $0.agent == connection.agent }?.idle.close { $0.idleSince <= connection.idleSince }
    }

    /// One that can be spared for a sibling, of an agent of which more than one waits; those with TLS can't move.
    func spare() -> DataConnection? {
        guard let group = groups.first(where: { $0.idle.count > 1 && $0.limit == nil && $0.idle.next?.channel is Stream }) else { return nil }
        return (group.idle.takeUnused() ?? group.idle.take()) as? DataConnection
    }
}
