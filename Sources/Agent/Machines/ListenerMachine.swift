// The life of one listener: the tunnel that offers one endpoint to the server. Pure: events and the time go in, one action
// comes out, and `Listener` (the shell) performs it on sockets.
//
// The rule above all: a listener that has not been told to stop always comes back. A server that restarts, a token that
// expired, a load balancer that answers 404 for a minute: whatever the reason, the next attempt follows. A refusal that
// looks like a mistake in the configuration (401, 404 …) is tried again as well, but with the longest wait at once, so
// that a wrong token costs the server four requests a minute.
//
// Make before break: when the server says go-away, a new session is opened beside the current one, which serves until then:
// a server that only asks to go elsewhere still sends streams through it. Then it is retired (it finishes its streams). At most
// `retiredSessionsMax` retired sessions live; beyond that the oldest is closed.
//
// The waits start over only after a session that lasted `stableAfter`. But no wait is longer than the session before it was, or
// half a second when that was less: workers of the server that end one after the other, each with what it had, don't keep an
// agent away for long. A server that accepts and drops at once is asked twice a second.

internal import Base

/// The decisions of one listener.
///
///     idle ──start──► connecting ──opened──► connected
///                      ▲      │                  │  │
///                      │      │ failed       lost │  │ peerWentAway
///                 timerFired  ▼                  │  ▼
///                      └── waiting ◄─────────────┘ replacing ──opened──► connected, and the one before is retired
///
///     any of these ──stop──► stopping (retired sessions finish) ──last one ended──► finished
///     any          ──abandon──► finished
struct ListenerMachine {
    struct Limits: Equatable {
        var backoff = Backoff.Limits()
        /// A session that lived this long proves that the server is well: the waits start over.
        var stableAfter: Duration = .seconds(10)
        /// After a session that lived this long the wait is no longer than its life; after a shorter one, no longer than `lostWaitMax`.
        var boundsAfter: Duration = .milliseconds(100)
        var lostWaitMax: Duration = .milliseconds(500)
        /// A server that asks to go elsewhere after that long is obeyed at once.
        var obeysAfter: Duration = .seconds(1)
        var retiredSessionsMax = 4
    }

    /// Why an attempt to connect failed.
    enum ConnectFailure: Equatable {
        /// No answer: no address, refused, timed out, or an answer that is no WebSocket upgrade.
        case unreachable
        /// The server answered with this status instead of the upgrade.
        case refused(status: Int)

        /// Whether the next attempt may well succeed by itself.
        var isTransient: Bool {
            switch self {
            case .unreachable: true
            case .refused(let status): [408, 429, 500, 502, 503, 504].contains(status)
            }
        }
    }

    enum Event: Equatable {
        case start
        /// The attempt made a session, which is the current one from now on.
        case opened
        case failed(ConnectFailure)
        /// The current session ended.
        case lost
        /// The server asks, on the current session, to go elsewhere.
        case peerWentAway
        /// A retired session ended.
        case retiredEnded
        /// The wait that an action asked for is over.
        case timerFired
        /// Finish what runs and end.
        case stop
        /// End at once.
        case abandon
    }

    /// What follows once the current session is retired.
    enum AfterRetirement: Equatable { case nothing, cancelConnect, cancelWait }

    enum Action: Equatable {
        case none
        case connect
        /// Send `timerFired` after this time.
        case wait(Duration)
        /// Say go-away on the current session, let its streams finish and close it; then what `next` says.
        case retire(closingOldest: Bool, next: AfterRetirement)
        /// The same on the session that was the current one before the one that was just opened.
        case retirePrevious(closingOldest: Bool)
        /// Give up the attempt that is under way.
        case cancelConnect
        /// Cancel the timer.
        case cancelWait
        /// Close everything at once.
        case closeAll
    }

    private enum State: Equatable {
        case idle
        case connecting
        case connected(since: Instant)
        /// As `connected`, while another session is to take its place: an attempt is under way, or waited for.
        case replacing(since: Instant, isConnecting: Bool)
        case waiting
        case stopping
        case finished
    }

    private let limits: Limits
    private var state = State.idle
    private var backoff: Backoff
    /// Sessions that said go-away and live on until their streams are done.
    private(set) var retiredCount = 0

    init(limits: Limits = Limits(), seed: UInt64) {
        self.limits = limits
        backoff = Backoff(limits: limits.backoff, seed: seed)
    }

    /// Whether nothing is left and nothing will follow.
    var isFinished: Bool { state == .finished }

    /// Whether requests can reach the service now.
    var isConnected: Bool {
        switch state {
        case .connected, .replacing: true
        case .idle, .connecting, .waiting, .stopping, .finished: false
        }
    }

    /// The one transition function. An event that can't happen in a state (a late completion) changes nothing.
    mutating func handle(_ event: Event, now: Instant) -> Action {
        switch (state, event) {
        case (.idle, .start), (.waiting, .timerFired):
            state = .connecting
            return .connect
        case (.connecting, .opened):
            state = .connected(since: now)
            return .none
        case (.connecting, .failed(let failure)):
            state = .waiting
            return .wait(failure.isTransient ? backoff.next() : backoff.longest())
        case (.connected(let since), .lost):
            state = .waiting
            let lived = now - since
            if lived >= limits.stableAfter { backoff.reset() }
            return .wait(backoff.next(atMost: lived >= limits.boundsAfter ? lived : limits.lostWaitMax))
        case (.connected(let since), .peerWentAway):
            return replace(since: since, now: now)
        case (.replacing(let since, false), .timerFired):
            state = .replacing(since: since, isConnecting: true)
            return .connect
        case (.replacing(_, true), .opened):
            state = .connected(since: now)
            return .retirePrevious(closingOldest: countRetired())
        case (.replacing(let since, true), .failed(let failure)):
            state = .replacing(since: since, isConnecting: false)
            return .wait(failure.isTransient ? backoff.next() : backoff.longest())
        case (.replacing(let since, let isConnecting), .lost):
            state = isConnecting ? .connecting : .waiting
            if now - since >= limits.stableAfter { backoff.reset() }
            return .none
        case (.connected, .stop):
            state = .stopping
            return .retire(closingOldest: countRetired(), next: .nothing)
        case (.replacing(_, let isConnecting), .stop):
            state = .stopping
            return .retire(closingOldest: countRetired(), next: isConnecting ? .cancelConnect : .cancelWait)
        case (.connecting, .stop):
            stopWithoutSession()
            return .cancelConnect
        case (.waiting, .stop):
            stopWithoutSession()
            return .cancelWait
        case (.idle, .stop):
            state = .finished
            return .none
        case (.stopping, .retiredEnded):
            retiredCount -= 1
            if retiredCount == 0 { state = .finished }
            return .none
        case (.idle, .retiredEnded), (.connecting, .retiredEnded), (.connected, .retiredEnded), (.replacing, .retiredEnded),
            (.waiting, .retiredEnded):
            precondition(retiredCount > 0, "a session that was never retired ended as a retired one")
            retiredCount -= 1
            return .none
        case (.finished, _):
            return .none
        case (_, .abandon):
            state = .finished
            retiredCount = 0
            return .closeAll
        case (.idle, _), (.connecting, _), (.connected, _), (.replacing, _), (.waiting, _), (.stopping, _):
            return .none
        }
    }

    /// A server that drains deserves a new session at once: another node or worker takes it, and the one before is served until
    /// then. One that sends sessions away as soon as they are there is approached with growing waits.
    private mutating func replace(since: Instant, now: Instant) -> Action {
        let lived = now - since
        guard lived >= limits.obeysAfter else {
            state = .replacing(since: since, isConnecting: false)
            return .wait(backoff.next())
        }
        if lived >= limits.stableAfter { backoff.reset() }
        state = .replacing(since: since, isConnecting: true)
        return .connect
    }

    /// One more session is retired; whether the oldest must go.
    private mutating func countRetired() -> Bool {
        retiredCount += 1
        return retiredCount > limits.retiredSessionsMax
    }

    private mutating func stopWithoutSession() {
        state = retiredCount == 0 ? .finished : .stopping
    }
}
