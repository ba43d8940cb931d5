// `piko agent`: all listeners of a configuration and the metrics port; reloads, upgrades and the end. `ProgramMachine` decides
// what follows what.

internal import Base
internal import Config
internal import Glibc
internal import Reactor
internal import Telemetry

/// A running agent.
final class AgentProgram {
    private let context: ProgramContext
    private let source: ConfigurationSource
    private let environment: ProxyEnvironment
    private let start: ProgramStart?
    private let inheritance: Inheritance?
    /// A process that has not taken over yet has nothing to say.
    private var services: ServiceManager
    private let serviceSettings: ServiceSettings
    private let registry = MetricsRegistry()
    private let metrics: MetricsPort
    private let listeners: ListenerSet
    private var reading: ConfigurationSource.Reading
    /// Why the file could not be used at the start, and the copy of the last good one was.
    private var fallbackReason: String?
    /// Whether a listener has connected with this configuration.
    private var isProven = false
    /// What an unproven one goes back to, and when.
    private var before: ConfigurationSource.Reading?
    private var revertTimer: CallbackTimer?
    private var machine = ProgramMachine()
    private var predecessor: Predecessor?
    /// SIGHUP came before this process took over, which is what a reload needs.
    private var reloadsLater = false
    /// New processes that live: one that takes over or is being started, and those that were given up and have not ended.
    private var successors: [Successor] = []
    /// Whether it was said that the agent is ready.
    private var isAnnounced = false
    /// The end of the grace period or of the drain.
    private var limit: CallbackTimer?
    private var drainDeadline = Instant.never
    /// Tells the service manager how it goes, now and then.
    private var statusTimer: CallbackTimer?
    private let logsToTerminal = ProgramEnvironment.isTerminal(2)

    /// An upgrade may take one attempt to connect, and this.
    private static let upgradeReserve = Duration.seconds(5)
    private static let statusInterval = Duration.seconds(1)

    private var config: AgentConfig { reading.configuration.value }

    init(
        _ source: ConfigurationSource, environment: ProxyEnvironment, start: ProgramStart?, inheritance: Inheritance?,
        services settings: ServiceSettings
    ) throws(ProgramError) {
        self.source = source
        self.environment = environment
        self.start = start
        self.inheritance = inheritance
        serviceSettings = settings
        let credentials: AgentCredentials
        (reading, credentials, fallbackReason) = try Self.firstReading(source, environment)
        let config = reading.configuration.value
        context = try ProgramContext(backend: config.ioBackend, log: config.log)
        services = ServiceManager(context.loop, inheritance == nil ? settings : ServiceSettings())
        metrics = MetricsPort(context, registry)
        if let fallbackReason {
            context.logger.error(.main, "the configuration can't be used; starting with the last good one") {
                $0.field("err", fallbackReason)
                $0.field("path", source.lastGoodPath ?? "")
            }
        }
        context.announce(credentials.routes)
        listeners = ListenerSet(context, registry, config, credentials)
        try begin()
    }

    /// What the agent starts with: the file, or the copy of the last good one with why the file is not used.
    private static func firstReading(
        _ source: ConfigurationSource, _ environment: ProxyEnvironment
    ) throws(ProgramError) -> (ConfigurationSource.Reading, AgentCredentials, String?) {
        do throws(ConfigError) {
            let reading = try source.read()
            return (reading, try AgentCredentials(reading: reading.configuration.value, environment: environment), nil)
        } catch {
            guard let path = source.lastGoodPath else { throw ProgramError("\(error)") }
            do throws(ConfigError) {
                let reading = try source.readLastGood(path)
                return (reading, try AgentCredentials(reading: reading.configuration.value, environment: environment), error.description)
            } catch let second {
                throw ProgramError("\(error)\n\(second) (the copy of the last good one, --config.last-good-path)")
            }
        }
    }

    /// The listening sockets of the process before are for this configuration, too.
    private var inheritsMetrics: Bool {
        guard let note = inheritance?.note else { return false }
        return config.metrics.isEnabled && note.metricsCount > 0 && note.metricsAddress == config.metrics.bindAddress.settingText
    }

    private func begin() throws(ProgramError) {
        limit = CallbackTimer(context.loop) { [unowned self] in self.send(.timeExpired) }
        revertTimer = CallbackTimer(context.loop) { [unowned self] in self.revert() }
        statusTimer = CallbackTimer(context.loop) { [unowned self] in self.services.status(self.status) }
        listeners.changed = { [unowned self] in self.listenersChanged() }
        listeners.finished = { [unowned self] in self.send(.workFinished) }
        try context.watchSignals([SIGTERM, SIGINT, SIGHUP, SIGUSR2]) { [unowned self] number in self.signalled(number) }
        if let note = inheritance?.note {
            do {
                predecessor = try Predecessor(
                    context.loop, left: { [unowned self] in self.takeOver() }, refused: { [unowned self] in self.giveUp() })
            } catch {
                throw ProgramError("\(error)")
            }
            if !inheritsMetrics { for number in note.metricsDescriptors { _ = OwnedDescriptor(number) } }
        }
        if !inheritsMetrics { try metrics.open(config.metrics) }
    }

    /// Runs until a signal; the exit status.
    func run() -> Int32 {
        listeners.start()
        return context.run()
    }

    // MARK: Readiness

    /// For people who ask the service manager.
    private var status: String {
        var text = "\(listeners.connectedCount) of \(listeners.count) listeners connected"
        let (all, connected) = listeners.tunnelCounts
        if all > listeners.count { text += " (\(connected) of \(all) tunnels)" }
        return fallbackReason == nil ? text : "\(text); the configuration is the last good one"
    }

    private func listenersChanged() {
        guard machine.isServing else { return }
        proveIfConnected()
        if isAnnounced {
            if statusTimer?.isScheduled == false { statusTimer?.schedule(after: Self.statusInterval) }
            return
        }
        let needed = min(inheritance?.note.connectedCount ?? 0, listeners.count)
        guard listeners.isSettled, listeners.connectedCount >= needed else { return }
        isAnnounced = true
        if let predecessor { predecessor.ready() } else { services.ready(status: status) }
    }

    /// The process before leaves: from now on this one speaks for the service.
    private func takeOver() {
        predecessor = nil
        isAnnounced = true
        services = ServiceManager(context.loop, serviceSettings)
        guard machine.isServing else {
            services.stopping(status: "draining")
            return
        }
        context.logger.info(.main, "took over")
        if inheritsMetrics, let note = inheritance?.note { metrics.open(config.metrics, inherited: note.metricsDescriptors) }
        services.ready(status: status)
        if reloadsLater { send(.reload) }
    }

    /// The process before stays.
    private func giveUp() {
        // A signal may have come before, and a second one ends all at once.
        if machine.isServing { send(.terminate) }
    }

    // MARK: Signals

    private func signalled(_ number: Int32) {
        switch number {
        case SIGHUP:
            if logsToTerminal && !ProgramEnvironment.isTerminal(2) {
                // The terminal is gone, and with it whoever ran the agent in it.
                send(.terminate)
            } else if predecessor != nil {
                reloadsLater = true
            } else {
                send(.reload)
            }
        case SIGUSR2: send(.upgrade)
        default: send(.terminate)
        }
    }

    private func send(_ event: ProgramMachine.Event) {
        switch machine.handle(event) {
        case .none:
            break
        case .reload:
            reload()
        case .startSuccessor:
            startSuccessor()
        case .handOver(let reloads):
            handOver(reloads: reloads)
        case .drain:
            services.stopping(status: "draining")
            for successor in successors where event == .terminate && !isReplaced { successor.giveUp() }
            drain(config.gracePeriod)
        case .end(let code, let cutting):
            end(code, cutting: cutting)
        case .refuse(let refusal):
            context.logger.warn(.main, "the signal has no effect") {
                $0.field("reason", refusal == .ending ? "the process is ending" : "an upgrade is under way")
            }
        }
    }

    // MARK: Reload

    private func reload() {
        services.reloading()
        do throws(ConfigError) {
            try goOver(to: try source.read(), keepsBefore: true)
        } catch {
            reloadFailed("\(error)")
        }
    }

    private func goOver(to next: ConfigurationSource.Reading, keepsBefore: Bool) throws(ConfigError) {
        let credentials = try AgentCredentials(reading: next.configuration.value, environment: environment)
        metrics.change(to: next.configuration.value.metrics) { [unowned self] failure in
            guard self.machine.isServing else { return }
            if let failure { self.reloadFailed("\(failure)") } else { self.use(next, credentials, keepsBefore: keepsBefore) }
        }
    }

    private func reloadFailed(_ reason: String) {
        context.logger.error(.main, "reload failed, nothing changed") { $0.field("err", reason) }
        services.ready(status: "\(status); the last reload failed: \(reason)")
        send(.reloadDone)
    }

    private func use(_ next: ConfigurationSource.Reading, _ credentials: AgentCredentials, keepsBefore: Bool) {
        let plan = ReloadPlan(from: config, to: next.configuration.value)
        let fixedByFlags = next.configuration.keysFixedByFlags(since: reading.configuration)
        let replaced = reading
        let wasConnected = listeners.connectedCount > 0
        reading = next
        fallbackReason = nil
        context.logger.change(level: config.log.level, subsystems: config.log.subsystems)
        context.announce(credentials.routes)
        listeners.apply(plan, config, credentials)
        context.logger.info(.main, "reloaded") {
            $0.field("listeners_kept", plan.keptCount)
            $0.field("listeners_changed", plan.replacedCount)
            $0.field("listeners_added", plan.addedCount)
            $0.field("listeners_removed", plan.removed.count)
        }
        if !fixedByFlags.isEmpty {
            context.logger.warn(.main, "flags fix what the file changed") { $0.field("keys", fixedByFlags) }
        }
        if !plan.fixedKeys.isEmpty {
            context.logger.warn(.main, "a restart is needed for what the file changed") { $0.field("keys", plan.fixedKeys) }
        }
        isProven = false
        revertTimer?.cancel()
        proveIfConnected()
        // Of several reloads that led nowhere, what was before the first counts.
        if !isProven, keepsBefore, before != nil || wasConnected { mayRevert(to: before ?? replaced) }
        services.ready(status: status)
        send(.reloadDone)
    }

    // MARK: The last good one

    /// A listener that connected with this configuration proves it: it becomes the copy, and nothing goes back any more.
    private func proveIfConnected() {
        guard !isProven, listeners.connectedCount > 0 else { return }
        isProven = true
        before = nil
        revertTimer?.cancel()
        guard fallbackReason == nil else { return }
        do throws(SystemError) {
            guard try source.keep(reading.bytes) else { return }
            context.logger.info(.main, "kept a copy of the configuration") { $0.field("path", source.lastGoodPath ?? "") }
        } catch {
            context.logger.warn(.main, "can't keep a copy of the configuration") { $0.field("err", error.description) }
        }
    }

    private func mayRevert(to last: ConfigurationSource.Reading) {
        before = last
        let time = last.configuration.value.revertAfter
        if time > .zero { revertTimer?.schedule(after: time) }
    }

    private func revert() {
        guard machine.isServing, let last = before else { return }
        before = nil
        context.logger.error(.main, "no listener connected after the reload; going back to the configuration before") {
            $0.field("revert_after", last.configuration.value.revertAfter)
        }
        do throws(ConfigError) {
            try goOver(to: last, keepsBefore: false)
        } catch {
            reloadFailed("\(error)")
        }
    }

    // MARK: Upgrade

    /// Whether another process has taken over.
    private var isReplaced = false
    /// For a moment it and this one both serve.
    private var overlap: CallbackTimer?

    private func startSuccessor() {
        guard predecessor == nil else {
            upgradeFailed("this process has not taken over from the one before yet")
            return
        }
        guard let start else {
            upgradeFailed("the system does not say how this program was started")
            return
        }
        let note = HandoverNote(
            connectedCount: listeners.connectedCount, metricsCount: metrics.descriptors.count,
            metricsAddress: metrics.settings.bindAddress.settingText)
        context.logger.info(.main, "upgrading") { $0.field("path", start.path) }
        services.status("upgrading")
        do {
            let successor = try Successor(
                start, note, variables: serviceSettings.variables, metrics: metrics.descriptors, loop: context.loop,
                logger: context.logger,
                limits: .init(readyMax: config.connect.timeout + Self.upgradeReserve, graceMax: config.gracePeriod + .seconds(2))
            ) { [unowned self] result in
                switch result {
                case .success: self.send(.successorReady)
                case .failure(let error): self.upgradeFailed("\(error)")
                }
            }
            successors.append(successor)
            successor.ended = { [unowned self, unowned successor] status in
                if self.isReplaced, self.successors.last === successor {
                    self.context.logger.warn(.main, "the new process ended") { $0.field("status", status.description) }
                }
                self.successors.removeAll { $0 === successor }
            }
        } catch {
            upgradeFailed("\(error)")
        }
    }

    private func upgradeFailed(_ reason: String) {
        context.logger.error(.main, "upgrade failed, nothing changed") { $0.field("err", reason) }
        services.status("\(status); the last upgrade failed: \(reason)")
        send(.successorFailed)
    }

    private func handOver(reloads: Bool) {
        guard let successor = successors.last else { preconditionFailure("nobody to hand over to") }
        isReplaced = true
        context.logger.info(.main, "handing over") { $0.field("pid", Int(successor.pid)) }
        services.handOver(to: successor.pid, status: status)
        metrics.release()
        successor.takeOver()
        if reloads { successor.reload() }
        overlap = CallbackTimer(context.loop) { [unowned self] in self.drain(self.config.drainTimeout) }
        overlap?.schedule(after: ListenerSet.overlap)
    }

    // MARK: The end

    /// Takes nothing new; what runs may go on for `time`, or, when that is zero, for as long as it takes.
    private func drain(_ time: Duration) {
        context.logger.info(.main, "draining") {
            if time > .zero { $0.field("grace_period", time) }
        }
        statusTimer?.cancel()
        overlap?.cancel()
        if time > .zero {
            drainDeadline = context.loop.now + time
            limit?.schedule(at: drainDeadline)
        }
        listeners.stop()
    }

    private func end(_ code: Int32, cutting: Bool) {
        if cutting {
            context.logger.warn(.main, "cutting what still runs")
            listeners.abandon()
        }
        metrics.close()
        context.logger.info(.main, "stopped")
        // What was sent last is given time to arrive, but no more than the grace period has left.
        let left = drainDeadline == .never ? Duration.seconds(2) : drainDeadline - context.loop.now
        context.end(code, lingerMax: cutting ? .milliseconds(100) : max(.milliseconds(100), min(.seconds(2), left)))
    }
}
