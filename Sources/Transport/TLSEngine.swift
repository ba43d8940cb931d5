// What the TLS channels of one loop share: a buffer into which records are read, and the queue of handshakes.
//
// A handshake's step may cost a millisecond of arithmetic (a signature with an RSA key). When many are ready at once, only a
// few are done in each turn of the loop, in the order in which they became ready, so that other connections wait for one
// slice and not for all of them.

internal import Base
public import Crypto
public import Reactor

/// What became of the handshakes of a loop, and what runs.
public struct TLSCounters: Sendable {
    public var handshakes: UInt64 = 0
    /// Of them, those that went on with an earlier session.
    public var resumed: UInt64 = 0
    public var failed: UInt64 = 0
    /// Of the successful ones, those whose records the kernel makes.
    public var inKernel: UInt64 = 0
    /// Gauges: handshakes in progress, and closed channels that still send what was queued.
    public var inProgress = 0
    public var closing = 0
}

/// Shared by the TLS channels of one loop.
public final class TLSEngine {
    public let loop: Loop
    public internal(set) var counters = TLSCounters()
    /// Called with each session whose handshake is done.
    public var handshakeDone: (TLSSession) -> Void = { _ in }
    /// Called with each handshake that failed, and why.
    public var handshakeFailed: (_ text: String, _ channel: TLSChannel) -> Void = { _, _ in }

    /// Handshakes stop for this turn once they have taken so long; at least one step is done.
    let sliceTime: Duration
    /// How many steps of handshakes were done in the last turn that did any: for tests.
    public private(set) var lastSlice = 0

    /// The most plain bytes of a record.
    static let recordBytesMax = 16_384
    private var buffer = [UInt8](repeating: 0, count: recordBytesMax)
    private var waiting: [TLSChannel?] = []
    private var next = 0
    private var task: HandshakeTask?

    public init(_ loop: Loop, sliceTime: Duration = .milliseconds(1)) {
        self.loop = loop
        self.sliceTime = sliceTime
    }

    /// Lends the buffer for one read.
    func takeBuffer() -> [UInt8] {
        var taken: [UInt8] = []
        swap(&taken, &buffer)
        return taken.isEmpty ? [UInt8](repeating: 0, count: Self.recordBytesMax) : taken
    }

    func giveBuffer(_ given: consuming [UInt8]) { buffer = given }

    /// The channel's handshake can go on; its `stepHandshake` follows.
    func enqueue(_ channel: TLSChannel) {
        waiting.append(channel)
        let task = task ?? HandshakeTask(self)
        self.task = task
        loop.afterTurn(task)
    }

    fileprivate func runSlice() {
        let end = SystemClock.now + sliceTime
        lastSlice = 0
        repeat {
            let channel = waiting[next]
            waiting[next] = nil
            next += 1
            lastSlice += 1
            channel?.stepHandshake()
        } while next < waiting.count && SystemClock.now < end
        if next == waiting.count {
            waiting.removeAll(keepingCapacity: waiting.count <= 64)
            next = 0
            task = nil
            return
        }
        if next >= 1_024 {
            waiting.removeFirst(next)
            next = 0
        }
        if let task { loop.afterTurn(task) }
    }

    private final class HandshakeTask: AfterTurn {
        private let owner: TLSEngine

        init(_ owner: TLSEngine) { self.owner = owner }

        override func run() { owner.runSlice() }
    }
}
