// What a service manager (systemd, or another that speaks its protocol) wants to hear from a program, and what it tells it:
// the notifications of sd_notify, the watchdog, and sockets that it opened before it started us.
//
// `ServiceSettings` and `ActivationSockets` are pure: environment in, values out. `ServiceManager` sends. A notification is
// one datagram. Sending never waits: what the manager's socket does not take at once is tried again, in order, from a timer.
//
// A program takes its settings once, at its start, and removes the variables (`ServiceSettings.take`), so that what it
// starts is not taken for it. A program that is to take over gets `ServiceSettings.variables`.
internal import Base
internal import Glibc

/// What the environment says about the service manager.
public struct ServiceSettings: Equatable, Sendable {
    /// Where notifications go: a path, or "@" and an abstract name; nil: nobody listens.
    public var notifySocket: String?
    /// The manager takes the program for hung when it hears nothing for so long; nil: it does not watch this process.
    public var watchdog: Duration?

    /// Longest path, or name with its "@", that a Unix socket's address holds.
    static let socketBytesMax = 107

    /// The variables that are read here.
    public static let names = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"]

    /// No service manager.
    public init() {}

    /// What the variables say to the process with the number `pid`. What is malformed, of another kind (vsock) or meant for
    /// another process counts as absent.
    public init(_ variables: [String: String], pid: Int32) {
        guard let socket = variables["NOTIFY_SOCKET"], socket.hasPrefix("/") || socket.hasPrefix("@"),
            (2...Self.socketBytesMax).contains(socket.utf8.count), !socket.utf8.contains(0)
        else { return }
        notifySocket = socket
        guard let text = variables["WATCHDOG_USEC"], let interval = Int64(text), interval > 0 else { return }
        if let other = variables["WATCHDOG_PID"], Int32(other) != pid { return }
        watchdog = .microseconds(interval)
    }

    /// The settings of this process; the variables are gone from its environment afterwards.
    public static func take() -> ServiceSettings {
        let settings = ServiceSettings(ProgramEnvironment.variables, pid: System.processIdentifier)
        ProgramEnvironment.remove(names)
        return settings
    }

    /// `NAME=value` strings that give the same settings to a program that takes this one's place, under whatever number.
    public var variables: [String] {
        var strings: [String] = []
        if let notifySocket { strings.append("NOTIFY_SOCKET=\(notifySocket)") }
        if let watchdog {
            let (seconds, attoseconds) = watchdog.components
            strings.append("WATCHDOG_USEC=\(seconds * 1_000_000 + attoseconds / 1_000_000_000_000)")
        }
        return strings
    }
}

/// The sockets that a service manager opened for this process: descriptors from 3 on, each with a name.
public struct ActivationSockets: Equatable, Sendable {
    /// The name of descriptor 3 + index. A socket unit's name is its file's name unless `FileDescriptorName=` says another.
    public var names: [String] = []

    /// Descriptors are inherited from here on.
    public static let firstDescriptor: Int32 = 3
    /// More than a program of ours has use for; a count beyond it is a mistake.
    public static let countMax = 256
    /// The variables that are read here. Who took the sockets removes them.
    public static let variableNames = ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"]

    /// Why the variables can't be used.
    public struct Failure: Error, Equatable, CustomStringConvertible {
        public var description: String
    }

    /// What the variables say to the process with the number `pid`: none when they are absent or meant for another process.
    /// Names that are missing are "unknown", as the manager's own library has it.
    public init(_ variables: [String: String], pid: Int32) throws(Failure) {
        guard let countText = variables["LISTEN_FDS"] else { return }
        guard let pidText = variables["LISTEN_PID"] else { return }
        guard let meant = Int32(pidText), meant > 0 else { throw Failure(description: "LISTEN_PID: \"\(pidText)\" is no process's number") }
        if meant != pid { return }
        guard let count = Int(countText), (0...Self.countMax).contains(count) else {
            throw Failure(description: "LISTEN_FDS: \"\(countText)\" is not between 0 and \(Self.countMax)")
        }
        guard let namesText = variables["LISTEN_FDNAMES"] else {
            names = Array(repeating: "unknown", count: count)
            return
        }
        let given = namesText.isEmpty ? [] : namesText.split(separator: ":", omittingEmptySubsequences: false).map(String.init)
        guard given.count == count else {
            throw Failure(description: "LISTEN_FDNAMES has \(given.count) names, LISTEN_FDS says \(count)")
        }
        names = given
    }

    /// The descriptors with a name, in order.
    public func descriptors(named name: String) -> [Int32] {
        names.indices.filter { names[$0] == name }.map { Self.firstDescriptor + Int32($0) }
    }
}

/// Talks to the service manager, if there is one: without, every call does nothing.
public final class ServiceManager {
    private let loop: Loop
    private let settings: ServiceSettings
    private let socket: NotificationSocket?
    /// What the manager's socket had no room for, oldest first.
    private var waiting: [String] = []
    private var retry: CallbackTimer?
    private var watchdog: CallbackTimer?
    private var isSilent = false

    /// More notifications than this do not wait: the oldest is dropped, one that changes no state before any other.
    static let waitingMax = 16
    static let retryInterval = Duration.milliseconds(50)

    public init(_ loop: Loop, _ settings: ServiceSettings) {
        self.loop = loop
        self.settings = settings
        socket = settings.notifySocket.flatMap { NotificationSocket($0) }
        retry = CallbackTimer(loop) { [unowned self] in self.sendWaiting() }
    }

    /// Whether somebody listens.
    public var isPresent: Bool { socket != nil && !isSilent }

    /// The program does its work (after its start, and again after `reloading`). Starts the watchdog, if the manager wants one:
    /// from now on it hears of this loop at least twice in its interval.
    public func ready(status: String) {
        send(["READY=1", "STATUS=\(Self.line(status))"])
        startWatchdog()
    }

    /// What the program is doing, for people.
    public func status(_ text: String) { send(["STATUS=\(Self.line(text))"]) }

    /// A reload begins. `ready` must follow, however it ends.
    public func reloading() {
        send(["RELOADING=1", "MONOTONIC_USEC=\(SystemClock.now.nanoseconds / 1_000)"])
    }

    /// The program comes to its end.
    public func stopping(status: String) { send(["STOPPING=1", "STATUS=\(Self.line(status))"]) }

    /// Another process has taken over this one's work and is ready: it is the service's main process from now on, and only it
    /// speaks for the service. Nothing more is sent by this one.
    public func handOver(to pid: Int32, status: String) {
        send(["MAINPID=\(pid)", "READY=1", "STATUS=\(Self.line(status))"])
        watchdog?.cancel()
        watchdog = nil
        isSilent = true
    }

    /// Says that the loop turns, from now on and at half of the manager's interval; `ready` does it by itself.
    public func startWatchdog() {
        guard let interval = settings.watchdog, isPresent, watchdog == nil else { return }
        let timer = CallbackTimer(loop) { [unowned self] in
            self.send(["WATCHDOG=1"])
            self.watchdog?.schedule(after: interval / 2)
        }
        watchdog = timer
        timer.fired()
    }

    /// Assignments are told apart by newlines, so a value has none.
    private static func line(_ text: String) -> String { String(text.map { $0.isNewline ? " " : $0 }) }

    // MARK: Sending

    private func send(_ assignments: [String]) {
        guard isPresent else { return }
        waiting.append(assignments.joined(separator: "\n"))
        if waiting.count > Self.waitingMax {
            let expendable = waiting.firstIndex { $0.hasPrefix("STATUS=") || $0.hasPrefix("WATCHDOG=") }
            waiting.remove(at: expendable ?? 0)
        }
        sendWaiting()
    }

    private func sendWaiting() {
        while let socket, let first = waiting.first {
            let code = socket.send(first)
            if code == EAGAIN || code == ENOBUFS || code == EINTR {
                retry?.schedule(after: Self.retryInterval)
                return
            }
            // Sent; or nobody is there, and there is nobody to tell.
            waiting.removeFirst()
        }
    }
}

/// A socket for notifications to one address.
private final class NotificationSocket {
    private let descriptor: OwnedDescriptor
    private let path: String

    /// nil when the machine gives no socket.
    init?(_ path: String) {
        let opened = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        if opened < 0 { return nil }
        descriptor = OwnedDescriptor(opened)
        self.path = path
    }

    /// Sends one datagram, without waiting: 0, or an errno.
    func send(_ text: String) -> Int32 {
        var address = sockaddr_un()
        address.sun_family = sa_family_t(AF_UNIX)
        var name = Array(path.utf8)
        let isAbstract = name[0] == UInt8(ascii: "@")
        if isAbstract { name[0] = 0 }
        unsafe withUnsafeMutableBytes(of: &address.sun_path) { unsafe $0.copyBytes(from: name) }
        // A path ends with a zero byte, an abstract name with the address.
        let length = socklen_t(MemoryLayout<sockaddr_un>.offset(of: \.sun_path)! + name.count + (isAbstract ? 0 : 1))
        let bytes = Array(text.utf8)
        let flags = Int32(MSG_DONTWAIT) | Int32(MSG_NOSIGNAL)
        let sent = unsafe withUnsafePointer(to: &address) { pointer in
            unsafe pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { generic in
                unsafe bytes.withUnsafeBytes { buffer in
                    unsafe sendto(descriptor.raw, buffer.baseAddress, buffer.count, flags, generic, length)
                }
            }
        }
        return sent < 0 ? errno : 0
    }
}
