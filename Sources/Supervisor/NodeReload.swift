// A reload: the configuration is read again, ports that it names are made, a generation of workers is started with it; and when
// all of them are READY, everything new goes to them. When anything fails before that, nothing has changed.

import Base
import Config
import Control
import Reactor
import Telemetry

/// What came of a reload, for whoever asked for it.
struct ReloadOutcome {
    /// Why nothing has changed; nil: it was done.
    var failure: String?
    /// The keys that have another value now.
    var changed: [String] = []
    /// Keys that the file changes and that can't be changed, each with the reason.
    var kept: [String] = []
    var generation: UInt32 = 0

    var json: JSONValue {
        if let failure { return .object([JSONMember("error", .string(failure))]) }
        return .object([
            JSONMember("generation", .integer(Int64(generation))),
            JSONMember("changed", .array(changed.map { .string($0) })),
            JSONMember("unchanged", .array(kept.map { .string($0) })),
        ])
    }
}

/// A reload that is going on.
final class ReloadTask {
    private unowned let node: Node
    private let setup: GenerationSetup
    private let ports: [ListenerKind: [ListeningSocket]]
    private var outcome: ReloadOutcome
    private let done: (ReloadOutcome) -> Void
    private let confinementBefore: WorkerConfinement
    private var lastEnd: (worker: UInt32, status: ExitStatus)?

    init(
        _ node: Node, setup: GenerationSetup, ports: [ListenerKind: [ListeningSocket]], outcome: ReloadOutcome,
        done: @escaping (ReloadOutcome) -> Void
    ) {
        self.node = node
        self.setup = setup
        self.ports = ports
        self.outcome = outcome
        self.done = done
        confinementBefore = node.processes.confinement
    }

    /// The new workers serve.
    func succeeded() {
        node.reloading = nil
        outcome.generation = node.machine.currentGeneration
        node.log.change(level: setup.config.log.level, subsystems: setup.config.log.subsystems)
        defer { node.cluster?.reconfigure(setup.config) }
        node.keySets.want(setup.config)
        for kind in ListenerKind.allCases {
            guard let sockets = ports[kind] else { continue }
            do throws(SystemError) {
                try node.ports.change(kind, to: sockets)
            } catch {
                node.log.error(.server, "cannot accept connections") {
                    $0.field("port", kind.name)
                    $0.field("err", error.description)
                }
            }
        }
        let outcome = outcome
        node.log.info(.server, "reloaded") {
            $0.field("generation", UInt64(outcome.generation))
            $0.field("changed", outcome.changed)
            if !outcome.kept.isEmpty { $0.field("unchanged", outcome.kept) }
        }
        node.parts.services.ready(status: "serving, generation \(outcome.generation)")
        if ports.values.contains(where: { !$0.isEmpty }) { node.logServing("server ports") }
        done(outcome)
    }

    func workerEnded(_ worker: UInt32, _ status: ExitStatus) { lastEnd = (worker, status) }

    /// Nothing has changed.
    func failed(_ failure: ReloadFailure) {
        let reason: String
        switch failure {
        case .workerEnded(let worker):
            let status = lastEnd.flatMap { $0.worker == worker ? $0.status.description : nil } ?? "it could not be started"
            reason = "worker \(worker) of the new generation ended before it was ready (\(status)); the log says why"
        case .workerTooSlow(let worker): reason = "worker \(worker) of the new generation was not ready in time"
        case .abandoned: reason = "the node is told to end"
        }
        end(reason)
    }

    private func end(_ reason: String) {
        node.reloading = nil
        node.setups = node.setups.filter { node.machine.livingGenerations.contains($0.key) || $0.key == node.machine.currentGeneration }
        node.processes.confinement = confinementBefore
        node.sayNotReloaded(reason)
        outcome.failure = reason
        node.log.error(.server, "not reloaded; everything goes on as before") { $0.field("err", reason) }
        done(outcome)
    }
}

extension Node {
    /// Reads the configuration again and goes over to it. `done` is told the outcome.
    func reload(_ done: @escaping (ReloadOutcome) -> Void) {
        func refuse(_ reason: String) {
            sayNotReloaded(reason)
            log.error(.server, "not reloaded; everything goes on as before") { $0.field("err", reason) }
            done(ReloadOutcome(failure: reason))
        }
        guard upgrade == nil, !isReloading, machine.mayReload else {
            return refuse(
                upgrade != nil ? "an upgrade is going on" : isReloading ? "another reload is going on" : "the node is \(machine.stateName)")
        }
        log.info(.server, "reloading")
        parts.services.reloading()
        do throws(ConfigError) {
            let config = try readConfig()
            var outcome = ReloadOutcome()
            outcome.changed = ServerConfig.differences(setup.config, config)
            outcome.kept = try fixedKeys(config)
            begin(config, outcome, done)
        } catch {
            refuse(error.description)
        }
    }

    /// Goes over to new workers with the configuration.
    func begin(_ config: ServerConfig, _ given: ReloadOutcome, _ done: @escaping (ReloadOutcome) -> Void) {
        var outcome = given
        var config = config
        if config.server.controlSocket != setup.config.server.controlSocket {
            config.server.controlSocket = setup.config.server.controlSocket
            outcome.changed.removeAll { $0 == "server.control_socket" }
            outcome.kept.append("server.control_socket: needs a restart")
        }
        for key in Cluster.fixedKeys(setup.config, config) {
            outcome.changed.removeAll { $0 == key }
            outcome.kept.append("\(key): needs a restart")
        }
        config.cluster = setup.config.cluster.reloaded(with: config.cluster)
        if config.server.ioBackend != setup.config.server.ioBackend {
            outcome.kept.append("server.io_backend: the workers have it now; the supervisor needs a restart")
        }
        isPreparing = true
        plan(changedPorts(config), [:]) { [unowned self] plans in
            // New workers are not to serve before they have the keys for tokens.
            keySets.want(setup.config, config)
            keySets.whenTried { [unowned self] in begin(config, plans, outcome, done) }
        }
    }

    private func begin(
        _ config: ServerConfig, _ plans: Result<[ListenerKind: BindPlan], BindError>, _ given: ReloadOutcome,
        _ done: @escaping (ReloadOutcome) -> Void
    ) {
        var outcome = given
        isPreparing = false
        do {
            guard machine.mayReload else { throw StartError("the node is told to end") }
            let setup = try GenerationSetup(reading: config)
            if let problem = setup.tokenKeys.problem { throw StartError(problem) }
            try begin(setup, try plans.get(), outcome, done)
        } catch {
            let reason = (error as? StartError)?.description ?? (error as? BindError)?.description ?? "\(error)"
            sayNotReloaded(reason)
            log.error(.server, "not reloaded; everything goes on as before") { $0.field("err", reason) }
            outcome.failure = reason
            done(outcome)
        }
    }

    private func begin(
        _ new: GenerationSetup, _ plans: [ListenerKind: BindPlan], _ outcome: ReloadOutcome, _ done: @escaping (ReloadOutcome) -> Void
    ) throws {
        let confinement = try WorkerConfinement(new.config, log: log)
        var prepared: [ListenerKind: [ListeningSocket]] = [:]
        for port in changedPorts(new.config) {
            guard let plan = plans[port.kind] else { continue }
            prepared[port.kind] = try ports.prepare(port.kind, key: port.key, address: port.address, plan)
        }
        let task = ReloadTask(self, setup: new, ports: prepared, outcome: outcome, done: done)
        reloading = task
        processes.confinement = confinement
        setups[machine.numberOfNextGeneration] = new
        handle(.reload(workers: new.workers, new.policy))
    }

    /// Looks up what the addresses mean, one after the other.
    private func plan(
        _ left: [ChangedPort], _ found: [ListenerKind: BindPlan], _ done: @escaping (Result<[ListenerKind: BindPlan], BindError>) -> Void
    ) {
        guard let port = left.first else { return done(.success(found)) }
        ports.plan(key: port.key, address: port.address) { [unowned self] answer in
            switch answer {
            case .failure(let error): done(.failure(error))
            case .success(let plan):
                var found = found
                found[port.kind] = plan
                self.plan(Array(left.dropFirst()), found, done)
            }
        }
    }

    /// Tells the service manager that a reload is over and nothing has changed. A node that ends has said so.
    fileprivate func sayNotReloaded(_ reason: String) {
        if machine.isServing { parts.services.ready(status: "serving; not reloaded: \(reason)") }
    }

    func readConfig() throws(ConfigError) -> ServerConfig {
        try ServerConfig(parts.invocation, environment: ProgramEnvironment.variables, read: FileContents.read)
    }

    /// The keys for which the file has another value than the flag that wins over it.
    private func fixedKeys(_ config: ServerConfig) throws(ConfigError) -> [String] {
        guard parts.invocation.configPath != nil else { return [] }
        var bare = parts.invocation
        let keys = ServerConfig.keys.filter { key in bare.flags.contains { $0.name == key.flag } }
        bare.flags.removeAll { flag in keys.contains { $0.flag == flag.name } }
        let file = try ServerConfig(bare, environment: ProgramEnvironment.variables, read: FileContents.read)
        let defaults = ServerConfig.differences(file, ServerConfig())
        let different = ServerConfig.differences(file, config)
        return keys.filter { different.contains($0.path) && defaults.contains($0.path) }
            .map { "\($0.path): fixed by --\($0.flag)" }
    }

    /// A port whose address changes.
    private struct ChangedPort {
        var kind: ListenerKind
        var key: String
        var address: BindAddress
    }

    private func changedPorts(_ config: ServerConfig) -> [ChangedPort] {
        let old = setup.config
        let all = [
            (ListenerKind.proxy, "proxy.bind_addr", old.proxy.bindAddress, config.proxy.bindAddress),
            (.upstream, "upstream.bind_addr", old.upstream.bindAddress, config.upstream.bindAddress),
            (.admin, "admin.bind_addr", old.admin.bindAddress, config.admin.bindAddress),
        ]
        return all.filter { $0.2 != $0.3 }.map { ChangedPort(kind: $0.0, key: $0.1, address: $0.3) }
    }
}
