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
    private var trial = ConfigurationTrial<ConfigurationSource.Reading>()
    /// The end of the trial.
    private var revertTimer: CallbackTimer?
    /// Tries again to keep a copy.
    private var keepTimer: CallbackTimer?
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
        (reading, credentials) = try Self.firstReading(source, environment)
        let config = reading.configuration.value
        context = try ProgramContext(backend: config.ioBackend, log: config.log)
        services = ServiceManager(context.loop, inheritance == nil ? settings : ServiceSettings())
        metrics = MetricsPort(context, registry)
        if let reason = reading.whyNotTheFile {
            context.logger.error(.main, "the configuration can't be used; starting with the last good one") {
                $0.field("err", reason)
                $0.field("path", source.lastGoodPath ?? "")
            }
        } else if inheritance == nil, let path = source.lastGoodPath, let copy = try? source.readLastGood(path, reason: Self.unproven),
            copy.bytes != reading.bytes
        {
            trial = ConfigurationTrial(alternative: copy)
        }
        context.announce(credentials.routes)
        listeners = ListenerSet(context, registry, config, credentials)
        try begin()
    }

    /// What the agent starts with: the file, or the copy of the last good one with why the file is not used.
    private static func firstReading(
        _ source: ConfigurationSource, _ environment: ProxyEnvironment
    ) throws(ProgramError) -> (ConfigurationSource.Reading, AgentCredentials) {
        do throws(ConfigError) {
            let reading = try source.read()
            return (reading, try AgentCredentials(reading: reading.configuration.value, environment: environment))
        } catch {
            guard let path = source.lastGoodPath else { throw ProgramError("\(error)") }
            do throws(ConfigError) {
                let reading = try source.readLastGood(path, reason: error.description)
                return (reading, try AgentCredentials(reading: reading.configuration.value, environment: environment))
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
        keepTimer = CallbackTimer(context.loop) { [unowned self] in self.keepCopy(isFirst: false) }
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
        if !inheritsMetrics { try openMetrics() }
        scheduleRevert()
    }

    private func openMetrics() throws(ProgramError) {
        do throws(ProgramError) {
            try metrics.open(config.metrics)
        } catch {
            // Where nobody can walk to, the tunnel is more than its metrics.
            guard source.lastGoodPath != nil else { throw error }
            context.logger.error(.main, "no metrics") { $0.field("err", error.description) }
        }
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
        return reading.whyNotTheFile == nil ? text : "\(text); the configuration is the last good one"
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
            try goOver(to: try source.read(), isRevert: false)
        } catch {
            reloadFailed("\(error)")
        }
    }

    private func goOver(to next: ConfigurationSource.Reading, isRevert: Bool) throws(ConfigError) {
        let credentials = try AgentCredentials(reading: next.configuration.value, environment: environment)
        metrics.change(to: next.configuration.value.metrics) { [unowned self] failure in
            guard self.machine.isServing else { return }
            if let failure {
                guard isRevert else { return self.reloadFailed("\(failure)") }
                // Nothing is in the way of going back.
                self.context.logger.error(.main, "no metrics") { $0.field("err", failure.description) }
            }
            self.use(next, credentials, isRevert: isRevert)
        }
    }

    private func reloadFailed(_ reason: String) {
        context.logger.error(.main, "reload failed, nothing changed") { $0.field("err", reason) }
        services.ready(status: "\(status); the last reload failed: \(reason)")
        send(.reloadDone)
    }

    private func use(_ next: ConfigurationSource.Reading, _ credentials: AgentCredentials, isRevert: Bool) {
        let mayRevert = max(config.revertAfter, next.configuration.value.revertAfter) > .zero
        let plan = ReloadPlan(from: config, to: next.configuration.value, provesConnect: mayRevert || source.lastGoodPath != nil)
        let fixedByFlags = next.configuration.keysFixedByFlags(since: reading.configuration)
        var replaced = reading
        let wasConnected = listeners.connectedCount > 0
        reading = next
        if isRevert {
            trial.wentBack(from: replaced)
        } else {
            replaced.whyNotTheFile = replaced.whyNotTheFile ?? Self.unproven
            trial.reloaded(from: replaced, wasConnected: wasConnected)
        }
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
        proveIfConnected()
        scheduleRevert()
        services.ready(status: status)
        send(.reloadDone)
    }

    // MARK: The last good one

    private static let unproven = "no listener connected with what the file says"
    private static let keepInterval = Duration.seconds(30)
    private static let revertAgainInterval = Duration.seconds(15)

    /// A listener that connected with this configuration proves it: it becomes the copy, and nothing goes back any more.
    private func proveIfConnected() {
        guard listeners.connectedCount > 0, trial.connected() else { return }
        revertTimer?.cancel()
        keepCopy(isFirst: true)
    }

    private func keepCopy(isFirst: Bool) {
        keepTimer?.cancel()
        guard trial.isProven, reading.whyNotTheFile == nil else { return }
        do throws(SystemError) {
            guard try source.keep(reading.bytes) else { return }
            context.logger.info(.main, "kept a copy of the configuration") { $0.field("path", source.lastGoodPath ?? "") }
        } catch {
            // Its folder may not be there yet.
            keepTimer?.schedule(after: Self.keepInterval)
            guard isFirst else { return }
            context.logger.warn(.main, "can't keep a copy of the configuration") { $0.field("err", error.description) }
        }
    }

    private func scheduleRevert() {
        revertTimer?.cancel()
        guard !trial.isProven, let last = trial.before?.configuration.value else { return }
        let time = last.revertAfter > .zero ? last.revertAfter : config.revertAfter
        if time > .zero { revertTimer?.schedule(after: time) }
    }

    private func revert() {
        guard machine.isServing, let last = trial.before else { return }
        // One thing at a time.
        guard machine.isRunning else {
            revertTimer?.schedule(after: .seconds(1))
            return
        }
        context.logger.error(.main, "no listener has connected; going back to the configuration before") {
            if let reason = last.whyNotTheFile { $0.field("reason", reason) }
        }
        do throws(ConfigError) {
            try goOver(to: last, isRevert: true)
        } catch {
            context.logger.error(.main, "can't go back") { $0.field("err", error.description) }
            revertTimer?.schedule(after: Self.revertAgainInterval)
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
        guard revertTimer?.isScheduled != true else {
            upgradeFailed("the configuration of the last reload has not reached a server yet, and may be taken back")
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
