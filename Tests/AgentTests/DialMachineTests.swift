// The order of attempts over the addresses of a name, row by row.
import Testing

@testable import Agent

@Suite struct DialMachineTests {
    typealias Event = DialMachine.Event
    typealias Action = DialMachine.Action

    struct Row: Sendable, CustomTestStringConvertible {
        var name: String
        var count: Int
        var events: [Event]
        var actions: [Action]
        var testDescription: String { name }
    }

    static let rows: [Row] = [
        Row(name: "no address", count: 0, events: [.start, .start], actions: [.fail, .none]),
        Row(
            name: "the only address connects", count: 1, events: [.start, .connected, .attemptFailed],
            actions: [.attempt(index: 0, more: false), .succeed, .none]),
        Row(
            name: "the first is refused, the second connects", count: 2, events: [.start, .attemptFailed, .connected],
            actions: [.attempt(index: 0, more: true), .attempt(index: 1, more: false), .succeed]),
        Row(
            name: "the first says nothing, the second starts beside it and fails, the first connects", count: 2,
            events: [.start, .staggerElapsed, .attemptFailed, .connected],
            actions: [.attempt(index: 0, more: true), .attempt(index: 1, more: false), .none, .succeed]),
        Row(
            name: "all fail", count: 3, events: [.start, .staggerElapsed, .attemptFailed, .attemptFailed, .attemptFailed],
            actions: [
                .attempt(index: 0, more: true), .attempt(index: 1, more: true), .attempt(index: 2, more: false), .none, .fail,
            ]),
        Row(
            name: "stopped", count: 2, events: [.start, .stop, .attemptFailed, .staggerElapsed],
            actions: [.attempt(index: 0, more: true), .cancel, .none, .none]),
    ]

    @Test(arguments: rows)
    func row(_ row: Row) {
        var machine = DialMachine(count: row.count)
        #expect(row.events.map { machine.handle($0) } == row.actions)
    }

    @Test func addressesAreBounded() {
        var machine = DialMachine(count: 1000)
        var attempts = 0
        while case .attempt = machine.handle(attempts == 0 ? .start : .staggerElapsed) { attempts += 1 }
        #expect(attempts == DialMachine.addressesMax)
    }
}
