// How many data connections an agent keeps: tables of events with what follows.
import Base
import Testing
import Wire

@testable import Agent

@Suite struct DataPoolMachineTests {
    /// A machine whose openings succeed at once.
    private struct Pool {
        var machine: DataPoolMachine
        var now = Instant(nanoseconds: 1_000_000_000_000)
        var opened = 0

        init(connections: Int = 64, idle: Int = 16, limits: DataPoolMachine.Limits = .init()) {
            machine = DataPoolMachine(limits: limits, seed: 1)
            _ = machine.handle(.granted(DirectPoolLimits(connectionsMax: connections, idleMax: idle)), now: now)
        }

        @discardableResult
        mutating func handle(_ event: DataPoolMachine.Event, succeeds: Bool = true) -> Int {
            let count = machine.handle(event, now: now)
            opened += count
            for _ in 0..<count {
                let more = machine.handle(succeeds ? .opened : .openFailed, now: now)
                #expect(more == 0, "an opening does not lead to another")
            }
            return count
        }

        /// A stream that uses up a connection: a waiting one, or none is there and it goes through the session.
        mutating func rawStream() {
            if machine.idle > 0 {
                handle(.taken)
                handle(.consumed)
            } else {
                handle(.missed)
                handle(.consumed)
            }
        }

        mutating func pass(_ duration: Duration) {
            let end = now + duration
            while machine.nextDeadline <= end {
                now = max(now, machine.nextDeadline)
                handle(.tick)
            }
            now = end
        }
    }

    @Test func opensNoneBeforeItIsUsed() {
        var pool = Pool()
        pool.pass(.seconds(1_000))
        #expect(pool.machine.isEmpty && pool.opened == 0)
        #expect(pool.machine.nextDeadline == .never)
    }

    @Test func opensNoneWithoutAGrant() {
        var machine = DataPoolMachine(seed: 1)
        let now = Instant(nanoseconds: 0)
        #expect(machine.handle(.missed, now: now) == 0)
        #expect(machine.handle(.granted(nil), now: now) == 0)
        #expect(machine.handle(.missed, now: now) == 0)
        #expect(machine.handle(.granted(DirectPoolLimits(connectionsMax: 4, idleMax: 2)), now: now) == 1, "there was demand")
    }

    /// HTTP: as many as are in use at once, and one that waits.
    @Test func exchangesComeBack() {
        var pool = Pool()
        for _ in 0..<8 { pool.handle(.missed) }
        #expect(pool.machine.idle == 8)
        for _ in 0..<100 {
            for _ in 0..<8 { pool.handle(.taken) }
            for _ in 0..<8 { pool.handle(.released) }
        }
        #expect(pool.machine.idle == 9 && pool.opened == 9)
    }

    /// Raw streams: the next burst finds as many as the last one used up in a second.
    @Test func burstsFindWhatTheyNeed() {
        var pool = Pool(connections: 1_000, idle: 64)
        for _ in 0..<20 { pool.rawStream() }
        #expect(pool.machine.wanted == 20)
        #expect(pool.machine.idle == 20)
        pool.pass(.seconds(30))
        let busy = pool.machine.busy
        for _ in 0..<20 { pool.rawStream() }
        #expect(pool.machine.busy == busy + 20, "all over data connections")
        // One a second from now on: after two minutes no more wait than that takes.
        for _ in 0..<130 {
            pool.pass(.seconds(1))
            pool.rawStream()
        }
        #expect(pool.machine.wanted == 1)
    }

    @Test func nobodyCallsAnyMore() {
        var pool = Pool()
        for _ in 0..<5 { pool.rawStream() }
        pool.pass(.seconds(50))
        #expect(pool.machine.wanted == 5)
        pool.rawStream()
        pool.pass(.seconds(59))
        #expect(pool.machine.wanted > 0, "there was a call within a minute")
        pool.pass(.seconds(61))
        #expect(pool.machine.wanted == 0)
        // The server closes what waits; none is opened in its place.
        let opened = pool.opened
        while pool.machine.idle > 0 { pool.handle(.closed(wasIdle: true)) }
        #expect(pool.opened == opened)
        #expect(pool.machine.nextDeadline == .never)
    }

    @Test func anIdleOneThatEndsIsReplacedWhileThereIsDemand() {
        var pool = Pool()
        pool.handle(.missed)
        #expect(pool.handle(.closed(wasIdle: true)) == 1)
        #expect(pool.machine.idle == 1)
    }

    @Test func limitsHold() {
        var pool = Pool(connections: 6, idle: 4)
        for _ in 0..<50 { pool.rawStream() }
        #expect(pool.machine.idle + pool.machine.busy <= 6 && pool.machine.idle <= 4)
        var few = DataPoolMachine.Limits()
        few.openingMax = 3
        var machine = DataPoolMachine(limits: few, seed: 1)
        let now = Instant(nanoseconds: 0)
        _ = machine.handle(.granted(DirectPoolLimits(connectionsMax: 100, idleMax: 100)), now: now)
        var opening = 0
        for _ in 0..<10 { opening += machine.handle(.missed, now: now) }
        #expect(opening == 3 && machine.opening == 3)
    }

    @Test func failuresWaitLongerAndLonger() {
        var pool = Pool()
        var waits: [Duration] = []
        for _ in 0..<7 {
            #expect(pool.handle(.missed, succeeds: false) == 1)
            #expect(pool.handle(.missed) == 0, "blocked")
            let began = pool.now
            // The end of the wait is a deadline of its own; one that should wait is opened then.
            let deadline = pool.machine.nextDeadline
            waits.append(deadline - began)
            pool.now = deadline
            #expect(pool.handle(.tick, succeeds: false) == 1)
            pool.now = pool.now + .seconds(60)
            _ = pool.machine.handle(.tick, now: pool.now)
            if pool.machine.opening > 0 { _ = pool.machine.handle(.openFailed, now: pool.now) }
            pool.now = pool.now + .seconds(60)
        }
        #expect(waits[0] >= .seconds(1) && waits[0] < .milliseconds(1_200))
        #expect(waits.allSatisfy { $0 <= .seconds(33) })
        #expect(waits.last! > .seconds(20))
    }

    /// A node that restarts refuses many at once.
    @Test func failuresAtTheSameTimeAreOne() {
        var pool = Pool()
        for _ in 0..<8 { #expect(pool.machine.handle(.missed, now: pool.now) == 1) }
        for _ in 0..<8 { #expect(pool.machine.handle(.openFailed, now: pool.now) == 0) }
        #expect(pool.machine.nextDeadline - pool.now < .milliseconds(1_200))
        pool.now = pool.machine.nextDeadline
        #expect(pool.handle(.tick) == 1)
        #expect(pool.machine.idle == 1)
    }

    /// Its credential is refused once the next session is there.
    @Test func whatAnEarlierSessionAskedForBlocksNothing() {
        var pool = Pool()
        for _ in 0..<8 { #expect(pool.machine.handle(.missed, now: pool.now) == 1) }
        for _ in 0..<8 { _ = pool.machine.handle(.openOutdated, now: pool.now) }
        #expect(pool.machine.handle(.missed, now: pool.now) == 1, "at once, where a failure of this one waits")
    }

    @Test func aNewSessionFindsNothingInItsWay() {
        var pool = Pool()
        pool.handle(.missed, succeeds: false)
        for _ in 0..<5 {
            pool.now = pool.machine.nextDeadline
            #expect(pool.handle(.tick, succeeds: false) == 1)
        }
        #expect(pool.machine.nextDeadline - pool.now > .seconds(10))
        #expect(pool.handle(.granted(DirectPoolLimits(connectionsMax: 64, idleMax: 16)), succeeds: false) == 1, "at once")
        #expect(pool.machine.nextDeadline - pool.now < .milliseconds(1_200), "and what fails then is the first failure")
    }

    @Test func nothingAfterStop() {
        var pool = Pool()
        pool.handle(.missed)
        pool.handle(.stop)
        #expect(pool.handle(.missed) == 0)
        #expect(pool.handle(.closed(wasIdle: true)) == 0)
        #expect(pool.machine.isEmpty && pool.machine.nextDeadline == .never)
    }
}
