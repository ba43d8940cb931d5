// The loop itself: timers, tasks, waking, signals, processes, names, shared memory.
import Base
import Glibc
import Memory
import Reactor
import TestKit
import Testing

private final class Task: AfterTurn {
    let body: (Task) -> Void
    init(_ body: @escaping (Task) -> Void) { self.body = body }
    override func run() { body(self) }
}

extension ReactorTests {
    @Suite struct Loops {
        @Test func saysWhichBackendRunsAndWhy() throws {
            let epoll = try Loop(backend: .epoll)
            #expect(epoll.backend == .epoll)
            #expect(epoll.backendDescription.hasPrefix("epoll: "))
            let automatic = try Loop(backend: .auto)
            #expect(automatic.backendDescription.hasPrefix(automatic.backend.rawValue + ": "))
        }

        @Test func refusesSizesThatNoRingHas() throws {
            var limits = LoopLimits()
            limits.receiveBuffers = 100
            #expect(throws: SystemError.self) { _ = try Loop(backend: .ioUring, limits: limits) }
            #expect(try Loop(backend: .auto, limits: limits).backend == .epoll)
        }

        @Test(arguments: backends)
        func timersFireInOrder(_ backend: BackendChoice) throws {
            let loop = try Loop(backend: backend)
            var fired: [Int] = []
            var generator = SeededGenerator(seed: 5)
            let delays = (0..<200).map { _ in Int.random(in: 0...40, using: &generator) }
            let start = SystemClock.now
            var timers: [CallbackTimer] = []
            for (index, delay) in delays.enumerated() {
                let timer = CallbackTimer(loop) {
                    fired.append(index)
                    #expect(loop.now >= start + .milliseconds(delay))
                }
                timer.schedule(at: start + .milliseconds(delay))
                timers.append(timer)
            }
            // Some are cancelled, some moved later, some earlier, some go away.
            for index in stride(from: 0, to: 200, by: 10) { timers[index].cancel() }
            for index in stride(from: 1, to: 200, by: 10) { timers[index].schedule(at: start + .milliseconds(60)) }
            for index in stride(from: 2, to: 200, by: 10) {
                timers[index].schedule(at: start + .milliseconds(90))
                timers[index].schedule(at: start + .milliseconds(delays[index]))
            }
            pump(loop, "timers") { fired.count == 180 }
            #expect(Set(fired).count == 180)
            let moved = fired.suffix(20)
            #expect(Set(moved) == Set(stride(from: 1, to: 200, by: 10)))
            let rest = fired.dropLast(20).map { delays[$0] }
            #expect(rest == rest.sorted())
            #expect(timers.allSatisfy { !$0.isScheduled })
        }

        @Test(arguments: backends)
        func timersMayBeSetAndDroppedWhileTheyFire(_ backend: BackendChoice) throws {
            let loop = try Loop(backend: backend)
            var count = 0
            var again: CallbackTimer?
            var other: CallbackTimer? = CallbackTimer(loop) { count += 1_000 }
            again = CallbackTimer(loop) {
                count += 1
                other = nil
                if count < 5 { again?.schedule(after: .zero) } else { again = nil }
            }
            again?.schedule(after: .zero)
            other?.schedule(after: .milliseconds(1))
            let turns = loop.counters.turns
            pump(loop, "five times") { count >= 5 }
            pump(loop, for: .milliseconds(5))
            #expect(count == 5)
            // Each in a turn of its own: a timer that sets itself anew can't hold up the loop.
            #expect(loop.counters.turns - turns >= 5)
        }

        @Test(arguments: backends)
        func waitsPreciselyForATimer(_ backend: BackendChoice) throws {
            let loop = try Loop(backend: backend)
            loop.runTurn(until: Instant(nanoseconds: 0))
            var lateness: [Duration] = []
            for _ in 0..<20 {
                let due = SystemClock.now + .microseconds(2_300)
                var hit = false
                let timer = CallbackTimer(loop) {
                    lateness.append(SystemClock.now - due)
                    hit = true
                }
                timer.schedule(at: due)
                let turns = loop.counters.turns
                while !hit { loop.runTurn(until: .never) }
                #expect(loop.counters.turns - turns <= 2)
            }
            #expect(lateness.sorted()[10] < .milliseconds(1))
        }

        @Test(arguments: backends)
        func tasksRunOnceAtTheEndOfTheTurn(_ backend: BackendChoice) throws {
            let loop = try Loop(backend: backend)
            var runs = 0
            let task = Task { task in
                runs += 1
                if runs < 3 { loop.afterTurn(task) }
            }
            loop.afterTurn(task)
            loop.afterTurn(task)
            #expect(runs == 0)
            loop.runTurn(until: .never)
            #expect(runs == 1)
            loop.runTurn(until: .never)
            loop.runTurn(until: .never)
            #expect(runs == 3)
        }

        @Test(arguments: backends)
        func wakesFromAnotherThread(_ backend: BackendChoice) throws {
            let loop = try Loop(backend: backend)
            let waker = loop.waker
            for _ in 0..<50 {
                var thread = pthread_t()
                let box = Unmanaged.passRetained(Box(waker))
                pthread_create(&thread, nil, { raw in
                    let box = Unmanaged<Box>.fromOpaque(raw!).takeRetainedValue()
                    usleep(500)
                    box.waker.wake()
                    return nil
                }, box.toOpaque())
                let start = SystemClock.now
                loop.runTurn(until: start + .seconds(5))
                #expect(SystemClock.now - start < .seconds(4))
                pthread_join(thread, nil)
            }
            // A wake before the wait ends the next one, once.
            waker.wake()
            loop.runTurn(until: SystemClock.now + .seconds(5))
            let start = SystemClock.now
            loop.runTurn(until: start + .milliseconds(20))
            #expect(SystemClock.now - start >= .milliseconds(19))
        }

        @Test(arguments: backends)
        func stopsFromWithin(_ backend: BackendChoice) throws {
            let loop = try Loop(backend: backend)
            let timer = CallbackTimer(loop) { loop.stop() }
            timer.schedule(after: .milliseconds(1))
            loop.run()
            #expect(!timer.isScheduled)
        }

        @Test(arguments: backends)
        func hearsSignals(_ backend: BackendChoice) throws {
            let loop = try Loop(backend: backend)
            var heard: [Int32] = []
            let source = try SignalSource(loop, signals: [SIGUSR1, SIGWINCH]) { heard.append($0) }
            pthread_kill(pthread_self(), SIGUSR1)
            pump(loop, "first") { heard == [SIGUSR1] }
            pthread_kill(pthread_self(), SIGWINCH)
            pump(loop, "second") { heard == [SIGUSR1, SIGWINCH] }
            source.close()
        }

        @Test(arguments: backends)
        func startsProcessesAndHearsOfTheirEnd(_ backend: BackendChoice) throws {
            let loop = try Loop(backend: backend)
            var pair = try Sockets.pair(.stream)
            let recorder = Recorder()
            let ours = try Stream(loop, adopting: pair.takeFirst())
            ours.delegate = recorder
            ours.resumeReading()
            let theirs = pair.takeSecond()
            var description = ProcessDescription(
                path: "/bin/sh",
                arguments: ["sh", "-c", "echo \"$GREETING\" >&3; ls /proc/self/fd | wc -l >&3; exit 7"],
                environment: ["GREETING=hello", "PATH=/usr/bin:/bin"])
            description.descriptors = [theirs.raw]
            description.diesWithParent = true
            var status: Reactor.ExitStatus?
            let child = try ChildProcess.spawn(loop, description) { status = $0 }
            _ = theirs.take().advanced(by: 0)
            #expect(child.isRunning)
            pump(loop, "exit") { status != nil }
            #expect(status == .exited(7))
            #expect(!child.isRunning && !child.signal(SIGTERM))
            pump(loop, "output") { recorder.bytes.count >= 8 }
            // 0, 1, 2, the socket, and ls's own directory.
            #expect(String(decoding: recorder.bytes, as: UTF8.self) == "hello\n5\n")
            ours.closeNow()

            var killed: Reactor.ExitStatus?
            let sleeper = try ChildProcess.spawn(
                loop, ProcessDescription(path: "/bin/sleep", arguments: ["sleep", "60"], environment: [])) { killed = $0 }
            #expect(sleeper.signal(SIGTERM))
            pump(loop, "killed") { killed != nil }
            #expect(killed == .signalled(SIGTERM))

            let before = openDescriptors()
            #expect(throws: SystemError(code: ENOENT, call: "start /nowhere")) {
                _ = try ChildProcess.spawn(
                    loop, ProcessDescription(path: "/nowhere", arguments: ["x"], environment: [])) { _ in }
            }
            #expect(openDescriptors() == before)
        }

        @Test(arguments: backends)
        func executesAHeldDescriptor(_ backend: BackendChoice) throws {
            let loop = try Loop(backend: backend)
            let program = open("/bin/sh", O_RDONLY | O_CLOEXEC)
            var description = ProcessDescription(path: "held", arguments: ["held", "-c", "exit 3"], environment: [])
            description.executable = program
            var status: Reactor.ExitStatus?
            let child = try ChildProcess.spawn(loop, description) { status = $0 }
            pump(loop, "exit") { status != nil }
            #expect(status == .exited(3))
            _ = child
            close(program)
        }

        @Test(arguments: backends)
        func resolvesNames(_ backend: BackendChoice) throws {
            let loop = try Loop(backend: backend)
            let resolver = Resolver(loop)
            var literal: Result<[SocketAddress], ResolveError>?
            var name: Result<[SocketAddress], ResolveError>?
            var nothing: Result<[SocketAddress], ResolveError>?
            var cancelled = false
            resolver.resolve(host: "::1", port: 80) { literal = $0 }
            resolver.resolve(host: "localhost", port: 81) { name = $0 }
            resolver.resolve(host: "no such host!", port: 82) { nothing = $0 }
            let dropped = resolver.resolve(host: "localhost", port: 83) { _ in cancelled = true }
            dropped.cancel()
            #expect(literal == nil)
            pump(loop, "answers", limit: .seconds(30)) { literal != nil && name != nil && nothing != nil }
            #expect(try literal?.get() == [SocketAddress(address: "::1", port: 80)!])
            #expect(try name!.get().allSatisfy { $0.isLoopback && $0.port == 81 })
            #expect(throws: ResolveError.self) { try nothing?.get() }
            pump(loop, for: .milliseconds(20))
            #expect(!cancelled)
            pump(loop, "closed") { loop.openHandles == 0 }
        }

        @Test func readsAndWritesAddresses() {
            for (text, port, description) in [
                ("127.0.0.1", 80, "127.0.0.1:80"), ("::1", 443, "[::1]:443"), ("2001:db8::7", 1, "[2001:db8::7]:1"),
                ("0.0.0.0", 0, "0.0.0.0:0"), ("::ffff:10.1.2.3", 9, "10.1.2.3:9"),
            ] as [(String, UInt16, String)] {
                let address = SocketAddress(address: text, port: port)!
                #expect(address.description == description)
                #expect(address.encoded.count == 18)
                let encoded = address.encoded
                let decoded = SocketAddress(encoded: encoded.span)
                #expect(decoded == address)
                var buffer = ByteBuffer()
                address.writeHost(into: &buffer)
                #expect(copy(of: buffer) == Array(address.host.utf8))
            }
            for text in ["", "localhost", "1.2.3", "[::1]", "1.2.3.4.5", "::g"] {
                #expect(SocketAddress(address: text, port: 1) == nil)
            }
            let short: [UInt8] = [1, 2, 3]
            let refused = SocketAddress(encoded: short.span)
            #expect(refused == nil)
        }

        @Test func sharesMemory() throws {
            let made = try SharedMemory(name: "test", size: 8_192)
            let other = try SharedMemory(adopting: OwnedDescriptor(dup(made.descriptor)), size: 8_192)
            made.base.storeBytes(of: 42, toByteOffset: 8_000, as: UInt64.self)
            #expect(other.base.load(fromByteOffset: 8_000, as: UInt64.self) == 42)
            #expect(throws: SystemError.self) {
                _ = try SharedMemory(adopting: OwnedDescriptor(dup(made.descriptor)), size: 8_193)
            }
            #expect(ftruncate(made.descriptor, 10) != 0)
            let bytes = randomBytes(100_000, seed: 1)
            let file = try MemoryFile.make(name: "bytes", holding: bytes.span)
            var buffer = ByteBuffer()
            try MemoryFile.read(file.raw, bytesMax: 100_000, into: &buffer)
            #expect(copy(of: buffer) == bytes)
            var refused: SystemError?
            do { try MemoryFile.read(file.raw, bytesMax: 99_999, into: &buffer) } catch { refused = error }
            #expect(refused?.code == EFBIG)
        }

        @Test func writesOnlyWhereItDoesNotBlock() throws {
            var ends: [Int32] = [0, 0]
            #expect(pipe(&ends) == 0)
            let line = [UInt8](repeating: 65, count: 4_096)
            var written = 0
            while InheritedOutput.writeReady(descriptor: ends[1], bytes: line.span) { written += 1 }
            #expect(written >= 8)
            close(ends[0])
            close(ends[1])
            #expect(System.processorCount >= 1)
            #expect(Random.bytes(32) != Random.bytes(32))
            #expect(Random.number() != Random.number())
            #expect(SystemError(code: EADDRINUSE, call: "bind").description == "bind: Address already in use")
        }
    }
}

private final class Box: @unchecked Sendable {
    let waker: LoopWaker
    init(_ waker: LoopWaker) { self.waker = waker }
}

private func copy(of buffer: borrowing ByteBuffer) -> [UInt8] {
    buffer.span.withUnsafeBufferPointer { Array($0) }
}
