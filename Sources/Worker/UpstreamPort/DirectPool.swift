// The data connections of one endpoint at this worker: each is one TCP connection that an agent opened ahead of its use, and
// carries one raw stream, or one HTTP exchange after another. docs/protocol-direct.md says how they come about.
//
// The pool is the endpoint's and not the agent's: whichever data connection was used last is taken next, so that those that
// are not needed age and are closed. All of them together are one tunnel in the node's routing table, from the first one's
// arrival until there has been none for a while.
//
// Invariants: `connections` holds exactly those that are open, each at the place it knows; one that waits is in `idle` too.

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

    fileprivate init(_ stream: Stream, agent: [UInt8], isUsed: Bool, owner: DirectPool, headLimits: HeadLimits) {
        self.agent = agent
        self.owner = owner
        super.init(stream, pool: owner.idle, isReused: isUsed, headLimits: headLimits)
    }

    /// Writes the preamble, which goes before the first bytes of the first stream.
    func open(for client: Span<UInt8>) {
        guard !isReused else { return }
        var preamble = ByteBuffer()
        DirectPreamble.write(client: client, into: &preamble)
        channel.write(preamble.span)
    }

    override func ended() { owner.remove(self) }

    override func becameIdle() { owner.endpoint.serveWaiting() }
}

/// The data connections of one endpoint.
final class DirectPool {
    /// The number under which the worker registered them.
    let id: UInt64
    private unowned let worker: Worker
    fileprivate unowned let endpoint: Endpoint
    fileprivate let idle: UpstreamPool
    private var connections: [DataConnection] = []
    private var retirement: CallbackTimer?
    private var isClosed = false

    /// How long the pool stays registered without a connection.
    private static let emptyTime = Duration.seconds(5)

    init(_ worker: Worker, id: UInt64, endpoint: Endpoint) {
        self.worker = worker
        self.id = id
        self.endpoint = endpoint
        let direct = worker.config.upstream.direct
        idle = UpstreamPool(worker.loop, idleMax: direct.connectionsMax, idleTimeout: direct.idleTimeout)
        retirement = CallbackTimer(worker.loop) { [unowned self] in self.retireIfEmpty() }
    }

    /// Data connections that are open.
    var count: Int { connections.count }

    /// Whether one waits for a stream.
    var hasIdle: Bool { idle.count > 0 }

    /// Whether another one is taken.
    var hasRoom: Bool { !isClosed && connections.count < worker.config.upstream.direct.connectionsMax }

    // MARK: Coming and going

    /// Takes over a data connection whose upgrade is done, or which a sibling gave.
    func add(_ stream: Stream, agent: [UInt8], isUsed: Bool) {
        let connection = DataConnection(
            stream, agent: agent, isUsed: isUsed, owner: self, headLimits: worker.proxyContext.settings.headLimits)
        connection.place = connections.count
        connections.append(connection)
        retirement?.cancel()
        worker.telemetry.dataConnectionOpened()
        if idle.add(connection) { endpoint.serveWaiting() }
    }

    fileprivate func remove(_ connection: DataConnection) {
        guard connection.place >= 0 else { return }
        let last = connections.removeLast()
        if last !== connection {
            connections[connection.place] = last
            last.place = connection.place
        }
        connection.place = -1
        worker.telemetry.dataConnectionClosed()
        if connections.isEmpty, !isClosed { retirement?.schedule(after: Self.emptyTime) }
    }

    private func retireIfEmpty() {
        if connections.isEmpty { worker.directPoolEmptied(endpoint) }
    }

    /// The agent takes no new streams: what waits is closed, what serves ends with its exchange.
    func agentLeft(_ agent: [UInt8]) {
        idle.close { ($0 as? DataConnection)?.agent == agent }
        for connection in connections where connection.agent == agent { connection.retires = true }
    }

    /// Closes all that wait, and takes no more.
    func close() {
        isClosed = true
        retirement?.cancel()
        idle.close()
    }

    // MARK: Use

    /// A connection for an exchange. `isRepeatable`: the request may be sent again. One that may not is not put on a
    /// connection that has been idle for so long that it may be dead, if it has another way.
    func take(isRepeatable: Bool) -> DataConnection? {
        guard let next = idle.next else { return nil }
        if !isRepeatable, worker.loop.now - next.idleSince >= HTTPUpstream.doubtAfter { return nil }
        return taken(idle.take())
    }

    /// A connection on which nothing was sent yet, for a raw stream.
    func takeUnused() -> DataConnection? { taken(idle.takeUnused()) }

    private func taken(_ upstream: HTTPUpstream?) -> DataConnection? {
        guard let connection = upstream as? DataConnection else { return nil }
        worker.telemetry.dataStream()
        return connection
    }

    /// One died without a word: those that have been idle for longer died with it, most likely.
    func diedUnnoticed(_ connection: DataConnection) {
        idle.close { ($0 as? DataConnection)?.agent == connection.agent && $0.idleSince <= connection.idleSince }
    }

    /// One that can be spared for a sibling, if more than one waits.
    func spare() -> DataConnection? {
        guard idle.count > 1 else { return nil }
        return (idle.takeUnused() ?? idle.take()) as? DataConnection
    }
}
