// One yamux session over a WebSocket: the shell around `YamuxSession`, which decides, and the channels of its streams.
//
// The session owns its carrier. Control frames that the machine produced are written before any data, and at the end of
// every call that may have produced some. Back-pressure comes from three places: a stream's send window, the carrier's
// queue (all streams wait then, and are woken in turn, starting behind the one that was woken first the last time), and
// the reader of a stream, whose window grows only as its user takes the bytes.

internal import Base
private import Memory
public import Reactor
public import Wire

/// Who is told about a session.
open class MuxSessionDelegate {
    public init() {}

    /// The peer opened a stream (on the agent's side). The user sets the channel's delegate and resumes reading.
    open func session(_ session: MuxSession, accepted channel: YamuxChannel) {}

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
    private let loop: Loop
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
        timer = CallbackTimer(loop) { [unowned self] in self.tick() }
        carrier.delegate = self
        carrier.resumeReading()
        schedule()
    }

    /// Streams that are open.
    public var streamCount: Int { yamux.streamCount }

    /// Whether no stream can be opened now because as many are open, or wait to be accepted, as the peer bears.
    public var isFull: Bool { !isOver && !yamux.isGoingAway && !yamux.mayOpen }

    /// Opens a stream to the peer; nil when the session goes away or is full. `sessionMayOpen` follows in the latter case.
    public func open() -> YamuxChannel? {
        guard !isOver, let id = yamux.open(now: loop.now) else { return nil }
        if isFull { wasFull = true }
        let channel = YamuxChannel(self, id: id)
        install(channel)
        schedule()
        // The SYN goes out with the stream's first bytes; without any (the peer's service may speak first), with the turn.
        runAtTurnEnd()
        return channel
    }

    /// Tells the peer to open no more streams, and opens none ourselves. With `acceptingLate`, streams that were opened before
    /// the peer heard of it are taken, until `refuseLateStreams`.
    public func goAway(acceptingLate: Bool = false) {
        guard !isOver, !isGoingAway else { return }
        isGoingAway = true
        yamux.goAway(.normal, acceptingLate: acceptingLate)
        flush()
        if yamux.streamCount == 0 { delegate?.sessionIdle(self) }
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

    /// Whether the carrier takes more bytes.
    var isWritable: Bool { carrier.isWritable }

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
                    break
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
        if yamux.output.isEmpty { return }
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

/// The session's turn at the end of the loop's.
private final class EarlyTask: AfterTurn {
    private weak var session: MuxSession?

    init(_ session: MuxSession) { self.session = session }

    override func run() { session?.deliverEarly() }
}
