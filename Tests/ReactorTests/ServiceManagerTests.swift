// What is understood of a service manager's variables, row by row, and what it hears, on a socket that plays its part.
import Base
import Glibc
import Testing

@testable import Reactor

@Suite struct ServiceSettingsTests {
    /// A row: the variables, what they mean to process 42.
    static let rows: [([String: String], String?, Duration?)] = [
        ([:], nil, nil),
        (["NOTIFY_SOCKET": "/run/notify"], "/run/notify", nil),
        (["NOTIFY_SOCKET": "@abstract"], "@abstract", nil),
        (["NOTIFY_SOCKET": ""], nil, nil),
        (["NOTIFY_SOCKET": "/"], nil, nil),
        (["NOTIFY_SOCKET": "relative"], nil, nil),
        (["NOTIFY_SOCKET": "vsock:2:1234"], nil, nil),
        (["NOTIFY_SOCKET": "/" + String(repeating: "x", count: 106)], "/" + String(repeating: "x", count: 106), nil),
        (["NOTIFY_SOCKET": "/" + String(repeating: "x", count: 107)], nil, nil),
        (["NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "3000000"], "@n", .seconds(3)),
        (["NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "42"], "@n", .seconds(3)),
        (["NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "43"], "@n", nil),
        (["NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "x"], "@n", nil),
        (["NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "0"], "@n", nil),
        (["NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "-1"], "@n", nil),
        (["NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "soon"], "@n", nil),
        (["WATCHDOG_USEC": "3000000"], nil, nil),
    ]

    @Test(arguments: rows) func row(variables: [String: String], socket: String?, watchdog: Duration?) {
        let settings = ServiceSettings(variables, pid: 42)
        #expect(settings.notifySocket == socket)
        #expect(settings.watchdog == watchdog)
    }

    @Test(arguments: rows) func aSuccessorGetsTheSame(variables: [String: String], socket: String?, watchdog: Duration?) {
        let settings = ServiceSettings(variables, pid: 42)
        var copied: [String: String] = [:]
        for text in settings.variables {
            let parts = text.split(separator: "=", maxSplits: 1).map(String.init)
            copied[parts[0]] = parts[1]
        }
        #expect(ServiceSettings(copied, pid: 4711) == settings)
    }
}

@Suite struct ActivationSocketsTests {
    static let rows: [([String: String], [String])] = [
        ([:], []),
        (["LISTEN_FDS": "2"], []),
        (["LISTEN_FDS": "2", "LISTEN_PID": "43", "LISTEN_FDNAMES": "a:b"], []),
        (["LISTEN_FDS": "nonsense", "LISTEN_PID": "43"], []),
        (["LISTEN_FDS": "2", "LISTEN_PID": "42"], ["unknown", "unknown"]),
        (["LISTEN_FDS": "3", "LISTEN_PID": "42", "LISTEN_FDNAMES": "proxy:upstream:proxy"], ["proxy", "upstream", "proxy"]),
        (["LISTEN_FDS": "1", "LISTEN_PID": "42", "LISTEN_FDNAMES": "admin"], ["admin"]),
        (["LISTEN_FDS": "2", "LISTEN_PID": "42", "LISTEN_FDNAMES": ":x"], ["", "x"]),
        (["LISTEN_FDS": "0", "LISTEN_PID": "42", "LISTEN_FDNAMES": ""], []),
        (["LISTEN_FDS": "256", "LISTEN_PID": "42"], Array(repeating: "unknown", count: 256)),
    ]

    @Test(arguments: rows) func row(variables: [String: String], names: [String]) throws {
        #expect(try ActivationSockets(variables, pid: 42).names == names)
    }

    static let failures: [([String: String], String)] = [
        (["LISTEN_FDS": "x", "LISTEN_PID": "42"], "LISTEN_FDS"),
        (["LISTEN_FDS": "-1", "LISTEN_PID": "42"], "LISTEN_FDS"),
        (["LISTEN_FDS": "257", "LISTEN_PID": "42"], "LISTEN_FDS"),
        (["LISTEN_FDS": "99999999999999999999", "LISTEN_PID": "42"], "LISTEN_FDS"),
        (["LISTEN_FDS": "1", "LISTEN_PID": "me"], "LISTEN_PID"),
        (["LISTEN_FDS": "1", "LISTEN_PID": "0"], "LISTEN_PID"),
        (["LISTEN_FDS": "2", "LISTEN_PID": "42", "LISTEN_FDNAMES": "a"], "LISTEN_FDNAMES"),
        (["LISTEN_FDS": "1", "LISTEN_PID": "42", "LISTEN_FDNAMES": "a:b"], "LISTEN_FDNAMES"),
        (["LISTEN_FDS": "1", "LISTEN_PID": "42", "LISTEN_FDNAMES": ""], "LISTEN_FDNAMES"),
    ]

    @Test(arguments: failures) func refusal(variables: [String: String], word: String) {
        let failure = #expect(throws: ActivationSockets.Failure.self) { try ActivationSockets(variables, pid: 42) }
        #expect(failure?.description.hasPrefix(word) == true)
    }

    @Test func descriptorsByName() throws {
        let sockets = try ActivationSockets(Self.rows[5].0, pid: 42)
        #expect(sockets.descriptors(named: "proxy") == [3, 5])
        #expect(sockets.descriptors(named: "upstream") == [4])
        #expect(sockets.descriptors(named: "admin").isEmpty)
    }
}

/// A service manager's end of the notifications.
private final class Manager {
    let descriptor: OwnedDescriptor
    let name: String

    /// Binds an abstract name, or a path.
    init(path: String? = nil) {
        name = path ?? "@piko-test-\(Random.number())"
        descriptor = OwnedDescriptor(socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue | SOCK_CLOEXEC.rawValue), 0))
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        var bytes = Array(name.utf8)
        if path == nil { bytes[0] = 0 }
        withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: bytes) }
        let length = socklen_t(2 + bytes.count + (path == nil ? 0 : 1))
        let result = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(descriptor.raw, $0, length) }
        }
        precondition(result == 0, "bind \(name)")
    }

    /// The next datagram; nil when none is there.
    func next() -> String? {
        var buffer = [UInt8](repeating: 0, count: 4_096)
        let length = recv(descriptor.raw, &buffer, buffer.count, Int32(MSG_DONTWAIT))
        return length < 0 ? nil : String(decoding: buffer[..<length], as: UTF8.self)
    }
}

@Suite struct ServiceManagerTests {
    private func client(_ manager: Manager, _ loop: Loop, watchdog: Duration? = nil) -> ServiceManager {
        var settings = ServiceSettings()
        settings.notifySocket = manager.name
        settings.watchdog = watchdog
        return ServiceManager(loop, settings)
    }

    @Test(arguments: [false, true]) func says(path: Bool) throws {
        let file = "/tmp/piko-notify-\(Random.number())"
        defer { unlink(file) }
        let manager = Manager(path: path ? file : nil)
        let service = client(manager, try Loop(backend: .epoll))
        #expect(service.isPresent)
        service.ready(status: "two\nlines")
        #expect(manager.next() == "READY=1\nSTATUS=two lines")
        let before = SystemClock.now.nanoseconds / 1_000
        service.reloading()
        let reloading = try #require(manager.next())
        #expect(reloading.hasPrefix("RELOADING=1\nMONOTONIC_USEC="))
        let stamp = try #require(UInt64(reloading.split(separator: "=").last ?? ""))
        #expect(stamp >= before && stamp <= SystemClock.now.nanoseconds / 1_000)
        service.status("busy")
        #expect(manager.next() == "STATUS=busy")
        service.stopping(status: "draining")
        #expect(manager.next() == "STOPPING=1\nSTATUS=draining")
        service.handOver(to: 4711, status: "handed over")
        #expect(manager.next() == "MAINPID=4711\nREADY=1\nSTATUS=handed over")
        #expect(!service.isPresent)
        service.status("not for me to say")
        #expect(manager.next() == nil)
    }

    @Test func watchdogComesTwiceInItsInterval() throws {
        let manager = Manager()
        let loop = try Loop(backend: .epoll)
        let service = client(manager, loop, watchdog: .milliseconds(40))
        service.ready(status: "up")
        let began = SystemClock.now
        while SystemClock.now - began < .milliseconds(210) { loop.runTurn(until: SystemClock.now + .milliseconds(5)) }
        var heard: [String] = []
        while let text = manager.next() { heard.append(text) }
        #expect(heard.first == "READY=1\nSTATUS=up")
        // One at once, and one every 20 ms; a busy machine may delay some.
        #expect(heard.dropFirst().allSatisfy { $0 == "WATCHDOG=1" } && (4...12).contains(heard.count - 1))
        service.handOver(to: 1, status: "over")
        while manager.next() != nil {}
        loop.runTurn(until: SystemClock.now + .milliseconds(60))
        #expect(manager.next() == nil)
    }

    /// A manager that does not read for a while loses nothing of what matters, and the program does not wait for it.
    @Test func waitsForRoomWithoutBlocking() throws {
        let manager = Manager()
        let loop = try Loop(backend: .epoll)
        let service = client(manager, loop)
        for number in 0..<2_000 { service.status("number \(number)") }
        service.stopping(status: "the last")
        var last = ""
        let deadline = SystemClock.now + .seconds(10)
        while last != "STOPPING=1\nSTATUS=the last", SystemClock.now < deadline {
            while let text = manager.next() { last = text }
            loop.runTurn(until: SystemClock.now + .milliseconds(10))
        }
        #expect(last == "STOPPING=1\nSTATUS=the last")
    }

    @Test func nobodyListens() throws {
        let loop = try Loop(backend: .epoll)
        let absent = ServiceManager(loop, ServiceSettings())
        #expect(!absent.isPresent)
        absent.ready(status: "x")
        var settings = ServiceSettings()
        settings.notifySocket = "@piko-test-nobody-\(Random.number())"
        let refused = ServiceManager(loop, settings)
        refused.ready(status: "x")
        refused.stopping(status: "x")
    }
}
