// One yamux session over a WebSocket: the shell around `YamuxSession`, which decides, and the channels of its streams.
//
// The session owns its carrier. Control frames that the machine produced are written before any data, and at the end of
// every call that may have produced some. Back-pressure comes from three places: a stream's send window, the carrier's
// queue (all streams wait then, and are woken in turn, starting behind the one that was woken first the last time), and
// the reader of a stream, whose window grows only as its user takes the bytes.

internal import Base
public import Memory
public import Reactor
public import Wire

/// Who is told about a session.
open class MuxSessionDelegate {
    public init() {}

    /// The peer opened a stream (on the agent's side). The user sets the channel's delegate and resumes reading.
    open func session(_ session: MuxSession, accepted channel: YamuxChannel) {}

    /// After `goAway(acceptingLate: true)`: the peer has heard of it, and the streams that it had opened by then are here.
    open func sessionHeardGoAway(_ session: MuxSession) {}

    /// The peer takes no new streams; those that run go on.
    open func sessionWentAway(_ session: MuxSession) {}

    /// The session was full and no longer is: a stream may be opened again, or never any more.
    open func sessionMayOpen(_ session: MuxSession) {}

    /// The last stream ended (told only after a go-away of either side).
    open func sessionIdle(_ session: MuxSession) {}

    /// The session is over and every channel of it has failed. nil: we closed it.
    open func sessionEnded(_ session: MuxSession, error: ChannelError?) {}
}

/// A yamux session and its streams.
public final class MuxSession: ChannelDelegate {
    let carrier: WebSocketChannel
    let loop: Loop
    var yamux: YamuxSession
    private var channels: [YamuxChannel?] = []
    private var delegate: MuxSessionDelegate?
    private var nextToWake = 0
    /// Control frames and a data frame's header. Empty between calls.
    private var scratch = ByteBuffer()
    private var early: [YamuxChannel] = []
    private var earlyTask: EarlyTask?
    private var timer: CallbackTimer?
    private var isReceiving = false
    /// Whether the session is on its way to another process: it still takes what comes, and sends nothing.
    private(set) var isFrozen = false
    /// Counts the bridges of streams that stay here.
    private(set) var bridgesOut: BridgeCount?
    /// Whether the session became full and the delegate was not told yet that it no longer is.
    private var wasFull = false
    private var timerDeadline = Instant.never
    /// Whether we said or were told go-away.
    public private(set) var isGoingAway = false
    public private(set) var isOver = false
    /// How the peer broke the protocol, or failed to answer in time.
    public private(set) var failure: YamuxError?
    /// Bytes of streams received and sent over the session's life.
    public internal(set) var bytesReceived: UInt64 = 0
    public internal(set) var bytesSent: UInt64 = 0

    /// Takes over the carrier and starts to read it.
    public init(
        _ loop: Loop, carrier: WebSocketChannel, role: YamuxSession.Role, limits: YamuxLimits = YamuxLimits(),
        delegate: MuxSessionDelegate
    ) {
        self.loop = loop
        self.carrier = carrier
        self.delegate = delegate
        yamux = YamuxSession(role: role, limits: limits)
        super.init()
        begin()
    }

    private init(_ loop: Loop, carrier: WebSocketChannel, yamux: consuming YamuxSession, delegate: MuxSessionDelegate) {
        self.loop = loop
        self.carrier = carrier
        self.delegate = delegate
        self.yamux = yamux
        isGoingAway = self.yamux.isGoingAway
        super.init()
    }

    private func begin() {
        timer = CallbackTimer(loop) { [unowned self] in self.tick() }
        carrier.delegate = self
        carrier.resumeReading()
        flush()
        schedule()
    }

    /// Streams that are open.
    public var streamCount: Int { yamux.streamCount }

    /// Whether no stream can be opened now because as many are open, or wait to be accepted, as the peer bears.
    public var isFull: Bool { !isOver && !yamux.isGoingAway && (!yamux.mayOpen || isFrozen) }

    /// Opens a stream to the peer; nil when the session goes away or is full. `sessionMayOpen` follows in the latter case.
    public func open() -> YamuxChannel? {
        guard !isOver, !isFrozen, let id = yamux.open(now: loop.now) else { return nil }
        if isFull { wasFull = true }
        let channel = YamuxChannel(self, id: id)
        install(channel)
        schedule()
        // The SYN goes out with the stream's first bytes; without any (the peer's service may speak first), with the turn.
        runAtTurnEnd()
        return channel
    }

    /// Tells the peer to open no more streams, and opens none ourselves. With `acceptingLate`, streams that were opened before
    /// the peer heard of it are taken, until `refuseLateStreams`; the delegate's `sessionHeardGoAway` follows.
    public func goAway(acceptingLate: Bool = false) {
        guard !isOver else { return }
        isGoingAway = true
        yamux.goAway(.normal, acceptingLate: acceptingLate, now: loop.now)
        flush()
        schedule()
        if yamux.streamCount == 0 { delegate?.sessionIdle(self) }
    }

    /// Tells the peer to go elsewhere. The session goes on, with new streams too, until the peer leaves.
    public func askToLeave() {
        guard !isOver, !isGoingAway else { return }
        yamux.askToLeave()
        flush()
    }

    /// The peer must have heard our go-away by now.
    public func refuseLateStreams() { yamux.refuseLateStreams() }

    /// Ends the session in good order: go-away, then the carrier's close. Streams that run are cut.
    public func close() {
        guard !isOver else { return }
        yamux.goAway(.normal)
        flush()
        end(error: nil) { carrier.close() }
    }

    /// The same with a code and a reason for the peer.
    public func close(code: UInt16, reason: StaticString) {
        guard !isOver else { return }
        yamux.goAway(.normal)
        flush()
        end(error: nil) { carrier.close(code: code, reason: reason) }
    }

    /// Whether the carrier takes more bytes.
    var isWritable: Bool { !isFrozen && carrier.isWritable }

    // MARK: From the carrier

    public override func channel(_ channel: Channel, received bytes: inout MutableSpan<UInt8>) {
        isReceiving = true
        defer { isReceiving = false }
        var offset = 0
        do {
            while !isOver {
                switch try yamux.receive(bytes.span, at: &offset, now: loop.now) {
                case .needMore:
                    if wasFull, !isFull {
                        wasFull = false
                        delegate?.sessionMayOpen(self)
                    }
                    flush()
                    schedule()
                    return
                case .opened(let id):
                    let channel = YamuxChannel(self, id: id)
                    install(channel)
                    delegate?.session(self, accepted: channel)
                case .data(let id, let range):
                    bytesReceived &+= UInt64(range.count)
                    guard let channel = channels[Int(id.slot)] else {
                        yamux.consumed(id, range.count)
                        continue
                    }
                    var piece = bytes._mutatingExtracting(range)
                    channel.receive(&piece)
                case .writable(let id):
                    channels[Int(id.slot)]?.windowGrew()
                case .ended(let id):
                    channels[Int(id.slot)]?.peerEnded()
                case .reset(let id):
                    lose(id, error: .reset)
                case .goAway:
                    isGoingAway = true
                    delegate?.sessionWentAway(self)
                    if yamux.streamCount == 0 { delegate?.sessionIdle(self) }
                case .pong:
                    if isGoingAway { delegate?.sessionHeardGoAway(self) }
                }
            }
        } catch {
            failure = error
            flush()
            end(error: .protocolViolation) { carrier.close(code: 1002) }
        }
    }

    public override func channelEnded(_ channel: Channel) {
        end(error: .carrierLost) { carrier.close() }
    }

    public override func channelFailed(_ channel: Channel, error: ChannelError) {
        end(error: error) {}
    }

    public override func channelDrained(_ channel: Channel) {
        guard !channels.isEmpty else { return }
        let count = channels.count
        let first = nextToWake % count
        for step in 0..<count {
            guard carrier.isWritable, !isOver else {
                nextToWake = first + step
                return
            }
            channels[(first + step) % count]?.windowGrew()
        }
        nextToWake = first + 1
    }

    // MARK: For the channels

    /// Writes data within the window, with whatever control frames wait before it.
    func send(_ id: YamuxStreamID, _ bytes: Span<UInt8>) {
        bytesSent &+= UInt64(bytes.count)
        yamux.writeDataHeader(id, length: bytes.count, into: &scratch)
        carrier.writeMessage(scratch.span, bytes)
        scratch.removeAll()
    }

    /// Sends the control frames that wait, unless a batch of received frames is being worked through, which ends with
    /// a flush of its own.
    func flushSoon() {
        if !isReceiving { flush() }
    }

    /// The stream is over for its user: the channel leaves the table.
    func remove(_ channel: YamuxChannel) {
        // Past the end of the session the table is empty.
        guard Int(channel.id.slot) < channels.count, channels[Int(channel.id.slot)] === channel else { return }
        channels[Int(channel.id.slot)] = nil
        if isGoingAway && yamux.streamCount == 0 && !isOver { delegate?.sessionIdle(self) }
    }

    private func install(_ channel: YamuxChannel) {
        while channels.count <= Int(channel.id.slot) { channels.append(nil) }
        channels[Int(channel.id.slot)] = channel
    }

    private func lose(_ id: YamuxStreamID, error: ChannelError) {
        guard let channel = channels[Int(id.slot)], channel.id == id else { return }
        channel.fail(error)
    }

    /// Delivers what came for a stream before its user began to read; not from within the user's own call.
    func deliverLater(_ channel: YamuxChannel) {
        early.append(channel)
        runAtTurnEnd()
    }

    /// Tells the writer of a stream that went over to a bridge to go on; not from within another call.
    func wakeLater(_ channel: YamuxChannel) {
        loop.afterTurn(WakeTask(channel))
    }

    private func runAtTurnEnd() {
        let task = earlyTask ?? EarlyTask(self)
        earlyTask = task
        loop.afterTurn(task)
    }

    fileprivate func deliverEarly() {
        let channels = early
        early = []
        for channel in channels { channel.deliverEarly() }
        if !isOver { flush() }
    }

    private func flush() {
        if yamux.output.isEmpty || isFrozen { return }
        carrier.write(yamux.output.span)
        yamux.output.removeAll()
        yamux.output.releaseIfEmpty()
    }

    private func end(error: ChannelError?, _ closeCarrier: () -> Void) {
        guard !isOver else { return }
        isOver = true
        timer?.cancel()
        timer = nil
        earlyTask = nil
        closeCarrier()
        let lost = channels
        channels = []
        // A cut, not an end: nobody may take what came for the whole.
        for channel in lost { channel?.fail(.reset) }
        let user = delegate
        delegate = nil
        user?.sessionEnded(self, error: error)
    }

    // MARK: Time

    private func tick() {
        timerDeadline = .never
        guard !isOver else { return }
        while true {
            switch yamux.tick(now: loop.now) {
            case .quiet:
                flush()
                schedule()
                return
            case .dropped(let id):
                lose(id, error: .reset)
            case .dead(let error):
                failure = error
                flush()
                end(error: .carrierLost) { carrier.abort() }
                return
            }
        }
    }

    private func schedule() {
        guard !isOver else { return }
        let deadline = yamux.nextDeadline
        guard deadline != timerDeadline else { return }
        timerDeadline = deadline
        timer?.schedule(at: deadline)
    }
}

// MARK: - On the way to another process

extension MuxSession {
    /// Whether the session can be handed to another process: it runs, and over a plain socket.
    public var mayMove: Bool { !isOver && !isFrozen && failure == nil && carrier.mayDetach }

    /// Takes the session out of this process. Streams with a user stay usable here, over bridges whose other ends go along. `done`
    /// gets the socket, the state, and the bridges' ends in the order of the state. Should the session end before that, it
    /// ends as ever and `done` is not called.
    public func move(
        counting bridgesOut: BridgeCount? = nil,
        _ done: @escaping (_ socket: consuming OwnedDescriptor, _ state: consuming ByteBuffer, _ bridges: [Int32]) -> Void
    ) {
        precondition(mayMove)
        isFrozen = true
        self.bridgesOut = bridgesOut
        timer?.cancel()
        carrier.detach { [self] descriptor, unsent in
            // From here on nothing is received; bridges of streams that came from another process leave their loop, too.
            var writer = StateWriter()
            carrier.write(into: &writer, unsent: unsent)
            let carried = MovingSession(self, descriptor, writer, done)
            carried.start(channels.compactMap { $0 })
        }
    }

    /// Writes down the machine and ends what this process has of the session.
    fileprivate func leave(into state: inout StateWriter) {
        yamux.write(into: &state)
        isOver = true
        timer = nil
        earlyTask = nil
        channels = []
        delegate = nil
    }

    /// A session that goes on where another process left it. Streams whose users are in the other process are joined to the
    /// bridges' ends, in their order. When it throws, none of those was used.
    public convenience init(
        _ loop: Loop, over stream: Stream, role: YamuxSession.Role, limits: YamuxLimits = YamuxLimits(),
        state bytes: Span<UInt8>, bridges: [BridgeEnd], delegate: MuxSessionDelegate
    ) throws(StateReadError) {
        var reader = StateReader()
        let carrier = try WebSocketChannel(
            loop, over: stream, role: role == .server ? .server : .client, reading: &reader, bytes)
        let count: Int = try reader.integer(bytes)
        var saved: [SavedChannel] = []
        for _ in 0..<count { saved.append(try SavedChannel(reading: &reader, bytes)) }
        let yamux = try YamuxSession(reading: &reader, bytes, role: role, limits: limits)
        try reader.end(bytes)
        guard saved.count(where: \.hasUser) == bridges.count else { throw StateReadError() }
        for channel in saved where yamux.stream(numbered: channel.number) == nil { throw StateReadError() }
        self.init(loop, carrier: carrier, yamux: yamux, delegate: delegate)
        var next = 0
        for channel in saved {
            guard let id = self.yamux.stream(numbered: channel.number) else { preconditionFailure("looked for before") }
            let restored = YamuxChannel(self, id: id, saved: channel)
            install(restored)
            if channel.hasUser {
                bridges[next].join(restored, saved: channel)
                next += 1
            }
        }
        begin()
        // What waited for the move, and not for its window, goes out now.
        for channel in channels { channel?.windowGrew() }
    }
}

/// A session whose socket has left its loop, while the bridges of its streams do.
private final class MovingSession {
    private let session: MuxSession
    private var descriptor: OwnedDescriptor?
    private var writer: StateWriter
    private let done: (consuming OwnedDescriptor, consuming ByteBuffer, [Int32]) -> Void
    private var waiting = 1

    init(
        _ session: MuxSession, _ descriptor: consuming OwnedDescriptor, _ writer: consuming StateWriter,
        _ done: @escaping (consuming OwnedDescriptor, consuming ByteBuffer, [Int32]) -> Void
    ) {
        self.session = session
        self.descriptor = consume descriptor
        self.writer = writer
        self.done = done
    }

    func start(_ channels: [YamuxChannel]) {
        for channel in channels {
            guard channel.prepareMove({ self.ready(channels) }) else { continue }
            waiting += 1
        }
        ready(channels)
    }

    private func ready(_ channels: [YamuxChannel]) {
        waiting -= 1
        guard waiting == 0, let descriptor = descriptor.take() else { return }
        guard !session.isOver else {
            // It was closed meanwhile; the socket goes with it.
            for channel in channels { channel.dropBridge() }
            return
        }
        let settled = channels.compactMap { $0.settle() }
        writer.write(settled.count)
        for channel in settled { channel.saved.write(into: &writer) }
        let bridges = settled.compactMap(\.end)
        session.leave(into: &writer)
        var bytes = ByteBuffer()
        swap(&bytes, &writer.bytes)
        done(descriptor, bytes, bridges)
    }
}

private final class WakeTask: AfterTurn {
    private let channel: YamuxChannel

    init(_ channel: YamuxChannel) { self.channel = channel }

    override func run() { channel.wake() }
}

/// The session's turn at the end of the loop's.
private final class EarlyTask: AfterTurn {
    private weak var session: MuxSession?

    init(_ session: MuxSession) { self.session = session }

    override func run() { session?.deliverEarly() }
}
