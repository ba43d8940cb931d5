// The life of a node as rows of events and actions, and its invariants under events in any order.

import Base
import TestKit
import Testing

@testable import Supervisor

/// A machine with a clock that the test moves.
private struct Driver {
    var machine: SupervisorMachine
    var now = Instant(nanoseconds: 1_000_000_000)

    init(workers: Int, grace: Duration = .seconds(60)) {
        machine = SupervisorMachine(workers: workers, gracePeriod: grace)
    }

    mutating func send(_ event: SupervisorEvent, after duration: Duration = .zero) -> [SupervisorAction] {
        now = now + duration
        return machine.handle(event, now: now)
    }

    /// Moves to the next deadline and ticks; also says how long that took.
    mutating func tick() -> (Duration, [SupervisorAction]) {
        let deadline = machine.nextDeadline
        let passed = deadline - now
        now = max(now, deadline)
        return (passed, machine.handle(.tick, now: now))
    }

    /// A node that serves.
    static func serving(workers: Int) -> Driver {
        var driver = Driver(workers: workers)
        _ = driver.send(.begin)
        for worker in 1...workers { _ = driver.send(.workerReady(UInt32(worker))) }
        return driver
    }
}

@Suite struct SupervisorMachineTests {
    @Test func servesWhenAllWorkersAreReady() {
        var driver = Driver(workers: 2)
        #expect(driver.send(.begin) == [.start(worker: 1, place: 0), .start(worker: 2, place: 1)])
        #expect(driver.send(.workerReady(2)) == [])
        #expect(!driver.machine.isServing)
        #expect(driver.send(.workerReady(1)) == [.serve, .announceReady(true)])
        #expect(driver.machine.isServing)
        #expect(driver.machine.nextDeadline == .never)
        // Said again, or by one that does not exist: nothing.
        #expect(driver.send(.workerReady(1)) == [])
        #expect(driver.send(.workerReady(9)) == [])
        #expect(driver.send(.workerDrained(1)) == [])
    }

    @Test func replacesASoundWorkerAtOnce() {
        var driver = Driver.serving(workers: 2)
        #expect(driver.send(.workerEnded(1), after: .seconds(60)) == [.start(worker: 3, place: 0)])
        #expect(driver.send(.workerReady(3)) == [])
        #expect(driver.send(.workerEnded(3), after: .seconds(60)) == [.start(worker: 4, place: 0)])
    }

    @Test func pausesBeforeWorkersThatEndSoon() {
        var driver = Driver.serving(workers: 2)
        var pauses: [Duration] = []
        var worker: UInt32 = 1
        for next in UInt32(3)...12 {
            if driver.send(.workerEnded(worker)).isEmpty {
                let (pause, actions) = driver.tick()
                pauses.append(pause)
                #expect(actions == [.start(worker: next, place: 0)])
            }
            worker = next
            _ = driver.send(.workerReady(worker))
        }
        #expect(pauses == [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000, 5_000].map { .milliseconds($0) })
        // A sound life ends the pauses.
        #expect(driver.send(.workerEnded(worker), after: .seconds(10)) == [.start(worker: 13, place: 0)])
    }

    @Test func givesUpWhenNoWorkerComesUp() {
        var driver = Driver(workers: 2)
        _ = driver.send(.begin)
        _ = driver.send(.workerReady(2))
        var worker: UInt32 = 1
        for next in UInt32(3)...6 {
            #expect(driver.send(.workerEnded(worker)) == [])
            let (_, actions) = driver.tick()
            #expect(actions == [.start(worker: next, place: 0)])
            worker = next
        }
        // The node never served, so the one that is READY does not help.
        #expect(driver.send(.workerEnded(worker)) == [.giveUp, .shutdown(2)])
        #expect(driver.send(.workerEnded(2)) == [.exit(1)])
        #expect(driver.machine.nextDeadline == .never)
    }

    @Test func keepsTryingOnceItHasServed() {
        var driver = Driver.serving(workers: 2)
        var worker: UInt32 = 1
        for _ in 0..<20 {
            var actions = driver.send(.workerEnded(worker))
            if actions.isEmpty { actions = driver.tick().1 }
            guard case .start(let next, 0) = actions.first else {
                Issue.record("not started again: \(actions)")
                return
            }
            worker = next
        }
        // The last one that served is gone, too, and comes up; the other place goes on as before.
        #expect(driver.send(.workerEnded(2), after: .seconds(60)) == [.start(worker: worker + 1, place: 1)])
        // While nobody serves, too: what is short, descriptors or processes, will be there again.
        #expect(driver.send(.workerEnded(worker)) == [])
        #expect(driver.tick().1 == [.start(worker: worker + 2, place: 0)])
    }

    @Test func killsAWorkerThatIsNeverReady() {
        var driver = Driver(workers: 1)
        _ = driver.send(.begin)
        let (passed, actions) = driver.tick()
        #expect(passed == .seconds(30) && actions == [.kill(1)])
        #expect(driver.machine.nextDeadline == .never)
        #expect(driver.send(.workerEnded(1)) == [])
        #expect(driver.tick().1 == [.start(worker: 2, place: 0)])
    }

    @Test func drainsAndExits() {
        var driver = Driver.serving(workers: 2)
        #expect(
            driver.send(.terminate) == [
                .announceReady(false), .stopAccepting, .drain(1, within: .seconds(60)), .drain(2, within: .seconds(60)),
            ])
        // The first to be done stays: it still answers on the admin port.
        #expect(driver.send(.workerDrained(1), after: .seconds(1)) == [])
        #expect(driver.send(.workerDrained(2), after: .seconds(1)) == [.shutdown(1), .shutdown(2)])
        #expect(driver.send(.workerEnded(1)) == [])
        #expect(driver.send(.workerEnded(2)) == [.exit(0)])
    }

    @Test func doesNotReplaceAWorkerThatEndsInTheDrain() {
        var driver = Driver.serving(workers: 3)
        _ = driver.send(.terminate)
        #expect(driver.send(.workerEnded(1)) == [])
        #expect(driver.send(.workerDrained(2)) == [])
        #expect(driver.send(.workerEnded(3)) == [.shutdown(2)])
        #expect(driver.send(.workerEnded(2)) == [.exit(0)])
    }

    @Test func endsTheDrainAfterTheGracePeriod() {
        var driver = Driver.serving(workers: 2)
        _ = driver.send(.terminate)
        _ = driver.send(.workerDrained(1))
        let (passed, actions) = driver.tick()
        #expect(passed == .seconds(60) && actions == [.shutdown(1), .shutdown(2)])
        _ = driver.send(.workerEnded(1))
        let (more, killed) = driver.tick()
        #expect(more == .seconds(2) && killed == [.kill(2)])
        #expect(driver.send(.workerEnded(2)) == [.exit(0)])
        #expect(driver.send(.terminate) == [])
    }

    @Test func endsAtOnceWhenAskedTwice() {
        var driver = Driver.serving(workers: 2)
        _ = driver.send(.terminate)
        _ = driver.send(.workerDrained(1))
        #expect(driver.send(.terminate) == [.kill(1), .kill(2), .exit(0)])
        #expect(driver.send(.workerEnded(1)) == [])
        #expect(driver.machine.nextDeadline == .never)
    }

    @Test func endsWhileItStarts() {
        var driver = Driver(workers: 2)
        _ = driver.send(.begin)
        _ = driver.send(.workerEnded(1))
        #expect(driver.send(.terminate) == [.shutdown(2)])
        #expect(driver.send(.workerReady(2)) == [])
        #expect(driver.send(.workerEnded(2)) == [.exit(0)])
    }

    @Test func endsWithoutAnyWorker() {
        var driver = Driver(workers: 1)
        _ = driver.send(.begin)
        _ = driver.send(.workerEnded(1))
        #expect(driver.send(.terminate) == [.exit(0)])
    }

    /// Whatever comes in whatever order: no trap, one worker a place, numbers never used again, nothing after the exit.
    @Test func keepsItsInvariants() {
        for seed in UInt64(1)...300 {
            var random = SeededGenerator(seed: seed)
            var driver = Driver(workers: 3, grace: .seconds(5))
            var living: [Int: UInt32] = [:]
            var seen: Set<UInt32> = []
            var exits = 0
            var event = SupervisorEvent.begin
            for step in 0..<400 {
                for action in driver.send(event, after: .milliseconds(Int64(random.next() % 3_000))) {
                    #expect(exits == 0, "seed \(seed): an action after the exit")
                    switch action {
                    case .start(let worker, let place):
                        #expect(living[place] == nil && seen.insert(worker).inserted, "seed \(seed) step \(step)")
                        living[place] = worker
                    case .kill(let worker), .shutdown(let worker), .drain(let worker, _):
                        #expect(living.values.contains(worker), "seed \(seed) step \(step)")
                    case .exit: exits += 1
                    case .serve, .announceReady, .stopAccepting, .giveUp: break
                    }
                }
                let worker = living.values.sorted().randomElement(using: &random) ?? 99
                switch random.next() % 40 {
                case 0..<12: event = .workerReady(worker)
                case 12..<16:
                    event = .workerEnded(worker)
                    living = living.filter { $0.value != worker }
                case 16..<22: event = .workerDrained(worker)
                case 22: event = step > 100 ? .terminate : .tick
                default: event = .tick
                }
            }
        }
    }
}
