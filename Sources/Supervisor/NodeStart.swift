// From a configuration to a running node, in this order: loop, signals, ports, control socket, workers. What fails names
// what was asked for, and nothing is left behind.

import Base
import Config
import Control
import Glibc
import Memory
import Reactor
import Telemetry

/// Why a node can't start, as a line for people.
struct StartError: Error, CustomStringConvertible {
    var description: String
    init(_ description: String) { self.description = description }
}

/// Starts and runs a node.
enum NodeStart {
    /// Where `piko` says by which path it was started.
    static let startedVariable = "PIKO_STARTED_AS"

    /// What the environment says to this process alone; it is taken out of it.
    struct Surroundings {
        let services: ServiceSettings
        let startedAs: String?
        let activation: ActivationSockets

        init() throws(StartError) {
            let variables = ProgramEnvironment.variables
            services = ServiceSettings.take()
            startedAs = variables[NodeStart.startedVariable].flatMap { $0.hasPrefix("/") ? $0 : nil }
            do throws(ActivationSockets.Failure) {
                activation = try ActivationSockets(variables, pid: System.processIdentifier)
            } catch {
                throw StartError("socket activation: \(error)")
            }
            ProgramEnvironment.remove(ActivationSockets.variableNames + [NodeStart.startedVariable])
        }
    }

    /// Runs until the node ends; the exit status.
    static func run(_ invocation: Invocation, _ setup: GenerationSetup, log: Logger) throws(StartError) -> Int32 {
        let config = setup.config
        if let problem = setup.tokenKeys.problem { throw StartError("config: \(problem)") }
        let surroundings = try Surroundings()
        let room = WorkerRoom(descriptors: System.raiseDescriptorLimit())
        System.raiseLockedMemoryLimit()
        SignalSource.ignorePipeSignal()
        ProcessorTurns.hurry()
        let loop = try makeLoop(config)
        logStart(loop, log)
        guard let ownPath = ProgramEnvironment.executablePath, let workerPath = ProgramEnvironment.siblingPath("piko-worker")
        else { throw StartError("cannot find piko-worker: /proc is not mounted") }
        var node: Node?
        let signals = try watchSignals(loop, log) { node }
        let confinement = try WorkerConfinement(config, log: log)
        let ports = try bind(loop, config, surroundings.activation)
        let gossip: GossipSockets
        do throws(BindError) {
            gossip = try GossipSockets.bind(loop, ports, config.cluster.gossip.bindAddress)
        } catch {
            throw StartError(error.description)
        }
        let made = try orFail("counters") { () throws(SystemError) in
            try Node(
                NodeParts(
                    loop: loop, log: log, ports: ports, invocation: invocation, own: try HeldProgram(running: ownPath),
                    program: try HeldProgram(path: workerPath), room: room, services: ServiceManager(loop, surroundings.services),
                    serviceSettings: surroundings.services, startedAs: surroundings.startedAs),
                setup: setup)
        }
        let controlServer = try makeControlServer(loop, config, log: log) { [unowned made] in made.answer($0, $1) }
        made.processes.confinement = confinement
        do throws(SystemError) {
            made.cluster = try Cluster(made, config, gossip)
        } catch {
            throw StartError("gossip: \(error)")
        }
        node = made
        let reaper = try reapOrphans(loop, log)
        made.start(controlServer)
        loop.run()
        signals.close()
        reaper.close()
        return made.exitCode
    }

    /// Takes a node over from another program, or back; runs until the node ends. When it throws, every descriptor of the state is
    /// still open, and the program before can go on.
    static func run(
        _ invocation: Invocation, taking inherited: TakenState, _ takeOver: TakeOver, log: Logger
    ) throws(StartError) -> Int32 {
        let surroundings = try Surroundings()
        let room = WorkerRoom(descriptors: System.raiseDescriptorLimit())
        System.raiseLockedMemoryLimit()
        SignalSource.ignorePipeSignal()
        ProcessorTurns.hurry()
        let loop = try makeLoop(inherited.setup.config)
        let confinement = try WorkerConfinement(inherited.setup.config, log: log)
        if takeOver.mode == .upgrade { logStart(loop, log) }
        guard let ownPath = ProgramEnvironment.executablePath else { throw StartError("/proc is not mounted") }
        // What is used are copies, until nothing can fail any more.
        let state = try orFail("descriptors") { () throws(SystemError) in try inherited.duplicated() }
        let before = HeldProgram(path: state.supervisorProgram.path, adopting: OwnedDescriptor(state.supervisorProgram.descriptor))
        let workersBefore = HeldProgram(path: state.workerProgram.path, adopting: OwnedDescriptor(state.workerProgram.descriptor))
        var own = before
        var workers = workersBefore
        if takeOver.mode == .upgrade {
            own = try orFail("own program") { () throws(SystemError) in try HeldProgram(running: ownPath) }
        }
        if let next = state.nextWorkerProgram {
            // The very program that the rehearsal tried; of no use on the way back.
            let tried = HeldProgram(path: next.path, adopting: OwnedDescriptor(next.descriptor))
            if takeOver.mode == .upgrade { workers = tried }
        }
        var node: Node?
        let signals = try watchSignals(loop, log) { node }
        let ports = ListenerTable(loop)
        for socket in state.listeners { ports.adopt(socket.kind, OwnedDescriptor(socket.descriptor)) }
        let parts = NodeParts(
            loop: loop, log: log, ports: ports, invocation: invocation, own: own, program: workers, room: room,
            services: ServiceManager(loop, surroundings.services), serviceSettings: surroundings.services,
            startedAs: surroundings.startedAs)
        let made = try take(parts, state)
        made.processes.confinement = confinement
        let controlServer = try state.control.map { control throws(StartError) in
            try orFail("control socket") { () throws(SystemError) in
                try ControlServer(loop, path: control.path, adopting: OwnedDescriptor(control.descriptor)) { [unowned made] in
                    made.answer($0, $1)
                }
            }
        }
        node = made
        try orFail("accept") { () throws(SystemError) in try made.resume(state, controlServer) }
        let reaper = try reapOrphans(loop, log)
        for descriptor in inherited.descriptors { _ = OwnedDescriptor(descriptor) }
        made.settle(state, takeOver, before: before, workersBefore: workersBefore)
        loop.run()
        signals.close()
        reaper.close()
        return made.exitCode
    }

    private static func take(_ parts: NodeParts, _ state: TakenState) throws(StartError) -> Node {
        let memory = try orFail("counters") { () throws(SystemError) in
            let size = SharedMemory.size(of: state.counters)
            return try SharedMemory(adopting: OwnedDescriptor(state.counters), size: size)
        }
        let region: CounterRegion
        do throws(CounterRegionError) {
            region = try CounterRegion(opening: memory.region)
        } catch {
            throw StartError("counters: \(error)")
        }
        let quotas = try orFail("quotas") { () throws(SystemError) in
            try QuotaMemory.taken(state.quotas, slabs: region.slabCount)
        }
        return Node(parts, taking: state, memory: memory, region: region, quotas: quotas)
    }

    /// A process that is pid 1 has everybody's orphans to reap. Not before all children of our own are known.
    private static func reapOrphans(_ loop: Loop, _ log: Logger) throws(StartError) -> OrphanReaper {
        try orFail("signals") { () throws(SystemError) in
            try OrphanReaper(loop) { pid in log.debug(.main, "reaped an orphan") { $0.field("pid", Int(pid)) } }
        }
    }

    private static func logStart(_ loop: Loop, _ log: Logger) {
        log.info(.server, "starting server") {
            $0.field("version", BuildInfo.version)
            $0.field("pid", Int(System.processIdentifier))
            $0.field("io_backend", loop.backendDescription)
            if loop.backend == .epoll, let hint = Hints.hint(for: "io_uring: \(loop.backendDescription)") { $0.field("hint", hint) }
        }
    }

    private static func watchSignals(
        _ loop: Loop, _ log: Logger, _ node: @escaping () -> Node?
    ) throws(StartError) -> SignalSource {
        try orFail("signals") { () throws(SystemError) in
            try SignalSource(loop, signals: EndSignal.all + [ChangeSignal.reload, ChangeSignal.upgrade]) { signal in
                log.info(.main, "signal") { $0.field("signal", Int(signal)) }
                if let node = node() { node.handle(signal: signal) } else if EndSignal.all.contains(signal) { exit(0) }
            }
        }
    }

    private static func orFail<Value>(
        _ what: String, _ make: () throws(SystemError) -> Value
    ) throws(StartError) -> Value {
        do throws(SystemError) {
            return try make()
        } catch {
            throw StartError("\(what): \(error)")
        }
    }

    /// The supervisor moves no bodies: few and small buffers.
    static func makeLoop(_ config: ServerConfig) throws(StartError) -> Loop {
        var limits = LoopLimits()
        limits.handlesMax = 4_096
        limits.ringEntries = 256
        limits.receiveBuffers = 16
        limits.receiveBufferBytes = 4_096
        let choice = BackendChoice(rawValue: config.server.ioBackend.rawValue) ?? .auto
        do throws(SystemError) {
            return try Loop(backend: choice, limits: limits)
        } catch {
            throw StartError("config: server.io_backend: cannot use \(choice.rawValue): \(error)")
        }
    }

    private static func bind(
        _ loop: Loop, _ config: ServerConfig, _ activation: ActivationSockets
    ) throws(StartError) -> ListenerTable {
        let ports = ListenerTable(loop)
        for (kind, key, address) in [
            (ListenerKind.proxy, "proxy.bind_addr", config.proxy.bindAddress),
            (.upstream, "upstream.bind_addr", config.upstream.bindAddress), (.admin, "admin.bind_addr", config.admin.bindAddress),
        ] {
            // Sockets that the service manager opened for the port take the place of its address.
            let opened = activation.descriptors(named: "\(kind.name)")
            for descriptor in opened {
                ProcessReplacement.keepToItself(descriptor)
                guard DescriptorKind(of: descriptor) == .listeningSocket else {
                    throw StartError("socket activation: descriptor \(descriptor), for \(kind.name), is no listening socket")
                }
                ports.adopt(kind, Listener.adopt(OwnedDescriptor(descriptor)))
            }
            if !opened.isEmpty { continue }
            do throws(BindError) {
                try ports.bind(kind, key: key, address: address)
            } catch {
                throw StartError(error.description)
            }
        }
        return ports
    }

    /// The control socket where it is configured, or at the first usable default place. Without a place of its own a
    /// server still runs: commands can't reach it then.
    private static func makeControlServer(
        _ loop: Loop, _ config: ServerConfig, log: Logger, answer: @escaping Answerer
    ) throws(StartError) -> ControlServer? {
        let configured = config.server.controlSocket
        if !configured.isEmpty {
            do throws(SystemError) {
                return try ControlServer(loop, path: configured, answer: answer)
            } catch {
                let reason = SystemError.text(of: error.code)
                throw StartError("config: server.control_socket: cannot listen on \(configured): \(reason)")
            }
        }
        let candidates = ControlSocketPath.candidates(
            environment: ProgramEnvironment.variables, userID: ProgramEnvironment.userIdentifier)
        var lastError: SystemError?
        for path in candidates {
            do throws(SystemError) {
                if let slash = path.lastIndex(of: "/") { try FileContents.makePrivateDirectory(String(path[..<slash])) }
                return try ControlServer(loop, path: path, answer: answer)
            } catch {
                lastError = error
                // Another server has it; the next place would only hide this one from commands.
                if error.isAddressInUse { break }
            }
        }
        log.warn(.server, "no control socket: commands such as piko server info can't reach this server") {
            $0.field("err", lastError?.description ?? "no place for it")
            $0.field("tried", candidates)
        }
        return nil
    }
}
