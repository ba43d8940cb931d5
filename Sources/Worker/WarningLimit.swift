// Warnings of what may happen a thousand times a second: one a second is written, the counters have the number.

import Base

/// When the last warning was written.
struct WarningLimit {
    private var last: Instant?

    /// Whether a warning is to be written now.
    mutating func isDue(_ now: Instant) -> Bool {
        if let last, now - last < .seconds(1) { return false }
        last = now
        return true
    }
}
