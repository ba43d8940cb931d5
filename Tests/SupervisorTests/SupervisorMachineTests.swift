// The life of a node as rows of events and actions, and its invariants under events in any order.

import Base
import TestKit
import Testing

@testable import Supervisor

/// A machine with a clock that the test moves.
private struct Driver {
    var machine: SupervisorMachine
    var now = Instant(nanoseconds: 1_000_000_000)

    init(workers: Int, policy: SupervisorPolicy = SupervisorPolicy()) {
        machine = SupervisorMachine(workers: workers, policy: policy)
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
        #expect(driver.send(.begin) == [.start(worker: 1, generation: 1, place: 0), .start(worker: 2, generation: 1, place: 1)])
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
        #expect(driver.send(.workerEnded(1), after: .seconds(60)) == [.start(worker: 3, generation: 1, place: 0)])
        #expect(driver.send(.workerReady(3)) == [])
        #expect(driver.send(.workerEnded(3), after: .seconds(60)) == [.start(worker: 4, generation: 1, place: 0)])
    }

    @Test func pausesBeforeWorkersThatEndSoon() {
        var driver = Driver.serving(workers: 2)
        var pauses: [Duration] = []
        var worker: UInt32 = 1
        for next in UInt32(3)...12 {
            if driver.send(.workerEnded(worker)).isEmpty {
                let (pause, actions) = driver.tick()
                pauses.append(pause)
                #expect(actions == [.start(worker: next, generation: 1, place: 0)])
            }
            worker = next
            _ = driver.send(.workerReady(worker))
        }
        #expect(pauses == [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000, 5_000].map { .milliseconds($0) })
        // A sound life ends the pauses.
        #expect(driver.send(.workerEnded(worker), after: .seconds(10)) == [.start(worker: 13, generation: 1, place: 0)])
    }

    @Test func givesUpWhenNoWorkerComesUp() {
        var driver = Driver(workers: 2)
        _ = driver.send(.begin)
        _ = driver.send(.workerReady(2))
        var worker: UInt32 = 1
        for next in UInt32(3)...6 {
            #expect(driver.send(.workerEnded(worker)) == [])
            let (_, actions) = driver.tick()
            #expect(actions == [.start(worker: next, generation: 1, place: 0)])
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
            guard case .start(let next, 1, 0) = actions.first else {
                Issue.record("not started again: \(actions)")
                return
            }
            worker = next
        }
        // The last one that served is gone, too, and comes up; the other place goes on as before.
        #expect(driver.send(.workerEnded(2), after: .seconds(60)) == [.start(worker: worker + 1, generation: 1, place: 1)])
        // While nobody serves, too: what is short, descriptors or processes, will be there again.
        #expect(driver.send(.workerEnded(worker)) == [])
        #expect(driver.tick().1 == [.start(worker: worker + 2, generation: 1, place: 0)])
    }

    @Test func killsAWorkerThatIsNeverReady() {
        var driver = Driver(workers: 1)
        _ = driver.send(.begin)
        let (passed, actions) = driver.tick()
        #expect(passed == .seconds(30) && actions == [.kill(1)])
        #expect(driver.machine.nextDeadline == .never)
        #expect(driver.send(.workerEnded(1)) == [])
        #expect(driver.tick().1 == [.start(worker: 2, generation: 1, place: 0)])
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

    // MARK: Reload

    /// A node whose second generation serves, and the first one retires.
    private func reloaded(policy: SupervisorPolicy = SupervisorPolicy()) -> Driver {
        var driver = Driver.serving(workers: 2)
        _ = driver.send(.reload(workers: 1, policy))
        _ = driver.send(.workerReady(3))
        return driver
    }

    @Test func goesOverToTheNextGenerationWhenAllOfItIsReady() {
        var driver = Driver.serving(workers: 2)
        // One at a time, so that those that serve keep a processor.
        #expect(driver.send(.reload(workers: 2, SupervisorPolicy())) == [.start(worker: 3, generation: 2, place: 0)])
        #expect(!driver.machine.mayReload && driver.machine.currentGeneration == 1 && driver.machine.comingGeneration == 2)
        // Another one meanwhile is nothing.
        #expect(driver.send(.reload(workers: 2, SupervisorPolicy())) == [])
        #expect(driver.send(.workerReady(3)) == [.start(worker: 4, generation: 2, place: 1)])
        #expect(
            driver.send(.workerReady(4)) == [
                .switchOver(generation: 2), .retire(1, within: .zero), .retire(2, within: .zero),
            ])
        #expect(driver.machine.currentGeneration == 2 && driver.machine.mayReload)
        #expect(driver.machine.nextDeadline == .never)
        // Empty: parted from its siblings first, then ended.
        #expect(driver.send(.workerDrained(1)) == [.part(1)])
        #expect(driver.machine.isParting(1))
        #expect(driver.send(.workerDrained(1)) == [.shutdown(1)])
        #expect(driver.send(.workerEnded(1)) == [])
        _ = driver.send(.workerDrained(2))
        _ = driver.send(.workerDrained(2))
        #expect(driver.send(.workerEnded(2)) == [.generationEnded(1)])
        #expect(driver.machine.livingGenerations == [2])
    }

    @Test func nothingChangesWhenTheNextGenerationFails() {
        var driver = Driver.serving(workers: 2)
        _ = driver.send(.reload(workers: 2, SupervisorPolicy()))
        _ = driver.send(.workerReady(3))
        #expect(driver.send(.workerEnded(4)) == [.shutdown(3), .reloadFailed(.workerEnded(4))])
        #expect(driver.machine.mayReload && driver.machine.currentGeneration == 1)
        #expect(driver.send(.workerEnded(3)) == [.generationEnded(2)])
        // The next try has a number of its own.
        #expect(driver.send(.reload(workers: 1, SupervisorPolicy())) == [.start(worker: 5, generation: 3, place: 0)])
        let (passed, actions) = driver.tick()
        #expect(passed == .seconds(30) && actions == [.shutdown(5), .reloadFailed(.workerTooSlow(5)), .kill(5)])
        // The workers that serve are replaced as ever.
        #expect(driver.send(.workerEnded(1), after: .seconds(60)) == [.start(worker: 6, generation: 1, place: 0)])
    }

    @Test func aWorkerThatEndsWhileItRetiresIsNotReplaced() {
        var driver = reloaded()
        #expect(driver.send(.workerEnded(1)) == [])
        #expect(driver.send(.workerEnded(2)) == [.generationEnded(1)])
        #expect(driver.send(.workerEnded(3), after: .seconds(60)) == [.start(worker: 4, generation: 2, place: 0)])
    }

    @Test func cutsWhatRetiresForTooLong() {
        var policy = SupervisorPolicy()
        policy.drainTimeout = .seconds(90)
        var driver = reloaded(policy: policy)
        let (passed, actions) = driver.tick()
        #expect(passed == .seconds(90))
        #expect(actions == [.drain(1, within: .seconds(10)), .drain(2, within: .seconds(10))])
        #expect(driver.send(.workerDrained(1)) == [.shutdown(1)])
        let (more, ended) = driver.tick()
        #expect(more == .seconds(2) && ended == [.kill(1)])
        #expect(driver.tick().1 == [.shutdown(2)])
    }

    @Test func cutsTheOldestOfTooManyGenerations() {
        var policy = SupervisorPolicy()
        policy.generationsMax = 3
        var driver = Driver(workers: 1, policy: policy)
        _ = driver.send(.begin)
        _ = driver.send(.workerReady(1))
        for worker in UInt32(2)...3 {
            _ = driver.send(.reload(workers: 1, policy))
            #expect(driver.send(.workerReady(worker)).contains(.retire(worker - 1, within: .zero)))
        }
        _ = driver.send(.reload(workers: 1, policy))
        #expect(
            driver.send(.workerReady(4)) == [
                .switchOver(generation: 4), .retire(3, within: .zero), .drain(1, within: .seconds(10)),
            ])
    }

    @Test func drainsAllGenerationsAtTheEnd() {
        var driver = reloaded()
        _ = driver.send(.workerDrained(1))
        #expect(
            driver.send(.terminate) == [
                .announceReady(false), .stopAccepting, .drain(1, within: .seconds(60)), .drain(2, within: .seconds(60)),
                .drain(3, within: .seconds(60)),
            ])
        _ = driver.send(.workerDrained(1))
        _ = driver.send(.workerDrained(3))
        #expect(driver.send(.workerDrained(2)) == [.shutdown(1), .shutdown(2), .shutdown(3)])
    }

    @Test func waitsBeforeItDrainsWhenToldSo() {
        var policy = SupervisorPolicy()
        policy.shutdownDelay = .seconds(15)
        var driver = Driver(workers: 1, policy: policy)
        _ = driver.send(.begin)
        _ = driver.send(.workerReady(1))
        #expect(driver.send(.terminate) == [.announceReady(false)])
        let (passed, actions) = driver.tick()
        #expect(passed == .seconds(15) && actions == [.stopAccepting, .drain(1, within: .seconds(60))])
    }

    @Test func otherNodesHearBeforeItDrains() {
        var driver = Driver.serving(workers: 1)
        driver.machine.announceTime = .seconds(1)
        #expect(driver.send(.terminate) == [.announceReady(false)])
        let (passed, actions) = driver.tick()
        #expect(passed == .seconds(1) && actions == [.stopAccepting, .drain(1, within: .seconds(60))])
    }

    @Test func abandonsAReloadWhenItIsToldToEnd() {
        var driver = Driver.serving(workers: 1)
        _ = driver.send(.reload(workers: 1, SupervisorPolicy()))
        #expect(
            driver.send(.terminate) == [
                .shutdown(2), .reloadFailed(.abandoned), .announceReady(false), .stopAccepting, .drain(1, within: .seconds(60)),
            ])
    }

    @Test func goesOnWithTheWorkersThatItTakesOver() {
        let now = Instant(nanoseconds: 1_000_000_000)
        var machine = SupervisorMachine(
            adopting: [.init(worker: 4, generation: 2, place: 0), .init(worker: 7, generation: 3, place: 1)], current: 3,
            nextGeneration: 5, nextWorker: 9, workers: 2, policy: SupervisorPolicy(), now: now)
        #expect(machine.isServing && machine.mayReload && machine.livingGenerations == [2, 3])
        #expect(machine.handle(.begin, now: now) == [.start(worker: 9, generation: 3, place: 0)])
        #expect(machine.handle(.workerDrained(4), now: now) == [.part(4)])
        #expect(machine.handle(.reload(workers: 1, SupervisorPolicy()), now: now) == [.start(worker: 10, generation: 5, place: 0)])
        // One that was parted before says drained once more, and ends; one that was cut keeps a limit.
        var later = SupervisorMachine(
            adopting: [
                .init(worker: 1, generation: 1, place: 0, isParting: true), .init(worker: 2, generation: 1, place: 1, isCut: true),
                .init(worker: 3, generation: 2, place: 0),
            ], current: 2, nextGeneration: 3, nextWorker: 4, workers: 1, policy: SupervisorPolicy(), now: now)
        #expect(later.isParting(1) && later.nextDeadline == now + .seconds(10))
        #expect(later.handle(.workerDrained(1), now: now) == [.shutdown(1)])
    }

    /// Whatever comes in whatever order: no trap, one worker a place, numbers never used again, nothing after the exit, always
    /// one current generation.
    @Test func keepsItsInvariants() {
        struct Spot: Hashable { var generation: UInt32; var place: Int }
        for seed in UInt64(1)...300 {
            var random = SeededGenerator(seed: seed)
            var policy = SupervisorPolicy()
            policy.gracePeriod = .seconds(5)
            policy.generationsMax = 3
            policy.drainTimeout = seed % 2 == 0 ? .seconds(20) : .zero
            var driver = Driver(workers: 3, policy: policy)
            var living: [Spot: UInt32] = [:]
            var seen: Set<UInt32> = []
            var exits = 0
            var event = SupervisorEvent.begin
            for step in 0..<500 {
                for action in driver.send(event, after: .milliseconds(Int64(random.next() % 3_000))) {
                    #expect(exits == 0, "seed \(seed): an action after the exit")
                    switch action {
                    case .start(let worker, let generation, let place):
                        let spot = Spot(generation: generation, place: place)
                        #expect(living[spot] == nil && seen.insert(worker).inserted, "seed \(seed) step \(step)")
                        living[spot] = worker
                    case .kill(let worker), .shutdown(let worker), .drain(let worker, _), .retire(let worker, _), .part(let worker):
                        #expect(living.values.contains(worker), "seed \(seed) step \(step)")
                    case .switchOver(let generation):
                        #expect(driver.machine.currentGeneration == generation)
                    case .generationEnded(let generation):
                        #expect(!living.keys.contains { $0.generation == generation }, "seed \(seed) step \(step)")
                    case .exit: exits += 1
                    case .serve, .announceReady, .stopAccepting, .giveUp, .reloadFailed: break
                    }
                }
                #expect(driver.machine.livingGenerations.contains(driver.machine.currentGeneration) || exits > 0)
                let worker = living.values.sorted().randomElement(using: &random) ?? 99
                switch random.next() % 40 {
                case 0..<12: event = .workerReady(worker)
                case 12..<15:
                    event = .workerEnded(worker)
                    living = living.filter { $0.value != worker }
                case 15..<22: event = .workerDrained(worker)
                case 22: event = step > 200 ? .terminate : .tick
                case 23..<27: event = .reload(workers: 1 + Int(random.next() % 3), policy)
                default: event = .tick
                }
            }
        }
    }
}
