// Where a process is stuck: its own stack, which it writes to the log when it is asked to, and what the kernel says of it, for
// one that can't even do that.
internal import CIOCore
internal import Glibc

/// The stack of a process in its log.
public enum StackReport {
    /// The signal that asks for it. Nothing else uses it.
    public static let signal = SIGUSR1

    /// Lets this process answer the signal with a line on stderr, JSON or for people, and write the same line when it
    /// crashes. Meant for the main thread of a worker, before it gives up its privileges.
    public static func install(json: Bool, crashes: Bool) throws(SystemError) {
        try cio_stack_install(signal, json, crashes).orThrow("signal handlers")
    }
}

/// What the kernel says of a process. A value that may not be read, or that the kernel does not have, is empty.
public struct KernelView: Equatable, Sendable {
    /// One letter: R runs, S sleeps, D waits for a device or a page and takes no signal, T is stopped, Z has ended.
    public var state = ""
    /// The function of the kernel in which it sleeps.
    public var waitChannel = ""
    /// The number of the system call that it is in, and its arguments; "running" when in none.
    public var systemCall = ""
    /// The kernel's own stack of it, the innermost function first.
    public var kernelStack = ""

    /// Looks at a process now.
    public init(of pid: Int32) {
        let folder = "/proc/\(pid)"
        if let status = Self.text("\(folder)/stat"), let end = status.lastIndex(of: ")") {
            state = status[status.index(after: end)...].split(separator: " ").first.map(String.init) ?? ""
        }
        waitChannel = Self.text("\(folder)/wchan") ?? ""
        if waitChannel == "0" { waitChannel = "" }
        systemCall = Self.text("\(folder)/syscall") ?? ""
        let lines = (Self.text("\(folder)/stack") ?? "").split(separator: "\n")
        kernelStack = lines.map { $0.split(separator: " ").last.map(String.init) ?? "" }.joined(separator: " ")
    }

    private static func text(_ path: String) -> String? {
        guard let bytes = try? FileContents.read(path, bytesMax: 16_384) else { return nil }
        var text = String(decoding: bytes, as: UTF8.self)
        while text.last?.isNewline == true { text.removeLast() }
        return text
    }
}

extension ChildProcess {
    /// Asks the process to write its stack to its log, and says what the kernel knows of it meanwhile. For a child that runs
    /// `StackReport.install`; any other is ended by the signal.
    public func requestStack() -> KernelView {
        let view = KernelView(of: pid)
        signal(StackReport.signal)
        return view
    }
}
