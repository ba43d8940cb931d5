// What a process can see of the others and of the machine, for people who look for a fault: /proc by name, and whether the clock is
// right. None of this is for an event loop in full run.
internal import CIOCore
internal import Glibc

/// Folders and links.
public enum Folder {
    /// The most names that are returned.
    public static let namesMax = 100_000

    /// The names in a folder, without `.` and `..`; none where it can't be read.
    public static func names(_ path: String) -> [String] {
        guard let folder = unsafe opendir(path) else { return [] }
        defer { unsafe closedir(folder) }
        var names: [String] = []
        while names.count < namesMax, let entry = unsafe readdir(folder) {
            let name = unsafe withUnsafeBytes(of: entry.pointee.d_name) { bytes in
                unsafe String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
            }
            if name != "." && name != ".." { names.append(name) }
        }
        return names
    }

    /// Where a symbolic link leads to; nil where there is none, or none that may be read.
    public static func linkTarget(_ path: String) -> String? {
        unsafe withUnsafeTemporaryAllocation(of: CChar.self, capacity: 512) { buffer in
            let length = unsafe readlink(path, buffer.baseAddress!, buffer.count)
            guard length > 0, length < buffer.count else { return nil }
            unsafe buffer[length] = 0
            return unsafe String(cString: buffer.baseAddress!)
        }
    }
}

extension SystemClock {
    /// Whether something keeps the clock right (NTP or the like), as the kernel was told; nil: the kernel does not say.
    public static var isSynchronised: Bool? {
        let state = cio_clock_synchronised()
        return state < 0 ? nil : state == 1
    }
}
