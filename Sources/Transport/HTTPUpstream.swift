// One HTTP/1.1 client connection over a channel, used for one exchange after another, and the pool that keeps the idle ones.
//
// An idle connection is read, so that its end, or bytes that nobody asked for, take it out of the pool before a request
// is put on it. The pool hands out the one that was used last, and drops those that have been idle for too long.
//
// A connection may have died without a word (a middlebox forgot it). One that has been idle for a while is therefore watched
// when a request goes out on it: if the peer's kernel has acknowledged nothing of it after `doubtTime`, it is given up
// while there is still time for another.

public import Base
internal import Memory
public import Reactor
public import Wire

/// A connection to an HTTP origin: the service, or an agent's stream.
open class HTTPUpstream: ChannelDelegate {
    public final let channel: Channel
    /// Whether at least one exchange ended well on it: a failure may then mean that the peer had given it up.
    public fileprivate(set) final var isReused = false
    /// The pool it goes back to; nil: it is closed after one exchange.
    public final let pool: UpstreamPool?
    /// Without a pool: whether its owner uses it again, instead of it being closed after one exchange.
    private final let keepsOpen: Bool
    /// The exchange in progress.
    final var connection: HTTPConnection?
    /// A response head that has not come whole.
    final var input = ByteBuffer()
    final var parser: HeadParser
    final var head = Head()
    public fileprivate(set) final var idleSince = Instant(nanoseconds: 0)
    private final var isDead = false
    /// Whether it had been idle for so long that it may have died unnoticed.
    fileprivate final var isDoubtful = false
    /// What the peer had acknowledged before the request that goes out on a doubtful connection; nil: no doubt.
    private final var acknowledgedBefore: UInt64?

    /// How long a connection may have been idle without doubt, and how long the peer's kernel may take to acknowledge.
    public static let doubtAfter = Duration.seconds(5)
    static let doubtTime = Duration.seconds(3)

    /// Takes over the channel.
    public init(
        _ channel: Channel, pool: UpstreamPool?, keepsOpen: Bool = false, isReused: Bool = false,
        headLimits: HeadLimits = HeadLimits()
    ) {
        self.channel = channel
        self.pool = pool
        self.keepsOpen = keepsOpen
        self.isReused = isReused
        parser = HeadParser(kind: .response, limits: headLimits)
        super.init()
        channel.delegate = self
    }

    /// Whether it is closed after the exchange in progress, instead of going back to its pool.
    public final var retires = false

    /// The connection is over, or its channel was handed on. Called once.
    open func ended() {}

    /// An exchange ended well and the connection is in its pool again.
    open func becameIdle() {}

    /// Whether it waits for an exchange.
    public final var isIdle: Bool { connection == nil && !isDead }

    /// A request is about to go out: whether it should be asked after `doubtTime` whether it `isDead`.
    final func beginExchange() -> Bool {
        acknowledgedBefore = nil
        guard isDoubtful, let stream = channel as? Stream else { return false }
        isDoubtful = false
        acknowledgedBefore = stream.acknowledgedBytes
        return acknowledgedBefore != nil
    }

    /// Whether the peer's kernel has acknowledged nothing of the request on a doubtful connection.
    final var isUnanswered: Bool {
        guard let before = acknowledgedBefore, let stream = channel as? Stream else { return false }
        acknowledgedBefore = nil
        return stream.acknowledgedBytes == before
    }

    /// Its peer is not there any more, as somebody else found out: one that waits is closed, and a request that may be sent again
    /// is.
    public final func giveUp() {
        if let connection {
            retires = true
            connection.upstreamGivenUp(self)
        } else if !isDead {
            pool?.remove(self)
            close()
        }
    }

    /// Ends the connection if it waits; one in use ends with its exchange.
    public final func closeIfIdle() {
        if isIdle { close() }
    }

    /// Ends an exchange in good order: the connection waits for the next one.
    final func release() {
        connection = nil
        input.removeAll()
        input.releaseIfEmpty()
        parser.reset()
        isReused = true
        let isKept = !retires && (pool?.put(self) ?? keepsOpen)
        guard isKept, !isDead else {
            close()
            return
        }
        channel.resumeReading()
        becameIdle()
    }

    /// Ends an exchange that can't be continued on this connection.
    final func discard() {
        connection = nil
        guard !isDead else { return }
        isDead = true
        channel.abort()
        ended()
    }

    /// Ends the connection after a whole response.
    final func close() {
        connection = nil
        guard !isDead else { return }
        isDead = true
        channel.close()
        ended()
    }

    /// Hands the channel to a relay after an upgrade, or to whoever serves it from now on.
    public final func takeChannel() -> Channel {
        connection = nil
        isDead = true
        channel.delegate = nil
        ended()
        return channel
    }

    public override final func channel(_ channel: Channel, received bytes: inout MutableSpan<UInt8>) {
        guard let connection else {
            pool?.remove(self)
            discard()
            return
        }
        connection.responseReceived(bytes.span, from: self)
    }

    public override final func streamPumped(_ stream: Stream) { connection?.responsePumped(from: self) }

    public override final func channelEnded(_ channel: Channel) {
        guard let connection else {
            pool?.remove(self)
            close()
            return
        }
        connection.upstreamEnded(self)
    }

    public override final func channelDrained(_ channel: Channel) {
        connection?.upstreamDrained(self)
    }

    public override final func channelFailed(_ channel: Channel, error: ChannelError) {
        isDead = true
        if connection == nil { pool?.remove(self) }
        ended()
        guard let connection else { return }
        self.connection = nil
        connection.upstreamFailed(self, error: error)
    }
}

/// Idle connections to one origin, last used first. Those that were never used stand behind all others.
public final class UpstreamPool {
    private let loop: Loop
    private let idleMax: Int
    private let idleTimeout: Duration
    /// The never used ones first, then the others as they were put here.
    private var idle: [HTTPUpstream] = []
    private var timer: CallbackTimer?
    private var isClosed = false

    /// Keeps at most `idleMax` connections, each for at most `idleTimeout`.
    public init(_ loop: Loop, idleMax: Int, idleTimeout: Duration) {
        self.loop = loop
        self.idleMax = idleMax
        self.idleTimeout = idleTimeout
        timer = CallbackTimer(loop) { [unowned self] in self.sweep() }
    }

    /// Connections that wait.
    public var count: Int { idle.count }

    /// The idle connection that was used last.
    public func take() -> HTTPUpstream? {
        guard let upstream = idle.popLast() else { return nil }
        upstream.isDoubtful = loop.now - upstream.idleSince >= HTTPUpstream.doubtAfter
        return upstream
    }

    /// The idle connection that `take` would give.
    public var next: HTTPUpstream? { idle.last }

    /// Puts in a connection that was never used; false when it can't be kept, and is closed.
    public func add(_ upstream: HTTPUpstream) -> Bool {
        guard !isClosed, idle.count < idleMax else {
            upstream.close()
            return false
        }
        upstream.idleSince = loop.now
        idle.insert(upstream, at: 0)
        if let timer, !timer.isScheduled { timer.schedule(after: idleTimeout) }
        upstream.channel.resumeReading()
        return true
    }

    /// The newest of the connections that were never used.
    public func takeUnused() -> HTTPUpstream? {
        guard let first = idle.first, !first.isReused else { return nil }
        idle.removeFirst()
        return first
    }

    /// Closes the idle connections for which `condition` holds.
    public func close(where condition: (HTTPUpstream) -> Bool) {
        let closing = idle.filter(condition)
        idle.removeAll(where: condition)
        for upstream in closing { upstream.close() }
    }

    /// Closes all that are idle, and keeps none from now on.
    public func close() {
        isClosed = true
        timer?.cancel()
        let closing = idle
        idle = []
        for upstream in closing { upstream.close() }
    }

    fileprivate func put(_ upstream: HTTPUpstream) -> Bool {
        guard !isClosed, idle.count < idleMax else { return false }
        upstream.idleSince = loop.now
        idle.append(upstream)
        if let timer, !timer.isScheduled { timer.schedule(after: idleTimeout) }
        return true
    }

    fileprivate func remove(_ upstream: HTTPUpstream) {
        if let index = idle.lastIndex(where: { $0 === upstream }) { idle.remove(at: index) }
    }

    private func sweep() {
        close { $0.idleSince + idleTimeout <= loop.now }
        var oldest = Instant.never
        for upstream in idle { oldest = min(oldest, upstream.idleSince) }
        if oldest != .never { timer?.schedule(at: oldest + idleTimeout) }
    }
}
