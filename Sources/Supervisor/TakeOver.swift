// An upgrade, on the side of the program that takes over: the rehearsal in a child, and the take-over itself.
//
// The new program serves from its first turn on, with the workers of before; then it goes over to workers of its own as in a
// reload. Should that fail, it executes the program before it again, which goes on as if nothing had been.

import Base
import Config
import Control
import Gossip
import Memory
import Reactor
import Telemetry

/// What was left to this program by the one before.
struct TakeOver {
    let mode: TakeOverMode
    let reason: String
    private let descriptor: Int32

    /// From the environment, which is cleaned of it. Nil in a program that was started by people.
    init?() {
        let variables = ProgramEnvironment.variables
        guard let mode = variables[TakeOverMode.modeVariable].flatMap(TakeOverMode.init(rawValue:)) else { return nil }
        self.mode = mode
        reason = variables[TakeOverMode.reasonVariable] ?? ""
        descriptor = mode == .rehearse
            ? TakeOverMode.rehearsalState : variables[TakeOverMode.stateVariable].flatMap { Int32($0) } ?? -1
        ProgramEnvironment.remove([TakeOverMode.modeVariable, TakeOverMode.stateVariable, TakeOverMode.reasonVariable])
    }

    /// The state. Its descriptors are this program's from now on, and are inherited by nobody any more.
    func state() throws(StateError) -> TakenState {
        var bytes = ByteBuffer()
        do throws(SystemError) {
            try MemoryFile.read(descriptor, bytesMax: Self.bytesMax, into: &bytes)
        } catch {
            throw StateError("cannot read the state: \(error)")
        }
        let state = try TakenState(reading: bytes.span)
        if mode != .rehearse {
            _ = OwnedDescriptor(descriptor)
            for descriptor in state.descriptors { ProcessReplacement.keepToItself(descriptor) }
        }
        return state
    }

    static let bytesMax = 268_435_456

    // MARK: Rehearsal

    /// Tries everything that a take-over needs, on copies, and reports. The exit status.
    func rehearse(_ invocation: () throws -> Invocation) -> Int32 {
        var report = ByteBuffer()
        var status: Int32 = 0
        do {
            try Rehearsal.run(try invocation(), try state())
            JSONValue.object([
                JSONMember("ok", .bool(true)), JSONMember("version", .string(BuildInfo.version)), JSONMember("clusters", .bool(true)),
                JSONMember("quotas", .bool(true)),
            ]).write(into: &report)
        } catch {
            JSONValue.object([JSONMember("error", .string("\(error)"))]).write(into: &report)
            status = 1
        }
        InheritedOutput.write(descriptor: TakeOverMode.rehearsalReport, bytes: report.span)
        return status
    }
}

/// The trial of a take-over: the configuration is read, a loop made, the state understood, and a worker started.
private final class Rehearsal: WorkerLinkOwner {
    private let setup: GenerationSetup
    private let memory: SharedMemory
    private let quotas: QuotaMemory
    private var isReady = false
    private var failure: String?
    private var hasEnded = false

    private static let timeMax = Duration.seconds(15)

    static func run(_ invocation: Invocation, _ state: TakenState) throws {
        let config = try ServerConfig(invocation, environment: ProgramEnvironment.variables, read: FileContents.read)
        _ = RoutingTable(taking: state.tunnels, version: state.routesVersion)
        if state.cluster != nil {
            _ = try GossipMachine(
                snapshot: try Node.clusterSnapshot(TakeOverMode.rehearsalSnapshot), configuration: Cluster.configuration(config.cluster),
                seed: 1, now: SystemClock.now)
        }
        let loop = try NodeStart.makeLoop(config)
        SignalSource.ignorePipeSignal()
        let rehearsal = try Rehearsal(config)
        let program = HeldProgram(path: "piko-worker", adopting: OwnedDescriptor(TakeOverMode.rehearsalWorker))
        let processes = ProcessTable(loop, program: program)
        let log = Logger(settings: LogSettings(), clock: { SystemClock.unixNanoseconds }, sink: StandardErrorSink())
        processes.confinement = try WorkerConfinement(config, log: log)
        let counters = Counters()
        try processes.start(
            worker: 1, generation: 1, place: 0, slab: 1, backend: config.server.ioBackend.rawValue, counters: counters,
            owner: rehearsal
        ) { status in
            rehearsal.hasEnded = true
            if !rehearsal.isReady { rehearsal.failure = "its worker ended (\(status)); the log may say why" }
        }
        let deadline = loop.now + timeMax
        while !rehearsal.isReady, rehearsal.failure == nil, loop.now < deadline { loop.runTurn(until: deadline) }
        processes.workers.first?.link.send(.shutdown)
        if let failure = rehearsal.failure { throw StateError(failure) }
        if !rehearsal.isReady { throw StateError("its worker was not ready in time") }
        while !rehearsal.hasEnded, loop.now < deadline { loop.runTurn(until: deadline) }
    }

    private init(_ config: ServerConfig) throws(SystemError) {
        setup = GenerationSetup(config)
        memory = try SharedMemory(name: "piko-rehearsal", size: CounterRegion.byteCount(layout: Counters.layout, slabs: 2))
        _ = CounterRegion(formatting: memory.region, layout: Counters.layout, slabs: 2)
        quotas = try QuotaMemory(slabs: 2)
    }

    func linkGreeted(_ link: WorkerLink) {
        let message = WorkerSetup(
            index: 0, generation: 1, worker: 1, slab: 1, nodeStart: 0, directKey: Random.bytes(ControlLimits.keyBytes),
            settings: setup.settings)
        link.send(.configure(message), lending: [memory.descriptor, quotas.descriptor])
    }

    func link(_ link: WorkerLink, received message: ControlMessage) {
        if message == .workerReady { isReady = true }
    }

    func linkFailed(_ link: WorkerLink, reason: String) {
        if !isReady, failure == nil { failure = "its worker: \(reason)" }
    }
}

// MARK: - The node, taken over

extension Node {
    /// Takes up the workers, the ports and what waits, and serves.
    func resume(_ state: TakenState, _ controlServer: ControlServer?) throws(SystemError) {
        self.controlServer = controlServer
        var lost: [UInt32] = []
        for taken in state.workers {
            let link = OwnedDescriptor(taken.link)
            let hasSlab = slabs.take(taken.slab)
            do throws(SystemError) {
                guard hasSlab else { throw SystemError(code: 22, call: "find the worker's counters") }
                try adopt(taken, link)
            } catch {
                // Its link is closed, and it ends by that. What it counted is folded below.
                if hasSlab { slabs.free(taken.slab) }
                log.error(.server, "a worker can't be taken over") {
                    $0.field("lost_worker", UInt64(taken.worker))
                    $0.field("err", error.description)
                }
                lost.append(taken.worker)
            }
        }
        for worker in lost { removeRoutes(of: worker) }
        // What workers counted that did not come along (most were not READY yet) is kept.
        for slab in 1..<region.slabCount where region.slab(slab).owner != nil && slabs.take(slab) {
            region.fold(slab, into: 0, isGauge: Counters.isGauge)
            quotas.clear(slab: slab)
            slabs.free(slab)
        }
        publishRoutes()
        keySets.take(state.keySets)
        keySets.want(setup.config)
        takeUpCluster(state)
        try ports.accept(dispatcher, counters: counters, log: log)
        workersChanged()
        runClocks()
        parts.services.ready(status: "serving")
        for worker in lost { handle(.workerEnded(worker)) }
        handle(.begin)
        for taken in state.workers where taken.hasDrained { handle(.workerDrained(taken.worker)) }
        dispatcher.take(waiting: state.waiting)
    }

    /// Goes on as the same member of the cluster, or, after a program that knew of none, begins as one.
    private func takeUpCluster(_ state: TakenState) {
        var config = state.setup.config
        // What that program did not know stands in the file alone.
        if state.cluster == nil, let file = try? readConfig() {
            config.cluster = file.cluster
            var known = state.setup.config
            known.cluster = file.cluster
            let credentials = setups[machine.currentGeneration]?.credentials
            setups[machine.currentGeneration] = GenerationSetup(known)
            setups[machine.currentGeneration]?.credentials = credentials
        }
        do {
            if let taken = state.cluster {
                let sockets = GossipSockets(
                    datagrams: OwnedDescriptor(taken.datagrams), listener: OwnedDescriptor(taken.listener))
                let snapshot = (try? Self.clusterSnapshot(taken.snapshot)) ?? []
                _ = OwnedDescriptor(taken.snapshot)
                cluster = try Cluster(self, config, sockets, taking: taken, snapshot: snapshot)
            } else {
                cluster = try Cluster(self, config, try GossipSockets.bind(loop, ports, config.cluster.gossip.bindAddress))
            }
            cluster?.start()
        } catch {
            log.error(.cluster, "this node is in no cluster until it is restarted") { $0.field("err", "\(error)") }
        }
    }

    static func clusterSnapshot(_ descriptor: Int32) throws(StateError) -> [UInt8] {
        var bytes = ByteBuffer()
        do throws(SystemError) {
            try MemoryFile.read(descriptor, bytesMax: TakeOver.bytesMax, into: &bytes)
        } catch {
            throw StateError("cannot read the cluster's state: \(error)")
        }
        return [UInt8](copying: bytes.span)
    }

    private func adopt(_ taken: TakenState.Worker, _ socket: consuming OwnedDescriptor) throws(SystemError) {
        let worker = taken.worker
        let child = try ChildProcess.adopt(loop, pid: taken.pid) { [unowned self] status in ended(worker, status) }
        let link = try WorkerLink(
            loop, worker: worker, adopting: socket, greeted: taken.protocolVersion, held: taken.held,
            owner: self)
        let process = WorkerProcess(
            worker: worker, generation: taken.generation, place: taken.place, slab: taken.slab, child: child, link: link,
            counters: Counters(slab: region.slab(taken.slab)))
        process.passed = taken.passed
        process.pinged = taken.pinged
        process.ponged = taken.pinged
        process.isLinked = true
        process.isJoined = true
        process.isServing = taken.generation == machine.currentGeneration
        processes.add(process)
        tellNodes(link)
    }

    /// Answers those who wait for the outcome: at once when the node was taken back, else when workers of this program serve.
    func settle(_ state: TakenState, _ takeOver: TakeOver, before: HeldProgram, workersBefore: HeldProgram) {
        defer { for signal in state.signals { handle(signal: signal) } }
        let answers = state.askers.compactMap { controlServer?.adopt(asker: OwnedDescriptor($0)) }
        func tell(_ answer: JSONValue) { for give in answers { give(answer) } }
        if takeOver.mode == .back {
            log.error(.server, "not upgraded; everything goes on as before") { $0.field("err", takeOver.reason) }
            return tell(.object([JSONMember("error", .string(takeOver.reason))]))
        }
        log.info(.server, "took the node over") { $0.field("from_version", state.writtenBy) }
        programsBefore = (before, workersBefore)
        settingsBefore = state.settings
        nextKnowsClusters = state.cluster != nil
        nextKnowsQuotas = state.quotas != nil
        let goBack = { [unowned self] (reason: String) in
            replace(with: before.description, .back, reason: reason)
        }
        do throws(ConfigError) {
            begin(try readConfig(), ReloadOutcome()) { [self] outcome in
                if let failure = outcome.failure {
                    // A node that was told to end meanwhile ends as this program.
                    if machine.isServing { goBack(failure) } else { tell(.object([JSONMember("error", .string(failure))])) }
                    return
                }
                programsBefore = nil
                nextKnowsQuotas = false
                settingsBefore = nil
                parts.services.ready(status: "serving, version \(BuildInfo.version)")
                log.info(.server, "upgraded") { $0.field("version", BuildInfo.version) }
                tell(
                    .object([
                        JSONMember("version", .string(BuildInfo.version)), JSONMember("from_version", .string(state.writtenBy)),
                        JSONMember("generation", .integer(Int64(outcome.generation))),
                    ]))
            }
        } catch {
            goBack(error.description)
        }
    }
}
