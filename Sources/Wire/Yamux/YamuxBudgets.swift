// What a peer may do that is legal but of no use to an honest one, so that a hostile one cannot keep us busy with it. Each
// budget is filled again at the start of every interval.
//
// Two allowances go with them. After we drop a stream, frames for it are still on their way: the data that its window
// allowed and a few control frames. Those are nobody's fault, are expected, and draw on no budget.

import Base
import Memory

/// The budgets of one session.
struct YamuxBudgets {
    private let limits: YamuxLimits
    private var intervalEnd = Instant(nanoseconds: 0)
    private var oddFrames = 0
    private var pings = 0
    private var churn = 0
    /// Data bytes that may still come for streams that are gone, at most `discardBytesMax`.
    private var strayBytes = 0
    /// Control frames that may still come for streams that are gone.
    private var strayFrames = 0

    /// Frames without data that may follow the end of a stream: window updates for what the peer's user still had to
    /// read, an acknowledgement, the end or the reset.
    private static let strayFramesPerStream = 8
    private static let strayFramesMax = 65_536

    init(limits: YamuxLimits) { self.limits = limits }

    /// A frame of no use came.
    mutating func drawOddFrame(now: Instant) throws(YamuxError) {
        startInterval(now)
        oddFrames += 1
        if oddFrames > limits.oddFramesMax { throw .oddFramesExceeded }
    }

    /// A ping came.
    mutating func drawPing(now: Instant) throws(YamuxError) {
        startInterval(now)
        pings += 1
        if pings > limits.pingsMax { throw .pingsExceeded }
    }

    /// A stream of the peer's came to nothing.
    mutating func drawChurn(now: Instant) throws(YamuxError) {
        startInterval(now)
        churn += 1
        if churn > limits.churnMax { throw .churnExceeded }
    }

    /// A stream is gone for us; the peer may have sent `bytes` more, at most.
    mutating func expectStray(bytes: UInt32) {
        strayBytes = min(strayBytes + Int(bytes), limits.discardBytesMax)
        strayFrames = min(strayFrames + YamuxBudgets.strayFramesPerStream, YamuxBudgets.strayFramesMax)
    }

    /// A frame for a stream that is gone came, with so much data.
    mutating func drawStray(bytes: UInt32, now: Instant) throws(YamuxError) {
        if bytes > 0 && strayBytes >= Int(bytes) {
            strayBytes -= Int(bytes)
        } else if bytes == 0 && strayFrames > 0 {
            strayFrames -= 1
        } else {
            try drawOddFrame(now: now)
        }
    }

    private mutating func startInterval(_ now: Instant) {
        if now < intervalEnd { return }
        intervalEnd = now + limits.budgetInterval
        oddFrames = 0
        pings = 0
        churn = 0
    }
}

extension YamuxBudgets {
    /// What may still come for streams that are gone. The other budgets begin anew.
    func write(into state: inout StateWriter) {
        state.write(strayBytes)
        state.write(strayFrames)
    }

    init(reading state: inout StateReader, _ bytes: Span<UInt8>, limits: YamuxLimits) throws(StateReadError) {
        self.init(limits: limits)
        strayBytes = try state.integer(bytes)
        strayFrames = try state.integer(bytes)
    }
}
