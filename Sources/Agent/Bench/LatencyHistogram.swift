// Latencies in buckets of three per cent: enough to read percentiles from, whatever their number.

/// How often which latency was seen.
struct LatencyHistogram {
    /// Sixteen buckets for each power of two.
    private static let steps = 16
    private var counts = [UInt64](repeating: 0, count: 64 * steps)
    private(set) var count: UInt64 = 0
    private(set) var longest: Duration = .zero

    mutating func add(_ latency: Duration) {
        longest = max(longest, latency)
        count += 1
        counts[Self.bucket(Self.nanoseconds(latency))] += 1
    }

    /// The latency that this share (0 to 1) of all was not longer than; zero when there is none.
    func percentile(_ share: Double) -> Duration {
        var left = UInt64((Double(count) * share).rounded(.up))
        for (bucket, number) in counts.enumerated() where number > 0 {
            if number >= left { return min(longest, .nanoseconds(Int64(clamping: Self.upperBound(bucket)))) }
            left -= number
        }
        return longest
    }

    private static func nanoseconds(_ duration: Duration) -> UInt64 {
        let parts = duration.components
        return UInt64(max(0, parts.seconds)) &* 1_000_000_000 &+ UInt64(max(0, parts.attoseconds / 1_000_000_000))
    }

    /// Below sixteen each value has its own; above, the four bits behind the highest one choose among a power's sixteen.
    private static func bucket(_ value: UInt64) -> Int {
        guard value >= UInt64(steps) else { return Int(value) }
        let power = 63 - value.leadingZeroBitCount
        return (power - 3) * steps + Int(value >> UInt64(power - 4)) & (steps - 1)
    }

    private static func upperBound(_ bucket: Int) -> UInt64 {
        guard bucket >= steps else { return UInt64(bucket) }
        let power = UInt64(bucket / steps + 3)
        let width = UInt64(1) << (power - 4)
        return (UInt64(steps) + UInt64(bucket % steps) + 1) * width - 1
    }
}
