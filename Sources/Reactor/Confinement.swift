// What a process gives up before it listens to strangers: its user, its capabilities, and every system call that it has no
// need of. What is given up does not come back.
internal import CIOCore
internal import Glibc

/// A user and a group, by number.
public struct UserIdentity: Equatable, Sendable {
    public var user: UInt32
    public var group: UInt32

    public init(user: UInt32, group: UInt32) {
        self.user = user
        self.group = group
    }

    /// Why there is no such user.
    public enum LookupError: Error, Equatable, CustomStringConvertible {
        case noUser
        case noGroup
        case malformed
        case system(SystemError)

        public var description: String {
            switch self {
            case .noUser: "there is no such user"
            case .noGroup: "there is no such group"
            case .malformed: "is not of the form USER or USER:GROUP"
            case .system(let error): error.description
            }
        }
    }

    /// Looks up `USER` or `USER:GROUP`, names or numbers. Waits for the system's databases.
    public init(lookUp text: String) throws(LookupError) {
        var user: uid_t = 0
        var group: gid_t = 0
        switch unsafe cio_user_lookup(text, &user, &group) {
        case 0: self.init(user: user, group: group)
        case -ENOENT: throw .noUser
        case -ESRCH: throw .noGroup
        case -EINVAL: throw .malformed
        case let error: throw .system(SystemError.of(error, "look a user up"))
        }
    }

    /// The numbers as `USER:GROUP`.
    public var text: String { "\(user):\(group)" }

    /// Reads what `text` wrote.
    public init?(text: String) {
        let parts = text.split(separator: ":", omittingEmptySubsequences: false)
        guard parts.count == 2, let user = UInt32(parts[0]), let group = UInt32(parts[1]) else { return nil }
        self.init(user: user, group: group)
    }

    /// Who runs this process.
    public static var current: UserIdentity { UserIdentity(user: geteuid(), group: getegid()) }

    /// Tries whether a child of this process could become that user, and this process could still end it.
    public func checkBecoming() throws(SystemError) { try cio_privileges_probe(user, group).orThrow("become another user") }
}

/// Giving up what a process does not need.
public enum Confinement {
    /// Gives up all privileges for ever and, when `identity` is given, becomes that user. The process is killed when its
    /// parent ends.
    public static func dropPrivileges(_ identity: UserIdentity?) throws(SystemError) {
        let wanted = identity ?? .current
        try cio_privileges_drop(identity != nil, wanted.user, wanted.group).orThrow("give up privileges")
    }

    /// Keeps this process's memory, which has keys in it, to itself: no core file, and nobody but root can attach to it. Until the next
    /// exec.
    public static func hideMemory() { _ = cio_process_hide() }

    /// Refuses this process, or only this thread of it, every system call but those of a loop that has been made. False where
    /// there is no filter: another architecture, or a build with a sanitizer.
    public static func filterSystemCalls(everyThread: Bool = true) throws(SystemError) -> Bool {
        let result = cio_filter_install(everyThread)
        if result == -EOPNOTSUPP { return false }
        try result.orThrow("seccomp")
        return true
    }
}
