// What a server needs of its machine, and what that is worth: limits, sysctls and the cgroup against the configuration. Pure.

internal import Config
internal import Telemetry

/// What was found; nil: it could not be read.
struct MachineFacts {
    var descriptors: ProcessLimit?
    var lockedMemory: ProcessLimit?
    /// Sysctls by their names, "net.core.somaxconn".
    var sysctls: [String: [UInt64]] = [:]
    var socketPages: UInt64?
    /// The least limit on the way from the process's cgroup to the root; nil: none.
    var groupMemory: UInt64?
    /// Processors that the process may use.
    var processors = 1
    var workers = 1

    /// What the kernel counts in pages is in pages of this size.
    var pageBytes: UInt64 = 4_096

    /// The sysctls that are looked at.
    static let sysctlNames = [
        "fs.pipe-max-size", "fs.pipe-user-pages-soft", "fs.pipe-user-pages-hard", "net.core.somaxconn", "net.ipv4.tcp_max_syn_backlog",
        "net.ipv4.ip_local_port_range", "net.ipv4.tcp_mem", "net.core.rmem_max", "net.core.wmem_max",
    ]
}

/// Judges.
enum MachineRules {
    typealias Check = Diagnosis.Check

    /// Descriptors with which a process hardly runs, and with which it serves few.
    private static let descriptorsLeast: UInt64 = 256
    private static let descriptorsFew: UInt64 = 8_192
    /// A worker uses no more (`Supervisor/WorkerChoice.swift`).
    private static let descriptorsMost: UInt64 = 65_536
    /// What a worker's pipes take when all are in use: 64 of one MiB (`LoopLimits`).
    private static let pipeBytes: UInt64 = 64 * 1_048_576
    private static let processMemory: UInt64 = 64 * 1_048_576

    static func checks(_ facts: MachineFacts, _ config: ServerConfig) -> [Check] {
        [
            descriptors(facts, config), lockedMemory(facts), pipes(facts), backlog(facts), ports(facts), socketMemory(facts), gossip(facts),
            memory(facts), processors(facts),
        ]
    }

    static func descriptors(_ facts: MachineFacts, _ config: ServerConfig) -> Check {
        let name = "descriptors"
        guard let limit = facts.descriptors else { return unread(name) }
        let hint = "raise the hard limit: ulimit -Hn, LimitNOFILE= of systemd, or --ulimit nofile= of a container"
        guard let hard = limit.hard else { return Check(name, .ok, "no limit; a worker uses \(descriptorsMost) at most") }
        let each = min(hard, descriptorsMost)
        let reserve = min(each / 4, max(64, each / 16))
        let room = (each - reserve) * UInt64(facts.workers)
        let soft = limit.soft.map(String.init) ?? "none"
        let text = "\(hard) for each process (the soft limit, \(soft), is raised): room for \(room) connections of \(facts.workers) workers"
        let entrances = [config.proxy.entrance, config.upstream.entrance, config.admin.entrance]
        let wanted = entrances.reduce(0) { $0 + UInt64($1.connectionsMax) }
        if hard < descriptorsLeast { return Check(name, .fail, text, hint: hint) }
        if wanted > room { return Check(name, .warn, "\(text), and limits.max_connections allow \(wanted)", hint: hint) }
        return Check(name, hard < descriptorsFew ? .warn : .ok, text, hint: hard < descriptorsFew ? hint : "")
    }

    static func lockedMemory(_ facts: MachineFacts) -> Check {
        guard let limit = facts.lockedMemory else { return unread("locked memory") }
        guard let hard = limit.hard else { return Check("locked memory", .ok, "no limit") }
        return Check(
            "locked memory", .note, "\(KernelText.bytes(hard)): enough if io_uring can be used here, as said above",
            hint: "should io_uring be refused for want of memory: ulimit -l, LimitMEMLOCK= of systemd")
    }

    static func pipes(_ facts: MachineFacts) -> Check {
        let name = "pipes"
        guard let size = facts.sysctls["fs.pipe-max-size"]?.first, let soft = facts.sysctls["fs.pipe-user-pages-soft"]?.first,
            let hard = facts.sysctls["fs.pipe-user-pages-hard"]?.first
        else { return unread(name) }
        let pipePages = pipeBytes / facts.pageBytes
        let wanted = pipePages * UInt64(facts.workers)
        let limits = "soft \(soft == 0 ? "none" : "\(soft)"), hard \(hard == 0 ? "none" : "\(hard)")"
        let text = "of \(KernelText.bytes(size)) at most; pages of a user: \(limits); \(facts.workers) workers take \(wanted) at most"
        if size < 1_048_576 || (soft != 0 && soft < pipePages) || (hard != 0 && hard < pipePages) {
            return Check(
                name, .warn, text,
                hint: """
                    beyond them bytes are copied, which costs more: sysctl -w fs.pipe-max-size=1048576 fs.pipe-user-pages-soft=\(wanted) \
                    fs.pipe-user-pages-hard=0
                    """)
        }
        if soft != 0, soft < wanted {
            return Check(
                name, .note, text, hint: "when many streams are spliced at once, pipes are smaller: sysctl -w fs.pipe-user-pages-soft=\(wanted)")
        }
        return Check(name, .ok, text)
    }

    static func backlog(_ facts: MachineFacts) -> Check {
        guard let queue = facts.sysctls["net.core.somaxconn"]?.first else { return unread("backlog") }
        let handshakes = facts.sysctls["net.ipv4.tcp_max_syn_backlog"]?.first
        let isSmall = queue < 1_024 || (handshakes ?? .max) < 512
        return Check(
            "backlog", isSmall ? .note : .ok,
            "net.core.somaxconn \(queue), net.ipv4.tcp_max_syn_backlog \(handshakes.map(String.init) ?? "unknown")",
            hint: isSmall
                ? "many clients that come at once wait a second and more: sysctl -w net.core.somaxconn=4096 net.ipv4.tcp_max_syn_backlog=4096" : "")
    }

    static func ports(_ facts: MachineFacts) -> Check {
        guard let range = facts.sysctls["net.ipv4.ip_local_port_range"], range.count == 2, range[1] >= range[0] else { return unread("local ports") }
        let count = range[1] - range[0] + 1
        return Check(
            "local ports", count < 10_000 ? .note : .ok, "\(count) (net.ipv4.ip_local_port_range \(range[0]) to \(range[1]))",
            hint: count < 10_000
                ? "connections to other nodes need one each: sysctl -w net.ipv4.ip_local_port_range=\"10240 65535\"" : "")
    }

    static func socketMemory(_ facts: MachineFacts) -> Check {
        guard let pages = facts.sysctls["net.ipv4.tcp_mem"], pages.count == 3 else { return unread("socket memory") }
        let text = "pressure begins at \(KernelText.bytes(pages[1] * facts.pageBytes)), the most is \(KernelText.bytes(pages[2] * facts.pageBytes))"
            + (facts.socketPages.map { "; in use: \(KernelText.bytes($0 * facts.pageBytes))" } ?? "")
        let isUnderPressure = (facts.socketPages ?? 0) >= pages[1]
        return Check(
            "socket memory", isUnderPressure ? .warn : .ok, text,
            hint: isUnderPressure ? "the kernel shrinks windows now: look for who holds it (ss -tm), or raise net.ipv4.tcp_mem" : "")
    }

    static func gossip(_ facts: MachineFacts) -> Check {
        guard let receive = facts.sysctls["net.core.rmem_max"]?.first, let send = facts.sysctls["net.core.wmem_max"]?.first else {
            return unread("UDP buffers")
        }
        let isSmall = receive < 212_992 || send < 212_992
        return Check(
            "UDP buffers", isSmall ? .note : .ok, "net.core.rmem_max \(receive), net.core.wmem_max \(send)",
            hint: isSmall ? "gossip of a large cluster may be dropped: sysctl -w net.core.rmem_max=212992 net.core.wmem_max=212992" : "")
    }

    static func memory(_ facts: MachineFacts) -> Check {
        guard let limit = facts.groupMemory else { return Check("cgroup memory", .ok, "no limit") }
        let least = processMemory * UInt64(facts.workers + 1)
        return Check(
            "cgroup memory", limit < least ? .warn : .ok, "\(KernelText.bytes(limit)) for \(facts.workers) workers and the supervisor",
            hint: limit < least ? "the kernel may end workers when they are busy: allow \(KernelText.bytes(least)), or set server.workers lower" : "")
    }

    static func processors(_ facts: MachineFacts) -> Check {
        let isMany = facts.workers > facts.processors
        return Check(
            "processors", isMany ? .note : .ok, "\(facts.processors) for \(facts.workers) workers (affinity and cgroup quota count)",
            hint: isMany ? "more workers than processors make nothing faster: server.workers: 0 means one for each" : "")
    }

    private static func unread(_ name: String) -> Check { Check(name, .note, "can't be read here") }
}
