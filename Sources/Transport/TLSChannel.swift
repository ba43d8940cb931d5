// A TLS connection as a channel: OpenSSL reads and writes the socket, the loop says when the socket is ready.
//
//     handshaking ──done──► open ──close──► closing ──all sent──► lingering (a plain stream of the core) ──► gone
//          │                  │ └──abort, reset, broken──► gone        ▲
//          └──failed──────────┴──────── alert sent ────────────────────┘
//
// What is written is queued as it is and becomes records at the end of the turn, of up to 16 KiB each; what is written before
// the handshake is done waits for it. What is large enough becomes records at once, without the queue: bulk is
// copied once less, and the queue stays small. Nothing is read beyond one record that its reader has not taken: OpenSSL gives its
// buffers back whenever they are empty, so that an idle connection has none.
//
// Ends. The peer's close_notify is the end of its bytes, `finish` sends ours, and either direction goes on without the other.
// A connection that ends without a close_notify was cut, perhaps by somebody else: that is `.truncated`, and no end (RFC 9112
// section 9.8). After the last byte the core lingers with the socket as it does with every stream.

internal import Base
public import Crypto
internal import Memory
public import Reactor

/// A TLS session over a connected socket.
public final class TLSChannel: Channel, SocketWatchUser {
    private enum Phase {
        case handshaking, open, dead
    }

    private let engine: TLSEngine
    private var watch: SocketWatch!
    private var session: TLSSession?
    /// Whether this is the server's end.
    public let isServer: Bool
    private var phase = Phase.handshaking
    private var isQueued = false
    private var output = ByteBuffer()
    private var sentBytes: UInt64 = 0
    private var isPaused = true
    private var peerEnded = false
    private var isFinishing = false
    private var finishSent = false
    /// `close` was called: what is queued still goes out, what comes is dropped.
    private var isClosing = false
    private var droppedBytes = 0
    private var wasAboveMark = false
    /// The kernel's queue stands behind this one, so it need not be long; small ones are reused by the allocator.
    private var highMark = 65_536
    private var lowMark = 16_384
    /// What the session waits for, as far as it is not the obvious.
    private var sendingWaits = SocketReadiness()
    private var readingWaits = SocketReadiness()
    /// How a record failed that was sent outside of the channel's turn: told in it.
    private var sendingBroke: TLSProgress?
    /// Whether reading should be tried although the socket says nothing.
    private var readsSoon = false
    private var task: WorkTask?
    /// The bound of the handshake, then of closing.
    private var timer: CallbackTimer?
    private var closingMark: UInt64?
    private var countsAsClosing = false
    private var attached: AnyObject?

    /// Called once, when the handshake is done.
    public var secured: (() -> Void)?
    /// Called once, when the handshake is done or has failed, while the session is still there: for people who look for a fault.
    public var inspect: ((TLSSession) -> Void)?
    /// Why the channel failed, for people; "" when it did not, or nothing more is known than the error.
    public private(set) var failure = ""

    /// Records that are read, or written, in one go before others have their turn.
    private static let recordsMax = 8
    /// What is at least so long goes out at once, without the queue.
    private static let directBytesMin = 8_192
    /// As the core lingers: the time without progress, and what is dropped meanwhile at most.
    private static let closingStep = Duration.seconds(10)
    private static let droppedBytesMax = 16_777_216
    /// ENOMEM and ETIMEDOUT.
    private static let noMemory: Int32 = 12
    private static let timedOut: Int32 = 110

    /// Takes over a connected socket and begins the handshake, which `limit` bounds. `name`: whom a client wants to talk to,
    /// host name or address. `early`: what was read from the socket before, behind a load balancer's header.
    public init(
        _ engine: TLSEngine, adopting descriptor: consuming OwnedDescriptor, context: TLSContext, name: String? = nil,
        early: Span<UInt8> = Span(), handshakeLimit limit: Duration = .seconds(10)
    ) throws(SystemError) {
        self.engine = engine
        isServer = context.isServer
        super.init()
        watch = try SocketWatch(engine.loop, adopting: descriptor, user: self)
        guard let session = TLSSession(context, descriptor: watch.number, name: name, early: early) else {
            _ = watch.release()
            throw SystemError(code: Self.noMemory, call: "begin a TLS session")
        }
        self.session = session
        engine.counters.inProgress += 1
        let timer = CallbackTimer(engine.loop) { [unowned self] in self.timerFired() }
        self.timer = timer
        timer.schedule(after: limit)
        if !isServer || !early.isEmpty {
            isQueued = true
            engine.enqueue(self)
        }
    }

    // MARK: Facts

    /// Whether the handshake is done and the channel lives.
    public var isSecured: Bool { phase == .open && !isClosing }

    public var isAlive: Bool { phase != .dead && !isClosing }

    /// Version, cipher, host and the like; nil after the end.
    public var facts: TLSSession? { phase == .open ? session : nil }

    /// Nil for a Unix socket, or after the end.
    public override var peer: SocketAddress? { watch.peer }

    public override var attachment: AnyObject? {
        get { attached }
        set { attached = newValue }
    }

    public override func setNoDelay() { watch.setNoDelay() }

    public override func limitUnsent() { watch.limitUnsent() }

    public override func setKeepAlive(idle: Duration, interval: Duration, count: Int, userTimeout: Duration) {
        watch.setKeepAlive(idle: idle, interval: interval, count: count, userTimeout: userTimeout)
    }

    /// As `Stream.setMarks`.
    public func setMarks(high: Int, low: Int) {
        highMark = high
        lowMark = low
    }

    /// Bytes that wait to become records.
    public var pendingBytes: Int { output.count }

    // MARK: Channel

    public override var isWritable: Bool { phase != .dead && !isFinishing && output.count <= highMark }

    public override var sendingMark: UInt64? {
        guard phase != .dead else { return nil }
        // What the peer's kernel acknowledged moves more often than what ours took; both numbers only have to change.
        return output.isEmpty ? nil : (sentBytes &<< 24) &- UInt64(watch.unacknowledgedBytes ?? 0)
    }

    public override func write(_ bytes: Span<UInt8>) {
        guard phase != .dead, !isFinishing, !bytes.isEmpty else { return }
        let waits = !sendingWaits.isEmpty
        let taken = sendAtOnce(bytes)
        output.append(bytes.extracting(taken...))
        if output.count > highMark { wasAboveMark = true }
        // Also when the socket took nothing now: the loop is asked to tell when it does.
        if phase == .open, !waits { workSoon() }
    }

    public override func pauseReading() {
        guard !isClosing else { return }
        isPaused = true
    }

    public override func resumeReading() {
        guard phase != .dead, isPaused else { return }
        isPaused = false
        guard phase == .open else { return }
        if session?.hasWaiting ?? false {
            readsSoon = true
            workSoon()
        } else {
            wait()
        }
    }

    public override func finish() {
        guard phase != .dead, !isFinishing else { return }
        isFinishing = true
        if phase == .open { workSoon() }
    }

    public override func close() {
        guard phase != .dead, !isClosing else { return }
        isClosing = true
        isFinishing = true
        delegate = nil
        secured = nil
        if phase == .handshaking, output.isEmpty {
            die().close()
            return
        }
        engine.counters.closing += 1
        countsAsClosing = true
        isPaused = false
        closingMark = sendingMark
        if phase == .open {
            readsSoon = true
            setTimer(Self.closingStep)
            workSoon()
        }
    }

    public override func abort() {
        guard phase != .dead else { return }
        die().abort()
    }

    // MARK: What the loop says

    public func socketReady(_ readiness: SocketReadiness) {
        switch phase {
        case .handshaking:
            guard !isQueued else { return }
            isQueued = true
            engine.enqueue(self)
        case .open:
            if !sendingWaits.isDisjoint(with: readiness) { sendingWaits = [] }
            if !readingWaits.isDisjoint(with: readiness) {
                readingWaits = []
                readsSoon = true
            }
            if readiness.contains(.readable) { readsSoon = true }
            work()
        case .dead:
            break
        }
    }

    func stepHandshake() {
        isQueued = false
        guard phase == .handshaking, let session else { return }
        let progress = session.handshake()
        switch progress {
        case .done: handshakeDone(session)
        case .wantsRead: watch.want(.readable)
        case .wantsWrite: watch.want(.writable)
        case .ended, .truncated, .reset, .failed, .plainHTTP: broke(progress)
        }
    }

    private func handshakeDone(_ session: TLSSession) {
        phase = .open
        inspect?(session)
        inspect = nil
        engine.counters.inProgress -= 1
        engine.counters.handshakes += 1
        if session.isResumed { engine.counters.resumed += 1 }
        if session.sendsInKernel { engine.counters.inKernel += 1 }
        engine.handshakeDone(session)
        readsSoon = true
        if isClosing {
            setTimer(Self.closingStep)
        } else {
            timer?.cancel()
            timer = nil
        }
        let told = secured
        secured = nil
        told?()
        work()
    }

    /// Sends and receives as far as the socket goes at the moment.
    private func work() {
        send()
        if phase == .open, readsSoon { receive() }
        if phase == .open { wait() }
    }

    /// Asks to be told when the socket is ready for what can't be done now.
    private func wait() {
        var wanted = sendingWaits
        if !isPaused, !peerEnded, !readsSoon { wanted.formUnion(readingWaits.isEmpty ? .readable : readingWaits) }
        watch.want(wanted)
    }

    private func workSoon() {
        let task = task ?? WorkTask(self)
        self.task = task
        engine.loop.afterTurn(task)
    }

    // MARK: Sending

    /// Sends what is large enough for records of its own, behind what is queued, as far as the socket takes it now. How many of the bytes
    /// are sent or queued; those that follow are to be queued.
    private func sendAtOnce(_ bytes: Span<UInt8>) -> Int {
        guard phase == .open, sendingWaits.isEmpty, sendingBroke == nil, let session, bytes.count >= Self.directBytesMin,
            output.count < TLSEngine.recordBytesMax
        else { return 0 }
        var taken = 0
        if !output.isEmpty {
            taken = min(TLSEngine.recordBytesMax - output.count, bytes.count)
            output.append(bytes.extracting(0..<taken))
            guard output.count == TLSEngine.recordBytesMax, sendQueued(session) else { return taken }
        }
        var records = 0
        while records < Self.recordsMax, bytes.count - taken >= Self.directBytesMin {
            records += 1
            let progress = session.write(bytes.extracting(taken...))
            guard case .done(let count) = progress else {
                sendingStopped(progress)
                break
            }
            sentBytes &+= UInt64(count)
            taken += count
        }
        return taken
    }

    /// Sends one record of what is queued. Whether it went out.
    private func sendQueued(_ session: TLSSession) -> Bool {
        let progress = output.withSpan(0..<output.count) { session.write($0) }
        guard case .done(let count) = progress else {
            sendingStopped(progress)
            return false
        }
        sentBytes &+= UInt64(count)
        output.consume(count)
        return true
    }

    /// A record did not go out: it waits, or the channel's next turn ends it.
    private func sendingStopped(_ progress: TLSProgress) {
        if !blocks(progress) { sendingBroke = progress }
    }

    private func send() {
        guard sendingWaits.isEmpty, let session else { return }
        var records = 0
        while sendingBroke == nil, !output.isEmpty {
            if records == Self.recordsMax {
                workSoon()
                break
            }
            records += 1
            guard sendQueued(session) else { break }
        }
        if let sendingBroke { return broke(sendingBroke) }
        if output.isEmpty {
            output.releaseIfEmpty()
            if isFinishing { sendFinish(session) }
        }
        guard phase == .open, wasAboveMark, output.count <= lowMark else { return }
        wasAboveMark = false
        if !isFinishing { delegate?.channelDrained(self) }
    }

    private func sendFinish(_ session: TLSSession) {
        if !finishSent {
            let progress = session.finish()
            guard progress == .done(0) else {
                if !blocks(progress) { broke(progress) }
                return
            }
            finishSent = true
            if !isClosing { delegate?.channelFinished(self) }
        }
        if phase == .open, isClosing { die().close() }
    }

    /// Whether sending only has to wait.
    private func blocks(_ progress: TLSProgress) -> Bool {
        switch progress {
        case .wantsWrite: sendingWaits = .writable
        case .wantsRead: sendingWaits = .readable
        default: return false
        }
        return true
    }

    // MARK: Receiving

    private func receive() {
        readsSoon = false
        guard let session else { return }
        var records = 0
        while phase == .open, !isPaused, !peerEnded {
            if records == Self.recordsMax {
                readsSoon = true
                workSoon()
                return
            }
            records += 1
            var buffer = engine.takeBuffer()
            var span = buffer.mutableSpan
            let progress = session.read(into: &span)
            guard case .done(let count) = progress else {
                engine.giveBuffer(buffer)
                received(progress)
                return
            }
            if isClosing {
                droppedBytes += count
                if droppedBytes > Self.droppedBytesMax { abort() }
            } else {
                var piece = span._mutatingExtracting(0..<count)
                delegate?.channel(self, received: &piece)
            }
            engine.giveBuffer(buffer)
            // A record that is not full is mostly the last one that is there: the socket says when there is more.
            if count < TLSEngine.recordBytesMax, !session.hasWaiting { return }
        }
    }

    /// Reading brought no bytes.
    private func received(_ progress: TLSProgress) {
        switch progress {
        case .done, .wantsRead: break
        case .wantsWrite: readingWaits = .writable
        case .ended:
            peerEnded = true
            if !isClosing { delegate?.channelEnded(self) }
        case .truncated, .reset, .failed, .plainHTTP: broke(progress)
        }
    }

    // MARK: The end

    /// The session can't go on.
    private func broke(_ progress: TLSProgress) {
        guard phase != .dead, let session else { return }
        failure = session.failure
        let wasHandshake = phase == .handshaking
        if wasHandshake { inspect?(session) }
        let told = delegate
        let socket = die()
        if wasHandshake {
            engine.counters.failed += 1
            engine.handshakeFailed(failure, self)
        }
        let error: ChannelError
        switch progress {
        case .reset:
            error = .reset
            socket.abort()
        case .truncated:
            error = .truncated
            socket.abort()
        case .plainHTTP:
            error = .protocolViolation
            socket.answerPlainHTTP()
        case .done, .wantsRead, .wantsWrite, .ended, .failed:
            // OpenSSL has told the peer why, which a reset would destroy.
            error = .protocolViolation
            socket.close()
        }
        told?.channelFailed(self, error: error)
    }

    private func timerFired() {
        guard phase != .dead else { return }
        if isClosing {
            let mark = sendingMark
            guard mark != closingMark else { return abort() }
            closingMark = mark
            setTimer(Self.closingStep)
            return
        }
        guard phase == .handshaking else { return }
        failure = "the TLS handshake took too long"
        engine.counters.failed += 1
        engine.handshakeFailed(failure, self)
        let told = delegate
        die().abort()
        told?.channelFailed(self, error: .system(Self.timedOut))
    }

    private func setTimer(_ time: Duration) {
        let timer = self.timer ?? CallbackTimer(engine.loop) { [unowned self] in self.timerFired() }
        self.timer = timer
        timer.schedule(after: time)
    }

    /// Lets go of the session and everything else; the socket is what is left.
    private func die() -> PlainSocket {
        if phase == .handshaking { engine.counters.inProgress -= 1 }
        if countsAsClosing { engine.counters.closing -= 1 }
        countsAsClosing = false
        phase = .dead
        delegate = nil
        secured = nil
        inspect = nil
        output = ByteBuffer()
        attached = nil
        timer?.cancel()
        timer = nil
        task = nil
        session = nil
        return PlainSocket(engine.loop, watch.release())
    }

    private final class WorkTask: AfterTurn {
        private let owner: TLSChannel

        init(_ owner: TLSChannel) { self.owner = owner }

        override func run() {
            if owner.phase == .open { owner.work() }
        }
    }
}

/// A socket whose TLS is over.
private struct PlainSocket: ~Copyable {
    /// Nil: the loop has no room for it, and it is closed.
    private let stream: Stream?

    init(_ loop: Loop, _ descriptor: consuming OwnedDescriptor) {
        stream = try? Stream(loop, adopting: descriptor)
    }

    consuming func close() { stream?.close() }
    consuming func abort() { stream?.abort() }

    /// Says in the words of the client what it did wrong.
    consuming func answerPlainHTTP() {
        let answer =
            "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 40\r\nConnection: close\r\n\r\n"
            + "this port speaks HTTPS: use https://...\n"
        stream?.write(answer.utf8Span.span)
        stream?.close()
    }
}
