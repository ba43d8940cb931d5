// Another program in this process's place: how `piko server` becomes the supervisor, so that signals and service managers
// reach it under the process number that they know.
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
}
