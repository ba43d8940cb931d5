// What a worker has to give up when it starts, and how it is told: words of its command line, so that it is done before the
// first message comes.
//
// The user is looked up and tried here, at start, where a person can be told what is wrong. When no user is configured and
// this root can't make a process someone else's (a container without CAP_SETUID, a user namespace of one user), workers
// stay who the server is: without capabilities, filtered, and the log says it.

import Config
import Reactor
import Telemetry

/// What a node's workers give up.
struct WorkerConfinement: Equatable {
    /// Who they become; nil: who the supervisor is.
    var user: UserIdentity?
    var isFiltered = true

    /// Users that workers become by default, the best first.
    static let defaultUsers = ["piko", "nobody"]

    /// The words for a worker's command line.
    var words: [String] {
        (user.map { ["--user", $0.text] } ?? []) + ["--seccomp", isFiltered ? "true" : "false"]
    }
}

extension WorkerConfinement {
    /// What the configuration asks for.
    init(_ config: ServerConfig, log: Logger) throws(StartError) {
        isFiltered = config.server.isFiltered
        user = config.server.user.isEmpty ? Self.defaultUser(log) : try Self.configuredUser(config.server.user)
    }

    private static func configuredUser(_ text: String) throws(StartError) -> UserIdentity? {
        func failure(_ reason: String) -> StartError { StartError("config: server.user: \(text): \(reason)") }
        let wanted: UserIdentity
        do throws(UserIdentity.LookupError) {
            wanted = try UserIdentity(lookUp: text)
        } catch {
            throw failure(error.description)
        }
        if wanted == .current { return nil }
        guard UserIdentity.current.user == 0 else { throw failure("only a server that runs as root can have workers of another user") }
        do throws(SystemError) {
            try wanted.checkBecoming()
        } catch {
            throw failure("cannot become this user: \(SystemError.text(of: error.code))")
        }
        return wanted
    }

    private static func defaultUser(_ log: Logger) -> UserIdentity? {
        guard UserIdentity.current.user == 0 else { return nil }
        for name in defaultUsers {
            guard let wanted = try? UserIdentity(lookUp: name) else { continue }
            do throws(SystemError) {
                try wanted.checkBecoming()
                return wanted
            } catch {
                log.warn(.server, "workers stay root, without capabilities: they cannot become another user here") {
                    $0.field("user", name)
                    $0.field("err", SystemError.text(of: error.code))
                }
                return nil
            }
        }
        log.warn(.server, "workers stay root, without capabilities: there is no user for them") {
            $0.field("tried", defaultUsers)
        }
        return nil
    }
}
