// `piko server diagnose`: what a server with this configuration would find on this machine. It asks the kernel and looks at files; ports are
// bound for a moment, and let go.

internal import Config
internal import Crypto
internal import Reactor
internal import Telemetry

/// A diagnosis for one configuration.
struct ServerDiagnosis {
    private let config: ServerConfig
    private var report = Diagnosis()

    /// What to print, and the exit status.
    static func run(_ invocation: Invocation) throws(CommandFailure) -> (text: String, status: Int32) {
        let format: Diagnosis.Format
        do throws(ConfigError) {
            format = Diagnosis.Format(rawValue: try invocation.diagnosisOutput()) ?? .table
        } catch {
            throw CommandFailure(error.description)
        }
        var report = Diagnosis()
        do throws(CommandFailure) {
            let config = try ConfigurationFile.load(ServerConfig.self, invocation, environment: ProgramEnvironment.variables)
            var diagnosis = ServerDiagnosis(config: config)
            diagnosis.look()
            report = diagnosis.report
        } catch {
            report.add("configuration", .fail, error.message)
        }
        return (report.text(format), report.isGood ? 0 : 1)
    }

    private init(config: ServerConfig) { self.config = config }

    private mutating func look() {
        report.add("configuration", .ok, "it can be used (piko server check shows it)")
        report.add("kernel", .ok, KernelFile.text("/proc/sys/kernel/osrelease").map { "Linux \(Self.line($0))" } ?? "unknown")
        lookAtPrograms()
        lookAtBackend()
        for check in MachineRules.checks(Self.facts(config), config) { report.add(check) }
        lookAtPorts()
        lookAtCertificates()
        lookAtUser()
        lookAtClock()
    }

    private static func line(_ text: String) -> String { text.split(separator: "\n").first.map(String.init) ?? "" }

    // MARK: Kernel and programs

    private mutating func lookAtPrograms() {
        guard let path = ProgramEnvironment.siblingPath("piko-worker"), let supervisor = ProgramEnvironment.siblingPath("piko-supervisor") else {
            return report.add("programs", .fail, "/proc is not mounted", hint: "mount it: the server finds its programs and the processes' files by it")
        }
        do throws(SystemError) {
            try FileContents.checkExecutable(supervisor)
            try FileContents.checkExecutable(path)
            report.add("programs", .ok, path)
        } catch {
            report.add("programs", .fail, error.description, hint: "piko, piko-supervisor and piko-worker must stand beside each other")
        }
    }

    private mutating func lookAtBackend() {
        // As the server does at its start.
        System.raiseLockedMemoryLimit()
        let wanted = config.server.ioBackend
        do throws(SystemError) {
            let loop = try Loop(backend: .ioUring)
            report.add("io_uring", .ok, loop.backendDescription)
        } catch {
            var found = error.description
            if let disabled = KernelFile.text("/proc/sys/kernel/io_uring_disabled"), Self.line(disabled) != "0" {
                found += "; kernel.io_uring_disabled is \(Self.line(disabled))"
            }
            report.add("io_uring", wanted == .ioUring ? .fail : .warn, found)
        }
        do throws(SystemError) {
            let loop = try Loop(backend: BackendChoice(rawValue: wanted.rawValue) ?? .auto)
            report.add("io backend", .ok, "server.io_backend \(wanted.rawValue) takes \(loop.backend.rawValue)")
        } catch {
            report.add("io backend", .fail, error.description)
        }
    }

    private static func facts(_ config: ServerConfig) -> MachineFacts {
        var facts = MachineFacts()
        let limits = KernelText.limits(KernelFile.text("/proc/self/limits") ?? "")
        facts.descriptors = limits["Max open files"]
        facts.lockedMemory = limits["Max locked memory"]
        for name in MachineFacts.sysctlNames {
            let path = "/proc/sys/" + name.map { $0 == "." ? "/" : String($0) }.joined()
            if let text = KernelFile.text(path) { facts.sysctls[name] = KernelText.numbers(text) }
        }
        facts.pageBytes = System.pageBytes
        facts.socketPages = KernelFile.text("/proc/net/sockstat").flatMap(KernelText.socketPages)
        let groups = KernelText.groups(KernelFile.text("/proc/self/cgroup") ?? "", controller: "memory")
        for folder in groups {
            for file in ["memory.max", "memory.limit_in_bytes"] {
                guard let limit = KernelFile.text("\(folder)/\(file)").flatMap(KernelText.memoryLimit) else { continue }
                facts.groupMemory = min(facts.groupMemory ?? .max, limit)
            }
        }
        facts.processors = System.processorCount
        facts.workers = config.server.workers == 0 ? facts.processors : config.server.workers
        return facts
    }

    // MARK: Ports

    private mutating func lookAtPorts() {
        // The kernel does not show everybody whose a port is; a server of ours says it.
        let running = RunningServer(config)
        for (key, address) in [
            ("proxy.bind_addr", config.proxy.bindAddress), ("upstream.bind_addr", config.upstream.bindAddress),
            ("admin.bind_addr", config.admin.bindAddress), ("cluster.gossip.bind_addr", config.cluster.gossip.bindAddress),
        ] {
            report.add(Self.port(key, address, running, isTCP: true))
            if key.hasPrefix("cluster") { report.add(Self.port(key, address, running, isTCP: false)) }
        }
    }

    private static func port(_ key: String, _ address: BindAddress, _ running: RunningServer?, isTCP: Bool) -> Diagnosis.Check {
        let name = isTCP ? key : "\(key) (UDP)"
        let text = address.settingText
        let addresses: [SocketAddress]
        if address.host.isEmpty {
            addresses = ["::", "0.0.0.0"].compactMap { SocketAddress(address: $0, port: address.port) }
        } else {
            do throws(CommandFailure) {
                addresses = try Questioner().resolve(address.host, address.port)
            } catch {
                return .init(name, .fail, "\(text): \(error.message)")
            }
        }
        var failure: SystemError?
        for one in addresses {
            do throws(SystemError) {
                if isTCP { _ = try Listener.bind(one) } else { _ = try DatagramSocket.bind(one) }
                return .init(name, .ok, "\(text) can be bound")
            } catch {
                failure = error
                if error.code == addressInUse { break }
            }
        }
        guard let failure else { return .init(name, .fail, "\(text): it stands for no address") }
        guard failure.code == addressInUse else { return .init(name, .fail, failure.description) }
        guard let holder = PortHolder.find(port: address.port, isTCP: isTCP) else {
            if let running, running.ports.contains(address.port) {
                return .init(name, .note, "\(text) is in use by the server of Piko that answers at \(running.path): no second one can have it")
            }
            return .init(name, .fail, "\(failure), by a process that this user may not see")
        }
        let who = "\(text) is in use by process \(holder.process) (\(holder.name))"
        if holder.isServer { return .init(name, .note, "\(who), a server of Piko: no second one can have it") }
        return .init(name, .fail, who, hint: "stop that process, or choose another address")
    }

    /// EADDRINUSE.
    private static let addressInUse: Int32 = 98

    // MARK: Files and users

    private mutating func lookAtCertificates() {
        do throws(CommandFailure) {
            try ServerCheck.checkFiles(config)
        } catch {
            report.add("TLS files", .fail, error.message, hint: Self.fileHint(error.message))
        }
        let now = Int64(SystemClock.unixNanoseconds / 1_000_000_000)
        var files: [(String, String)] = []
        for (setting, tls) in [("proxy.tls", config.proxy.tls), ("upstream.tls", config.upstream.tls), ("admin.tls", config.admin.tls)]
        where tls.isEnabled {
            files += tls.pairs.map { (setting, $0.certificate) }
        }
        if !config.proxy.nodeTLS.certificate.isEmpty { files.append(("proxy.tls.client", config.proxy.nodeTLS.certificate)) }
        for (setting, file) in files {
            guard let bytes = try? FileContents.read(file, bytesMax: 1 << 20) else { continue }
            for certificate in CertificateFacts.read(bytes) {
                let (text, verdict, hint) = Diagnosis.validity(notBefore: certificate.notBefore, notAfter: certificate.notAfter, now: now)
                let names = certificate.names.isEmpty ? certificate.subject : certificate.names
                report.add(setting, verdict, "\(file): \(names), \(text)", hint: hint)
            }
        }
    }

    private static func fileHint(_ message: String) -> String {
        if message.contains("Permission denied") { return "the server's user must be able to read the file; workers need not" }
        return message.contains("No such file") ? "correct the path, or have the certificate made" : ""
    }

    private mutating func lookAtUser() {
        let own = UserIdentity.current
        guard config.server.user.isEmpty else {
            do throws(UserIdentity.LookupError) {
                let wanted = try UserIdentity(lookUp: config.server.user)
                if wanted == own { return report.add("workers' user", .ok, "\(config.server.user): who runs this") }
                guard own.user == 0 else {
                    return report.add(
                        "workers' user", .fail, "\(config.server.user): only a server that runs as root can have workers of another user",
                        hint: "run this and the server as root, or leave server.user out")
                }
                become(config.server.user, wanted, .fail)
            } catch {
                report.add("workers' user", .fail, "\(config.server.user): \(error)", hint: "correct server.user, or make the account")
            }
            return
        }
        guard own.user == 0 else { return report.add("workers' user", .ok, "\(own.text): who runs this") }
        for name in ["piko", "nobody"] {
            guard let wanted = try? UserIdentity(lookUp: name) else { continue }
            return become(name, wanted, .warn)
        }
        report.add("workers' user", .warn, "root, without capabilities: there is no user piko or nobody", hint: "make a user piko")
    }

    private mutating func become(_ name: String, _ user: UserIdentity, _ failure: Diagnosis.Verdict) {
        do throws(SystemError) {
            try user.checkBecoming()
            report.add("workers' user", .ok, "\(name) (\(user.text))")
        } catch {
            report.add(
                "workers' user", failure, "\(name): \(error)",
                hint: "root needs CAP_SETUID, CAP_SETGID and CAP_KILL here; without, workers stay root, without capabilities, if server.user is not set")
        }
    }

    private mutating func lookAtClock() {
        switch SystemClock.isSynchronised {
        case true?: report.add("clock", .ok, "kept right by NTP")
        case false?:
            report.add(
                "clock", .note, "nothing in this kernel keeps it right",
                hint: "tokens, certificates and nodes' proofs are judged by it: run chrony or systemd-timesyncd (on the host, for a container)")
        case nil: report.add("clock", .note, "the kernel does not say whether it is kept right")
        }
    }
}
