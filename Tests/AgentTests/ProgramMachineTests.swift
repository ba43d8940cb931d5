// The decisions of the process at signals and at its end, row by row.
import Testing

@testable import Agent

@Suite struct ProgramMachineTests {
    typealias Event = ProgramMachine.Event
    typealias Action = ProgramMachine.Action

    static let rows: [([Event], [Action])] = [
        ([.signal, .workFinished], [.drain, .end(code: 0, cutting: false)]),
        ([.signal, .signal], [.drain, .end(code: 0, cutting: true)]),
        ([.signal, .graceExpired], [.drain, .end(code: 0, cutting: true)]),
        ([.workFinished, .graceExpired], [.none, .none]),
        ([.failed, .signal], [.end(code: 1, cutting: true), .none]),
        ([.signal, .failed], [.drain, .end(code: 1, cutting: true)]),
        ([.signal, .workFinished, .workFinished], [.drain, .end(code: 0, cutting: false), .none]),
    ]

    @Test(arguments: rows)
    func row(events: [Event], actions: [Action]) {
        var machine = ProgramMachine()
        #expect(events.map { machine.handle($0) } == actions)
    }
}
