// The life of one listener: the tunnel that offers one endpoint to the server. Pure: events and the time go in, one action
// comes out, and `Listener` (the shell) performs it on sockets.
//
// The rule above all: a listener that has not been told to stop always comes back. A server that restarts, a token that
// expired, a load balancer that answers 404 for a minute: whatever the reason, the next attempt follows. A refusal that
// looks like a mistake in the configuration (401, 404 …) is tried again as well, but with the longest wait at once, so
// that a wrong token costs the server four requests a minute.
//
// Make before break: when the server says go-away, the session is retired (it finishes its streams) and a new one is
// opened beside it. At most `retiredSessionsMax` retired sessions live; beyond that the oldest is closed.
//
// The waits start over only after a session that lasted `stableAfter`: a server that accepts and drops at once is not
// hammered. But no wait is longer than the session before it was: workers of the server that end one after the other, each
// with what it had, don't keep an agent away for long.

internal import Base

/// The decisions of one listener.
///
///     idle ──start──► connecting ──opened──► connected
///                      ▲      │                  │ lost → waiting
///                      │      │ failed           │ peerWentAway → retire, then connecting (or waiting)
///                 timerFired  ▼                  │
///                      └── waiting ◄─────────────┘
///
///     any of these ──stop──► stopping (retired sessions finish) ──last one ended──► finished
///     any          ──abandon──► finished
struct ListenerMachine {
    struct Limits: Equatable {
        var backoff = Backoff.Limits()
        /// A session that lived this long proves that the server is well: the waits start over.
        var stableAfter: Duration = .seconds(10)
        /// After a session that lived this long the wait is no longer than its life.
        var boundsAfter: Duration = .milliseconds(100)
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
    enum AfterRetirement: Equatable { case nothing, connect, wait(Duration) }

    enum Action: Equatable {
        case none
        case connect
        /// Send `timerFired` after this time.
        case wait(Duration)
        /// Say go-away on the current session, let its streams finish and close it; then what `next` says.
        case retire(closingOldest: Bool, next: AfterRetirement)
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
        if case .connected = state { true } else { false }
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
            return .wait(lived >= limits.boundsAfter ? backoff.next(atMost: lived) : backoff.next())
        case (.connected(let since), .peerWentAway):
            return retire(next: nextAfterGoAway(since: since, now: now))
        case (.connected, .stop):
            state = .stopping
            return retire(next: .nothing)
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
        case (.idle, .retiredEnded), (.connecting, .retiredEnded), (.connected, .retiredEnded), (.waiting, .retiredEnded):
            precondition(retiredCount > 0, "a session that was never retired ended as a retired one")
            retiredCount -= 1
            return .none
        case (.finished, _):
            return .none
        case (_, .abandon):
            state = .finished
            retiredCount = 0
            return .closeAll
        case (.idle, _), (.connecting, _), (.connected, _), (.waiting, _), (.stopping, _):
            return .none
        }
    }

    /// A server that drains after a stable time deserves a new session at once: another node or worker takes it. One
    /// that sends every session away again is approached with growing waits.
    private mutating func nextAfterGoAway(since: Instant, now: Instant) -> AfterRetirement {
        guard now - since >= limits.stableAfter else {
            state = .waiting
            return .wait(backoff.next())
        }
        backoff.reset()
        state = .connecting
        return .connect
    }

    private mutating func retire(next: AfterRetirement) -> Action {
        let closingOldest = retiredCount == limits.retiredSessionsMax
        retiredCount += 1
        return .retire(closingOldest: closingOldest, next: next)
    }

    private mutating func stopWithoutSession() {
        state = retiredCount == 0 ? .finished : .stopping
    }
}
