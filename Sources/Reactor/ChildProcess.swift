// Programs started by this process, and the news of their end.
internal import CIOCore
internal import Glibc

/// How a process ended.
public enum ExitStatus: Equatable, Sendable, CustomStringConvertible {
    /// It exited with a code.
    case exited(Int32)
    /// A signal ended it.
    case signalled(Int32)

    init(waitStatus: Int32) {
        let signal = waitStatus & 0x7f
        self = signal == 0 ? .exited((waitStatus >> 8) & 0xff) : .signalled(signal)
    }

    public var description: String {
        switch self {
        case .exited(let code): "exit code \(code)"
        case .signalled(SIGSYS): "signal \(SIGSYS), a system call that its filter refuses (see docs/security.md)"
        case .signalled(let number): "signal \(number)"
        }
    }
}

/// What to start.
public struct ProcessDescription: Sendable {
    /// The program's path; when `executable` is set, only a name for messages.
    public var path: String
    /// An open descriptor of the program, executed instead of the path.
    public var executable: Int32?
    /// The whole argument list, the program's name first.
    public var arguments: [String]
    /// `NAME=value` strings.
    public var environment: [String]
    /// descriptors[i] becomes descriptor i + 3 of the child; all others but 0, 1 and 2 are closed there.
    public var descriptors: [Int32] = []
    /// Kill the child when this process ends.
    public var diesWithParent = false

    public init(path: String, arguments: [String], environment: [String]) {
        self.path = path
        self.arguments = arguments
        self.environment = environment
    }
}

/// A running child process.
public final class ChildProcess {
    /// Its process number.
    public let pid: Int32
    private let loop: Loop
    private let descriptor: OwnedDescriptor
    private var source: ReadinessSource?

    /// Starts a program. `exited` is called once, when it has ended and been reaped. A program that can't be executed
    /// throws.
    public static func spawn(
        _ loop: Loop, _ description: ProcessDescription, exited: @escaping (ExitStatus) -> Void
    ) throws(SystemError) -> ChildProcess {
        var handle: Int32 = -1
        let pid = unsafe withStringVector(description.arguments) { arguments in
            unsafe withStringVector(description.environment) { environment in
                unsafe description.descriptors.withUnsafeBufferPointer { descriptors in
                    unsafe cio_process_spawn(
                        description.path, description.executable ?? -1, arguments, environment, descriptors.baseAddress,
                        UInt32(descriptors.count), description.diesWithParent, &handle)
                }
            }
        }
        try pid.orThrow("start \(description.path)")
        return try ChildProcess(loop, pid: pid, adopting: OwnedDescriptor(handle), exited: exited)
    }

    /// Takes over a child that was started before this program was executed in its parent's place.
    public static func adopt(_ loop: Loop, pid: Int32, exited: @escaping (ExitStatus) -> Void) throws(SystemError) -> ChildProcess {
        let handle = try cio_process_open(pid).orThrow("open process \(pid)")
        return try ChildProcess(loop, pid: pid, adopting: OwnedDescriptor(handle), exited: exited)
    }

    private init(
        _ loop: Loop, pid: Int32, adopting descriptor: consuming OwnedDescriptor, exited: @escaping (ExitStatus) -> Void
    ) throws(SystemError) {
        self.pid = pid
        self.loop = loop
        self.descriptor = descriptor
        let number = self.descriptor.raw
        source = try ReadinessSource(loop, readable: number) { [unowned(unsafe) self] in
            var status: Int32 = 0
            let reaped = unsafe cio_process_reap(pid, &status)
            if reaped == 0 { return }
            let keptAlive = unsafe self
            keptAlive.source?.close()
            keptAlive.source = nil
            keptAlive.loop.children.remove(pid)
            exited(reaped > 0 ? ExitStatus(waitStatus: status) : .exited(-1))
        }
        loop.children.insert(pid)
    }

    deinit {
        if source == nil { return }
        source?.close()
        loop.children.remove(pid)
    }

    /// Whether it has not been reaped yet.
    public var isRunning: Bool { source != nil }

    /// Sends a signal; false when it has ended.
    @discardableResult
    public func signal(_ number: Int32) -> Bool { cio_process_signal(descriptor.raw, number) == 0 }
}

/// Calls `body` with a NULL-terminated array of C strings.
func withStringVector<Result>(
    _ strings: [String], _ body: (UnsafePointer<UnsafeMutablePointer<CChar>?>) -> Result
) -> Result {
    var pointers: [UnsafeMutablePointer<CChar>?] = unsafe strings.map { unsafe strdup($0) }
    unsafe pointers.append(nil)
    defer { for unsafe pointer in unsafe pointers { unsafe free(pointer) } }
    return unsafe pointers.withUnsafeBufferPointer { unsafe body($0.baseAddress!) }
}
