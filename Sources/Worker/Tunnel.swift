// An agent's session and the endpoint it serves. In routing from its registration until it goes away or ends.

import Base
import Control
import Memory
import Reactor
import Transport
import Wire

/// A stream of a tunnel that serves one request after another.
private final class TunnelUpstream: HTTPUpstream {
    private weak var tunnel: Tunnel?

    init(_ channel: YamuxChannel, of tunnel: Tunnel, headLimits: HeadLimits) {
        self.tunnel = tunnel
        super.init(channel, pool: tunnel.pool, headLimits: headLimits)
    }

    /// A request that waits for a stream may have this one.
    override func becameIdle() { tunnel?.endpoint.serveWaiting() }
}

/// Where a tunnel comes from, for those who watch the node.
struct TunnelOrigin {
    /// When its agent connected: seconds since 1970.
    var since = ProxyConnection.unixSeconds
    /// The agent's address, and how its program calls itself (`User-Agent`); empty: not known.
    var address = ""
    var program = ""

    static let textBytesMax = 128
}

/// One tunnel of this worker.
final class Tunnel: MuxSessionDelegate {
    /// Unique in this worker.
    let id: UInt64
    var endpoint: Endpoint
    /// The identifier of the agent's data connections beside this session; nil: it opens none.
    let agent: [UInt8]?
    /// Whether every stream begins with who its client is: the agent asked for that.
    let hasPreambles: Bool
    /// Idle HTTP connections over streams of the session.
    let pool: UpstreamPool
    private let worker: Worker
    private(set) var session: MuxSession?
    var origin = TunnelOrigin()
    /// Whether its agent was asked to connect anew for the sake of balance.
    var wasShed = false
    /// When its token ends, and the tunnel with it: seconds since 1970; nil: never.
    let expiry: UInt64?
    /// What it draws from, by its token.
    private(set) var quotas: [Quota]
    private var reminder: ExpiryTimer?
    private var end: ExpiryTimer?

    /// How long before the end of its token an agent is asked to connect anew, if the token was good for twice as long.
    private static let remindedBefore: UInt64 = 10

    /// The most idle streams kept, and for how long. The public agents serve each stream as an HTTP/1.1 connection of its
    /// own without a time limit.
    private static let idleStreamsMax = 1_024
    private static let idleStreamTime = Duration.seconds(30)

    init(_ worker: Worker, id: UInt64, endpoint: Endpoint, agent: [UInt8]?, hasPreambles: Bool, expiry: UInt64?, quotas: [Quota]) {
        self.expiry = expiry
        self.quotas = quotas
        self.worker = worker
        self.id = id
        self.endpoint = endpoint
        self.agent = agent
        self.hasPreambles = hasPreambles
        pool = UpstreamPool(worker.loop, idleMax: Self.idleStreamsMax, idleTimeout: Self.idleStreamTime)
    }

    /// Starts the session over the upgraded connection.
    func start(over carrier: WebSocketChannel) {
        session = MuxSession(worker.loop, carrier: carrier, role: .server, limits: limits, delegate: self)
        watchExpiry()
    }

    private var limits: YamuxLimits { worker.yamuxLimits.within(quotas) }

    private func watchExpiry() {
        guard let expiry else { return }
        end = ExpiryTimer(worker.loop, at: expiry) { [unowned self] in expired() }
        let early = expiry - min(expiry, Self.remindedBefore)
        guard early > ProxyConnection.unixSeconds + Self.remindedBefore else { return }
        reminder = ExpiryTimer(worker.loop, at: early) { [unowned self] in
            release()
            session?.askToLeave()
        }
    }

    /// Its end is near and sure: whoever comes in its place is not refused for its sake.
    private func release() {
        if !quotas.isEmpty { worker.release(self) }
        quotas = []
    }

    /// Whoever showed the token has no right to the endpoint any more.
    private func expired() {
        worker.tunnelExpired(self)
        session?.close(code: 1008, reason: "token expired")
    }

    /// Whether the agent takes no stream at the moment, but will.
    var isFull: Bool { isMoving || session?.isFull ?? false }

    /// Whether a stream waits for a request.
    var hasIdle: Bool { pool.count > 0 }

    /// Whether the session is on its way to another worker.
    private(set) var isMoving = false

    /// Takes the session out of this worker.
    func move(_ done: @escaping (consuming OwnedDescriptor, consuming ByteBuffer, [Int32]) -> Void) {
        isMoving = true
        pool.close()
        session?.move(counting: worker.bridgesOut, done)
    }

    /// Goes on with a session that another worker gave away.
    func resume(over stream: Stream, state: Span<UInt8>, bridges: [BridgeEnd]) throws(StateReadError) {
        session = try MuxSession(
            worker.loop, over: stream, role: .server, limits: limits, state: state, bridges: bridges, delegate: self)
        watchExpiry()
    }

    /// A new stream to the agent; nil when it takes none.
    func open(for client: PeerAddress) -> YamuxChannel? {
        guard let channel = session?.open() else {
            // Streams that only wait for requests make room, for whoever waits.
            if isFull, !isMoving { pool.take()?.closeIfIdle() }
            return nil
        }
        if hasPreambles {
            var preamble = ByteBuffer()
            DirectPreamble.write(client: client.bytes.span, into: &preamble)
            channel.write(preamble.span)
        }
        return channel
    }

    /// A connection for one request: an idle one when that may be tried, else a new stream.
    func upstream(fresh: Bool, for client: PeerAddress) -> HTTPUpstream? {
        if !fresh, let idle = pool.take() { return idle }
        guard let channel = open(for: client) else { return nil }
        return TunnelUpstream(channel, of: self, headLimits: worker.proxyContext.settings.headLimits)
    }

    override func sessionWentAway(_ session: MuxSession) {
        worker.tunnelLeft(self)
        if let agent { worker.agentLeft(endpoint.name, agent, tellsSiblings: true) }
        pool.close()
    }

    override func sessionMayOpen(_ session: MuxSession) {
        endpoint.serveWaiting()
    }

    override func sessionIdle(_ session: MuxSession) {
        // The agent said go-away and closes when it is done; we do, when we said it.
        if worker.isDraining { session.close() }
    }

    override func sessionEnded(_ session: MuxSession, error: ChannelError?) {
        reminder = nil
        end = nil
        worker.tunnelEnded(self, error: error)
        pool.close()
    }
}
