// The end of a token's time, on the clock on the wall: it is looked at again at least once an hour, so that a clock that is set
// does not let a token live on.

import Reactor

/// Calls once a time has come.
final class ExpiryTimer {
    private var timer: CallbackTimer?
    private let expiry: UInt64
    private let passed: () -> Void

    private static let stepMax: UInt64 = 3_600

    /// `passed` is called, later, once it is `expiry`: seconds since 1970.
    init(_ loop: Loop, at expiry: UInt64, _ passed: @escaping () -> Void) {
        self.expiry = expiry
        self.passed = passed
        timer = CallbackTimer(loop) { [unowned self] in look() }
        schedule()
    }

    deinit { timer?.cancel() }

    private func look() {
        if SystemClock.unixNanoseconds / 1_000_000_000 >= expiry { passed() } else { schedule() }
    }

    private func schedule() {
        let now = SystemClock.unixNanoseconds
        let seconds = now / 1_000_000_000
        if expiry > seconds + Self.stepMax {
            timer?.schedule(after: .seconds(Int64(Self.stepMax)))
        } else {
            timer?.schedule(after: expiry <= seconds ? .zero : .nanoseconds(Int64(expiry * 1_000_000_000 - now)))
        }
    }
}
