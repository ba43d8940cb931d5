// What the supervisor has workers give up, and what it says of one that no longer answers.
import Base
import Config
import Control
import Glibc
import Memory
import Reactor
import Telemetry
import Testing

@testable import Supervisor

/// Keeps the lines.
private final class Lines: LogSink {
    var text = ""
    override func write(_ line: Span<UInt8>) -> Bool {
        text += String(decoding: line.withUnsafeBufferPointer { Array($0) }, as: UTF8.self)
        return true
    }
}

private final class NoOwner: WorkerLinkOwner {
    func linkGreeted(_ link: WorkerLink) {}
    func link(_ link: WorkerLink, received message: ControlMessage) {}
    func linkFailed(_ link: WorkerLink, reason: String) {}
}

private func log(_ lines: Lines) -> Logger {
    Logger(settings: LogSettings(), clock: { SystemClock.unixNanoseconds }, sink: lines)
}

@Suite struct WorkerGuardTests {
    @Test(arguments: [
        (UserIdentity?.none, true, ["--seccomp", "true"]), (UserIdentity(user: 5, group: 6), true, ["--user", "5:6", "--seccomp", "true"]),
        (UserIdentity?.none, false, ["--seccomp", "false"]),
    ])
    func words(_ user: UserIdentity?, _ isFiltered: Bool, _ expected: [String]) {
        #expect(WorkerConfinement(user: user, isFiltered: isFiltered).words == expected)
    }

    @Test(arguments: [
        ("no-such-user-here", "config: server.user: no-such-user-here: there is no such user"),
        ("root:no-such-group-here", "config: server.user: root:no-such-group-here: there is no such group"),
    ])
    func refusesUsers(_ user: String, _ expected: String) {
        var config = ServerConfig()
        config.server.user = user
        #expect { try WorkerConfinement(config, log: log(Lines())) } throws: { "\($0)" == expected }
    }

    @Test func usersOfTheConfiguration() throws {
        var config = ServerConfig()
        config.server.user = UserIdentity.current.text
        config.server.isFiltered = false
        #expect(try WorkerConfinement(config, log: log(Lines())) == WorkerConfinement(user: nil, isFiltered: false))
        // Without one: somebody else for root, if at all possible, and nobody else for anyone else.
        config.server.user = ""
        let lines = Lines()
        let confinement = try WorkerConfinement(config, log: log(lines))
        if UserIdentity.current.user != 0 {
            #expect(confinement.user == nil && lines.text.isEmpty)
        } else if let user = confinement.user {
            #expect(user.user != 0 && lines.text.isEmpty)
        } else {
            #expect(lines.text.contains("workers stay root, without capabilities"))
        }
    }

    @Test func stuckWorkerIsReported() throws {
        let loop = try Loop(backend: .epoll)
        let memory = try SharedMemory(name: "test", size: CounterRegion.byteCount(layout: Counters.layout, slabs: 1))
        let region = CounterRegion(formatting: memory.region, layout: Counters.layout, slabs: 1)
        var pair = try MessageSocket.pair()
        let owner = NoOwner()
        let link = try WorkerLink(loop, worker: 3, adopting: pair.takeFirst(), owner: owner)
        defer { link.close() }
        var status: Reactor.ExitStatus?
        let description = ProcessDescription(path: "/bin/sleep", arguments: ["sleep", "30"], environment: [])
        let child = try ChildProcess.spawn(loop, description) { status = $0 }
        let end = loop.now + .seconds(10)
        while KernelView(of: child.pid).state != "S", SystemClock.now < end {}
        let worker = WorkerProcess(worker: 3, generation: 1, place: 0, slab: 0, child: child, link: link, counters: Counters(slab: region.slab(0)))
        let lines = Lines()
        worker.reportStuck(log(lines))
        #expect(lines.text.contains("\"msg\":\"worker does not answer\",\"stuck_worker\":3,\"pid\":\(child.pid),\"process_state\":\"S\""))
        // It was asked for its stack, which this program does not have.
        while status == nil, SystemClock.now < end { loop.runTurn(until: SystemClock.now + .milliseconds(20)) }
        #expect(status == .signalled(StackReport.signal))
    }
}
