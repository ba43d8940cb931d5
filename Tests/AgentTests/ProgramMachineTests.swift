// The decisions of the process at signals, at reloads and upgrades, and at its end, row by row.
import Testing

@testable import Agent

@Suite struct ProgramMachineTests {
    typealias Event = ProgramMachine.Event
    typealias Action = ProgramMachine.Action

    static let rows: [([Event], [Action])] = [
        ([.terminate, .workFinished], [.drain, .end(code: 0, cutting: false)]),
        ([.terminate, .terminate], [.drain, .end(code: 0, cutting: true)]),
        ([.terminate, .timeExpired], [.drain, .end(code: 0, cutting: true)]),
        ([.workFinished, .timeExpired], [.none, .none]),
        ([.failed, .terminate], [.end(code: 1, cutting: true), .none]),
        ([.terminate, .failed], [.drain, .end(code: 1, cutting: true)]),
        ([.terminate, .workFinished, .workFinished], [.drain, .end(code: 0, cutting: false), .none]),
        // Reloads, one after the other; more than one that waits is one.
        ([.reload, .reloadDone, .reload], [.reload, .none, .reload]),
        ([.reload, .reload, .reload, .reloadDone, .reloadDone], [.reload, .none, .none, .reload, .none]),
        ([.reload, .terminate, .reloadDone, .workFinished], [.reload, .drain, .none, .end(code: 0, cutting: false)]),
        ([.reload, .upgrade, .reload, .reloadDone], [.reload, .none, .none, .startSuccessor]),
        // Upgrades.
        ([.upgrade, .successorReady, .workFinished], [.startSuccessor, .handOver(reloads: false), .end(code: 0, cutting: false)]),
        ([.upgrade, .successorFailed, .upgrade], [.startSuccessor, .none, .startSuccessor]),
        ([.upgrade, .upgrade, .successorReady], [.startSuccessor, .refuse(.upgradeUnderWay), .handOver(reloads: false)]),
        ([.upgrade, .reload, .successorFailed, .reloadDone], [.startSuccessor, .none, .reload, .none]),
        ([.upgrade, .reload, .successorReady], [.startSuccessor, .none, .handOver(reloads: true)]),
        ([.upgrade, .terminate, .successorFailed, .workFinished], [.startSuccessor, .drain, .none, .end(code: 0, cutting: false)]),
        ([.upgrade, .terminate, .successorReady, .timeExpired], [.startSuccessor, .drain, .none, .end(code: 0, cutting: true)]),
        // A process that was replaced.
        ([.upgrade, .successorReady, .reload, .upgrade], [.startSuccessor, .handOver(reloads: false), .refuse(.ending), .refuse(.ending)]),
        ([.upgrade, .successorReady, .timeExpired], [.startSuccessor, .handOver(reloads: false), .end(code: 0, cutting: true)]),
        (
            [.upgrade, .successorReady, .terminate, .timeExpired],
            [.startSuccessor, .handOver(reloads: false), .drain, .end(code: 0, cutting: true)]
        ),
        (
            [.upgrade, .successorReady, .terminate, .terminate, .workFinished],
            [.startSuccessor, .handOver(reloads: false), .drain, .end(code: 0, cutting: true), .none]
        ),
        ([.upgrade, .successorReady, .successorFailed], [.startSuccessor, .handOver(reloads: false), .none]),
        ([.terminate, .reload, .upgrade], [.drain, .refuse(.ending), .refuse(.ending)]),
        ([.reloadDone, .successorReady, .successorFailed], [.none, .none, .none]),
    ]

    @Test(arguments: rows)
    func row(events: [Event], actions: [Action]) {
        var machine = ProgramMachine()
        #expect(events.map { machine.handle($0) } == actions)
    }
}
