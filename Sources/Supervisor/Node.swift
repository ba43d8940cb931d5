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

/// One server node.
final class Node {
    let loop: Loop
    let config: ServerConfig
    let log: Logger
    let counters: Counters
    let ports: ListenerTable
    private(set) var machine: SupervisorMachine
    private(set) var routes = RoutingTable()
    let processes: ProcessTable
    private let dispatcher: ConnectionDispatcher
    private let memory: SharedMemory
    private let region: CounterRegion
    private let settings: [Control.Setting]
    private let started = SystemClock.unixNanoseconds
    /// Of the credentials for data connections. They end with the node, as the sessions do that they were made for.
    private let directKey = Random.bytes(ControlLimits.keyBytes)
    private var clock: CallbackTimer?
    private var publisher: CallbackTimer?
    private var controlServer: ControlServer?
    private var lastFullWarning: Instant?
    /// The node's readiness, as all workers were told.
    private(set) var isReady = false
    /// What the process ends with.
    private(set) var exitCode: Int32 = 0

    /// How often the loop's counters are copied to where they are read.
    private static let publishEvery = Duration.seconds(5)

    /// Makes the counters' memory; nothing is started yet.
    init(_ loop: Loop, config: ServerConfig, log: Logger, ports: ListenerTable, workerPath: String, room: WorkerRoom)
        throws(SystemError)
    {
        self.loop = loop
        self.config = config
        self.log = log
        self.ports = ports
        let workers = config.server.workers > 0 ? config.server.workers : System.processorCount
        let size = CounterRegion.byteCount(layout: Counters.layout, slabs: workers + 1)
        memory = try SharedMemory(name: "piko-counters", size: size)
        region = CounterRegion(formatting: memory.region, layout: Counters.layout, slabs: workers + 1)
        let own = region.slab(0)
        own.owner = 0
        counters = Counters(slab: own)
        log.counters = counters
        settings = config.flattened.map { Control.Setting(key: $0.0, value: $0.1) }
        machine = SupervisorMachine(workers: workers, gracePeriod: config.gracePeriod)
        processes = ProcessTable(loop, path: workerPath, backend: config.server.ioBackend.rawValue)
        dispatcher = ConnectionDispatcher(loop, processes: processes, counters: counters, room: room)
        dispatcher.fullChanged = { [unowned self] in fullChanged() }
    }

    /// How many workers the node is to have.
    var workerCount: Int { region.slabCount - 1 }

    /// Starts the workers. From here on the machine decides.
    func start(_ controlServer: ControlServer?) {
        self.controlServer = controlServer
        let clock = CallbackTimer(loop) { [unowned self] in handle(.tick) }
        self.clock = clock
        let publisher = CallbackTimer(loop) { [unowned self] in publishLoop() }
        self.publisher = publisher
        publishLoop()
        handle(.begin)
    }

    /// Gives an event to the machine and does what it says.
    func handle(_ event: SupervisorEvent) {
        var failed: [UInt32] = []
        for action in machine.handle(event, now: loop.now) {
            if case .start(let worker, let place) = action {
                if !start(worker, place: place) { failed.append(worker) }
            } else {
                perform(action)
            }
        }
        clock?.schedule(at: machine.nextDeadline)
        for worker in failed { handle(.workerEnded(worker)) }
    }

    private func perform(_ action: SupervisorAction) {
        switch action {
        case .start: preconditionFailure("started by handle")
        case .serve: serve()
        case .announceReady(let ready):
            isReady = ready
            for worker in processes.workers where worker.isServing { worker.link.send(.ready(ready)) }
            if !ready { log.info(.server, "draining") { $0.field("grace_period", config.gracePeriod) } }
        case .stopAccepting: ports.closeAllButAdmin()
        case .drain(let worker, let time):
            processes[worker]?.link.send(.drain(milliseconds: time.clampedNanoseconds / 1_000_000))
        case .shutdown(let worker):
            stopServing(worker)
            processes[worker]?.link.send(.shutdown)
        case .kill(let worker):
            stopServing(worker)
            processes[worker]?.child.signal(EndSignal.kill)
        case .giveUp:
            log.error(.server, "giving up: workers keep ending before they are ready; the log lines above may say why")
        case .exit(let code):
            controlServer?.close()
            log.info(.server, "server ended")
            exitCode = code
            loop.stop()
        }
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
        log.info(.server, "server ready") {
            for kind in ListenerKind.allCases {
                let addresses = ports.addresses(kind).map(\.description)
                switch kind {
                case .proxy: $0.field("proxy_addr", addresses.joined(separator: " "))
                case .upstream: $0.field("upstream_addr", addresses.joined(separator: " "))
                case .admin: $0.field("admin_addr", addresses.joined(separator: " "))
                }
            }
            $0.field("workers", workerCount)
            if let path = controlServer?.path { $0.field("control_socket", path) }
        }
    }

    // MARK: Workers

    /// Starts a worker process; false when it can't be started.
    private func start(_ worker: UInt32, place: Int) -> Bool {
        let slab = region.slab(place + 1)
        slab.owner = UInt64(worker)
        do throws(SystemError) {
            try processes.start(worker: worker, place: place, counters: Counters(slab: slab), owner: self) { [unowned self] status in
                ended(worker, status)
            }
            return true
        } catch {
            log.warn(.server, "cannot start a worker") {
                $0.field("worker", UInt64(worker))
                $0.field("err", error.description)
            }
            return false
        }
    }

    private func ended(_ worker: UInt32, _ status: ExitStatus) {
        guard let process = processes.remove(worker) else { return }
        process.isServing = false
        let wasServing = machine.isServing
        dispatcher.workerEnded(process)
        process.link.close()
        region.fold(process.place + 1, into: 0, isGauge: Counters.isGauge)
        // This ends what every other worker knows of its routes; single endpoints need not be named.
        let lost = routes.remove(worker: worker)
        if process.hasServed {
            for other in processes.workers where other.hasServed { other.link.send(.siblingGone(worker: worker)) }
        }
        publishRoutes()
        log.log(wasServing ? .warn : .info, .server, "worker ended") {
            $0.field("ended_worker", UInt64(worker))
            $0.field("pid", Int(process.child.pid))
            $0.field("status", status.description)
            $0.field("tunnels_lost", lost)
        }
        if wasServing { counters.add(.workerRestarts) }
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
    private func workersChanged() {
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
        if dispatcher.isFull, lastFullWarning.map({ loop.now - $0 >= .seconds(1) }) ?? true {
            lastFullWarning = loop.now
            log.warn(.server, "all workers are full; new connections wait")
        }
    }

    private func becameReady(_ process: WorkerProcess) {
        guard machine.isStarting(process.worker) else { return }
        for other in processes.workers where other.isServing { connect(process, other) }
        process.isServing = true
        process.hasServed = true
        process.link.send(.ready(isReady))
        log.debug(.server, "worker ready") {
            $0.field("ready_worker", UInt64(process.worker))
            $0.field("pid", Int(process.child.pid))
        }
        workersChanged()
        handle(.workerReady(process.worker))
        dispatcher.workerServes()
    }

    /// Makes a socket pair between two workers.
    private func connect(_ one: WorkerProcess, _ other: WorkerProcess) {
        do throws(SystemError) {
            var pair = try MessageSocket.pair()
            one.link.send(.sibling(worker: other.worker), taking: [pair.takeFirst().take()])
            other.link.send(.sibling(worker: one.worker), taking: [pair.takeSecond().take()])
        } catch {
            log.warn(.server, "cannot connect two workers; their clients are not moved") { $0.field("err", error.description) }
        }
    }

    // MARK: Counters

    private func publishRoutes() {
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
        publisher?.schedule(after: Self.publishEvery)
    }
}

// MARK: - What workers say

extension Node: WorkerLinkOwner {
    func linkGreeted(_ link: WorkerLink) {
        guard let process = processes[link.worker] else { return }
        let setup = WorkerSetup(
            index: UInt32(process.place), worker: process.worker, slab: UInt32(process.place + 1), nodeStart: started,
            directKey: directKey, settings: settings)
        link.send(.configure(setup), lending: [memory.descriptor])
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
        case .register(let tunnel, let endpoint, let kind): register(process, tunnel, endpoint, kind)
        case .unregister(let tunnel, let endpoint):
            guard let version = routes.unregister(worker: process.worker, tunnel: tunnel, endpoint: endpoint) else { return }
            broadcast(endpoint, version: version)
        case .lookup(let endpoint):
            let (version, entries) = routes.lookup(endpoint)
            link.send(.routes(endpoint: endpoint, version: version, entries: entries))
        case .statusRequest(let request, let kind): answer(link, request, kind)
        case .drained: handle(.workerDrained(process.worker))
        case .hello, .configure, .accepted, .sibling, .siblingGone, .routes, .routeChanged, .registered, .refused,
            .statusPage, .ready, .drain, .shutdown, .move, .moveData, .agentLeft:
            preconditionFailure("decoded as a worker's message")
        }
    }

    private func register(_ process: WorkerProcess, _ tunnel: UInt64, _ endpoint: String, _ kind: TunnelKind) {
        switch routes.register(worker: process.worker, tunnel: tunnel, endpoint: endpoint, kind: kind) {
        case .added(let version):
            broadcast(endpoint, version: version)
            process.link.send(.registered(tunnel: tunnel))
        case .full:
            counters.add(.refusedByLimit)
            process.link.send(.refused(tunnel: tunnel))
        case .duplicate:
            linkFailed(process.link, reason: "registered tunnel \(tunnel) twice")
        }
    }

    /// Tells every worker that what it knows of the endpoint is out of date.
    private func broadcast(_ endpoint: String, version: UInt64) {
        for worker in processes.workers where worker.isServing { worker.link.routeChanged(endpoint, version: version) }
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
