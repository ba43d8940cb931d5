// How many data connections a listener keeps ready: none while nobody calls, more the faster they are used up. Pure; `DataPool`
// performs it on sockets.
//
// An HTTP listener's connections come back after each exchange, so their number follows how many are in use at once: one
// more is opened whenever a stream had to go through the session, and one waits. A TCP listener's connections carry one
// stream each and are used up, so there must wait as many as are taken while one is being opened: each stream that had to
// go through the session raises that number, and time lowers it.

internal import Base
internal import Wire

/// The decisions of one listener's pool.
struct DataPoolMachine {
    struct Limits: Equatable {
        /// Connections being opened at a time.
        var openingMax = 64
        /// Without demand for so long, none is kept.
        var demandLife: Duration = .seconds(60)
        /// How often the number that waits is lowered, while no stream goes through the session.
        var decayEvery: Duration = .seconds(10)
        /// Waits after a refused or failed connection.
        var backoff = Backoff.Limits(firstWait: .seconds(1), waitMax: .seconds(30))
    }

    enum Event: Equatable {
        /// A session began, whose server takes data connections within these limits, or (nil) takes none.
        case granted(DirectPoolLimits?)
        /// A stream came through the session.
        case missed
        /// A connection that waited, or served before, got a stream or a request.
        case taken
        /// It waits again.
        case released
        case opened
        case openFailed
        /// A connection ended; whether it waited.
        case closed(wasIdle: Bool)
        case tick
        /// The listener takes no new streams.
        case stop
    }

    private let limits: Limits
    private let isReusable: Bool
    private var server: DirectPoolLimits?
    private var backoff: Backoff
    /// Connections that wait, are in use, are being opened.
    private(set) var idle = 0
    private(set) var busy = 0
    private(set) var opening = 0
    /// How many should wait.
    private(set) var wanted = 0
    private var lastDemand = Instant(nanoseconds: 0)
    private var nextDecay = Instant.never
    private var missedSinceDecay = false
    /// No attempt before this, after one failed.
    private var blockedUntil: Instant?
    private var isStopped = false

    /// `isReusable`: connections come back after use (HTTP).
    init(isReusable: Bool, limits: Limits = Limits(), seed: UInt64) {
        self.isReusable = isReusable
        self.limits = limits
        backoff = Backoff(limits: limits.backoff, seed: seed)
    }

    /// Whether nothing is open or being opened.
    var isEmpty: Bool { idle + busy + opening == 0 }

    /// When `tick` is due.
    var nextDeadline: Instant {
        guard !isStopped, wanted > 0 else { return .never }
        return min(nextDecay, blockedUntil ?? .never)
    }

    /// Takes an event and returns how many connections to open now.
    mutating func handle(_ event: Event, now: Instant) -> Int {
        var least = 0
        switch event {
        case .granted(let server): self.server = server
        case .missed:
            noteDemand(now)
            missedSinceDecay = true
            if !isReusable { wanted += 1 }
            // What waits may wait at another worker.
            least = 1
        case .taken:
            idle -= 1
            busy += 1
            noteDemand(now)
        case .released:
            busy -= 1
            idle += 1
        case .opened:
            opening -= 1
            idle += 1
            backoff.reset()
            blockedUntil = nil
        case .openFailed:
            opening -= 1
            blockedUntil = now + backoff.next()
        case .closed(let wasIdle):
            if wasIdle { idle -= 1 } else { busy -= 1 }
        case .tick: tick(now)
        case .stop: isStopped = true
        }
        return open(atLeast: least, now)
    }

    private mutating func noteDemand(_ now: Instant) {
        lastDemand = now
        guard wanted == 0 else { return }
        wanted = 1
        missedSinceDecay = false
        nextDecay = now + limits.decayEvery
    }

    private mutating func tick(_ now: Instant) {
        if let until = blockedUntil, until <= now { blockedUntil = nil }
        guard now >= nextDecay else { return }
        nextDecay = now + limits.decayEvery
        if now - lastDemand >= limits.demandLife {
            wanted = 0
        } else if !missedSinceDecay {
            wanted = max(1, wanted * 3 / 4)
        }
        missedSinceDecay = false
    }

    private mutating func open(atLeast least: Int, _ now: Instant) -> Int {
        guard !isStopped, let server, wanted > 0 else { return 0 }
        if let until = blockedUntil, now < until { return 0 }
        wanted = min(wanted, server.idleMax)
        let missing = max(wanted - idle - opening, least)
        let room = min(
            limits.openingMax - opening, server.connectionsMax - idle - busy - opening, server.idleMax - idle - opening)
        let count = max(0, min(missing, room))
        opening += count
        return count
    }
}
