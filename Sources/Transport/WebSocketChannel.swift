// A byte stream over the binary messages of a WebSocket whose handshake is done. Message boundaries mean nothing.
//
// Half-close. TCP has it, WebSocket has not: a Close frame starts the closing handshake, and the peer has to answer it
// with its own. RFC 6455 section 5.5.1 lets the peer delay that answer until its current message is sent. We use that
// freedom: `finish` sends Close (1000) and goes on reading until the peer's Close; a Close from the peer is the end of its
// bytes, and ours go on until `finish` or `close`. Between our own programs half-close is so carried whole. A public client
// answers Close with Close at once and drops its connection, which ends both directions, as it does with the original.
//
// A carrier that ends without a Close frame ends the channel as `.carrierLost`.

private import Base
public import Memory
public import Reactor
internal import Wire

/// Bytes over WebSocket messages; owns the channel below it.
public final class WebSocketChannel: Channel {
    /// The largest payload put into one message: its header then takes at most 4 bytes before the mask.
    static let messageBytesMax = 65_535

    private let loop: Loop
    private let inner: Channel
    private let isClient: Bool
    private var decoder: WebSocketDecoder
    private var masks = MaskSource()
    /// Frame headers and, on the client's side, masked payloads are put together here. Empty between calls.
    private var scratch = ByteBuffer()
    /// Bytes that came behind the handshake; delivered at the first turn after reading was switched on.
    private var leftover: ByteBuffer
    private var leftoverTask: LeftoverTask?
    private var closeSent = false
    private var closeReceived = false
    private var isDead = false
    private var isPaused = true
    /// Whether the end of what is below came before this channel, and is to be told behind `leftover`.
    private var innerEndsAfterLeftover: Bool
    private var detached: ((consuming OwnedDescriptor, Span<UInt8>) -> Void)?
    /// Written while the channel leaves its loop.
    private var held = ByteBuffer()

    /// Which side of the handshake we were: a client masks what it sends, and expects the opposite.
    public enum Role: Sendable {
        case client, server
    }

    /// Takes over `inner`, whose handshake is done; `leftover` came behind the handshake's head, and `hasEnded` says that the
    /// peer finished sending behind it.
    public init(
        _ loop: Loop, over inner: Channel, role: Role, leftover: consuming ByteBuffer = ByteBuffer(), hasEnded: Bool = false
    ) {
        innerEndsAfterLeftover = hasEnded
        self.loop = loop
        self.inner = inner
        isClient = role == .client
        decoder = WebSocketDecoder(expectsMasked: role == .server)
        self.leftover = leftover
        super.init()
        inner.delegate = Adapter(self)
    }

    /// A channel that goes on where another process left it, over the socket that it left.
    init(
        _ loop: Loop, over stream: Stream, role: Role, reading state: inout StateReader, _ bytes: Span<UInt8>
    ) throws(StateReadError) {
        self.loop = loop
        inner = stream
        isClient = role == .client
        decoder = try WebSocketDecoder(reading: &state, bytes, expectsMasked: role == .server)
        leftover = ByteBuffer()
        innerEndsAfterLeftover = false
        super.init()
        try state.string(bytes, into: &leftover)
        innerEndsAfterLeftover = try state.truth(bytes)
        closeSent = try state.truth(bytes)
        closeReceived = try state.truth(bytes)
        var unsent = ByteBuffer()
        try state.string(bytes, into: &unsent)
        inner.delegate = Adapter(self)
        if !unsent.isEmpty { inner.write(unsent.span) }
    }

    /// Whether the channel can be taken out of its loop: it lives, over a plain socket.
    var mayDetach: Bool { !isDead && (inner as? Stream)?.isAlive ?? false }

    /// Takes the socket out of the loop. What is received until `done` is still delivered; nothing may be written meanwhile.
    func detach(_ done: @escaping (_ descriptor: consuming OwnedDescriptor, _ unsent: Span<UInt8>) -> Void) {
        guard let stream = inner as? Stream else { preconditionFailure("only a socket can move") }
        detached = done
        stream.detachWithUnsent()
    }

    /// Writes down where the channel stands, after `detach`.
    func write(into state: inout StateWriter, unsent: Span<UInt8>) {
        decoder.write(into: &state)
        state.write(leftover.span)
        state.write(innerEndsAfterLeftover)
        state.write(closeSent)
        state.write(closeReceived)
        var rest = ByteBuffer()
        rest.append(unsent)
        var last = ByteBuffer()
        swap(&last, &held)
        rest.append(last.span)
        state.write(rest.span)
    }

    fileprivate func innerDetached(_ descriptor: consuming OwnedDescriptor, _ unsent: Span<UInt8>) {
        let done = detached
        detached = nil
        done?(descriptor, unsent)
        die()
    }

    public override var isWritable: Bool { !isDead && inner.isWritable }

    public override func write(_ bytes: Span<UInt8>) {
        writeMessage(bytes, Span())
    }

    /// Writes both parts as one message where they fit, to spare a frame (a multiplexing header and its data).
    public func writeMessage(_ first: Span<UInt8>, _ second: Span<UInt8>) {
        guard !isDead, !closeSent else { return }
        let total = first.count + second.count
        if total == 0 { return }
        guard total <= Self.messageBytesMax else {
            writePieces(first)
            writePieces(second)
            return
        }
        if isClient {
            let key = masks.next()
            WebSocketEncoder.writeHeader(.binary, length: total, maskKey: key, into: &scratch)
            let start = scratch.count
            scratch.append(first)
            scratch.append(second)
            var span = scratch.mutableSpan
            applyMask(&span, range: start..<span.count, key: key, offset: 0)
        } else {
            WebSocketEncoder.writeHeader(.binary, length: total, maskKey: nil, into: &scratch)
            // A small message is put together here; a large one is spared the second copy.
            guard total > 4_096 else {
                scratch.append(first)
                scratch.append(second)
                flushScratch()
                return
            }
            flushScratch()
            inner.write(first)
            inner.write(second)
            return
        }
        flushScratch()
    }

    private func writePieces(_ bytes: Span<UInt8>) {
        var offset = 0
        while offset < bytes.count {
            let end = min(bytes.count, offset + Self.messageBytesMax)
            writeMessage(bytes.extracting(offset..<end), Span())
            offset = end
        }
    }

    private func flushScratch() {
        if detached != nil {
            // It goes along, behind what the kernel has not taken yet.
            held.append(scratch.span)
            scratch.removeAll()
            return
        }
        inner.write(scratch.span)
        scratch.removeAll()
    }

    public override func pauseReading() {
        isPaused = true
        inner.pauseReading()
    }

    public override func resumeReading() {
        guard !isDead else { return }
        isPaused = false
        if !leftover.isEmpty || innerEndsAfterLeftover {
            if leftoverTask == nil {
                let task = LeftoverTask(self)
                leftoverTask = task
                loop.afterTurn(task)
            }
            return
        }
        inner.resumeReading()
    }

    public override func finish() {
        guard !isDead else { return }
        sendClose(code: 1000)
    }

    public override func close() {
        guard !isDead else { return }
        sendClose(code: 1000)
        die()
        inner.close()
    }

    public override func abort() {
        guard !isDead else { return }
        die()
        inner.abort()
    }

    /// Says `code` to the peer and ends the channel in good order.
    public func close(code: UInt16, reason: StaticString = "") {
        guard !isDead else { return }
        sendClose(code: code, reason: reason)
        die()
        inner.close()
    }

    private func sendClose(code: UInt16, reason: StaticString = "") {
        guard !closeSent else { return }
        closeSent = true
        WebSocketEncoder.writeClose(code, reason: reason, maskKey: isClient ? masks.next() : nil, into: &scratch)
        flushScratch()
    }

    private func die() {
        isDead = true
        delegate = nil
        leftoverTask = nil
    }

    private func fail(_ error: ChannelError) {
        guard !isDead else { return }
        let user = delegate
        die()
        user?.channelFailed(self, error: error)
    }

    // MARK: What comes from below

    fileprivate func innerReceived(_ bytes: inout MutableSpan<UInt8>) {
        guard !closeReceived else { return }  // RFC 6455 section 5.5.1: what follows a Close means nothing
        if !leftover.isEmpty {
            leftover.append(bytes.span)
            return
        }
        decode(&bytes)
    }

    fileprivate func deliverLeftover() {
        leftoverTask = nil
        guard !isDead else { return }
        var waiting = ByteBuffer()
        swap(&waiting, &leftover)
        var span = waiting.mutableSpan
        decode(&span)
        if innerEndsAfterLeftover {
            innerEndsAfterLeftover = false
            innerEnded()
        }
        if !isDead && !isPaused { inner.resumeReading() }
    }

    private func decode(_ bytes: inout MutableSpan<UInt8>) {
        var offset = 0
        do {
            while !isDead {
                switch try decoder.next(&bytes, at: &offset) {
                case .needMore:
                    return
                case .data(let range):
                    var piece = bytes._mutatingExtracting(range)
                    delegate?.channel(self, received: &piece)
                case .ping:
                    answerPing()
                case .pong:
                    break
                case .close:
                    closeReceived = true
                    delegate?.channelEnded(self)
                    return
                }
            }
        } catch {
            sendClose(code: error.code)
            inner.close()
            fail(.protocolViolation)
        }
    }

    private func answerPing() {
        guard !closeSent else { return }
        // A peer that sends pings and does not read the answers is not given a queue of them.
        guard inner.isWritable || detached != nil else { return }
        WebSocketEncoder.write(
            .pong, payload: decoder.controlPayload, maskKey: isClient ? masks.next() : nil, into: &scratch)
        flushScratch()
    }

    fileprivate func innerEnded() {
        guard !isDead, !closeReceived else { return }
        inner.close()
        fail(.carrierLost)
    }

    fileprivate func innerFailed(_ error: ChannelError) {
        fail(closeReceived || error == .reset ? error : .carrierLost)
    }

    fileprivate func innerDrained() {
        delegate?.channelDrained(self)
    }

    /// What the inner channel talks to: a class can't be a channel and a delegate in one.
    private final class Adapter: ChannelDelegate {
        private let owner: WebSocketChannel

        init(_ owner: WebSocketChannel) { self.owner = owner }

        override func channel(_ channel: Channel, received bytes: inout MutableSpan<UInt8>) { owner.innerReceived(&bytes) }
        override func channelEnded(_ channel: Channel) { owner.innerEnded() }
        override func channelDrained(_ channel: Channel) { owner.innerDrained() }
        override func channelFailed(_ channel: Channel, error: ChannelError) { owner.innerFailed(error) }
        override func streamDetached(_ stream: Stream, descriptor: consuming OwnedDescriptor, unsent: Span<UInt8>) {
            owner.innerDetached(descriptor, unsent)
        }
    }

    private final class LeftoverTask: AfterTurn {
        private let owner: WebSocketChannel

        init(_ owner: WebSocketChannel) { self.owner = owner }

        override func run() { owner.deliverLeftover() }
    }
}

/// Masking keys from the kernel's random source, fetched many at a time (RFC 6455 section 10.3 wants them unpredictable).
struct MaskSource {
    private var bytes: [UInt8] = []
    private var position = 0

    mutating func next() -> UInt32 {
        if position + 4 > bytes.count {
            bytes = Random.bytes(1_024)
            position = 0
        }
        defer { position += 4 }
        return UInt32(bytes[position]) | UInt32(bytes[position + 1]) << 8
            | UInt32(bytes[position + 2]) << 16 | UInt32(bytes[position + 3]) << 24
    }
}
