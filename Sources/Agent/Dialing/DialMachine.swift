// Which of several addresses of one name is tried when. Pure; `Dial` performs it on sockets.
//
// The way of RFC 8305 (Happy Eyeballs) without its DNS part: addresses in turn, the next one when the one before fails or
// has not answered after `stagger`, the first that connects wins. A name with a dead IPv6 address costs a quarter of a
// second and no more.

/// The decisions of one dial over `count` addresses.
struct DialMachine {
    /// How long an attempt is alone before the next one starts beside it.
    static let stagger = Duration.milliseconds(250)
    /// More addresses than these are not tried.
    static let addressesMax = 8

    enum Event: Equatable {
        case start
        /// An attempt that was running failed.
        case attemptFailed
        case staggerElapsed
        /// An attempt connected.
        case connected
        /// The whole dial took too long, or is not wanted any more.
        case stop
    }

    enum Action: Equatable {
        case none
        /// Connect to the address of this index; `staggerElapsed` is wanted after `stagger` if `more` is true.
        case attempt(index: Int, more: Bool)
        /// This dial succeeded: close every other attempt.
        case succeed
        /// All addresses failed.
        case fail
        /// Close every attempt.
        case cancel
    }

    private let count: Int
    private var next = 0
    private var running = 0
    private var isOver = false

    init(count: Int) {
        self.count = min(count, Self.addressesMax)
    }

    mutating func handle(_ event: Event) -> Action {
        if isOver { return .none }
        switch event {
        case .start, .staggerElapsed:
            return attemptNext()
        case .attemptFailed:
            precondition(running > 0, "an attempt failed that never ran")
            running -= 1
            return attemptNext()
        case .connected:
            isOver = true
            return .succeed
        case .stop:
            isOver = true
            return .cancel
        }
    }

    private mutating func attemptNext() -> Action {
        guard next < count else {
            if running > 0 { return .none }
            isOver = true
            return .fail
        }
        let index = next
        next += 1
        running += 1
        return .attempt(index: index, more: next < count)
    }
}
