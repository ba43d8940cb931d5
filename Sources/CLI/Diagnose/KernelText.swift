// What the kernel says about itself and about this process in files of /proc and /sys, read from their text. Pure: the text goes in, and
// nothing is asked.

/// A limit of a process; nil: there is none.
struct ProcessLimit: Equatable {
    var soft: UInt64?
    var hard: UInt64?
}

/// Reads such files.
enum KernelText {
    /// The limits of /proc/self/limits by their names ("Max open files").
    static func limits(_ text: String) -> [String: ProcessLimit] {
        var limits: [String: ProcessLimit] = [:]
        for line in text.split(separator: "\n").dropFirst() {
            // The name has single spaces, and columns have two or more between them.
            guard let end = line.firstRange(of: "  ") else { continue }
            let columns = line[end.upperBound...].split(separator: " ")
            guard columns.count >= 2, let soft = limit(columns[0]), let hard = limit(columns[1]) else { continue }
            limits[String(line[..<end.lowerBound])] = ProcessLimit(soft: soft, hard: hard)
        }
        return limits
    }

    /// nil: no number; a nil in it: no limit.
    private static func limit(_ text: Substring) -> UInt64?? {
        if text == "unlimited" { return .some(nil) }
        return UInt64(text).map { .some($0) }
    }

    /// The numbers of a sysctl's file, which has one or several.
    static func numbers(_ text: String) -> [UInt64] { text.split { $0 == " " || $0 == "\t" || $0 == "\n" }.compactMap { UInt64($0) } }

    /// The number of the socket that listens on the port, in the text of /proc/net/tcp or tcp6, or that is bound to it, in that of udp or
    /// udp6.
    static func socket(_ text: String, port: UInt16, listens: Bool) -> UInt64? {
        for line in text.split(separator: "\n").dropFirst() {
            let columns = line.split(separator: " ")
            guard columns.count > 9, let colon = columns[1].lastIndex(of: ":") else { continue }
            guard UInt16(columns[1][columns[1].index(after: colon)...], radix: 16) == port else { continue }
            if listens, columns[3] != "0A" { continue }
            return UInt64(columns[9])
        }
        return nil
    }

    /// Where this process's cgroup is, of /proc/self/cgroup: folders below /sys/fs/cgroup that may have the controller's files, the
    /// process's own first. In a container's namespace the path is "/", and outside of it the mount may show another root.
    static func groups(_ text: String, controller: String) -> [String] {
        var folders: [String] = []
        for line in text.split(separator: "\n") {
            let parts = line.split(separator: ":", maxSplits: 2, omittingEmptySubsequences: false)
            guard parts.count == 3 else { continue }
            let isUnified = parts[1].isEmpty
            guard isUnified || parts[1].split(separator: ",").contains(controller[...]) else { continue }
            let root = "/sys/fs/cgroup" + (isUnified ? "" : "/\(controller)")
            var path = parts[2]
            while !path.isEmpty, path != "/" {
                folders.append(root + path)
                path = path[..<(path.lastIndex(of: "/") ?? path.startIndex)]
            }
            folders.append(root)
        }
        return folders
    }

    /// A memory limit of a cgroup, version 1 or 2; nil: none. Version 1 writes a number near 2^63 for none.
    static func memoryLimit(_ text: String) -> UInt64? {
        guard let bytes = numbers(text).first, bytes < 1 << 60 else { return nil }
        return bytes
    }

    /// Pages of memory that all TCP sockets hold, of /proc/net/sockstat.
    static func socketPages(_ text: String) -> UInt64? {
        for line in text.split(separator: "\n") where line.hasPrefix("TCP:") {
            let words = line.split(separator: " ")
            guard let index = words.firstIndex(of: "mem"), index + 1 < words.count else { return nil }
            return UInt64(words[index + 1])
        }
        return nil
    }

    /// A number of bytes for people.
    static func bytes(_ count: UInt64) -> String {
        switch count {
        case ..<10_240: "\(count) bytes"
        case ..<10_485_760: "\(count / 1_024) KiB"
        case ..<10_737_418_240: "\(count / 1_048_576) MiB"
        default: "\(count / 1_073_741_824) GiB"
        }
    }
}
