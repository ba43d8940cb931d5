// The life of the process: run, drain on the first signal, end. Pure; `AgentProgram` and `ForwardProgram` perform its
// actions.

/// The decisions of the process.
///
///     running ──signal──► draining ──everything finished──► ended(0)
///        │                   │ grace period over, or a second signal ──► ended(0), what runs is cut
///        └──failed──► ended(1)
struct ProgramMachine {
    enum Event: Equatable {
        /// SIGTERM or SIGINT.
        case signal
        /// Nothing is left to finish.
        case workFinished
        case graceExpired
        /// Something without which the program is of no use failed after the start.
        case failed
    }

    enum Action: Equatable {
        case none
        /// Take no new work, finish what runs, and send `graceExpired` after the grace period.
        case drain
        /// End the process; with `cutting`, work still runs and is cut.
        case end(code: Int32, cutting: Bool)
    }

    private enum State { case running, draining, ended }

    private var state = State.running

    mutating func handle(_ event: Event) -> Action {
        switch (state, event) {
        case (.running, .signal):
            state = .draining
            return .drain
        case (.draining, .signal), (.draining, .graceExpired):
            state = .ended
            return .end(code: 0, cutting: true)
        case (.draining, .workFinished):
            state = .ended
            return .end(code: 0, cutting: false)
        case (.running, .failed), (.draining, .failed):
            state = .ended
            return .end(code: 1, cutting: true)
        case (.running, .workFinished), (.running, .graceExpired), (.ended, _):
            return .none
        }
    }
}
