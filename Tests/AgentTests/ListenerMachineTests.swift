// The decisions of a listener, row by row, and under random events.
import Base
import TestKit
import Testing

@testable import Agent

/// No jitter, so that the waits are exact.
private let exactLimits: ListenerMachine.Limits = {
    var limits = ListenerMachine.Limits()
    limits.backoff.jitterPercentMax = 0
    limits.retiredSessionsMax = 2
    return limits
}()

@Suite struct ListenerMachineTests {
    typealias Event = ListenerMachine.Event
    typealias Action = ListenerMachine.Action

    /// One event of a row: when (milliseconds), what, and the action that must follow.
    struct Step: Sendable {
        var at: UInt64
        var event: Event
        var action: Action
        init(_ at: UInt64, _ event: Event, _ action: Action) {
            self.at = at
            self.event = event
            self.action = action
        }
    }

    struct Row: Sendable, CustomTestStringConvertible {
        var name: String
        var steps: [Step]
        var finished = false
        var retired = 0
        var testDescription: String { name }
    }

    static let rows: [Row] = [
        Row(
            name: "connects, is lost and comes back",
            steps: [
                Step(0, .start, .connect),
                Step(5, .opened, .none),
                Step(20_000, .lost, .wait(.milliseconds(100))),
                Step(20_100, .timerFired, .connect),
                Step(20_101, .opened, .none),
            ]),
        Row(
            name: "waits double while connections fail",
            steps: [
                Step(0, .start, .connect),
                Step(1, .failed(.unreachable), .wait(.milliseconds(100))),
                Step(101, .timerFired, .connect),
                Step(102, .failed(.refused(status: 503)), .wait(.milliseconds(200))),
                Step(302, .timerFired, .connect),
                Step(303, .failed(.refused(status: 429)), .wait(.milliseconds(400))),
            ]),
        Row(
            name: "a refusal that looks final is tried again with the longest wait",
            steps: [
                Step(0, .start, .connect),
                Step(1, .failed(.refused(status: 401)), .wait(.seconds(15))),
                Step(15_001, .timerFired, .connect),
                Step(15_002, .failed(.unreachable), .wait(.seconds(15))),
            ]),
        Row(
            name: "a token that expired does not end the listener",
            steps: [
                Step(0, .start, .connect),
                Step(1, .opened, .none),
                Step(60_000, .lost, .wait(.milliseconds(100))),
                Step(60_100, .timerFired, .connect),
                Step(60_101, .failed(.refused(status: 401)), .wait(.seconds(15))),
                Step(75_101, .timerFired, .connect),
                Step(75_102, .opened, .none),
                Step(85_102, .lost, .wait(.milliseconds(100))),
            ]),
        Row(
            name: "a session that dies young does not start the waits over",
            steps: [
                Step(0, .start, .connect),
                Step(1, .opened, .none),
                Step(2, .lost, .wait(.milliseconds(100))),
                Step(102, .timerFired, .connect),
                Step(103, .opened, .none),
                Step(10_102, .lost, .wait(.milliseconds(200))),
                Step(10_302, .timerFired, .connect),
                Step(10_303, .opened, .none),
                Step(20_303, .lost, .wait(.milliseconds(100))),
            ]),
        Row(
            name: "go-away: the new session before the old one ends",
            steps: [
                Step(0, .start, .connect),
                Step(1, .opened, .none),
                Step(30_000, .peerWentAway, .connect),
                Step(30_001, .opened, .retirePrevious(closingOldest: false)),
                Step(31_000, .retiredEnded, .none),
            ]),
        Row(
            name: "go-away: the session serves until there is another one",
            steps: [
                Step(0, .start, .connect),
                Step(1, .opened, .none),
                Step(30_000, .peerWentAway, .connect),
                Step(30_001, .failed(.refused(status: 503)), .wait(.milliseconds(100))),
                Step(30_002, .peerWentAway, .none),
                Step(30_101, .timerFired, .connect),
                Step(30_102, .opened, .retirePrevious(closingOldest: false)),
            ], retired: 1),
        Row(
            name: "go-away: the session is lost before there is another one",
            steps: [
                Step(0, .start, .connect),
                Step(1, .opened, .none),
                Step(30_000, .peerWentAway, .connect),
                Step(30_001, .lost, .none),
                Step(30_002, .opened, .none),
                Step(50_000, .peerWentAway, .connect),
                Step(50_001, .failed(.unreachable), .wait(.milliseconds(100))),
                Step(50_002, .lost, .none),
                Step(50_101, .timerFired, .connect),
            ]),
        Row(
            name: "stop while another session is made",
            steps: [
                Step(0, .start, .connect),
                Step(1, .opened, .none),
                Step(30_000, .peerWentAway, .connect),
                Step(30_001, .stop, .retire(closingOldest: false, next: .cancelConnect)),
                Step(30_002, .retiredEnded, .none),
            ], finished: true),
        Row(
            name: "nodes that are replaced one after the other are obeyed at once",
            steps: [
                Step(0, .start, .connect),
                Step(1, .opened, .none),
                Step(1_001, .peerWentAway, .connect),
                Step(1_002, .opened, .retirePrevious(closingOldest: false)),
                Step(2_002, .peerWentAway, .connect),
                Step(2_003, .opened, .retirePrevious(closingOldest: false)),
                Step(3_002, .peerWentAway, .wait(.milliseconds(100))),
            ], retired: 2),
        Row(
            name: "a server that sends every session away is not hammered",
            steps: [
                Step(0, .start, .connect),
                Step(1, .opened, .none),
                Step(2, .peerWentAway, .wait(.milliseconds(100))),
                Step(102, .timerFired, .connect),
                Step(103, .opened, .retirePrevious(closingOldest: false)),
                Step(104, .peerWentAway, .wait(.milliseconds(200))),
                Step(304, .timerFired, .connect),
                Step(305, .opened, .retirePrevious(closingOldest: false)),
                Step(306, .peerWentAway, .wait(.milliseconds(400))),
                Step(706, .timerFired, .connect),
                Step(707, .opened, .retirePrevious(closingOldest: true)),
                Step(708, .retiredEnded, .none),
            ], retired: 2),
        Row(
            name: "stop while connected finishes the streams",
            steps: [
                Step(0, .start, .connect),
                Step(1, .opened, .none),
                Step(2, .stop, .retire(closingOldest: false, next: .nothing)),
                Step(3, .timerFired, .none),
                Step(4, .retiredEnded, .none),
            ], finished: true),
        Row(
            name: "stop while connecting",
            steps: [
                Step(0, .start, .connect),
                Step(1, .stop, .cancelConnect),
                Step(2, .opened, .none),
            ], finished: true),
        Row(
            name: "stop while waiting",
            steps: [
                Step(0, .start, .connect),
                Step(1, .failed(.unreachable), .wait(.milliseconds(100))),
                Step(2, .stop, .cancelWait),
                Step(3, .timerFired, .none),
            ], finished: true),
        Row(name: "stop before the start", steps: [Step(0, .stop, .none), Step(1, .start, .none)], finished: true),
        Row(
            name: "stop waits for sessions that were retired before",
            steps: [
                Step(0, .start, .connect),
                Step(1, .opened, .none),
                Step(20_000, .peerWentAway, .connect),
                Step(20_001, .opened, .retirePrevious(closingOldest: false)),
                Step(20_002, .stop, .retire(closingOldest: false, next: .nothing)),
            ], retired: 2),
        Row(
            name: "abandon ends at once",
            steps: [
                Step(0, .start, .connect),
                Step(1, .opened, .none),
                Step(2, .stop, .retire(closingOldest: false, next: .nothing)),
                Step(3, .abandon, .closeAll),
                Step(4, .retiredEnded, .none),
            ], finished: true),
    ]

    @Test(arguments: rows)
    func row(_ row: Row) {
        var machine = ListenerMachine(limits: exactLimits, seed: 1)
        for (index, step) in row.steps.enumerated() {
            let action = machine.handle(step.event, now: Instant(nanoseconds: step.at * 1_000_000))
            #expect(action == step.action, "step \(index): \(step.event)")
        }
        #expect(machine.isFinished == row.finished)
        #expect(machine.retiredCount == row.retired)
    }

    @Test func everyStatusIsTriedAgain() {
        for status in 300..<600 {
            var machine = ListenerMachine(limits: exactLimits, seed: 1)
            _ = machine.handle(.start, now: Instant(nanoseconds: 0))
            let action = machine.handle(.failed(.refused(status: status)), now: Instant(nanoseconds: 1))
            let transient = [408, 429, 500, 502, 503, 504].contains(status)
            #expect(action == .wait(transient ? .milliseconds(100) : .seconds(15)))
        }
    }

    /// Any order of events keeps the counts sane, and `abandon` always ends.
    @Test func randomEventsNeverWedge() {
        var generator = SeededGenerator(seed: 42)
        for _ in 0..<2_000 {
            var machine = ListenerMachine(limits: exactLimits, seed: 1)
            var now: UInt64 = 0
            for _ in 0..<40 {
                now += generator.next() % 12_000_000_000
                var events: [Event] = [
                    .start, .opened, .failed(.unreachable), .failed(.refused(status: 404)), .lost, .peerWentAway, .timerFired,
                ]
                if machine.retiredCount > 0 { events.append(.retiredEnded) }
                if generator.next() % 20 == 0 { events = [.stop] }
                let event = events[Int(generator.next() % UInt64(events.count))]
                _ = machine.handle(event, now: Instant(nanoseconds: now))
                #expect(machine.retiredCount >= 0)
            }
            _ = machine.handle(.abandon, now: Instant(nanoseconds: now))
            #expect(machine.isFinished)
        }
    }
}
