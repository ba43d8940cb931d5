// A connected stream socket as a channel.
//
// The C core queues what is written and sends it at the beginning of the next turn, gathered; it also lingers for a closed
// stream. This class keeps the channel's rules on top: no callback from within a call, nothing after the end.
//
// Invariants: `handle` is 0 exactly when the stream is dead; while it is not, the loop holds a reference to the stream.
public import Base
internal import CIOCore
internal import Glibc

/// A connected TCP or Unix stream socket.
@safe
public final class Stream: Channel {
    /// The loop that drives it.
    public let loop: Loop
    private var handle: cio_handle = 0
    private var highMark = 262_144
    private var isFinished = false
    /// As they were when the stream died.
    private var lastTotals = cio_stream_totals()
    private var failure: DelayedFailure?
    private var attached: AnyObject?

    /// Takes over a connected socket. It delivers nothing until the first `resumeReading`.
    public init(_ loop: Loop, adopting descriptor: consuming OwnedDescriptor) throws(SystemError) {
        self.loop = loop
        super.init()
        var opened: cio_handle = 0
        let tag = handlerTag(self, HandlerKind.stream)
        try unsafe cio_stream_open(loop.core, descriptor.take(), tag, &opened).orThrow("open a stream")
        started(opened)
    }

    /// Starts to connect: `streamConnected` or `channelFailed` follows. The caller bounds the time with a timer.
    public init(_ loop: Loop, connectTo address: SocketAddress) throws(SystemError) {
        self.loop = loop
        super.init()
        var opened: cio_handle = 0
        let tag = handlerTag(self, HandlerKind.stream)
        let result = unsafe address.withKernelAddress { pointer, length in
            unsafe cio_stream_connect(loop.core, pointer, length, tag, &opened)
        }
        try result.orThrow("connect")
        started(opened)
    }

    /// Starts to connect to a Unix socket.
    public init(_ loop: Loop, connectToUnix path: String) throws(SystemError) {
        self.loop = loop
        super.init()
        var opened: cio_handle = 0
        let tag = handlerTag(self, HandlerKind.stream)
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        let fits = unsafe withUnsafeMutableBytes(of: &address.sun_path) { target in
            let bytes = path.utf8
            guard !bytes.isEmpty, bytes.count < target.count else { return false }
            unsafe target.copyBytes(from: bytes)
            return true
        }
        guard fits else { throw SystemError(code: ENAMETOOLONG, call: "connect") }
        let result = unsafe withUnsafePointer(to: address) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                unsafe cio_stream_connect(loop.core, $0, socklen_t(MemoryLayout<sockaddr_un>.size), tag, &opened)
            }
        }
        try result.orThrow("connect")
        started(opened)
    }

    private func started(_ opened: cio_handle) {
        handle = opened
        retainHandler(self)
    }

    // MARK: - Channel

    override public var isWritable: Bool { handle != 0 && pendingBytes <= highMark }

    // What the kernel took moves in steps of its buffer; what a slow peer acknowledged moves with every packet.
    override public var sendingMark: UInt64? { pendingBytes == 0 ? nil : acknowledgedBytes ?? takenBytes }

    override public func write(_ bytes: Span<UInt8>) {
        assert(!isFinished, "write after finish")
        let result = unsafe bytes.withUnsafeBufferPointer { buffer in
            unsafe cio_stream_write(loop.core, handle, buffer.baseAddress, buffer.count)
        }
        if result < 0 { writeFailed(result) }
    }

    /// Queues up to `capacity` bytes that `body` produces in place. `body` gets room for at least one byte and at most
    /// `capacity`; it may be called several times until it leaves room unused or `capacity` is reached.
    public func write(capacity: Int, _ body: (inout OutputSpan<UInt8>) -> Void) {
        assert(!isFinished, "write after finish")
        var left = capacity
        while left > 0 {
            var room = 0
            guard let start = unsafe cio_stream_reserve(loop.core, handle, left, &room) else {
                if isAlive { writeFailed(-Int(ENOBUFS)) }
                return
            }
            let buffer = unsafe UnsafeMutableBufferPointer(start: start, count: room)
            var output = unsafe OutputSpan(buffer: buffer, initializedCount: 0)
            body(&output)
            let count = unsafe output.finalize(for: buffer)
            let result = unsafe cio_stream_commit(loop.core, handle, count)
            if result < 0 { writeFailed(result) }
            if result < 0 || count < room { return }
            left -= count
        }
    }

    override public func pauseReading() { unsafe cio_stream_read(loop.core, handle, false) }

    override public func resumeReading() { unsafe cio_stream_read(loop.core, handle, true) }

    override public func finish() {
        if !isAlive { return }
        isFinished = true
        unsafe cio_stream_finish(loop.core, handle)
    }

    override public func close() { end(CIO_CLOSE_LINGER) }

    /// Ends the stream at once: what is queued is dropped.
    public func closeNow() { end(CIO_CLOSE_NOW) }

    /// Ends the stream at once with a reset.
    override public func abort() { end(CIO_CLOSE_RESET) }

    // MARK: - Sockets only

    /// Whether the stream is neither closed, failed nor detached.
    public var isAlive: Bool { handle != 0 }

    /// From the next turn on, carries what this stream receives to `target` in the core: `length` bytes, then the delegate's
    /// `streamPumped` follows, or everything up to the end (`channelEnded`). This stream's bytes are not told meanwhile;
    /// reading is switched as ever. Nothing else may be written to `target`. When `target` breaks or is closed, nothing more
    /// is read until `stopPump`.
    ///
    /// False when one of the streams can't be pumped any more; its failure is on its way.
    public func pump(to target: Stream, length: UInt64 = .max) -> Bool {
        unsafe cio_pump_start(loop.core, handle, target.handle, length) == 0
    }

    /// Ends the pump from this stream, if one runs. What it took and has not handed over yet is lost.
    public func stopPump() { unsafe cio_pump_stop(loop.core, handle) }

    /// Bytes that pumps took from this stream in its life.
    public var pumpedBytes: UInt64 { totals.pumped }

    /// When a pump took some last.
    public var lastPumped: Instant { Instant(nanoseconds: totals.pumped_at) }

    private var totals: cio_stream_totals {
        handle == 0 ? lastTotals : unsafe cio_stream_totals_read(loop.core, handle)
    }

    /// Bytes that were written or pumped to this stream and that the kernel has not taken yet.
    public var pendingBytes: Int { unsafe cio_stream_pending(loop.core, handle) }

    /// Bytes that were written or pumped to this stream and that the kernel has taken.
    public var takenBytes: UInt64 { totals.sent }

    /// Bytes that were written or pumped to this stream and that the peer's kernel has acknowledged; nil for a Unix socket.
    public var acknowledgedBytes: UInt64? {
        let waiting = cio_socket_unacknowledged(descriptor)
        return waiting < 0 ? nil : takenBytes &- UInt64(waiting)
    }

    /// Above `high` waiting bytes `isWritable` is false; once they fell to `low`, `channelDrained` is called.
    public func setMarks(high: Int, low: Int) {
        highMark = high
        unsafe cio_stream_marks(loop.core, handle, UInt32(high), UInt32(low))
    }

    /// Takes the socket out of the loop: sends what is queued, then the delegate's `streamDetached` gets the descriptor.
    /// Until then bytes may still be received.
    public func detach() { _ = unsafe cio_stream_detach(loop.core, handle, CIO_DETACH_SENT) }

    /// The same, but what the kernel has not taken yet comes with `streamDetached`, for whoever goes on with the socket.
    public func detachWithUnsent() { _ = unsafe cio_stream_detach(loop.core, handle, CIO_DETACH_UNSENT) }

    /// The descriptor, for names and options; -1 when dead.
    public var descriptor: Int32 { max(-1, unsafe cio_handle_descriptor(loop.core, handle)) }

    /// Nil for a Unix socket.
    override public var peer: SocketAddress? { SocketAddress.peer(of: descriptor) }

    override public var attachment: AnyObject? {
        get { attached }
        set { attached = newValue }
    }

    override public func setNoDelay() { _ = cio_socket_nodelay(descriptor) }

    override public func limitUnsent() { _ = cio_socket_unsent_max(descriptor, Channel.unsentBytesMax) }

    override public func setKeepAlive(idle: Duration, interval: Duration, count: Int, userTimeout: Duration) {
        setSocketKeepAlive(descriptor, idle: idle, interval: interval, count: count, userTimeout: userTimeout)
    }

    // MARK: - The end, and events

    private func end(_ mode: cio_close_mode) {
        if handle == 0 { return }
        lastTotals = totals
        unsafe cio_stream_close(loop.core, handle, mode)
        handle = 0
        delegate = nil
        failure = nil
        attached = nil
        releaseHandler(self)
    }

    /// A write that could not be queued must not be lost silently: the channel fails, but not within the caller's call.
    private func writeFailed(_ result: Int) {
        guard handle != 0, result == -Int(ENOBUFS), failure == nil else { return }
        let task = DelayedFailure(self, code: ENOBUFS)
        failure = task
        loop.afterTurn(task)
    }

    fileprivate func fail(_ error: ChannelError, _ mode: cio_close_mode) {
        guard handle != 0 else { return }
        let told = delegate
        let alive = self
        end(mode)
        told?.channelFailed(alive, error: error)
    }

    func handle(_ event: UnsafePointer<cio_event>) {
        switch unsafe event.pointee.kind {
        case CIO_EVENT_DATA.rawValue:
            let buffer = unsafe UnsafeMutableBufferPointer(start: event.pointee.data, count: Int(event.pointee.length))
            var bytes = unsafe MutableSpan(_unsafeElements: buffer)
            delegate?.channel(self, received: &bytes)
        case CIO_EVENT_END.rawValue: delegate?.channelEnded(self)
        case CIO_EVENT_DRAINED.rawValue: delegate?.channelDrained(self)
        case CIO_EVENT_CONNECTED.rawValue: delegate?.streamConnected(self)
        case CIO_EVENT_FINISHED.rawValue: delegate?.channelFinished(self)
        case CIO_EVENT_PUMPED.rawValue: delegate?.streamPumped(self)
        case CIO_EVENT_FAILED.rawValue:
            let code = unsafe -event.pointee.result
            fail(code == ECONNRESET || code == EPIPE ? .reset : .system(code), CIO_CLOSE_NOW)
        case CIO_EVENT_DETACHED.rawValue:
            let descriptor = unsafe OwnedDescriptor(event.pointee.result)
            let buffer = unsafe UnsafeBufferPointer(start: event.pointee.data, count: Int(event.pointee.length))
            let told = delegate
            end(CIO_CLOSE_NOW)
            told?.streamDetached(self, descriptor: descriptor, unsent: unsafe Span(_unsafeElements: buffer))
        default: preconditionFailure("an event that no stream has")
        }
    }
}

/// See `Channel.setKeepAlive`.
func setSocketKeepAlive(_ descriptor: Int32, idle: Duration, interval: Duration, count: Int, userTimeout: Duration) {
    let milliseconds = userTimeout.components.seconds * 1_000 + userTimeout.components.attoseconds / 1_000_000_000_000_000
    _ = cio_socket_keepalive(
        descriptor, Int32(max(1, idle.components.seconds)), Int32(max(1, interval.components.seconds)), Int32(count),
        UInt32(clamping: milliseconds))
}

/// Fails a stream at the end of the turn.
private final class DelayedFailure: AfterTurn {
    private let stream: Stream
    private let code: Int32

    init(_ stream: Stream, code: Int32) {
        self.stream = stream
        self.code = code
    }

    override func run() { stream.fail(.system(code), CIO_CLOSE_RESET) }
}
