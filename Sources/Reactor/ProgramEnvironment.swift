// What a program finds around it when it starts: its environment, its own executable, and the files that it was told to
// read. None of this is for an event loop in full run: reading a file may wait.
internal import CIOCore
internal import Glibc

/// The surroundings of this process.
public enum ProgramEnvironment {
    /// The environment as `NAME=value` strings, for a child.
    public static var strings: [String] {
        var strings: [String] = []
        var next = unsafe environ
        while let text = unsafe next.pointee {
            strings.append(unsafe String(cString: text))
            unsafe next += 1
        }
        return strings
    }

    /// The environment by name. Of a name that is there twice the first counts, as getenv has it.
    public static var variables: [String: String] {
        var variables: [String: String] = [:]
        for string in strings {
            guard let equals = string.firstIndex(of: "="), equals != string.startIndex else { continue }
            let name = String(string[..<equals])
            if variables[name] == nil { variables[name] = String(string[string.index(after: equals)...]) }
        }
        return variables
    }

    /// Removes variables from this process's environment, so that no child inherits them. For a program that has no second
    /// thread yet.
    public static func remove(_ names: [String]) {
        for name in names { _ = unsafe unsetenv(name) }
    }

    /// Sets a variable for the program that takes this one's place. For a program that has no second thread yet.
    public static func set(_ name: String, _ value: String) {
        _ = unsafe setenv(name, value, 1)
    }

    /// The path by which this program was started, symbolic links as they were: whoever starts it again gets what is there
    /// then. Relative to the directory in which it was started.
    public static var startedPath: String? {
        guard let text = unsafe cio_started_path() else { return nil }
        return unsafe String(cString: text)
    }

    /// The path of the running program's file; nil where /proc is missing.
    public static var executablePath: String? {
        unsafe withUnsafeTemporaryAllocation(of: CChar.self, capacity: 4_096) { buffer in
            let length = unsafe readlink("/proc/self/exe", buffer.baseAddress!, buffer.count)
            guard length > 0, length < buffer.count else { return nil }
            unsafe buffer[length] = 0
            return unsafe String(cString: buffer.baseAddress!)
        }
    }

    /// The path of a program that is installed beside the running one.
    public static func siblingPath(_ name: String) -> String? {
        guard let own = executablePath, let slash = own.lastIndex(of: "/") else { return nil }
        return own[...slash] + name
    }

    /// The path without symbolic links; nil when there is nothing at it.
    public static func realPath(_ path: String) -> String? {
        guard let resolved = unsafe realpath(path, nil) else { return nil }
        defer { unsafe free(resolved) }
        return unsafe String(cString: resolved)
    }

    /// The folder that relative paths begin in.
    public static var workingDirectory: String? {
        unsafe withUnsafeTemporaryAllocation(of: CChar.self, capacity: 4_096) { buffer in
            guard let path = unsafe getcwd(buffer.baseAddress!, buffer.count) else { return nil }
            return unsafe String(cString: path)
        }
    }

    /// The user who runs this process.
    public static var userIdentifier: UInt32 { geteuid() }

    /// Whether a person reads what is written to the descriptor.
    public static func isTerminal(_ descriptor: Int32) -> Bool { isatty(descriptor) == 1 }
}

/// What a file is like from outside: another one, or other contents, have another stamp.
public struct FileStamp: Equatable, Sendable {
    private var device: UInt64
    private var number: UInt64
    private var size: Int64
    private var seconds: Int
    private var nanoseconds: Int

    /// Nil: there is none, or none that this process may look at.
    public init?(of path: String) {
        var facts = stat()
        guard unsafe stat(path, &facts) == 0 else { return nil }
        device = UInt64(facts.st_dev)
        number = UInt64(facts.st_ino)
        size = Int64(facts.st_size)
        seconds = facts.st_mtim.tv_sec
        nanoseconds = facts.st_mtim.tv_nsec
    }
}

/// Files that are read whole.
public enum FileContents {
    /// All bytes of a file or pipe. Throws EFBIG when there are more than `bytesMax`.
    public static func read(_ path: String, bytesMax: Int) throws(SystemError) -> [UInt8] {
        let file = try open(path)
        var contents: [UInt8] = []
        while true {
            var failure: Int32 = 0
            var piece = unsafe [UInt8](unsafeUninitializedCapacity: 65_536) { buffer, count in
                var got: Int
                repeat { got = unsafe Glibc.read(file.raw, buffer.baseAddress!, buffer.count) } while got < 0 && errno == EINTR
                if got < 0 { failure = errno }
                count = max(0, got)
            }
            if failure != 0 { throw SystemError(code: failure, call: "read \(path)") }
            if piece.isEmpty { return contents }
            contents += piece
            // It may be a key.
            unsafe piece.withUnsafeMutableBytes { unsafe explicit_bzero($0.baseAddress!, $0.count) }
            if contents.count > bytesMax { throw SystemError(code: EFBIG, call: "read \(path)") }
        }
    }

    /// Opens a file for reading.
    public static func open(_ path: String) throws(SystemError) -> OwnedDescriptor {
        let opened = unsafe Glibc.open(path, O_RDONLY | O_CLOEXEC)
        if opened < 0 { throw SystemError(code: errno, call: "open \(path)") }
        return OwnedDescriptor(opened)
    }

    /// Puts a file with these bytes in the place of what is there: whoever reads the path, also after the power failed, finds the one or
    /// the other, whole. Only this user may read it.
    public static func replace(_ path: String, with bytes: [UInt8]) throws(SystemError) {
        // What a link leads to is replaced, and not the link.
        let path = ProgramEnvironment.realPath(path) ?? path
        let fresh = path + ".new"
        do throws(SystemError) {
            try write(bytes, to: fresh, thenRename: path)
        } catch {
            _ = unsafe unlink(fresh)
            throw error
        }
    }

    private static func write(_ bytes: [UInt8], to fresh: String, thenRename path: String) throws(SystemError) {
        _ = unsafe unlink(fresh)
        let opened = unsafe Glibc.open(fresh, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        if opened < 0 { throw SystemError(code: errno, call: "create \(fresh)") }
        let file = OwnedDescriptor(opened)
        var written = 0
        while written < bytes.count {
            let count = unsafe bytes.withUnsafeBytes { unsafe Glibc.write(file.raw, $0.baseAddress! + written, $0.count - written) }
            if count < 0 && errno == EINTR { continue }
            if count <= 0 { throw SystemError(code: count == 0 ? ENOSPC : errno, call: "write \(fresh)") }
            written += count
        }
        if fsync(file.raw) != 0 { throw SystemError(code: errno, call: "write \(fresh)") }
        if unsafe rename(fresh, path) != 0 { throw SystemError(code: errno, call: "rename \(fresh)") }
        // That the new name is there after a loss of power as well.
        let folder = path.lastIndex(of: "/").map { $0 == path.startIndex ? "/" : String(path[..<$0]) } ?? "."
        if let directory = try? open(folder) { _ = fsync(directory.raw) }
    }

    /// Another number for what the descriptor stands for.
    public static func duplicate(_ descriptor: Int32) throws(SystemError) -> OwnedDescriptor {
        let copy = fcntl(descriptor, F_DUPFD_CLOEXEC, 3)
        if copy < 0 { throw SystemError(code: errno, call: "duplicate a descriptor") }
        return OwnedDescriptor(copy)
    }

    /// Throws when there is no file that this process may execute at the path.
    public static func checkExecutable(_ path: String) throws(SystemError) {
        if unsafe access(path, X_OK) != 0 { throw SystemError(code: errno, call: "execute \(path)") }
        if isDirectory(path) { throw SystemError(code: EISDIR, call: "execute \(path)") }
    }

    /// Whether reading what is at the path can't wait for anybody: it is a file, or there is nothing.
    public static func isFileOrNothing(_ path: String) -> Bool {
        var facts = stat()
        return unsafe stat(path, &facts) != 0 || facts.st_mode & S_IFMT == S_IFREG
    }

    /// Whether there is a directory at the path.
    public static func isDirectory(_ path: String) -> Bool {
        var facts = stat()
        return unsafe stat(path, &facts) == 0 && facts.st_mode & S_IFMT == S_IFDIR
    }

    /// Makes a directory that only its owner may enter; parents must exist. One that exists must be a real directory that
    /// belongs to this user or root and that nobody else may write into: in /tmp anybody could have made it before.
    public static func makePrivateDirectory(_ path: String) throws(SystemError) {
        if unsafe mkdir(path, 0o700) == 0 { return }
        if errno != EEXIST { throw SystemError(code: errno, call: "mkdir \(path)") }
        var facts = stat()
        if unsafe lstat(path, &facts) != 0 { throw SystemError(code: errno, call: "stat \(path)") }
        guard facts.st_mode & S_IFMT == S_IFDIR else { throw SystemError(code: ENOTDIR, call: "use \(path)") }
        guard facts.st_uid == geteuid() || facts.st_uid == 0, facts.st_mode & 0o022 == 0, unsafe access(path, W_OK) == 0
        else { throw SystemError(code: EACCES, call: "use \(path)") }
    }

    /// Removes a directory that is empty.
    public static func removeDirectory(_ path: String) { _ = unsafe rmdir(path) }

    /// Removes a file; whether it was there does not matter.
    public static func remove(_ path: String) { _ = unsafe unlink(path) }
}
