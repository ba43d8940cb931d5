// Gossip over TCP: one message there, one message back, each after its length (4 bytes, little-endian). For what does not fit a
// packet.
//
// Bounds: a message is not longer than the core takes (a longer one is known by its length, and nothing of it is read); an
// exchange has 10 seconds; so many wait at a time, of one address and in all, and beyond that the one that has waited longest
// goes, so that nobody who is slow keeps others out; and what all of them hold together is bounded, too.

import Base
import Gossip
import Memory
import Reactor

/// What was counted of the exchanges.
struct GossipExchangeCounters {
    var accepted: UInt64 = 0
    var opened: UInt64 = 0
    var bytesIn: UInt64 = 0
    var bytesOut: UInt64 = 0
    /// Messages that were said to be longer than allowed.
    var tooLong: UInt64 = 0
    /// Exchanges that took too long, or were given up for others.
    var late: UInt64 = 0
    var givenUp: UInt64 = 0
}

/// The exchanges under way, of both kinds.
final class GossipExchanges {
    /// The most of it.
    struct Limits {
        var time = Duration.seconds(10)
        var messageBytesMax = GossipLimits.streamBytesMax
        var acceptedMax = 64
        var acceptedOfOneMax = 16
        var heldBytesMax = 64 << 20
    }

    private let loop: Loop
    private let limits: Limits
    private unowned let owner: any GossipPortOwner
    private var accepted: [UInt64: GossipExchange] = [:]
    private var opened: [UInt32: GossipExchange] = [:]
    private var nextStream: UInt64 = 1
    private var heldBytes = 0
    private(set) var counters = GossipExchangeCounters()

    init(_ loop: Loop, limits: Limits = Limits(), owner: any GossipPortOwner) {
        self.loop = loop
        self.limits = limits
        self.owner = owner
    }

    /// How many are under way.
    var count: Int { accepted.count + opened.count }

    /// Takes a connection that came.
    func accept(_ descriptor: consuming OwnedDescriptor) {
        guard let peer = SocketAddress.peer(of: descriptor.raw), let stream = try? Stream(loop, adopting: descriptor) else { return }
        makeRoom(for: peer.host)
        counters.accepted += 1
        let number = nextStream
        nextStream += 1
        let exchange = GossipExchange(self, stream, host: peer.host, time: limits.time) { [unowned self] exchange, message in
            guard let message else {
                forget(accepted: number)
                return
            }
            exchange.waitsForReply = true
            owner.requestArrived(message, from: GossipAddress(peer.description), stream: number)
        }
        accepted[number] = exchange
        exchange.start()
    }

    private func makeRoom(for host: String) {
        // Numbers grow, so the smallest is the oldest.
        let own = accepted.filter { $0.value.host == host }
        let crowd = own.count >= limits.acceptedOfOneMax ? own : accepted.count >= limits.acceptedMax ? accepted : [:]
        guard let oldest = crowd.keys.min() else { return }
        counters.givenUp += 1
        forget(accepted: oldest)
    }

    private func forget(accepted number: UInt64) { accepted.removeValue(forKey: number)?.close() }

    /// Answers on a connection that came, and ends it.
    func reply(_ bytes: [UInt8], stream: UInt64) {
        guard let exchange = accepted.removeValue(forKey: stream) else { return }
        counters.bytesOut += UInt64(bytes.count)
        exchange.finish(with: bytes)
    }

    /// Ends a connection that came.
    func refuse(stream: UInt64) { forget(accepted: stream) }

    /// Connects, sends the message and waits for the answer.
    func open(_ bytes: [UInt8], to address: SocketAddress, exchange number: UInt32) {
        guard opened[number] == nil, let stream = try? Stream(loop, connectTo: address) else {
            return FailedExchange.tell(loop, owner, number)
        }
        counters.opened += 1
        counters.bytesOut += UInt64(bytes.count)
        let exchange = GossipExchange(self, stream, host: "", time: limits.time) { [unowned self] exchange, message in
            opened[number] = nil
            exchange.close()
            if let message { owner.replyArrived(message, exchange: number) } else { owner.exchangeFailed(number) }
        }
        opened[number] = exchange
        exchange.send(bytes)
        exchange.start()
    }

    /// Ends all of them; nobody is told.
    func closeAll() {
        for exchange in Array(accepted.values) + Array(opened.values) { exchange.close() }
        accepted = [:]
        opened = [:]
    }

    // MARK: What exchanges say

    fileprivate func isTooLong(_ length: Int) -> Bool {
        guard length > limits.messageBytesMax else { return false }
        counters.tooLong += 1
        return true
    }

    /// Whether so many bytes more may be held.
    fileprivate func holds(_ count: Int) -> Bool {
        guard heldBytes + count <= limits.heldBytesMax else {
            counters.givenUp += 1
            return false
        }
        heldBytes += count
        counters.bytesIn += UInt64(count)
        return true
    }

    fileprivate func gaveBack(_ count: Int) { heldBytes -= count }
    fileprivate func wasLate() { counters.late += 1 }
}

/// An exchange that could not even begin is told of later, not within the call.
private final class FailedExchange: AfterTurn {
    private weak var owner: (any GossipPortOwner)?
    private let number: UInt32

    static func tell(_ loop: Loop, _ owner: any GossipPortOwner, _ number: UInt32) {
        loop.afterTurn(FailedExchange(owner, number))
    }

    private init(_ owner: any GossipPortOwner, _ number: UInt32) {
        self.owner = owner
        self.number = number
    }

    override func run() { owner?.exchangeFailed(number) }
}

/// One connection.
private final class GossipExchange: ChannelDelegate {
    private unowned let exchanges: GossipExchanges
    private let stream: Stream
    private let timer: CallbackTimer
    /// Told once, with the message or nil.
    private var done: ((GossipExchange, [UInt8]?) -> Void)?
    private var input = ByteBuffer()
    private var held = 0
    let host: String
    var waitsForReply = false

    private static let headerBytes = 4

    init(
        _ exchanges: GossipExchanges, _ stream: Stream, host: String, time: Duration,
        done: @escaping (GossipExchange, [UInt8]?) -> Void
    ) {
        self.exchanges = exchanges
        self.stream = stream
        self.host = host
        self.done = done
        weak var exchange: GossipExchange?
        timer = CallbackTimer(stream.loop) { exchange?.timeIsUp() }
        super.init()
        exchange = self
        timer.schedule(after: time)
    }

    func start() {
        stream.delegate = self
        stream.resumeReading()
    }

    func send(_ bytes: [UInt8]) {
        var header: [UInt8] = []
        for shift in 0..<4 { header.append(UInt8(truncatingIfNeeded: bytes.count >> (8 * shift))) }
        stream.write(header.span)
        stream.write(bytes.span)
    }

    /// Sends the last message; the socket lingers by itself until it is out.
    func finish(with bytes: [UInt8]) {
        send(bytes)
        close()
    }

    func close() {
        done = nil
        timer.cancel()
        giveBack()
        stream.close()
    }

    private func giveBack() {
        exchanges.gaveBack(held)
        held = 0
        input.removeAll()
    }

    private func timeIsUp() {
        exchanges.wasLate()
        end(nil)
    }

    private func end(_ message: [UInt8]?) {
        guard let told = done else { return }
        if message == nil { done = nil }
        told(self, message)
    }

    override func channel(_ channel: Channel, received bytes: inout MutableSpan<UInt8>) {
        guard !waitsForReply, exchanges.holds(bytes.count) else { return end(nil) }
        held += bytes.count
        input.append(bytes.span)
        guard input.count >= Self.headerBytes else { return }
        var length = 0
        for index in 0..<Self.headerBytes { length |= Int(input.span[index]) << (8 * index) }
        if exchanges.isTooLong(length) { return end(nil) }
        guard input.count >= Self.headerBytes + length else { return }
        // One message, and nothing behind it.
        guard input.count == Self.headerBytes + length else { return end(nil) }
        let message = [UInt8](copying: input.span.extracting(Self.headerBytes..<input.count))
        giveBack()
        end(message)
    }

    override func channelEnded(_ channel: Channel) {
        // Whoever asked may close its side, and still reads.
        if !waitsForReply { end(nil) }
    }

    override func channelFailed(_ channel: Channel, error: ChannelError) { end(nil) }
}
