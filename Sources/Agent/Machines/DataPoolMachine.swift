// How many data connections a listener keeps ready: none while nobody calls, more the faster they are used up. Pure; `DataPool`
// performs it on sockets.
//
// Connections that carry HTTP exchanges come back, so their number follows how many are in use at once: one more is opened
// whenever a request had to go through the session, and one waits. Those that carry a raw stream or an upgrade are used up.
// So that the next burst finds as many as the last, there wait as many as were used up in the busiest second of the last
// minute or two.

internal import Base
internal import Wire

/// The decisions of one listener's pool.
struct DataPoolMachine {
    struct Limits: Equatable {
        /// Connections being opened at a time.
        var openingMax = 64
        /// Without demand for so long, none is kept; the busiest second is forgotten after one to two times as long.
        var demandLife: Duration = .seconds(60)
        /// Waits after a refused or failed connection.
        var backoff = Backoff.Limits(firstWait: .seconds(1), waitMax: .seconds(30))
    }

    enum Event: Equatable {
        /// A session began, whose server takes data connections within these limits, or (nil) takes none.
        case granted(DirectPoolLimits?)
        /// A stream or an exchange came through the session.
        case missed
        /// A stream is raw or was upgraded: its connection, or the one that it should have had, does not come back.
        case consumed
        /// A connection that waited, or served before, got a stream or a request.
        case taken
        /// It waits again.
        case released
        case opened
        case openFailed
        /// An attempt of an earlier session failed: that says nothing of this one.
        case openOutdated
        /// A connection ended; whether it waited.
        case closed(wasIdle: Bool)
        case tick
        /// The listener takes no new streams.
        case stop
    }

    private let limits: Limits
    private var server: DirectPoolLimits?
    private var backoff: Backoff
    /// Connections that wait, are in use, are being opened.
    private(set) var idle = 0
    private(set) var busy = 0
    private(set) var opening = 0
    private var lastDemand: Instant?
    /// Streams that used a connection up in the second that began at `second`, and the most of any second in this period and
    /// in the one before.
    private var consumedInSecond = 0
    private var second = Instant(nanoseconds: 0)
    private var peak = 0
    private var peakBefore = 0
    private var periodEnd = Instant.never
    /// No attempt before this, after one failed.
    private var blockedUntil: Instant?
    private var isStopped = false

    init(limits: Limits = Limits(), seed: UInt64) {
        self.limits = limits
        backoff = Backoff(limits: limits.backoff, seed: seed)
    }

    /// Whether nothing is open or being opened.
    var isEmpty: Bool { idle + busy + opening == 0 }

    /// How many should wait.
    var wanted: Int { lastDemand == nil ? 0 : max(1, peak, peakBefore) }

    /// When `tick` is due.
    var nextDeadline: Instant {
        guard !isStopped, lastDemand != nil else { return .never }
        return min(periodEnd, blockedUntil ?? .never)
    }

    /// Takes an event and returns how many connections to open now.
    mutating func handle(_ event: Event, now: Instant) -> Int {
        var least = 0
        switch event {
        case .granted(let server):
            // A session just came about: what stood in the way is gone.
            self.server = server
            backoff.reset()
            blockedUntil = nil
        case .missed:
            noteDemand(now)
            // What waits may wait at another worker.
            least = 1
        case .consumed:
            noteDemand(now)
            if now - second >= .seconds(1) {
                second = now
                consumedInSecond = 0
            }
            consumedInSecond += 1
            peak = max(peak, consumedInSecond)
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
        case .openOutdated: opening -= 1
        case .openFailed:
            opening -= 1
            // Several that fail together are one failure.
            if blockedUntil == nil { blockedUntil = now + backoff.next() }
        case .closed(let wasIdle):
            if wasIdle { idle -= 1 } else { busy -= 1 }
        case .tick: tick(now)
        case .stop: isStopped = true
        }
        return open(atLeast: least, now)
    }

    private mutating func noteDemand(_ now: Instant) {
        if lastDemand == nil { periodEnd = now + limits.demandLife }
        lastDemand = now
    }

    private mutating func tick(_ now: Instant) {
        if let until = blockedUntil, until <= now { blockedUntil = nil }
        guard now >= periodEnd else { return }
        periodEnd = now + limits.demandLife
        peakBefore = peak
        peak = 0
        if let last = lastDemand, now - last >= limits.demandLife {
            lastDemand = nil
            peakBefore = 0
        }
    }

    private mutating func open(atLeast least: Int, _ now: Instant) -> Int {
        guard !isStopped, let server, lastDemand != nil else { return 0 }
        if let until = blockedUntil, now < until { return 0 }
        let missing = max(min(wanted, server.idleMax) - idle - opening, least)
        let room = min(
            limits.openingMax - opening, server.connectionsMax - idle - busy - opening, server.idleMax - idle - opening)
        let count = max(0, min(missing, room))
        opening += count
        return count
    }
}
