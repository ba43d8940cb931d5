// A process that hangs or crashes writes its stack. Each in a process of its own, since handlers belong to the whole process.
import Base
import Foundation
import Glibc
import Reactor
import Testing

/// Goes on for ever; its name is to be found in the stack.
@inline(never) @_optimize(none)
func hangForEver(_ start: Int) -> Int {
    var sum = start
    while true {
        sum &+= 1
        if sum == 0x7fff_ffff_ffff_ffff { return sum }
    }
}

/// Overflows the stack.
@inline(never) @_optimize(none)
func recurseForEver(_ depth: Int) -> Int { depth < 0 ? 0 : recurseForEver(depth + 1) &+ depth }

/// Has the calling thread interrupted by the signal, `times` times, and the process ended after that. The pauses are the pace of the
/// signals, of which two at once would be one; nothing is waited for with them.
private func interruptMyself(times: Int, with number: Int32) {
    let target = pthread_self()
    Thread.detachNewThread {
        for _ in 0..<times {
            usleep(50_000)
            pthread_kill(target, number)
        }
        usleep(50_000)
        _exit(42)
    }
}

/// The lines of a report, parsed.
private func reports(_ bytes: [UInt8]) -> [[String: Any]] {
    String(decoding: bytes, as: UTF8.self).split(separator: "\n").compactMap {
        try? JSONSerialization.jsonObject(with: Data($0.utf8)) as? [String: Any]
    }
}

private let isSanitized: Bool = { dlsym(nil, "__asan_init") != nil || dlsym(nil, "__tsan_init") != nil }()

extension ReactorTests {
    @Suite struct StackReportTests {
        @Test func processInALoopTellsWhere() async throws {
            let result = await #expect(processExitsWith: .exitCode(42), observing: [\.standardErrorContent]) {
                try StackReport.install(json: true, crashes: false)
                interruptMyself(times: 3, with: StackReport.signal)
                _exit(Int32(hangForEver(1) & 1))
            }
            let lines = reports(try #require(result).standardErrorContent).filter { $0["msg"] as? String == "stack of a worker" }
            #expect(lines.count == 3)
            for line in lines {
                let frames = try #require(line["frames"] as? [String])
                #expect(frames.count >= 3, "the one that hangs, the body of the test, and what called it")
                #expect(frames.allSatisfy { $0.wholeMatch(of: #/[A-Za-z0-9._+?\-]+\+0x[0-9a-f]+/#) != nil })
                #expect(line["level"] as? String == "warn" && line["subsystem"] as? String == "server")
                #expect((line["ts"] as? String)?.wholeMatch(of: #/\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z/#) != nil)
                #expect(line["signal"] as? Int == Int(StackReport.signal))
            }
        }

        @Test func formForPeople() async throws {
            let result = await #expect(processExitsWith: .exitCode(42), observing: [\.standardErrorContent]) {
                try StackReport.install(json: false, crashes: false)
                interruptMyself(times: 1, with: StackReport.signal)
                _exit(Int32(hangForEver(1) & 1))
            }
            let text = String(decoding: try #require(result).standardErrorContent, as: UTF8.self)
            #expect(text.contains(#/ WARN  server: stack of a worker pid=\d+ signal=\d+ frames=\S+\+0x[0-9a-f]+ /#))
        }

        /// A crash ends the process as it would without us; deep stacks fit into a line.
        @Test(.enabled(if: !isSanitized, "a sanitizer has its own"), arguments: [SIGSEGV, SIGILL, SIGABRT, SIGBUS, SIGFPE])
        func crashTellsWhere(_ number: Int32) async throws {
            let result = await #expect(processExitsWith: .signal(number), observing: [\.standardErrorContent]) {
                [number = number as Int32] in
                try StackReport.install(json: true, crashes: true)
                switch number {
                case SIGSEGV: _exit(Int32(recurseForEver(1) & 1))
                case SIGABRT: abort()
                default: raise(number)
                }
                _exit(0)
            }
            let lines = reports(try #require(result).standardErrorContent)
            let line = try #require(lines.first { $0["msg"] as? String == "stack of a worker" })
            let frames = try #require(line["frames"] as? [String])
            #expect(line["level"] as? String == "error" && line["signal"] as? Int == Int(number))
            #expect(number == SIGSEGV ? frames.count > 40 : frames.count >= 2)
        }

        @Test func kernelTellsOfAChild() throws {
            let loop = try Loop(backend: .epoll)
            let description = ProcessDescription(path: "/bin/sleep", arguments: ["sleep", "30"], environment: [])
            var status: Reactor.ExitStatus?
            let child = try ChildProcess.spawn(loop, description) { status = $0 }
            pump(loop, "asleep") { KernelView(of: child.pid).state == "S" }
            let view = child.requestStack()
            #expect(view.state == "S")
            if getuid() == 0 { #expect(view.systemCall.contains(" 0x")) }
            // A program that knows nothing of the signal.
            pump(loop, "the end") { status != nil }
            #expect(status == .signalled(StackReport.signal))
            #expect(KernelView(of: child.pid) == KernelView(of: 0x7fff_fff0))
        }

        @Test func filteredEndIsExplained() {
            #expect("\(Reactor.ExitStatus.signalled(SIGSYS))" == "signal 31, a system call that its filter refuses (see docs/security.md)")
            #expect("\(Reactor.ExitStatus.signalled(9))" == "signal 9")
        }
    }
}
