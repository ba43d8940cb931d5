// Whether the configuration in use has shown that it reaches a server, and which one comes back when it does not. Pure; `AgentProgram`
// has the timer and does the going back. Why so: docs/decisions/012-configurations-on-trial.md.
//
//     start, with a copy of the last good one that is another ──► on trial, and then in turns: whichever connects first stays
//     reload ──► on trial ──nothing connected in time──► what was before the first reload that led nowhere
//     connected ──► proven: nothing comes back any more

/// What is known of the configuration in use. `Reading` is one, as it was read.
struct ConfigurationTrial<Reading> {
    /// Whether a listener has connected with it.
    private(set) var isProven = false
    /// What comes back when nothing connects; nil: nothing does.
    private(set) var before: Reading?
    /// Whether the two take turns: neither has been seen to work since the start.
    private var takesTurns: Bool

    /// At the start. `alternative` is the last good one, if there is one that differs.
    init(alternative: Reading? = nil) {
        before = alternative
        takesTurns = alternative != nil
    }

    /// A listener is connected. True when that proves the configuration.
    mutating func connected() -> Bool {
        if isProven { return false }
        isProven = true
        before = nil
        takesTurns = false
        return true
    }

    /// Somebody's reload has put another configuration in the place of `old`.
    mutating func reloaded(from old: Reading, wasConnected: Bool) {
        // Of several reloads that led nowhere, what was before the first counts.
        if before == nil, isProven || wasConnected { before = old }
        isProven = false
        takesTurns = false
    }

    /// `before` has come back in the place of `old`.
    mutating func wentBack(from old: Reading) {
        before = takesTurns ? old : nil
        isProven = false
    }
}
