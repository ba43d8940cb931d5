// How long it takes until others know what changed at this node: from the change to the moment at which another node is seen to know
// exactly what this one does. Both moments are on this node's clock, and so no clocks need to agree.
//
// Of changes that follow each other before all have seen the first, the first one's time is measured: the longest.

internal import Base

/// The times of a node's own changes, in buckets.
public struct SpreadTimes: Equatable, Sendable {
    /// Upper bounds of the buckets, in nanoseconds.
    public static let bounds: [UInt64] = [
        10_000_000, 25_000_000, 50_000_000, 100_000_000, 250_000_000, 500_000_000, 1_000_000_000, 2_500_000_000, 5_000_000_000, 10_000_000_000,
        60_000_000_000,
    ]
    /// Observations in each bucket, those beyond, and the sum in nanoseconds.
    public private(set) var counts = [UInt64](repeating: 0, count: bounds.count + 2)
    private var since: Instant?
    private var seenBy: Set<UInt64> = []

    /// Something changed here.
    mutating func changed(_ now: Instant) {
        if since != nil { return }
        since = now
        seenBy.removeAll(keepingCapacity: true)
    }

    /// The life knows what we know; of so many others.
    mutating func agrees(_ life: UInt64, of others: Int, _ now: Instant) {
        guard let since, seenBy.insert(life).inserted else { return }
        let nanoseconds = (now - since).clampedNanoseconds
        var bucket = 0
        while bucket < Self.bounds.count, nanoseconds > Self.bounds[bucket] { bucket += 1 }
        counts[bucket] &+= 1
        counts[counts.count - 1] &+= nanoseconds
        if seenBy.count >= others { self.since = nil }
    }
}
