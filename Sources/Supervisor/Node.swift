// The supervisor's shell: performs what the machine decides, and answers what the workers say.
//
// It holds the node's truth (routing table, readiness, counters) and touches no byte of a client or an agent. Everything runs
// on one loop, in callbacks of the reactor; the machine is asked after each event.

import Base
import Config
import Control
import Memory
import Reactor
import Telemetry

/// What a node is made of that does not change with its configuration.
struct NodeParts {
    let loop: Loop
    let log: Logger
    let ports: ListenerTable
    /// How the server was started: its configuration is read again by it.
    let invocation: Invocation
    /// This program, to come back to it; its folder is where other versions are looked for.
    let own: HeldProgram
    /// The workers'.
    let program: HeldProgram
    let room: WorkerRoom
    let services: ServiceManager
    /// What the program before, and the one after, were told of the service manager.
    let serviceSettings: ServiceSettings
    /// The path by which the server was started, symbolic links as they were; nil: it is not known.
    let startedAs: String?

    /// Where the programs stand now that it was started from.
    var folder: String {
        let path = startedAs.flatMap { ProgramEnvironment.realPath($0) } ?? own.path
        return path.lastIndex(of: "/").map { String(path[..<$0]) } ?? "."
    }
}

/// The configuration that a generation of workers runs with.
struct GenerationSetup {
    let config: ServerConfig
    let settings: [Control.Setting]
    /// What tokens are checked with.
    let tokenKeys: TokenKeyring
    /// What its ports need for TLS; nil: none speaks it.
    var credentials: NodeCredentials?

    init(_ config: ServerConfig) {
        self.config = config
        tokenKeys = TokenKeyring(config)
        settings = config.flattened.map { Control.Setting(key: $0.0, value: $0.1) }
    }

    /// With the files that it names.
    init(reading config: ServerConfig) throws(ConfigError) {
        self.init(config)
        credentials = try NodeCredentials(reading: config)
    }

    /// How many workers it has.
    var workers: Int { config.server.workers > 0 ? config.server.workers : System.processorCount }

    /// The cluster's keys: the first one signs, all verify.
    var clusterKeys: [[UInt8]] { config.cluster.gossip.keyBytes }

    var policy: SupervisorPolicy {
        SupervisorPolicy(
            gracePeriod: config.gracePeriod, shutdownDelay: config.shutdownDelay, drainTimeout: config.reload.drainTimeout,
            generationsMax: config.reload.generationsMax)
    }
}

extension ServerConfig {
    /// The settings that are not the default. A program that lacks a key understands the others, as long as the key is not used.
    var differing: [(String, String)] {
        let defaults = Dictionary(ServerConfig().flattened) { first, _ in first }
        return flattened.filter { defaults[$0.0] != $0.1 }
    }
}

/// One server node.
final class Node {
    let parts: NodeParts
    let counters: Counters
    let memory: SharedMemory
    let region: CounterRegion
    /// The traffic of endpoints; nil in memory that a program without it made.
    let traffic: NamedTraffic?
    let quotas: QuotaMemory
    private(set) lazy var inquiries = Inquiries(loop)
    var machine: SupervisorMachine
    var routes: RoutingTable
    let processes: ProcessTable
    let dispatcher: ConnectionDispatcher
    /// The configurations of the generations that live.
    var setups: [UInt32: GenerationSetup]
    var slabs: SlabPool
    let started: UInt64
    /// Of the credentials for data connections. They end with the node, as the sessions do that they were made for.
    let directKey: [UInt8]
    /// The node's identifier in the cluster. Set before the first worker starts.
    var nodeID = ""
    /// Told when the number of this node's listeners of an endpoint changed; 0: it has none any more.
    var localCountChanged: (_ endpoint: String, _ count: UInt32) -> Void = { _, _ in }
    private(set) var tls: NodeTLS!
    /// Connections to other nodes that are being made.
    let dials: NodeDialer
    /// The node as a member of its cluster; nil only in a program that took a node over and could not have the gossip port.
    var cluster: Cluster?
    var controlServer: ControlServer?
    var reloading: ReloadTask?
    /// Names are looked up for a reload.
    var isPreparing = false
    var upgrade: UpgradeTask?
    /// Another program takes over: nothing is decided any more.
    var isFrozen = false
    /// Told of the workers that end then.
    var endedWhileFrozen: (UInt32) -> Void = { _ in }
    var freezeTimer: CallbackTimer?
    /// Signals that came since: the next program acts on them.
    private(set) var lateSignals: [Int32] = []
    /// What the rehearsal of an upgrade tried as its worker.
    var nextWorkerProgram: HeldProgram?
    /// Whether the program that takes over, or is gone back to, is a member of clusters.
    var nextKnowsClusters = true
    /// Whether it knows quotas.
    var nextKnowsQuotas = false
    /// The programs of before an upgrade, until it is sure that there is no way back to be taken.
    var programsBefore: (supervisor: HeldProgram, worker: HeldProgram)?
    /// The settings as that one wrote them: it may not know keys of this one.
    var settingsBefore: [(String, String)]?
    private var clock: CallbackTimer?
    private var publisher: CallbackTimer?
    private var heartbeat: CallbackTimer?
    private var keyTimer: CallbackTimer?
    /// Key sets that are fetched.
    private(set) lazy var keySets = KeySets(loop, log: log) { [unowned self] in ("\(parts.folder)/piko", processes.confinement.user) }
    private var fullWarning = WarningLimit()
    private var startWarning = WarningLimit()
    /// Whether the machine would have the node ready, and whether people took it out of use.
    private var mayBeReady = false
    private(set) var isOutOfUse = false
    /// Whether the node was told to end.
    private var isEnding = false
    /// Workers are told to send their agents elsewhere once other nodes know.
    private var outOfUseTimer: CallbackTimer?
    /// What the process ends with.
    private(set) var exitCode: Int32 = 0

    /// How often the loop's counters are copied to where they are read.
    private static let publishEvery = Duration.seconds(5)
    /// How often workers are asked whether they are there, and how many questions may be open.
    private static let pingEvery = Duration.seconds(2)
    private static let pingsOpenMax: UInt64 = 5

    /// Makes the counters' memory; nothing is started yet.
    init(_ parts: NodeParts, setup: GenerationSetup) throws(SystemError) {
        self.parts = parts
        let slabs = SlabPool.count(workers: setup.workers)
        let memory = try SharedMemory(
            name: "piko-counters", size: Counters.memoryBytes(slabs: slabs))
        self.memory = memory
        region = CounterRegion(formatting: memory.region, layout: Counters.layout, slabs: slabs)
        traffic = NamedTraffic(formatting: memory.region, behind: region)
        quotas = try QuotaMemory(slabs: slabs)
        self.slabs = SlabPool(slabs: slabs)
        let own = region.slab(0)
        own.owner = 0
        counters = Counters(slab: own)
        machine = SupervisorMachine(workers: setup.workers, policy: setup.policy)
        setups = [machine.currentGeneration: setup]
        routes = RoutingTable()
        dials = NodeDialer(parts.loop)
        started = SystemClock.unixNanoseconds
        directKey = Random.bytes(ControlLimits.keyBytes)
        processes = ProcessTable(parts.loop, program: parts.program)
        dispatcher = ConnectionDispatcher(parts.loop, processes: processes, counters: counters, room: parts.room, log: parts.log)
        connectParts()
    }

    /// A node that was taken over from another program. Its workers are added afterwards.
    init(_ parts: NodeParts, taking state: TakenState, memory: SharedMemory, region: CounterRegion, quotas: QuotaMemory) {
        self.parts = parts
        self.memory = memory
        self.region = region
        traffic = NamedTraffic(opening: memory.region, behind: region)
        self.quotas = quotas
        slabs = SlabPool(slabs: region.slabCount)
        counters = Counters(slab: region.slab(0))
        machine = SupervisorMachine(
            adopting: state.workers.map {
                .init(worker: $0.worker, generation: $0.generation, place: $0.place, isLeaving: $0.isLeaving, isCut: $0.isCut, isParting: $0.isParting)
            },
            current: state.currentGeneration, nextGeneration: state.nextGeneration, nextWorker: state.nextWorker,
            workers: state.setup.workers, policy: state.setup.policy, now: parts.loop.now)
        var setup = state.setup
        setup.credentials = try? NodeCredentials(reading: setup.config)
        setups = [state.currentGeneration: setup]
        routes = RoutingTable(taking: state.tunnels, version: state.routesVersion)
        routes.remote.assumeAllAsked()
        dials = NodeDialer(parts.loop)
        started = state.started
        directKey = state.directKey
        isOutOfUse = state.isOutOfUse
        mayBeReady = true
        processes = ProcessTable(parts.loop, program: parts.program)
        dispatcher = ConnectionDispatcher(parts.loop, processes: processes, counters: counters, room: parts.room, log: parts.log)
        connectParts()
    }

    private func connectParts() {
        parts.log.counters = counters
        configureLimits(setup.config)
        tls = NodeTLS(self)
        keySets.changed = { [unowned self] in if !isFrozen { refreshTokenKeys() } }
        dispatcher.fullChanged = { [unowned self] in fullChanged() }
        clock = CallbackTimer(loop) { [unowned self] in handle(.tick) }
        publisher = CallbackTimer(loop) { [unowned self] in publishLoop() }
        heartbeat = CallbackTimer(loop) { [unowned self] in askWorkers() }
        keyTimer = CallbackTimer(loop) { [unowned self] in
            refreshTokenKeys()
            keyTimer?.schedule(after: TokenKeyring.refreshEvery)
        }
    }

    private func configureLimits(_ config: ServerConfig) {
        dispatcher.gate.configure(config)
        routes.limits.tunnelsMax = config.upstream.tunnelsMax
    }

    var loop: Loop { parts.loop }
    var log: Logger { parts.log }
    var ports: ListenerTable { parts.ports }

    /// The configuration that new connections are served with.
    var setup: GenerationSetup {
        guard let setup = setups[machine.currentGeneration] else { preconditionFailure("a generation without its configuration") }
        return setup
    }

    /// Whether a reload is going on.
    var isReloading: Bool { reloading != nil || isPreparing }

    /// Whether `/ready` says that the node is.
    var isReady: Bool { mayBeReady && !isOutOfUse && !(cluster?.join.holdsReadiness ?? false) }

    /// Whether other nodes should choose others.
    var isLeaving: Bool { isOutOfUse || isEnding }

    /// Starts the workers. From here on the machine decides.
    func start(_ controlServer: ControlServer?) {
        self.controlServer = controlServer
        runClocks()
        cluster?.start()
        keySets.want(setup.config)
        // An agent that comes before the keys would be told that its token is no good.
        keySets.whenTried { [unowned self] in if !isEnding { handle(.begin) } }
    }

    func runClocks() {
        publishLoop()
        tls.start()
        heartbeat?.schedule(after: Self.pingEvery)
        keyTimer?.schedule(after: TokenKeyring.refreshEvery)
        clock?.schedule(at: machine.nextDeadline)
    }

    /// Nothing happens by itself any more: another program takes over.
    func stopClocks() {
        tls.stop()
        clock?.cancel()
        publisher?.cancel()
        heartbeat?.cancel()
        keyTimer?.cancel()
    }

    /// Gives an event to the machine and does what it says.
    func handle(_ event: SupervisorEvent) {
        if isFrozen { return }
        var failed: [UInt32] = []
        for action in machine.handle(event, now: loop.now) where !isFrozen {
            if case .start(let worker, let generation, let place) = action {
                if !start(worker, generation, place) { failed.append(worker) }
            } else {
                perform(action)
            }
        }
        clock?.schedule(at: machine.nextDeadline)
        for worker in failed { handle(.workerEnded(worker)) }
    }

    /// A signal came.
    func handle(signal: Int32) {
        if isFrozen {
            lateSignals.append(signal)
            return
        }
        switch signal {
        case ChangeSignal.reload: reload { _ in }
        case ChangeSignal.upgrade: startUpgrade(to: nil) { _ in }
        default: terminate()
        }
    }

    /// Ends the node in good order.
    private func terminate() {
        machine.announceTime = cluster?.announceTime ?? .zero
        handle(.terminate)
    }

    /// Ends the node in good order, as one that failed.
    func end(status: Int32) {
        exitCode = status
        terminate()
    }

    private func perform(_ action: SupervisorAction) {
        switch action {
        case .start: preconditionFailure("started by handle")
        case .serve: serve()
        case .switchOver(let generation): switchOver(generation)
        case .reloadFailed(let failure): reloading?.failed(failure)
        case .announceReady(let ready):
            mayBeReady = ready
            announceReadiness()
            if !ready {
                isEnding = true
                cluster?.setDraining(true)
                parts.services.stopping(status: "draining")
                upgrade?.abandon("the node is told to end")
                log.info(.server, "draining") {
                    $0.field("grace_period", setup.config.gracePeriod)
                    if setup.config.shutdownDelay > .zero { $0.field("shutdown_delay", setup.config.shutdownDelay) }
                }
            }
        case .stopAccepting: ports.closeAllButAdmin()
        case .retire(let worker, let time):
            processes[worker]?.link.send(.retire(milliseconds: time.clampedNanoseconds / 1_000_000))
        case .part(let worker):
            // The worker itself hears of it, too: it waits for the word of its siblings then.
            for other in processes.workers where other.isLinked { other.link.send(.siblingRetires(worker: worker)) }
        case .drain(let worker, let time):
            processes[worker]?.link.send(.drain(milliseconds: time.clampedNanoseconds / 1_000_000))
        case .shutdown(let worker):
            stopServing(worker)
            processes[worker]?.link.send(.shutdown)
        case .kill(let worker):
            stopServing(worker)
            processes[worker]?.child.signal(EndSignal.kill)
        case .generationEnded(let generation):
            setups[generation] = nil
            log.info(.server, "the last worker of an old generation has ended") { $0.field("generation", UInt64(generation)) }
        case .giveUp:
            log.error(.server, "giving up: workers keep ending before they are ready; the log lines above may say why")
        case .exit(let code):
            controlServer?.close()
            if code != 0 { exitCode = code }
            guard let cluster else { return ended() }
            cluster.leave { [unowned self] in ended() }
        }
    }

    private func ended() {
        log.info(.server, "server ended")
        loop.stop()
    }

    /// Tells the workers whether the node is ready.
    func announceReadiness() {
        for worker in processes.workers where worker.isLinked { worker.link.send(.ready(isReady)) }
    }

    /// Takes the node out of use, or back into it.
    func setOutOfUse(_ isOut: Bool) {
        guard isOut != isOutOfUse else { return }
        isOutOfUse = isOut
        log.info(.server, isOut ? "taken out of use" : "back in use")
        announceReadiness()
        cluster?.setDraining(isLeaving)
        outOfUseTimer = nil
        // Other nodes choose others before an agent leaves.
        guard isOut, let time = cluster?.announceTime, time > .zero else { return admitTunnels() }
        let timer = CallbackTimer(loop) { [unowned self] in admitTunnels() }
        timer.schedule(after: time)
        outOfUseTimer = timer
    }

    private func admitTunnels() {
        for worker in processes.workers where worker.isLinked { worker.link.send(.admitTunnels(!isOutOfUse)) }
    }

    private func serve() {
        do throws(SystemError) {
            try ports.accept(dispatcher, counters: counters, log: log)
        } catch {
            log.error(.server, "cannot accept connections") { $0.field("err", error.description) }
            exitCode = 1
            loop.stop()
            return
        }
        logServing("server ready")
        parts.services.ready(status: "serving")
    }

    func logServing(_ text: StaticString) {
        log.info(.server, text) {
            for kind in ListenerKind.allCases {
                let addresses = ports.addresses(kind).map(\.description)
                switch kind {
                case .proxy: $0.field("proxy_addr", addresses.joined(separator: " "))
                case .upstream: $0.field("upstream_addr", addresses.joined(separator: " "))
                case .admin: $0.field("admin_addr", addresses.joined(separator: " "))
                }
            }
            if let cluster { $0.field("gossip_addr", cluster.gossipAddress.description) }
            $0.field("workers", setup.workers)
            if let path = controlServer?.path { $0.field("control_socket", path) }
        }
    }

    // MARK: Workers

    /// Starts a worker process; false when it can't be started.
    private func start(_ worker: UInt32, _ generation: UInt32, _ place: Int) -> Bool {
        guard let setup = setups[generation] else { preconditionFailure("a generation without its configuration") }
        guard let slab = slabs.take() else {
            log.warn(.server, "cannot start a worker: so many workers need a restart of the node") {
                $0.field("worker", UInt64(worker))
            }
            return false
        }
        let memory = region.slab(slab)
        memory.owner = UInt64(worker)
        do throws(SystemError) {
            try processes.start(
                worker: worker, generation: generation, place: place, slab: slab,
                backend: setup.config.server.ioBackend.rawValue, counters: Counters(slab: memory), owner: self
            ) { [unowned self] status in
                ended(worker, status)
            }
            return true
        } catch {
            memory.owner = nil
            slabs.free(slab)
            if startWarning.isDue(loop.now) {
                log.warn(.server, "cannot start a worker") {
                    $0.field("worker", UInt64(worker))
                    $0.field("err", error.description)
                }
            }
            return false
        }
    }

    func ended(_ worker: UInt32, _ status: ExitStatus) {
        guard let process = processes.remove(worker) else { return }
        let wasLinked = process.isLinked
        let wasExpected = machine.isLeaving(worker)
        process.isServing = false
        process.isLinked = false
        dispatcher.workerEnded(process)
        dispatcher.gate.clients.workerEnded(worker)
        process.link.close()
        dials.workerEnded(worker)
        inquiries.workerEnded(worker)
        region.fold(process.slab, into: 0, isGauge: Counters.isGauge)
        quotas.clear(slab: process.slab)
        slabs.free(process.slab)
        // This ends what every other worker knows of its routes; single endpoints need not be named.
        let lost = removeRoutes(of: worker)
        if wasLinked {
            for other in processes.workers where other.isLinked { other.link.send(.siblingGone(worker: worker)) }
        }
        publishRoutes()
        log.log(machine.isServing && !wasExpected ? .warn : .info, .server, "worker ended") {
            $0.field("ended_worker", UInt64(worker))
            $0.field("pid", Int(process.child.pid))
            $0.field("status", status.description)
            $0.field("tunnels_lost", lost)
        }
        if machine.isServing, !wasExpected { counters.add(.workerRestarts) }
        reloading?.workerEnded(worker, status)
        if isFrozen {
            endedWhileFrozen(worker)
            return
        }
        workersChanged()
        handle(.workerEnded(worker))
    }

    private func stopServing(_ worker: UInt32) {
        guard let process = processes[worker], process.isServing else { return }
        process.isServing = false
        dispatcher.workerEnded(process)
        workersChanged()
    }

    /// The number of workers that serve changed.
    func workersChanged() {
        let serving = processes.workers.count { $0.isServing }
        counters.set(.workersReady, UInt64(serving))
        pauseOrResume()
    }

    private func pauseOrResume() {
        let serves = processes.workers.contains { $0.isServing }
        ports.setAccepting(traffic: serves && !dispatcher.isFull, admin: serves)
    }

    private func fullChanged() {
        pauseOrResume()
        if dispatcher.isFull, fullWarning.isDue(loop.now) {
            log.warn(.server, "all workers are full; new connections wait")
        }
    }

    private func becameReady(_ process: WorkerProcess) {
        guard machine.isStarting(process.worker) else { return }
        // Workers that are coming are joined to the others when they take over: nothing moves to them before.
        if process.generation == machine.currentGeneration { join(process) }
        process.isLinked = true
        process.link.send(.ready(isReady))
        if isOutOfUse { process.link.send(.admitTunnels(false)) }
        tellNodes(process.link)
        log.debug(.server, "worker ready") {
            $0.field("ready_worker", UInt64(process.worker))
            $0.field("pid", Int(process.child.pid))
        }
        if process.generation == machine.currentGeneration { process.isServing = true }
        workersChanged()
        handle(.workerReady(process.worker))
        ProcessorTurns.hurry(process.child.pid)
        if process.isServing { dispatcher.workerServes() }
    }

    /// Joins a worker to all that live.
    private func join(_ process: WorkerProcess) {
        for other in processes.workers where other.isJoined && other !== process && !machine.isLeaving(other.worker) {
            connect(process, other)
            // It sends on what still reaches it, and gets nothing.
            if machine.isParting(other.worker) { process.link.send(.siblingRetires(worker: other.worker)) }
        }
        process.isJoined = true
    }

    /// The workers of the generation get all new connections from now on.
    private func switchOver(_ generation: UInt32) {
        for process in processes.workers where process.generation == generation && process.isLinked { join(process) }
        for process in processes.workers {
            let serves = process.generation == generation && process.isLinked
            if process.isServing, !serves { dispatcher.workerEnded(process) }
            process.isServing = serves
        }
        workersChanged()
        if let setup = setups[generation] { configureLimits(setup.config) }
        reloading?.succeeded()
        dispatcher.workerServes()
    }

    /// Makes a socket pair between two workers.
    private func connect(_ one: WorkerProcess, _ other: WorkerProcess) {
        do throws(SystemError) {
            var pair = try MessageSocket.pair()
            one.link.send(.sibling(of: other, for: one), taking: [pair.takeFirst().take()])
            other.link.send(.sibling(of: one, for: other), taking: [pair.takeSecond().take()])
        } catch {
            log.warn(.server, "cannot connect two workers; their clients are not moved") { $0.field("err", error.description) }
        }
    }

    /// Asks every worker whether it is there. One that has not answered for long is killed, and replaced.
    private func askWorkers() {
        for process in processes.workers where process.isLinked && process.child.isRunning {
            if process.pinged &- process.ponged >= Self.pingsOpenMax {
                replaceStuck(process)
                continue
            }
            process.pinged &+= 1
            process.link.send(.ping(process.pinged))
        }
        heartbeat?.schedule(after: Self.pingEvery)
    }

    /// The worker gets the time to say where it is, and nothing new meanwhile.
    private func replaceStuck(_ process: WorkerProcess) {
        guard process.burial == nil else { return }
        counters.add(.controlErrors)
        stopServing(process.worker)
        process.reportStuck(log)
        let timer = CallbackTimer(loop) { [unowned process] in process.child.signal(EndSignal.kill) }
        timer.schedule(after: WorkerProcess.stackTime)
        process.burial = timer
    }

    // MARK: Counters

    func publishRoutes() {
        counters.set(.connectedUpstreams, UInt64(routes.tunnelCount))
        counters.set(.registeredEndpoints, UInt64(routes.endpointCount))
    }

    private func publishLoop() {
        let loop = loop.counters
        counters.setLoop(
            turns: loop.turns, events: loop.events, systemCalls: loop.systemCalls, staleCompletions: loop.staleCompletions,
            bufferShortages: loop.receiveBufferShortages, handlesOpen: loop.handlesOpen,
            handlesLingering: loop.handlesLingering, outputBytes: loop.outputBytes, outputChunks: loop.outputChunks,
            pumpBytesCopied: loop.pumpBytesCopied, pumpBytesSpliced: loop.pumpBytesSpliced,
            pipeShortages: loop.pipeShortages, pumps: loop.pumps, pipes: loop.pipes)
        counters.set(.loopTurn, self.loop.turnTimes.counts)
        publisher?.schedule(after: Self.publishEvery)
    }
}

extension ControlMessage {
    /// The news of another worker, and which version both speak.
    fileprivate static func sibling(of process: WorkerProcess, for receiver: WorkerProcess) -> ControlMessage {
        .sibling(
            worker: process.worker, generation: process.generation,
            protocolVersion: min(process.link.protocolVersion, receiver.link.protocolVersion))
    }
}

// MARK: - What workers say

extension Node: WorkerLinkOwner {
    func linkGreeted(_ link: WorkerLink) {
        guard let process = processes[link.worker], let setup = setups[process.generation] else { return }
        let message = WorkerSetup(
            index: UInt32(process.place), generation: process.generation, worker: process.worker, slab: UInt32(process.slab),
            nodeStart: started, directKey: directKey, nodeID: nodeID, clusterKeys: setup.clusterKeys, settings: setup.settings)
        tls.give(setup, to: link)
        link.send(.configure(message), lending: [memory.descriptor, quotas.descriptor])
        for message in setup.tokenKeys.messages(keySets) { link.send(message) }
    }

    func linkFailed(_ link: WorkerLink, reason: String) {
        guard let process = processes[link.worker] else { return }
        stopServing(process.worker)
        // One that was told to end closes its socket before it exits, and has its time for that. When a worker just
        // ended by itself, the kill does nothing and the news of its end is on its way.
        if !machine.isLeaving(process.worker) {
            counters.add(.controlErrors)
            log.debug(.server, "lost the connection to a worker") {
                $0.field("lost_worker", UInt64(process.worker))
                $0.field("err", reason)
            }
            process.child.signal(EndSignal.kill)
        }
    }

    func link(_ link: WorkerLink, received message: ControlMessage) {
        guard let process = processes[link.worker] else { return }
        switch message {
        case .workerReady: becameReady(process)
        case .register(let tunnel, let endpoint, let kind, let quotas): register(process, tunnel, endpoint, kind, quotas)
        case .release(let tunnel): routes.release(worker: process.worker, tunnel: tunnel)
        case .unregister(let tunnel, let endpoint):
            let before = routes.localCount(endpoint)
            let version = routes.unregister(worker: process.worker, tunnel: tunnel, endpoint: endpoint, now: loop.now)
            if let version { broadcast(endpoint, version: version) }
            tellCount(endpoint, before: before)
        case .lookup(let endpoint): answer(link, lookup: endpoint)
        case .dial(let request, let id): dial(link, request, id)
        case .dialAdmin(let request, let id): dialAdmin(link, request, id)
        case .reportRequest(let request, let path): report(link, request, path)
        case .statusRequest(let request, let kind): answer(link, request, kind)
        case .inquiryPage(let request, let bytes, let last): inquiries.page(from: process.worker, request, bytes, isLast: last)
        case .drained:
            if isFrozen { process.hasDrained = true } else { handle(.workerDrained(process.worker)) }
        case .pong(let number): process.ponged = number
        case .keyMissing(let port):
            if !isFrozen, let url = setup.tokenKeys.fetchedURL(port) { keySets.keyIsMissing(url) }
        case .clients(let listener, let came, let went):
            dispatcher.gate.clients.changed(process.worker, listener, came: came, went: went)
        case .hello, .configure, .accepted, .sibling, .siblingGone, .routes, .routeChanged, .registered, .refused,
            .statusPage, .ready, .drain, .shutdown, .retire, .siblingRetires, .admitTunnels, .ping, .node,
            .nodeGone, .dialed, .dialFailed, .shed, .reportPage, .inquire, .tokenKeys, .credentials, .move, .moveData, .agentLeft, .moveStreams, .moveSession, .sessionTaken,
            .noMore:
            preconditionFailure("decoded as a worker's message")
        }
    }

    /// Tells every worker that what it knows of the endpoint is out of date.
    func broadcast(_ endpoint: String, version: UInt64) {
        for worker in processes.workers where worker.isLinked { worker.link.routeChanged(endpoint, version: version) }
        publishRoutes()
    }

    private func answer(_ link: WorkerLink, _ request: UInt64, _ kind: StatusKind) {
        let entries = routes.endpoints
        var start = 0
        repeat {
            let end = min(start + ControlLimits.statusEntriesMax, entries.count)
            let page = Array(entries[start..<end])
            link.send(.statusPage(request: request, kind: kind, entries: page, last: end == entries.count))
            start = end
        } while start < entries.count
    }
}
