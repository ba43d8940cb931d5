// How long the turns of a loop are: while one is at work, everybody else of the process waits.
//
// A turn is measured from the moment at which the kernel said what happened to the end of what was done about it.

/// Buckets of durations, from the loop's start.
public struct TurnTimes: Sendable {
    /// Upper bounds of the buckets, in nanoseconds.
    public static let bounds: [UInt64] = [
        100_000, 500_000, 1_000_000, 2_500_000, 5_000_000, 10_000_000, 25_000_000, 50_000_000, 100_000_000, 250_000_000, 1_000_000_000,
    ]
    /// Turns in each bucket, the one of all longer ones, and the sum in nanoseconds.
    public private(set) var counts = [UInt64](repeating: 0, count: bounds.count + 2)
    /// The longest, in nanoseconds.
    public private(set) var longest: UInt64 = 0

    public init() {}

    /// Counts a turn of so many nanoseconds.
    public mutating func add(_ nanoseconds: UInt64) {
        var bucket = 0
        while bucket < Self.bounds.count, nanoseconds > Self.bounds[bucket] { bucket += 1 }
        counts[bucket] &+= 1
        counts[counts.count - 1] &+= nanoseconds
        longest = max(longest, nanoseconds)
    }
}
