// A stream of a yamux session as a channel.
//
// Sending: bytes go out within the stream's window and the carrier's room; what does not fit waits here, bounded by what the
// source still had on its way when it was told to stop. Receiving: the window grows only while the user reads; what
// comes after `pauseReading` is bounded by the window (256 KiB) and is still delivered, as every channel does.
//
// When the session moves to another process, a channel that has a user stays, and goes on over a bridge to the session; its state
// goes along, and the other end of the bridge is joined to the stream there (below).

private import Base
internal import Memory
public import Reactor
internal import Wire

/// One stream of a `MuxSession`.
public final class YamuxChannel: Channel {
    let id: YamuxStreamID
    private let session: MuxSession
    /// The way to the session, once that has moved to another process.
    private var bridge: BridgeChannel?
    /// What joins the stream to a user in another process.
    private var joint: BridgeJoint?
    /// What the bridge that came from another process left behind, while the session moves on.
    private var passedOn: (descriptor: Int32, state: SavedBridge)?
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
        if let bridge { return bridge.isWritable }
        guard state == .open || state == .finishing else { return false }
        let room = pending.isEmpty && session.isWritable && session.yamux.sendWindow(id) > 0
        if !room { isBlocked = true }
        return room
    }

    public override func write(_ bytes: Span<UInt8>) {
        guard state == .open, bytes.count > 0 else { return }
        if let bridge { return bridge.write(bytes) }
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
        while offset < bytes.count, !session.isFrozen {
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
        bridge?.pauseReading()
    }

    public override func resumeReading() {
        guard state != .dead else { return }
        isPaused = false
        if !hasStarted {
            hasStarted = true
            if !early.isEmpty || earlyEnd { session.deliverLater(self) }
            if bridge == nil { return }
        }
        if let bridge { bridge.resumeReading() } else { returnWindow() }
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
        if let bridge {
            state = .finished
            return bridge.finish()
        }
        state = .finishing
        finishIfSent()
    }

    private func finishIfSent() {
        guard pending.isEmpty, state == .finishing || state == .closing, bridge == nil else { return }
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
        if let bridge, state != .dead {
            delegate = nil
            state = .dead
            bridge.close()
            return
        }
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
        if let bridge {
            delegate = nil
            state = .dead
            bridge.abort()
            return
        }
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
            if !isPaused, bridge == nil { returnWindow() }
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

// MARK: - On the way to another process

/// A stream as it is written down.
struct SavedChannel {
    var number: UInt32
    /// 0 open, 1 to be finished, 2 finished, 3 closing.
    var stage: UInt64
    var peerHasEnded: Bool
    var unreturned: Int
    var discarded: Int
    var pending: [UInt8]
    /// Whether somebody in another process uses it, over a bridge.
    var hasUser: Bool
    var bridge = SavedBridge()

    init(
        number: UInt32, stage: UInt64, peerHasEnded: Bool, unreturned: Int, discarded: Int, pending: [UInt8], hasUser: Bool
    ) {
        self.number = number
        self.stage = stage
        self.peerHasEnded = peerHasEnded
        self.unreturned = unreturned
        self.discarded = discarded
        self.pending = pending
        self.hasUser = hasUser
    }

    init(reading state: inout StateReader, _ bytes: Span<UInt8>) throws(StateReadError) {
        number = try state.integer(bytes)
        stage = try state.number(bytes)
        peerHasEnded = try state.truth(bytes)
        unreturned = try state.integer(bytes)
        discarded = try state.integer(bytes)
        pending = try Self.array(&state, bytes)
        hasUser = try state.truth(bytes)
        bridge.unsent = try Self.array(&state, bytes)
        bridge.input = try Self.array(&state, bytes)
        bridge.hasFinished = try state.truth(bytes)
        bridge.peerHasFinished = try state.truth(bytes)
        guard stage <= 3 else { throw StateReadError() }
    }

    private static func array(_ state: inout StateReader, _ bytes: Span<UInt8>) throws(StateReadError) -> [UInt8] {
        var buffer = ByteBuffer()
        try state.string(bytes, into: &buffer)
        return [UInt8](copying: buffer.span)
    }

    func write(into state: inout StateWriter) {
        state.write(number)
        state.write(stage)
        state.write(peerHasEnded)
        state.write(unreturned)
        state.write(discarded)
        state.write(pending.span)
        state.write(hasUser)
        state.write(bridge.unsent.span)
        state.write(bridge.input.span)
        state.write(bridge.hasFinished)
        state.write(bridge.peerHasFinished)
    }
}

/// A bridge's state, as it is written down.
struct SavedBridge {
    var unsent: [UInt8] = []
    var input: [UInt8] = []
    var hasFinished = false
    var peerHasFinished = false
}

extension YamuxChannel {
    /// A stream that goes on where another process left it.
    convenience init(_ session: MuxSession, id: YamuxStreamID, saved: SavedChannel) {
        self.init(session, id: id)
        restore(saved)
    }

    private func restore(_ saved: SavedChannel) {
        state = [.open, .finishing, .finished, .closing][Int(saved.stage)]
        peerHasEnded = saved.peerHasEnded
        unreturned = saved.unreturned
        discarded = saved.discarded
        pending.append(saved.pending.span)
        isBlocked = !pending.isEmpty
        hasStarted = true
        isPaused = saved.hasUser
        if !saved.hasUser { returnWindow() }
    }

    func join(_ joint: BridgeJoint?) { self.joint = joint }

    /// Closes a bridge that was to go along with a session that has ended.
    func dropBridge() {
        if let passedOn { _ = OwnedDescriptor(passedOn.descriptor) }
        passedOn = nil
    }

    /// Takes the bridge of a user in another process out of the loop, if there is one: true, and `ready` follows.
    func prepareMove(_ ready: @escaping () -> Void) -> Bool {
        guard let joint, joint.bridge.isAlive else { return false }
        joint.bridge.detach({ [self] descriptor, state in
            var saved = SavedBridge()
            saved.unsent = [UInt8](copying: state.unsent.span)
            saved.input = [UInt8](copying: state.input.span)
            saved.hasFinished = state.hasFinished
            saved.peerHasFinished = state.peerHasFinished
            passedOn = (descriptor.take(), saved)
            ready()
        }, lost: ready)
        return true
    }

    /// The stream as it goes along, once its bridge has left the loop; with the end of a bridge, when somebody uses it. Nil:
    /// there is nothing to go along.
    func settle() -> (saved: SavedChannel, end: Int32?)? {
        guard state != .dead, session.yamux.stream(numbered: id.number) != nil else { return nil }
        let stage: UInt64 = switch state {
        case .open: 0
        case .finishing: 1
        case .finished: 2
        case .closing, .dead: 3
        }
        var saved = SavedChannel(
            number: id.number, stage: stage, peerHasEnded: peerHasEnded, unreturned: unreturned, discarded: discarded,
            pending: [UInt8](copying: pending.span), hasUser: state != .closing)
        if let passedOn {
            self.passedOn = nil
            saved.bridge = passedOn.state
            joint?.leave()
            joint = nil
            delegate = nil
            state = .dead
            return (saved, passedOn.descriptor)
        }
        if state == .closing {
            state = .dead
            return (saved, nil)
        }
        guard delegate != nil, joint == nil, let end = rebase() else {
            // Nobody uses it any more, or there is no socket for it: it is cut.
            session.yamux.reset(id)
            bridgeFailed()
            return nil
        }
        return (saved, end)
    }

    /// Goes on over a bridge; its other end.
    private func rebase() -> Int32? {
        guard var pair = try? Sockets.pair(.stream),
            let bridge = try? BridgeChannel(session.loop, adopting: pair.takeFirst(), counted: session.bridgesOut)
        else { return nil }
        pending = ByteBuffer()
        unreturned = 0
        bridge.delegate = BridgeUser(self)
        self.bridge = bridge
        if state == .finishing { state = .finished }
        if state == .finished { bridge.finish() }
        if hasStarted, !isPaused { bridge.resumeReading() }
        // The writer is told that it may go on, when it was told to wait.
        if isBlocked {
            isBlocked = false
            session.wakeLater(self)
        }
        return pair.takeSecond().take()
    }

    /// Tells a writer that waited that the bridge takes bytes.
    func wake() {
        guard state == .open, bridge?.isWritable ?? false else { return }
        delegate?.channelDrained(self)
    }

    fileprivate func bridgeReceived(_ bytes: inout MutableSpan<UInt8>) {
        guard state != .dead else { return }
        guard early.isEmpty else {
            early.append(bytes.span)
            return
        }
        delegate?.channel(self, received: &bytes)
    }

    fileprivate func bridgeEnded() {
        guard state != .dead, !peerHasEnded else { return }
        peerHasEnded = true
        if early.isEmpty { delegate?.channelEnded(self) } else { earlyEnd = true }
    }

    fileprivate func bridgeFailed() {
        guard state != .dead else { return }
        let user = delegate
        delegate = nil
        state = .dead
        user?.channelFailed(self, error: .reset)
    }

    /// What the bridge of a stream that is used here talks to.
    private final class BridgeUser: ChannelDelegate {
        private let owner: YamuxChannel

        init(_ owner: YamuxChannel) { self.owner = owner }

        override func channel(_ channel: Channel, received bytes: inout MutableSpan<UInt8>) { owner.bridgeReceived(&bytes) }
        override func channelEnded(_ channel: Channel) { owner.bridgeEnded() }
        override func channelDrained(_ channel: Channel) { owner.delegate?.channelDrained(owner) }
        override func channelFailed(_ channel: Channel, error: ChannelError) { owner.bridgeFailed() }
    }
}

/// The end of a bridge to a stream's user in another process, and who is told that it is over.
public struct BridgeEnd {
    private let loop: Loop
    private let descriptor: Int32
    private let ended: () -> Void

    /// Takes over the descriptor. `ended` runs when the stream is over.
    public init(_ loop: Loop, adopting descriptor: consuming OwnedDescriptor, ended: @escaping () -> Void) {
        self.loop = loop
        self.descriptor = descriptor.take()
        self.ended = ended
    }

    /// Closes it: there is no stream for it.
    public func drop() { _ = OwnedDescriptor(descriptor) }

    func join(_ channel: YamuxChannel, saved: SavedChannel) {
        var state = BridgeState()
        state.unsent.append(saved.bridge.unsent.span)
        state.input.append(saved.bridge.input.span)
        state.hasFinished = saved.bridge.hasFinished
        state.peerHasFinished = saved.bridge.peerHasFinished
        guard let bridge = try? BridgeChannel(loop, adopting: OwnedDescriptor(descriptor), state: state) else {
            channel.abort()
            return ended()
        }
        channel.join(BridgeJoint(bridge, channel, saved: saved, ended: ended))
    }
}

/// Joins a stream to the bridge to its user.
final class BridgeJoint {
    let bridge: BridgeChannel
    private var relay: Relay?
    private let ended: () -> Void

    init(_ bridge: BridgeChannel, _ channel: YamuxChannel, saved: SavedChannel, ended: @escaping () -> Void) {
        self.bridge = bridge
        self.ended = ended
        let relay = Relay(bridge, channel) { [weak channel] _ in
            channel?.join(nil)
            ended()
        }
        self.relay = relay
        bridge.userLeft = { [weak self, weak channel] in
            guard let channel else { return }
            self?.userLeft(channel)
        }
        relay.start()
        // Ends that came before are not told again.
        if saved.stage > 0 || saved.bridge.peerHasFinished { relay.channelEnded(bridge) }
        if saved.peerHasEnded { relay.channelEnded(channel) }
    }

    /// The user wants nothing more of the stream: it is finished here, as it would be where he is.
    private func userLeft(_ channel: YamuxChannel) {
        guard relay != nil else { return }
        relay = nil
        channel.close()
        bridge.letGo()
        channel.join(nil)
        ended()
    }

    /// The stream moved on: nothing joins it here any more.
    func leave() {
        relay = nil
        ended()
    }
}
