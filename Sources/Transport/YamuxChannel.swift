// A stream of a yamux session as a channel.
//
// Sending: bytes go out within the stream's window and the carrier's room; what does not fit waits here, bounded by what the
// source still had on its way when it was told to stop. Receiving: the window grows only while the user reads; what
// comes after `pauseReading` is bounded by the window (256 KiB) and is still delivered, as every channel does.

private import Base
private import Memory
public import Reactor
internal import Wire

/// One stream of a `MuxSession`.
public final class YamuxChannel: Channel {
    let id: YamuxStreamID
    private let session: MuxSession
    private var pending = ByteBuffer()
    private var state = State.open
    private var isPaused = true
    /// Bytes delivered while the user had paused, for which the window was not given back yet.
    private var unreturned = 0
    /// Received before the user first resumed reading.
    private var early = ByteBuffer()
    private var earlyEnd = false
    private var hasStarted = false
    private var isBlocked = false
    private var peerHasEnded = false
    private var discarded = 0

    /// What we still do for the stream.
    ///
    ///     open ──finish──► finishing ──pending sent──► finished ──peer's FIN, close──► dead
    ///       └────────────── close / abort / failure ───────────────────────────────────┘
    private enum State {
        case open
        /// FIN follows once `pending` is empty.
        case finishing
        /// Our FIN is out.
        case finished
        /// The user let go; what is pending is still sent, what comes is discarded.
        case closing
        case dead
    }

    init(_ session: MuxSession, id: YamuxStreamID) {
        self.session = session
        self.id = id
        super.init()
    }

    /// The most that is received and dropped after `close`.
    private static let discardBytesMax = 4_194_304
    /// The largest payload of one data frame that we send.
    private static let frameBytesMax = 65_535 - 64

    public override var isWritable: Bool {
        guard state == .open || state == .finishing else { return false }
        let room = pending.isEmpty && session.isWritable && session.yamux.sendWindow(id) > 0
        if !room { isBlocked = true }
        return room
    }

    public override func write(_ bytes: Span<UInt8>) {
        guard state == .open, bytes.count > 0 else { return }
        guard pending.isEmpty else {
            pending.append(bytes)
            return
        }
        let sent = send(bytes)
        if sent < bytes.count {
            pending.append(bytes.extracting(sent..<bytes.count))
            isBlocked = true
        }
    }

    private func send(_ bytes: Span<UInt8>) -> Int {
        var offset = 0
        while offset < bytes.count {
            let window = session.yamux.sendWindow(id)
            if window == 0 { break }
            let end = min(bytes.count, offset + min(window, Self.frameBytesMax))
            session.send(id, bytes.extracting(offset..<end))
            offset = end
        }
        return offset
    }

    public override func pauseReading() {
        isPaused = true
    }

    public override func resumeReading() {
        guard state != .dead else { return }
        isPaused = false
        if !hasStarted {
            hasStarted = true
            if !early.isEmpty || earlyEnd { session.deliverLater(self) }
            return
        }
        returnWindow()
    }

    private func returnWindow() {
        guard unreturned > 0, state != .dead else { return }
        let count = unreturned
        unreturned = 0
        session.yamux.consumed(id, count)
        session.flushSoon()
    }

    public override func finish() {
        guard state == .open else { return }
        state = .finishing
        finishIfSent()
    }

    private func finishIfSent() {
        guard pending.isEmpty, state == .finishing || state == .closing else { return }
        pending.releaseIfEmpty()
        session.yamux.finish(id)
        if state == .closing {
            // The machine drops the stream when the peer's FIN comes, or after the half-close time.
            if peerHasEnded { state = .dead; session.remove(self) }
        } else {
            state = .finished
        }
        session.flushSoon()
    }

    public override func close() {
        switch state {
        case .dead, .closing:
            return
        case .finished:
            delegate = nil
            state = .closing
            if peerHasEnded { state = .dead; session.remove(self) }
        case .open, .finishing:
            delegate = nil
            state = .closing
            finishIfSent()
        }
        isPaused = false
        early = ByteBuffer()
        returnWindow()
    }

    public override func abort() {
        guard state != .dead else { return }
        let isOver = peerHasEnded && state == .finished
        delegate = nil
        state = .dead
        if !isOver { session.yamux.reset(id) }
        session.remove(self)
        session.flushSoon()
    }

    // MARK: From the session

    func receive(_ bytes: inout MutableSpan<UInt8>) {
        let count = bytes.count
        if state == .closing || state == .dead {
            discard(count)
            return
        }
        guard hasStarted, early.isEmpty else {
            early.append(bytes.span)
            unreturned += count
            return
        }
        delegate?.channel(self, received: &bytes)
        if state == .dead { return }
        if isPaused { unreturned += count } else { session.yamux.consumed(id, count) }
    }

    /// What comes after the user let go is dropped, within a bound: a peer that just goes on is reset.
    private func discard(_ count: Int) {
        session.yamux.consumed(id, count)
        discarded += count
        guard state == .closing, discarded > Self.discardBytesMax else { return }
        state = .dead
        session.yamux.reset(id)
        session.remove(self)
    }

    /// Delivers what came before the user started to read.
    func deliverEarly() {
        guard state != .dead, state != .closing else { return }
        if !early.isEmpty {
            var waiting = ByteBuffer()
            swap(&waiting, &early)
            var span = waiting.mutableSpan
            delegate?.channel(self, received: &span)
            if !isPaused { returnWindow() }
        }
        if earlyEnd, state != .dead, state != .closing {
            earlyEnd = false
            delegate?.channelEnded(self)
        }
    }

    func windowGrew() {
        if !pending.isEmpty {
            guard session.isWritable else { return }
            let sent = send(pending.span)
            pending.consume(sent)
            if pending.isEmpty { finishIfSent() }
        }
        guard isBlocked, state == .open, pending.isEmpty, session.isWritable, session.yamux.sendWindow(id) > 0 else { return }
        isBlocked = false
        pending.releaseIfEmpty()
        delegate?.channelDrained(self)
    }

    func peerEnded() {
        peerHasEnded = true
        switch state {
        case .dead:
            return
        case .closing:
            if pending.isEmpty {
                state = .dead
                session.remove(self)
            }
        case .open, .finishing, .finished:
            if hasStarted && early.isEmpty { delegate?.channelEnded(self) } else { earlyEnd = true }
        }
    }

    func fail(_ error: ChannelError) {
        guard state != .dead else { return }
        let user = delegate
        delegate = nil
        state = .dead
        session.remove(self)
        user?.channelFailed(self, error: error)
    }
}
