// How long to wait before the next attempt. Pure: randomness comes from a seed, so that a test replays a sequence and the
// agents of a fleet, each with its own seed, do not come back at the same instant.

/// Doubling waits with a little jitter, bounded above.
struct Backoff {
    /// The bounds; the defaults are those of the public clients.
    struct Limits: Equatable {
        var firstWait: Duration = .milliseconds(100)
        /// Bounds the wait before its jitter.
        var waitMax: Duration = .seconds(15)
        /// The jitter is uniform in 0 … this many hundredths of the wait.
        var jitterPercentMax: UInt64 = 10
    }

    private let limits: Limits
    /// The next wait without jitter; at most `waitMax`.
    private var wait: Duration
    /// The state of a SplitMix64 generator.
    private var random: UInt64

    init(limits: Limits = Limits(), seed: UInt64) {
        self.limits = limits
        wait = min(limits.firstWait, limits.waitMax)
        random = seed
    }

    /// The next wait, twice as long as the one before.
    mutating func next() -> Duration {
        let current = wait
        wait = min(wait * 2, limits.waitMax)
        return withJitter(current)
    }

    /// The next wait, but none longer than `bound`; later ones go on from there.
    mutating func next(atMost bound: Duration) -> Duration {
        wait = min(wait, bound)
        return next()
    }

    /// The longest wait, for a failure that another attempt won't cure soon. Later waits stay that long until `reset`.
    mutating func longest() -> Duration {
        wait = limits.waitMax
        return withJitter(wait)
    }

    /// The next wait is the first one again.
    mutating func reset() {
        wait = min(limits.firstWait, limits.waitMax)
    }

    private mutating func withJitter(_ duration: Duration) -> Duration {
        let nanoseconds =
            duration.components.seconds * 1_000_000_000
            + duration.components.attoseconds / 1_000_000_000
        let jitterMax = UInt64(max(nanoseconds, 0)) / 100 * limits.jitterPercentMax
        return duration + .nanoseconds(Int64(nextRandom() % (jitterMax + 1)))
    }

    private mutating func nextRandom() -> UInt64 {
        random &+= 0x9E37_79B9_7F4A_7C15
        var mixed = random
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }
}
