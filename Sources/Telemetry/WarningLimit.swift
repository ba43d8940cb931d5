// Warnings of what may happen a thousand times a second: one a second is written, the counters have the number.

public import Base

/// When the last warning was written.
public struct WarningLimit: Sendable {
    private var last: Instant?

    public init() {}

    /// Whether a warning is to be written now.
    public mutating func isDue(_ now: Instant) -> Bool {
        if let last, now - last < .seconds(1) { return false }
        last = now
        return true
    }
}
