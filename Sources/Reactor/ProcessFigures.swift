// What a process of ours uses, as the kernel tells in /proc.
internal import Base
internal import Glibc

/// What a process uses at one moment.
public struct ProcessFigures: Equatable, Sendable {
    /// Processor time since its start, in nanoseconds.
    public var processorNanoseconds: UInt64 = 0
    /// Bytes of memory.
    public var residentBytes: UInt64 = 0
    public var virtualBytes: UInt64 = 0

    public init() {}

    /// Of the process with that number; nil: there is none, or no /proc.
    public static func read(_ pid: Int32) -> ProcessFigures? {
        guard let text = try? FileContents.read("/proc/\(pid)/stat", bytesMax: 4_096) else { return nil }
        return ProcessFigures(parsing: text)
    }

    /// From the text of /proc/PID/stat (proc(5)). The program's name stands in parentheses and may have any byte in it.
    init?(parsing text: [UInt8]) {
        guard let end = text.lastIndex(of: UInt8(ascii: ")")) else { return nil }
        let fields = text[(end + 1)...].split(separator: UInt8(ascii: " ")).map { UInt64(String(decoding: $0, as: UTF8.self)) }
        // Behind the name comes field 3. utime and stime are 14 and 15, vsize and rss 23 and 24.
        guard fields.count > 21, let user = fields[11], let system = fields[12], let virtual = fields[20], let pages = fields[21] else { return nil }
        let ticks = UInt64(max(sysconf(Int32(_SC_CLK_TCK)), 1))
        processorNanoseconds = (user &+ system) &* (1_000_000_000 / ticks)
        virtualBytes = virtual
        residentBytes = pages &* System.pageBytes
    }

    /// Processor time of the children of this process that ended, in nanoseconds.
    public static var endedChildrenNanoseconds: UInt64 {
        var usage = rusage()
        guard unsafe getrusage(RUSAGE_CHILDREN.rawValue, &usage) == 0 else { return 0 }
        func nanoseconds(_ time: timeval) -> UInt64 { UInt64(max(time.tv_sec, 0)) &* 1_000_000_000 &+ UInt64(max(time.tv_usec, 0)) &* 1_000 }
        return nanoseconds(usage.ru_utime) &+ nanoseconds(usage.ru_stime)
    }

    /// Descriptors that a process has open; nil where the kernel does not tell.
    public static func openDescriptors(_ pid: Int32) -> Int? {
        guard let folder = unsafe opendir("/proc/\(pid)/fd") else { return nil }
        defer { unsafe _ = closedir(folder) }
        var count = 0
        while let entry = unsafe readdir(folder) {
            if unsafe entry.pointee.d_name.0 != CChar(bitPattern: UInt8(ascii: ".")) { count += 1 }
        }
        return count
    }
}
