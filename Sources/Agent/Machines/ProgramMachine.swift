// The life of the process: run, read the configuration anew, be replaced by another process, drain on a signal, end. Pure;
// `AgentProgram` performs its actions.
//
// One thing at a time: a reload that is asked for during another, or during an upgrade, waits for its end. When the upgrade
// succeeds, the new process is told to reload instead, because it may have read its file before that changed.

/// The decisions of the process.
///
///     running ──reload──► reloading ──reloadDone──► running
///        │ upgrade                         (what was asked for meanwhile follows)
///        ▼
///     upgrading ──successorFailed──► running
///        │ successorReady
///        ▼
///     replaced ──everything finished, or the drain's time is over──► ended(0)
///        │ terminate: the grace period begins, as in draining
///        ▼
///     draining ──everything finished──► ended(0)
///              ──grace period over, or a second signal──► ended(0), what runs is cut
///
///     running, reloading, upgrading ──terminate──► draining
///     any but ended ──failed──► ended(1)
struct ProgramMachine {
    enum Event: Equatable {
        /// SIGTERM or SIGINT.
        case terminate
        /// SIGHUP.
        case reload
        case reloadDone
        /// SIGUSR2.
        case upgrade
        /// The new process serves.
        case successorReady
        /// It could not be started, or did not come so far.
        case successorFailed
        /// Nothing is left to finish.
        case workFinished
        /// The time that an action set is over.
        case timeExpired
        /// Something without which the program is of no use failed after the start.
        case failed
    }

    /// Why a signal has no effect.
    enum Refusal: Equatable { case upgradeUnderWay, ending }

    enum Action: Equatable {
        case none
        /// Read the configuration and use it, then send `reloadDone`.
        case reload
        /// Start the new process.
        case startSuccessor
        /// Tell the new process that it is on its own, tell it to reload if `reloads`; then take no new work, finish what
        /// runs, and send `timeExpired` when the drain has a time limit.
        case handOver(reloads: Bool)
        /// End a new process that is not ready; take no new work, finish what runs, and send `timeExpired` after the grace
        /// period.
        case drain
        /// End the process; with `cutting`, work still runs and is cut.
        case end(code: Int32, cutting: Bool)
        case refuse(Refusal)
    }

    private enum State: Equatable {
        case running
        case reloading(next: Next)
        case upgrading(next: Next)
        case replaced
        case draining
        case ended
    }

    /// What follows what is under way.
    private enum Next { case nothing, reload, upgrade }

    private var state = State.running

    /// Whether nothing else is under way.
    var isRunning: Bool { state == .running }

    /// Whether the process takes new work and stands alone.
    var isServing: Bool {
        switch state {
        case .running, .reloading, .upgrading: true
        case .replaced, .draining, .ended: false
        }
    }

    mutating func handle(_ event: Event) -> Action {
        switch (state, event) {
        case (.ended, _):
            return .none
        case (.running, .terminate), (.reloading, .terminate), (.upgrading, .terminate), (.replaced, .terminate):
            state = .draining
            return .drain
        case (.draining, .terminate), (.draining, .timeExpired), (.replaced, .timeExpired):
            state = .ended
            return .end(code: 0, cutting: true)
        case (.draining, .workFinished), (.replaced, .workFinished):
            state = .ended
            return .end(code: 0, cutting: false)
        case (.running, .reload):
            state = .reloading(next: .nothing)
            return .reload
        case (.running, .upgrade):
            state = .upgrading(next: .nothing)
            return .startSuccessor
        case (.reloading(let next), .reload):
            // An upgrade reads the file, too.
            if next == .nothing { state = .reloading(next: .reload) }
            return .none
        case (.reloading, .upgrade):
            state = .reloading(next: .upgrade)
            return .none
        case (.upgrading, .reload):
            state = .upgrading(next: .reload)
            return .none
        case (.upgrading, .upgrade):
            return .refuse(.upgradeUnderWay)
        case (.replaced, .reload), (.replaced, .upgrade), (.draining, .reload), (.draining, .upgrade):
            return .refuse(.ending)
        case (.reloading(let next), .reloadDone), (.upgrading(let next), .successorFailed):
            return begin(next)
        case (.upgrading(let next), .successorReady):
            state = .replaced
            return .handOver(reloads: next == .reload)
        case (.running, .failed), (.reloading, .failed), (.upgrading, .failed), (.replaced, .failed), (.draining, .failed):
            state = .ended
            return .end(code: 1, cutting: true)
        case (.running, _), (.reloading, _), (.upgrading, _), (.replaced, _), (.draining, _):
            return .none
        }
    }

    private mutating func begin(_ next: Next) -> Action {
        switch next {
        case .nothing:
            state = .running
            return .none
        case .reload:
            state = .reloading(next: .nothing)
            return .reload
        case .upgrade:
            state = .upgrading(next: .nothing)
            return .startSuccessor
        }
    }
}
