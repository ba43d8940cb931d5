// One HTTP/1.1 client connection over a channel, used for one exchange after another, and the pool that keeps the idle ones.
//
// An idle connection is read, so that its end, or bytes that nobody asked for, take it out of the pool before a request
// is put on it. The pool hands out the one that was used last, and drops those that have been idle for too long.

internal import Base
internal import Memory
public import Reactor
public import Wire

/// A connection to an HTTP origin: the service, or an agent's stream.
public final class HTTPUpstream: ChannelDelegate {
    public let channel: Channel
    /// Whether at least one exchange ended well on it: a failure may then mean that the peer had given it up.
    public fileprivate(set) var isReused = false
    /// The pool it goes back to; nil: it is closed after one exchange.
    public let pool: UpstreamPool?
    /// Without a pool: whether its owner uses it again, instead of it being closed after one exchange.
    private let keepsOpen: Bool
    /// The exchange in progress.
    var connection: HTTPConnection?
    /// A response head that has not come whole.
    var input = ByteBuffer()
    var parser: HeadParser
    var head = Head()
    fileprivate var idleSince = Instant(nanoseconds: 0)
    private var isDead = false

    /// Takes over the channel.
    public init(
        _ channel: Channel, pool: UpstreamPool?, keepsOpen: Bool = false, headLimits: HeadLimits = HeadLimits()
    ) {
        self.channel = channel
        self.pool = pool
        self.keepsOpen = keepsOpen
        parser = HeadParser(kind: .response, limits: headLimits)
        super.init()
        channel.delegate = self
    }

    /// Whether it waits for an exchange.
    public var isIdle: Bool { connection == nil && !isDead }

    /// Ends the connection if it waits; one in use ends with its exchange.
    public func closeIfIdle() {
        if isIdle { close() }
    }

    /// Ends an exchange in good order: the connection waits for the next one.
    func release() {
        connection = nil
        input.removeAll()
        input.releaseIfEmpty()
        parser.reset()
        isReused = true
        let isKept = pool?.put(self) ?? keepsOpen
        guard isKept, !isDead else {
            close()
            return
        }
        channel.resumeReading()
    }

    /// Ends an exchange that can't be continued on this connection.
    func discard() {
        connection = nil
        guard !isDead else { return }
        isDead = true
        channel.abort()
    }

    /// Ends the connection after a whole response.
    func close() {
        connection = nil
        guard !isDead else { return }
        isDead = true
        channel.close()
    }

    /// Hands the channel to a relay after an upgrade.
    func takeChannel() -> Channel {
        connection = nil
        isDead = true
        return channel
    }

    public override func channel(_ channel: Channel, received bytes: inout MutableSpan<UInt8>) {
        guard let connection else {
            pool?.remove(self)
            discard()
            return
        }
        connection.responseReceived(bytes.span, from: self)
    }

    public override func streamPumped(_ stream: Stream) { connection?.responsePumped(from: self) }

    public override func channelEnded(_ channel: Channel) {
        guard let connection else {
            pool?.remove(self)
            close()
            return
        }
        connection.upstreamEnded(self)
    }

    public override func channelDrained(_ channel: Channel) {
        connection?.upstreamDrained(self)
    }

    public override func channelFailed(_ channel: Channel, error: ChannelError) {
        isDead = true
        guard let connection else {
            pool?.remove(self)
            return
        }
        self.connection = nil
        connection.upstreamFailed(self, error: error)
    }
}

/// Idle connections to one origin, last used first.
public final class UpstreamPool {
    private let loop: Loop
    private let idleMax: Int
    private let idleTimeout: Duration
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
        idle.popLast()
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

    /// The oldest stand first.
    private func sweep() {
        var expired = 0
        while expired < idle.count, idle[expired].idleSince + idleTimeout <= loop.now { expired += 1 }
        let closing = idle.prefix(expired)
        idle.removeFirst(expired)
        for upstream in closing { upstream.close() }
        if let oldest = idle.first { timer?.schedule(at: oldest.idleSince + idleTimeout) }
    }
}
