// One data connection of the direct transport: waits for the preamble of a stream, and then is that stream.
//
//     waiting ──preamble──► serving ⇄ between exchanges (HTTP) ──► over
//        └── end, failure, retirement ──► over

internal import Memory
internal import Reactor
internal import Wire

/// A data connection after its upgrade. Keeps itself alive through its stream or through what serves it.
final class DataConnection: ChannelDelegate, StreamOwner {
    private enum State {
        case waiting
        /// What serves the stream; nil: a TCP stream, which can't be asked to end.
        case serving((any DrainableConnection)?)
        case over
    }

    let peerHost: String
    private let pool: DataPool
    private let channel: Channel
    private var input = ByteBuffer()
    private var state = State.waiting
    /// Whether the pool counts it as waiting.
    private var countsAsIdle = true

    init(_ channel: Channel, leftover: [UInt8], peerHost: String, pool: DataPool) {
        self.channel = channel
        self.peerHost = peerHost
        self.pool = pool
        input.append(leftover.span)
        super.init()
    }

    /// Starts to wait.
    func start() {
        channel.delegate = self
        channel.resumeReading()
        look()
    }

    /// Go-away was said over the session, and this is another connection: until the server must have heard of it, it may use
    /// this one again.
    var isRetired: Bool { pool.hasSettled }

    /// Takes no new stream or exchange, and ends when what runs is done.
    func finishSoon() {
        switch state {
        case .waiting:
            over()
            channel.close()
        case .serving(let connection): connection?.finishSoon()
        case .over: break
        }
    }

    /// Ends at once.
    func abort() {
        guard case .over = state else {
            over()
            channel.abort()
            return
        }
    }

    private func over() {
        if case .over = state { return }
        state = .over
        pool.ended(self, wasIdle: countsAsIdle)
    }

    // MARK: The preamble

    override func channel(_ channel: Channel, received bytes: inout MutableSpan<UInt8>) {
        input.append(bytes.span)
        look()
    }

    private func look() {
        guard case .waiting = state, input.count >= DirectPreamble.byteCount else { return }
        let preamble = input.withSpan(0..<DirectPreamble.byteCount) { bytes in
            DirectPreamble.clientRange(bytes).map { SocketAddress(encoded: bytes.extracting($0)) }
        }
        guard let client = preamble else {
            pool.preambleRefused()
            over()
            channel.abort()
            return
        }
        var early = ByteBuffer()
        swap(&early, &input)
        early.consume(DirectPreamble.byteCount)
        state = .serving(nil)
        channel.delegate = nil
        beUsed()
        pool.service.serve(IncomingStream(channel, owner: self, client: client?.isUnspecified ?? true ? nil : client, early: early))
    }

    override func channelEnded(_ channel: Channel) {
        over()
        channel.close()
    }

    override func channelFailed(_ channel: Channel, error: ChannelError) { over() }

    // MARK: From what serves the stream

    func add(_ connection: any DrainableConnection) { state = .serving(connection) }

    func remove(_ connection: any DrainableConnection) { over() }

    func exchangeBegan() { beUsed() }

    private func beUsed() {
        guard countsAsIdle else { return }
        countsAsIdle = false
        pool.taken()
    }

    func becameRaw() { pool.consumed() }

    func exchangeEnded() {
        guard !countsAsIdle, case .serving = state else { return }
        countsAsIdle = true
        pool.released()
    }
}
