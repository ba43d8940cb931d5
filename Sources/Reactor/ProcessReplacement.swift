// Another program in this process's place: how `piko server` becomes the supervisor, so that signals and service managers
// reach it under the process number that they know.
internal import CIOCore
internal import Glibc

/// Executing another program in place.
public enum ProcessReplacement {
    /// Runs the program at `path` in place of this one, with the same environment and inherited descriptors. The first
    /// argument is the program's name. It returns only when that fails. For programs that have no loop and no thread.
    public static func execute(_ path: String, arguments: [String]) -> SystemError {
        var pointers: [UnsafeMutablePointer<CChar>?] = unsafe arguments.map { unsafe strdup($0) }
        unsafe pointers.append(nil)
        _ = unsafe pointers.withUnsafeMutableBufferPointer { unsafe execv(path, $0.baseAddress!) }
        let code = errno
        for unsafe pointer in unsafe pointers { unsafe free(pointer) }
        return SystemError(code: code, call: "run \(path)")
    }

    /// Runs the program that the descriptor holds in place of this one, with more variables in its environment. It returns only
    /// when that fails. Descriptors that are not kept open are closed by it, and threads end.
    public static func execute(
        _ descriptor: Int32, name: String, arguments: [String], environment: [String]
    ) -> SystemError {
        let strings = ProgramEnvironment.strings + environment
        let result = unsafe withStringVector(arguments) { arguments in
            unsafe withStringVector(strings) { environment in
                unsafe cio_process_replace(descriptor, arguments, environment)
            }
        }
        return SystemError(code: -result, call: "run \(name)")
    }

    /// Keeps a descriptor open through an exec.
    public static func keepOpen(_ descriptor: Int32) { _ = fcntl(descriptor, F_SETFD, 0) }

    /// Closes a descriptor at the next exec.
    public static func keepToItself(_ descriptor: Int32) { _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC) }
}
