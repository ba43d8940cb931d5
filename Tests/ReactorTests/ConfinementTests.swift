// What a confined process can still do, and what ends it. Each row runs in a process of its own, since nothing that is given
// up comes back.
import Base
import Glibc
import Memory
import Reactor
import Testing

/// Something that a program may try.
enum Attempt: String, CaseIterable, Codable, Sendable {
    // What a worker does.
    case serveSockets, passDescriptors, memoryFile, timers, growMemory, readLimits, setOptions, openFile, abort
    // What it never does.
    case openSocket, inetSocketPair, startThread, startProgram, executableMemory, makeExecutable, signalOther, changeMode,
        setUser, setLimits, anotherRing, listDirectory, bindSocket, otherOption, parentNumber

    /// How the process ends.
    var ends: ExitTest.Condition {
        switch self {
        case .serveSockets, .passDescriptors, .memoryFile, .timers, .growMemory, .readLimits, .setOptions, .openFile:
            .exitCode(42)
        case .abort: .signal(SIGABRT)
        default: .signal(SIGSYS)
        }
    }

    /// Tries it; 42 when it went as a worker needs it.
    func run(_ loop: Loop) throws -> Int32 {
        switch self {
        case .serveSockets:
            let recorder = Recorder()
            let (left, right) = try connectedUnixPair(loop, Echo(), recorder)
            right.write([1, 2, 3].span)
            while recorder.bytes.isEmpty { loop.runTurn(until: .never) }
            left.setNoDelay()
            left.closeNow()
            while !recorder.has("end") && !recorder.has("failed") { loop.runTurn(until: .never) }
            return recorder.bytes == [1, 2, 3] ? 42 : 1
        case .passDescriptors:
            let inbox = CountingInbox()
            var pair = try MessageSocket.pair()
            let sender = try MessageSocket(loop, adopting: pair.takeFirst())
            let receiver = try MessageSocket(loop, adopting: pair.takeSecond())
            receiver.delegate = inbox
            try sender.send([1].span, descriptors: [0, 1, 2])
            while inbox.count == nil { loop.runTurn(until: .never) }
            return inbox.count == 3 ? 42 : 1
        case .memoryFile:
            let shared = try SharedMemory(name: "test", size: 65_536)
            shared.base.storeBytes(of: 7, as: UInt8.self)
            var bytes = ByteBuffer()
            try MemoryFile.read(shared.descriptor, bytesMax: 65_536, into: &bytes)
            let written = try MemoryFile.make(name: "more", holding: bytes.span)
            return bytes.count == 65_536 && DescriptorKind(of: written.raw) == .file ? 42 : 1
        case .timers:
            var isOver = false
            let timer = CallbackTimer(loop) { isOver = true }
            timer.schedule(after: .milliseconds(5))
            while !isOver { loop.runTurn(until: SystemClock.now + .milliseconds(50)) }
            return 42
        case .growMemory:
            var blocks: [[UInt8]] = []
            for size in [100, 1 << 16, 1 << 22, 1 << 26] { blocks.append([UInt8](repeating: 1, count: size)) }
            return blocks.count == 4 ? 42 : 1
        case .readLimits:
            var limit = rlimit()
            return getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 && Random.number() != 0 ? 42 : 1
        case .setOptions:
            var pair = try Sockets.pair(.stream)
            let stream = try Stream(loop, adopting: pair.takeFirst())
            stream.setNoDelay()
            stream.setKeepAlive(idle: .seconds(5), interval: .seconds(2), count: 3, userTimeout: .seconds(30))
            return 42
        case .openFile:
            return open("/etc/passwd", O_RDONLY) == -1 && errno == EACCES ? 42 : 1
        case .abort: Glibc.abort()
        case .openSocket: return socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        case .inetSocketPair:
            var ends: [Int32] = [-1, -1]
            return socketpair(AF_INET, Int32(SOCK_STREAM.rawValue), 0, &ends)
        case .startThread:
            var thread = pthread_t()
            return pthread_create(&thread, nil, { _ in nil }, nil)
        case .startProgram:
            var pid: pid_t = 0
            return posix_spawn(&pid, "/bin/true", nil, nil, [strdup("true"), nil], nil)
        case .executableMemory:
            return mmap(nil, 4_096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED ? 1 : 2
        case .makeExecutable:
            let memory = mmap(nil, 4_096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
            return mprotect(memory, 4_096, PROT_READ | PROT_EXEC)
        case .signalOther: return kill(1, 0)
        case .changeMode: return chmod("/tmp", 0o777)
        case .setUser: return setuid(0)
        case .setLimits:
            var limit = rlimit(rlim_cur: 100, rlim_max: 100)
            return setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
        case .anotherRing:
            _ = try Loop(backend: .ioUring)
            return 1
        case .listDirectory:
            var path = [CChar](repeating: 0, count: 200)
            return getcwd(&path, 200) == nil ? 1 : 2
        case .bindSocket:
            var pair = try Sockets.pair(.stream)
            let one = pair.takeFirst()
            var address = sockaddr()
            return bind(one.raw, &address, 2)
        case .otherOption:
            var pair = try Sockets.pair(.stream)
            let one = pair.takeFirst()
            var value: Int32 = 1
            return setsockopt(one.raw, SOL_SOCKET, SO_REUSEPORT, &value, 4)
        case .parentNumber: return getppid()
        }
    }
}

final class CountingInbox: MessageDelegate {
    var count: Int?
    var isShort = false
    override func message(_ socket: MessageSocket, bytes: Span<UInt8>, descriptors: inout DescriptorList) {
        count = descriptors.count
        isShort = descriptors.isShort
    }
}

private func connectedUnixPair(_ loop: Loop, _ left: ChannelDelegate, _ right: ChannelDelegate) throws -> (Stream, Stream) {
    var pair = try Sockets.pair(.stream)
    let first = try Stream(loop, adopting: pair.takeFirst())
    let second = try Stream(loop, adopting: pair.takeSecond())
    first.delegate = left
    second.delegate = right
    first.resumeReading()
    second.resumeReading()
    return (first, second)
}

/// Whether this build has a filter: one with a sanitizer has none. Asked for in a process that ends.
private let isSanitized: Bool = {
    dlsym(nil, "__asan_init") != nil || dlsym(nil, "__tsan_init") != nil
}()

extension ReactorTests {
    @Suite struct ConfinementTests {
        @Test(.enabled(if: !isSanitized, "a sanitizer's runtime makes calls of its own"), arguments: Attempt.allCases, backends)
        func filterLetsThroughWhatWorkersDo(_ attempt: Attempt, _ backend: BackendChoice) async throws {
            let name = attempt.rawValue
            let backendName = backend.rawValue
            await #expect(processExitsWith: attempt.ends) { [name = name as String, backendName = backendName as String] in
                let loop = try Loop(backend: BackendChoice(rawValue: backendName)!)
                let isFiltered = try Confinement.filterSystemCalls(everyThread: false) // the test library has threads of its own
                precondition(isFiltered)
                _exit(try Attempt(rawValue: name)!.run(loop))
            }
        }

        @Test func privilegesAreGone() async throws {
            await #expect(processExitsWith: .exitCode(42)) {
                let isRoot = getuid() == 0
                try Confinement.dropPrivileges(isRoot ? UserIdentity(user: 65_534, group: 65_534) : nil)
                // The line is "CapEff:<tab>0000000000000000" and so for every set.
                let status = String(decoding: try FileContents.read("/proc/thread-self/status", bytesMax: 65_536), as: UTF8.self)
                let sets = status.split(separator: "\n").filter { $0.hasPrefix("Cap") && (isRoot || !$0.hasPrefix("CapBnd")) }
                guard sets.count >= 4, sets.allSatisfy({ $0.hasSuffix("0000000000000000") }) else { _exit(1) }
                guard status.contains("NoNewPrivs:\t1") else { _exit(2) }
                if isRoot {
                    guard status.contains("Uid:\t65534\t65534\t65534\t65534"), status.contains("Gid:\t65534\t65534\t65534\t65534")
                    else { _exit(3) }
                    guard getgroups(0, nil) == 0, setuid(0) != 0 else { _exit(4) }
                }
                _exit(42)
            }
        }

        @Test(arguments: [
            ("root", UserIdentity(user: 0, group: 0)), ("0", UserIdentity(user: 0, group: 0)),
            ("root:0", UserIdentity(user: 0, group: 0)), ("0:17", UserIdentity(user: 0, group: 17)),
            ("4000000:root", UserIdentity(user: 4_000_000, group: 0)), ("4000000", UserIdentity(user: 4_000_000, group: 4_000_000)),
        ])
        func looksUsersUp(_ text: String, _ expected: UserIdentity) throws {
            #expect(try UserIdentity(lookUp: text) == expected)
            #expect(UserIdentity(text: expected.text) == expected)
        }

        @Test(arguments: [
            ("no-such-user-here", UserIdentity.LookupError.noUser), ("root:no-such-group-here", .noGroup), ("", .malformed),
            (":root", .malformed), ("root:", .malformed), ("4294967295", .noUser), ("-1", .noUser),
            (String(repeating: "x", count: 300), .malformed),
        ])
        func refusesUsers(_ text: String, _ expected: UserIdentity.LookupError) {
            #expect(throws: expected) { try UserIdentity(lookUp: text) }
        }

        @Test(arguments: ["", "1", "1:", ":1", "1:2:3", "x:1", "1:-1", "4294967296:0"])
        func refusesNumbers(_ text: String) { #expect(UserIdentity(text: text) == nil) }

        @Test(arguments: backends)
        func messageWithoutRoomForItsDescriptors(_ backend: BackendChoice) throws {
            let loop = try Loop(backend: backend)
            let inbox = CountingInbox()
            var pair = try MessageSocket.pair()
            let sender = try MessageSocket(loop, adopting: pair.takeFirst())
            let receiver = try MessageSocket(loop, adopting: pair.takeSecond())
            receiver.delegate = inbox
            var before = rlimit()
            let resource = __rlimit_resource_t(RLIMIT_NOFILE.rawValue)
            #expect(getrlimit(resource, &before) == 0)
            defer { setrlimit(resource, &before) }
            // The lowest free number, and room for just that one.
            let free = dup(0)
            close(free)
            for (room, sent) in [(1, 4), (0, 3), (0, 1)] {
                try sender.send([1].span, descriptors: [Int32](repeating: 0, count: sent))
                var lowered = rlimit(rlim_cur: rlim_t(Int(free) + room), rlim_max: before.rlim_max)
                setrlimit(resource, &lowered)
                inbox.count = nil
                pump(loop, "a message") { inbox.count != nil }
                setrlimit(resource, &before)
                #expect(inbox.count! <= room && inbox.isShort)
            }
            try sender.send([1].span, descriptors: [0, 0])
            inbox.count = nil
            pump(loop, "a whole message") { inbox.count != nil }
            #expect(inbox.count == 2 && !inbox.isShort)
            sender.close()
            receiver.close()
        }
    }
}
