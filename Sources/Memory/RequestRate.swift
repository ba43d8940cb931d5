// A rate with a burst of one second's worth, as the generic cell rate algorithm has it: all that is remembered is when the next
// request would come if they came evenly, the "theoretical arrival time". One number, so that one atomic word is enough.

/// So many requests a second.
struct RequestRate: Equatable {
    /// Nanoseconds that one request uses up.
    let interval: UInt64
    /// How far ahead of the clock the arrival time may be before the next request.
    let tolerance: UInt64

    private static let second: UInt64 = 1_000_000_000
    /// No arrival time that we wrote is further ahead: another one is no arrival time.
    private static let aheadMax: UInt64 = 8 * second

    /// nil: none at all. The interval is rounded up, so that never more come.
    init?(perSecond rate: UInt32) {
        guard rate > 0 else { return nil }
        interval = (Self.second + UInt64(rate) - 1) / UInt64(rate)
        tolerance = interval * (UInt64(rate) - 1)
    }

    /// The arrival time after a request at `now` (nanoseconds); nil: it comes too early.
    func next(after arrival: UInt64, now: UInt64) -> UInt64? {
        let isSane = arrival <= now || arrival - now <= Self.aheadMax
        let base = isSane ? max(arrival, now) : now
        return base - now <= tolerance ? base + interval : nil
    }
}
