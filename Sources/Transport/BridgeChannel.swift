// A byte stream between two processes of this node, over a connected pair of Unix sockets: for streams whose tunnel moved to
// another worker while their client stays. Unlike a bare socket of that kind it tells an end from a cut.
//
// Wire: frames of a length (2 bytes, big-endian, 1 ... 32,768) and so many bytes; a length of 0 is followed by one byte that
// says what happened: 1 end (half-close), 2 reset, 3 closed (the end, and nothing more is wanted). A socket that ends in another
// way is a cut.
//
// A channel can be taken out of its loop between any two bytes, and goes on in another process.

public import Memory
public import Reactor

/// What a bridge needs to go on elsewhere.
public struct BridgeState: ~Copyable {
    /// What was written and has not reached the kernel.
    public var unsent = ByteBuffer()
    /// A frame that came in part.
    public var input = ByteBuffer()
    public var hasFinished = false
    public var peerHasFinished = false

    public init() {}
}

/// How many bridges a process has, for streams that are used in it.
public final class BridgeCount {
    public fileprivate(set) var count = 0
    /// Called when there is one less.
    public var fell: () -> Void = {}

    public init() {}
}

/// One end of a bridge.
public final class BridgeChannel: Channel {
    private let stream: Stream
    private var input: ByteBuffer
    private var hasFinished: Bool
    private var peerHasFinished: Bool
    private var isClosing = false
    private var isDead = false
    private var discarded = 0
    private var detached: ((consuming OwnedDescriptor, consuming BridgeState) -> Void)?
    /// Called instead when the channel ends before it is detached.
    private var lost: (() -> Void)?
    private let loop: Loop
    private let counted: BridgeCount?

    private static let frameBytesMax = 32_768
    private static let endMark: UInt8 = 1
    private static let resetMark: UInt8 = 2
    private static let closedMark: UInt8 = 3
    private static let discardBytesMax = 4_194_304

    /// Takes over one end of a pair, from where another process left it.
    public init(
        _ loop: Loop, adopting descriptor: consuming OwnedDescriptor, state: consuming BridgeState = BridgeState(),
        counted: BridgeCount? = nil
    ) throws(SystemError) {
        stream = try Stream(loop, adopting: descriptor)
        self.loop = loop
        self.counted = counted
        counted?.count += 1
        input = ByteBuffer()
        hasFinished = state.hasFinished
        peerHasFinished = state.peerHasFinished
        input.append(state.input.span)
        super.init()
        stream.delegate = Adapter(self)
        if !state.unsent.isEmpty { stream.write(state.unsent.span) }
    }

    public override var isWritable: Bool { !isDead && !hasFinished && stream.isWritable }

    public override func write(_ bytes: Span<UInt8>) {
        guard !isDead, !hasFinished else { return }
        var offset = 0
        while offset < bytes.count {
            let end = min(bytes.count, offset + Self.frameBytesMax)
            writeHeader(end - offset)
            stream.write(bytes.extracting(offset..<end))
            offset = end
        }
    }

    private func writeHeader(_ length: Int) {
        let header: InlineArray<2, UInt8> = [UInt8(truncatingIfNeeded: length >> 8), UInt8(truncatingIfNeeded: length)]
        stream.write(header.span)
    }

    private func writeMark(_ mark: UInt8) {
        let bytes: InlineArray<3, UInt8> = [0, 0, mark]
        stream.write(bytes.span)
    }

    public override func pauseReading() { stream.pauseReading() }
    public override func resumeReading() { if !isDead { stream.resumeReading() } }

    public override func finish() {
        guard !isDead, !hasFinished else { return }
        hasFinished = true
        writeMark(Self.endMark)
    }

    /// What comes after this is dropped until the other end has let go, too.
    public override func close() {
        guard !isDead, !isClosing else { return }
        hasFinished = true
        writeMark(Self.closedMark)
        delegate = nil
        isClosing = true
        if peerHasFinished { letGo() } else { stream.resumeReading() }
    }

    /// Ends this end; the other one has said all that it will.
    func letGo() {
        die()
        stream.close()
    }

    /// Called when the user at the other end wants nothing more: what he sent before has been told, and nothing else follows.
    var userLeft: (() -> Void)?

    public override func abort() {
        guard !isDead else { return }
        writeMark(Self.resetMark)
        die()
        stream.close()
    }

    /// Takes the channel out of its loop. What comes until `done` is still delivered. `lost` follows instead when it ends before.
    public func detach(
        _ done: @escaping (consuming OwnedDescriptor, consuming BridgeState) -> Void, lost: @escaping () -> Void
    ) {
        detached = done
        self.lost = lost
        stream.detachWithUnsent()
    }

    /// Whether it can be taken out of its loop.
    public var isAlive: Bool { !isDead && stream.isAlive }

    private func die() {
        guard !isDead else { return }
        isDead = true
        delegate = nil
        detached = nil
        if let lost { loop.afterTurn(LostTask(lost)) }
        lost = nil
        if let counted {
            counted.count -= 1
            counted.fell()
        }
    }

    private final class LostTask: AfterTurn {
        private let lost: () -> Void

        init(_ lost: @escaping () -> Void) { self.lost = lost }

        override func run() { lost() }
    }

    private func fail() {
        guard !isDead else { return }
        let user = delegate
        die()
        stream.abort()
        user?.channelFailed(self, error: .reset)
    }

    // MARK: From the socket

    private func received(_ bytes: inout MutableSpan<UInt8>) {
        input.append(bytes.span)
        while !isDead, input.count >= 2 {
            let length = Int(input.span[0]) << 8 | Int(input.span[1])
            if length == 0 {
                guard input.count >= 3 else { return }
                let mark = input.span[2]
                input.consume(3)
                switch mark {
                case Self.endMark: ended()
                case Self.closedMark: closed()
                default: fail()
                }
                continue
            }
            guard length <= Self.frameBytesMax else { return fail() }
            guard input.count >= 2 + length else { return }
            deliver(length)
        }
        input.releaseIfEmpty()
    }

    private func deliver(_ length: Int) {
        if isClosing {
            input.consume(2 + length)
            discarded += length
            if discarded > Self.discardBytesMax { abort() }
            return
        }
        var frame = ByteBuffer()
        frame.append(input.span.extracting(2..<2 + length))
        input.consume(2 + length)
        var span = frame.mutableSpan
        delegate?.channel(self, received: &span)
    }

    private func closed() {
        if isClosing { return letGo() }
        guard let userLeft else { return ended() }
        peerHasFinished = true
        userLeft()
    }

    private func ended() {
        guard !peerHasFinished else { return }
        peerHasFinished = true
        if isClosing { letGo() } else { delegate?.channelEnded(self) }
    }

    private func socketEnded() {
        guard !isDead else { return }
        if isClosing || hasFinished && peerHasFinished { letGo() } else { fail() }
    }

    private func socketDetached(_ descriptor: consuming OwnedDescriptor, _ unsent: Span<UInt8>) {
        guard let done = detached else { return }
        var state = BridgeState()
        state.unsent.append(unsent)
        state.input.append(input.span)
        state.hasFinished = hasFinished
        state.peerHasFinished = peerHasFinished
        lost = nil
        die()
        done(descriptor, state)
    }

    private final class Adapter: ChannelDelegate {
        private let owner: BridgeChannel

        init(_ owner: BridgeChannel) { self.owner = owner }

        override func channel(_ channel: Channel, received bytes: inout MutableSpan<UInt8>) { owner.received(&bytes) }
        override func channelEnded(_ channel: Channel) { owner.socketEnded() }
        override func channelDrained(_ channel: Channel) { owner.delegate?.channelDrained(owner) }
        override func channelFailed(_ channel: Channel, error: ChannelError) { owner.fail() }
        override func streamDetached(_ stream: Stream, descriptor: consuming OwnedDescriptor, unsent: Span<UInt8>) {
            owner.socketDetached(descriptor, unsent)
        }
    }
}
