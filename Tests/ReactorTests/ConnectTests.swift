// Connecting, accepting, and taking a socket out of a loop and into another.
import Base
import Glibc
import Memory
import Reactor
import TestKit
import Testing

extension ReactorTests {
    @Suite struct Connections {
        @Test(arguments: backends)
        func connectIsRefused(_ backend: BackendChoice) throws {
            let loop = try Loop(backend: backend)
            let bound = try Listener.bind(SocketAddress(address: "127.0.0.1", port: 0)!).take()
            let unused = SocketAddress.name(of: bound)!
            close(bound)
            let recorder = Recorder()
            let stream = try Stream(loop, connectTo: unused)
            stream.delegate = recorder
            #expect(recorder.log.isEmpty)
            pump(loop, "refusal") { !recorder.log.isEmpty }
            #expect(recorder.log == ["failed system(\(ECONNREFUSED))"])
            pump(loop, "closed") { loop.openHandles == 0 }
        }

        @Test(arguments: backends)
        func unixConnectsAndFails(_ backend: BackendChoice) throws {
            let loop = try Loop(backend: backend)
            let path = "/tmp/reactor-\(System.processIdentifier)-\(Random.number()).sock"
            let accepting = Accepting()
            let listener = try Listener(loop, adopting: Listener.bindUnix(path, mode: 0o600), delegate: accepting)
            defer { unlink(path) }
            var status = stat()
            #expect(stat(path, &status) == 0 && status.st_mode & 0o777 == 0o600)
            let recorder = Recorder()
            let stream = try Stream(loop, connectToUnix: path)
            stream.delegate = recorder
            // Written before the connection is there.
            stream.write([1, 2, 3].span)
            pump(loop, "connected") { recorder.has("connected") && accepting.descriptors.count == 1 }
            let other = Recorder()
            let server = try Stream(loop, adopting: OwnedDescriptor(accepting.descriptors[0]))
            server.delegate = other
            server.resumeReading()
            pump(loop, "bytes") { other.bytes == [1, 2, 3] }
            let mine = try Sockets.credentials(of: server.descriptor)
            #expect(mine.process == System.processIdentifier)
            // A name on which somebody listens is not taken away.
            #expect(throws: SystemError.self) { _ = try Listener.bindUnix(path, mode: 0o600) }
            listener.close()
            pump(loop, "listener closed") { loop.openHandles == 2 }
            // The stale file is still there; nobody listens.
            let late = Recorder()
            let refused = try Stream(loop, connectToUnix: path)
            refused.delegate = late
            pump(loop, "refusal") { late.has("failed") }
            let again = try Listener.bindUnix(path, mode: 0o666)
            #expect(DescriptorKind(of: again.raw) == .listeningSocket)
            stream.closeNow()
            server.closeNow()
        }

        @Test(arguments: backends)
        func connectThatHangsCanBeClosed(_ backend: BackendChoice) throws {
            let loop = try Loop(backend: backend)
            // A listener whose backlog is full leaves a connect hanging.
            let bound = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
            var address = sockaddr_in()
            address.sin_family = sa_family_t(AF_INET)
            address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
            _ = withUnsafePointer(to: address) { pointer in
                pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    bind(bound, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
                }
            }
            listen(bound, 0)
            let target = SocketAddress.name(of: bound)!
            let recorders = (0..<6).map { _ in Recorder() }
            let streams = try recorders.map { recorder in
                let stream = try Stream(loop, connectTo: target)
                stream.delegate = recorder
                return stream
            }
            pump(loop, for: .milliseconds(50))
            #expect(recorders.contains { $0.log.isEmpty })
            for stream in streams { stream.close() }
            close(bound)
            pump(loop, "closed") { loop.openHandles == 0 }
        }

        @Test(arguments: backends)
        func acceptsManyAndPauses(_ backend: BackendChoice) throws {
            let loop = try Loop(backend: backend)
            let accepting = Accepting()
            let listener = try Listener(
                loop, adopting: Listener.bind(SocketAddress(address: "::1", port: 0)!, v6Only: true), delegate: accepting)
            let target = listener.address!
            let clients = try (0..<300).map { _ in try Stream(loop, connectTo: target) }
            pump(loop, "accepted") { accepting.descriptors.count == 300 }
            #expect(SocketAddress.peer(of: accepting.descriptors[0])?.host == "::1")
            #expect(fcntl(accepting.descriptors[0], F_GETFL) & O_NONBLOCK != 0)
            #expect(fcntl(accepting.descriptors[0], F_GETFD) & FD_CLOEXEC != 0)
            listener.pause()
            pump(loop, for: .milliseconds(5))
            let late = try Stream(loop, connectTo: target)
            pump(loop, for: .milliseconds(20))
            #expect(accepting.descriptors.count == 300)
            listener.resume()
            pump(loop, "resumed") { accepting.descriptors.count == 301 }
            listener.close()
            late.closeNow()
            for client in clients { client.closeNow() }
            for descriptor in accepting.descriptors { close(descriptor) }
            pump(loop, "closed") { loop.openHandles == 0 }
        }

        /// In a process of its own: the limit is the whole process's, and other suites run beside this one.
        @Test func runningOutOfDescriptorsPausesTheListener() async {
            await #expect(processExitsWith: .success) {
                for backend in backends { try Connections.runOutOfDescriptors(backend) }
            }
        }

        static func runOutOfDescriptors(_ backend: BackendChoice) throws {
            let loop = try Loop(backend: backend)
            let accepting = Accepting()
            let listener = try Listener(
                loop, adopting: Listener.bind(SocketAddress(address: "127.0.0.1", port: 0)!), delegate: accepting)
            let client = try Stream(loop, connectTo: listener.address!)
            var before = rlimit()
            getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &before)
            // No descriptor is free below the new limit.
            var filler: [Int32] = []
            while true {
                let next = dup(0)
                if next > 400 || next < 0 { close(next); break }
                filler.append(next)
            }
            var lowered = before
            lowered.rlim_cur = rlim_t(filler.last! + 1)
            setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &lowered)
            pump(loop, "error") { !accepting.errors.isEmpty }
            #expect(accepting.errors.map(\.code) == [EMFILE])
            let turns = loop.counters.turns
            pump(loop, for: .milliseconds(50))
            #expect(loop.counters.turns - turns < 5)
            #expect(accepting.errors.count == 1)
            setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &before)
            for descriptor in filler { close(descriptor) }
            listener.resume()
            pump(loop, "accepted after all") { accepting.descriptors.count == 1 }
            close(accepting.descriptors[0])
            client.closeNow()
            listener.close()
            pump(loop, "closed") { loop.openHandles == 0 }
        }

        @Test(arguments: backends, backends)
        func movesBetweenLoopsWithoutLosingAByte(_ from: BackendChoice, _ to: BackendChoice) throws {
            let first = try Loop(backend: from)
            let second = try Loop(backend: to)
            let seed = Random.number()
            var generator = SeededGenerator(seed: seed)
            let sent = randomBytes(2_000_000, seed: seed)
            let recorder = Recorder()
            let (opened, plain) = try connectedToPlain(first, recorder)
            var stream = opened
            _ = fcntl(plain, F_SETFL, O_NONBLOCK)
            stream.resumeReading()
            var offset = 0
            var loops = [first, second]
            var moves = 0
            func feed() {
                while offset < sent.count {
                    let length = min(sent.count - offset, Int.random(in: 1...20_000, using: &generator))
                    let written = sent.withUnsafeBytes { write(plain, $0.baseAddress! + offset, length) }
                    if written <= 0 { return }
                    offset += written
                    if Int.random(in: 0..<3, using: &generator) == 0 { return }
                }
            }
            while recorder.bytes.count < sent.count {
                feed()
                loops[0].runTurn(until: SystemClock.now + .milliseconds(1))
                if Int.random(in: 0..<8, using: &generator) == 0 {
                    moves += 1
                    recorder.detached = -1
                    stream.write([UInt8(truncatingIfNeeded: moves)].span)
                    stream.detach()
                    pump(loops[0], "detached, seed \(seed)") {
                        feed()
                        return recorder.detached >= 0
                    }
                    #expect(!stream.isAlive)
                    loops.swapAt(0, 1)
                    stream = try Stream(loops[0], adopting: OwnedDescriptor(recorder.detached))
                    stream.delegate = recorder
                    stream.resumeReading()
                }
            }
            expectSame(recorder.bytes, sent, "seed \(seed)")
            // What was written just before each move came out in order.
            var back = [UInt8](repeating: 0, count: moves + 1)
            pump(loops[0], for: .milliseconds(5))
            #expect(read(plain, &back, back.count) == moves)
            #expect(back.dropLast() == (1...moves).map { UInt8(truncatingIfNeeded: $0) }[...])
            close(plain)
            pump(loops[0], "end") { recorder.has("end") }
            stream.close()
            pump(loops[0], "closed") { loops[0].openHandles == 0 }
            pump(loops[1], "closed") { loops[1].openHandles == 0 }
        }

        @Test(arguments: backends)
        func staleGenerationIsDead(_ backend: BackendChoice) throws {
            let loop = try Loop(backend: backend)
            let old = Recorder()
            let (left, right) = try connectedPair(loop, .unix, old, Recorder())
            left.resumeReading()
            right.write([1].span)
            loop.runTurn(until: Instant(nanoseconds: 0))
            left.closeNow()
            pump(loop, for: .milliseconds(5))
            old.bytes = []
            // The slot is used again; nothing of the old one reaches the new one.
            let fresh = Recorder()
            let (newLeft, newRight) = try connectedPair(loop, .unix, fresh, Recorder())
            newLeft.resumeReading()
            newRight.write([9].span)
            pump(loop, "fresh") { fresh.bytes == [9] }
            #expect(old.bytes.isEmpty && old.log.isEmpty)
            for stream in [right, newLeft, newRight] { stream.closeNow() }
            pump(loop, "closed") { loop.openHandles == 0 }
        }

        @Test(arguments: backends)
        func aLoopThatGoesAwayClosesItsDescriptors(_ backend: BackendChoice) throws {
            let before = openDescriptors()
            do {
                let loop = try Loop(backend: backend)
                let accepting = Accepting()
                _ = try Listener.bind(SocketAddress(address: "127.0.0.1", port: 0)!)
                _ = accepting
                loop.runTurn(until: Instant(nanoseconds: 0))
            }
            #expect(openDescriptors() == before)
        }
    }
}
