// An upgrade, on the side of the program that is replaced: the new program tries the take-over in a child, on a copy of the
// state; when that went well, everything is taken out of the loop and the new program is executed in this one's place.
//
// Accepting is stopped first and every connection that was accepted is handed on; then the control socket and the workers'
// sockets leave the loop, with what still lies in them. From there to the new program's first turn nothing is read from
// any of them, and nothing is lost: it waits in the kernel.

import Base
import Config
import Control
import Memory
import Reactor
import Telemetry

/// How a program finds what the one before left to it.
enum TakeOverMode: String {
    /// In a child, with copies: try it, and report.
    case rehearse
    /// Take the node over.
    case upgrade
    /// Take it back: the new program could not.
    case back

    /// The environment variables.
    static let modeVariable = "PIKO_TAKE_OVER"
    static let stateVariable = "PIKO_TAKE_OVER_STATE"
    static let reasonVariable = "PIKO_TAKE_OVER_REASON"

    /// In a rehearsal: where the state, the worker program and the socket for the report are.
    static let rehearsalState: Int32 = 3
    static let rehearsalWorker: Int32 = 4
    static let rehearsalReport: Int32 = 5
    /// There when the state has a cluster: the gossip core's state.
    static let rehearsalSnapshot: Int32 = 6
}

/// An upgrade that is going on, up to the exec.
final class UpgradeTask: ChannelDelegate {
    private unowned let node: Node
    private let supervisor: HeldProgram
    private let worker: HeldProgram
    private let reply: (JSONValue) -> Void
    private var child: ChildProcess?
    private var report: Stream?
    private var text = ByteBuffer()
    private var timer: CallbackTimer?
    private var isOver = false

    /// The time for the rehearsal: a worker of the new program is started in it.
    static let rehearsalMax = Duration.seconds(20)

    init(_ node: Node, supervisor: HeldProgram, worker: HeldProgram, reply: @escaping (JSONValue) -> Void) {
        self.node = node
        self.supervisor = supervisor
        self.worker = worker
        self.reply = reply
    }

    /// Starts the rehearsal.
    func start() throws(SystemError) {
        let state = try node.state().memoryFile()
        var pair = try Sockets.pair(.stream)
        let theirs = pair.takeSecond()
        let stream = try Stream(node.loop, adopting: pair.takeFirst())
        stream.delegate = self
        report = stream
        stream.resumeReading()
        var description = ProcessDescription(
            path: supervisor.path, arguments: ["piko-supervisor"] + node.parts.invocation.words,
            environment: ProgramEnvironment.strings + ["\(TakeOverMode.modeVariable)=\(TakeOverMode.rehearse.rawValue)"])
        description.executable = supervisor.descriptor.raw
        description.descriptors = [state.raw, worker.descriptor.raw, theirs.raw]
        let snapshot = try node.cluster.map { cluster throws(SystemError) in
            try MemoryFile.make(name: "piko-cluster", holding: cluster.snapshot.span).take()
        }
        defer { if let snapshot { _ = OwnedDescriptor(snapshot) } }
        if let snapshot { description.descriptors.append(snapshot) }
        description.diesWithParent = true
        child = try ChildProcess.spawn(node.loop, description) { [weak self] status in self?.childEnded(status) }
        let timer = CallbackTimer(node.loop) { [unowned self] in
            fail("the rehearsal of the new program took more than \(Self.rehearsalMax.components.seconds) s")
        }
        timer.schedule(after: Self.rehearsalMax)
        self.timer = timer
    }

    override func channel(_ channel: Channel, received bytes: inout MutableSpan<UInt8>) {
        if text.count < 65_536 { text.append(bytes.span) }
    }

    override func channelEnded(_ channel: Channel) { reported() }
    override func channelFailed(_ channel: Channel, error: ChannelError) { reported() }

    private func reported() {
        report?.close()
        report = nil
        if let lastStatus { judge(lastStatus) }
    }

    private func childEnded(_ status: ExitStatus) {
        // What it reported is read first.
        if report == nil || isOver { judge(status) } else { lastStatus = status }
    }

    private var lastStatus: ExitStatus?

    private func judge(_ status: ExitStatus?) {
        guard !isOver else { return }
        let json = try? JSONValue.parse(text.span)
        if json?["ok"] == .bool(true) {
            isOver = true
            timer?.cancel()
            node.log.info(.server, "the new program has tried the take-over; it takes over now") {
                $0.field("new_version", json?["version"]?.string ?? "?")
            }
            node.nextWorkerProgram = worker
            node.nextKnowsClusters = json?["clusters"] == .bool(true)
            node.nextKnowsQuotas = json?["quotas"] == .bool(true)
            node.replace(with: supervisor.description, .upgrade)
        } else if let reason = json?["error"]?.string {
            fail("the new program can't take over: \(reason)")
        } else {
            let ending = (status ?? lastStatus).map { "it ended with \($0)" } ?? "it said nothing"
            fail("the new program can't take over: \(ending)")
        }
    }

    /// Gives the upgrade up.
    func abandon(_ reason: String) { fail(reason) }

    private func fail(_ reason: String) {
        guard !isOver else { return }
        isOver = true
        timer?.cancel()
        report?.close()
        child?.signal(EndSignal.kill)
        node.upgradeFailed(reason, reply)
    }
}

extension TakenState {
    /// The state in a memory file.
    func memoryFile() throws(SystemError) -> OwnedDescriptor {
        var bytes = ByteBuffer()
        write(into: &bytes)
        return try MemoryFile.make(name: "piko-state", holding: bytes.span)
    }
}

extension Node {
    /// Goes over to the program at the path (that of `piko`, or the folder of the programs), or to what stands now where this
    /// one was started from. `reply` is told when that fails; when it does not, the new program tells.
    func startUpgrade(to path: String?, reply: @escaping (JSONValue) -> Void) {
        guard upgrade == nil, !isReloading, machine.mayReload else {
            return upgradeFailed(
                upgrade != nil
                    ? "another upgrade is going on" : isReloading ? "a reload is going on" : "the node is \(machine.stateName)",
                reply)
        }
        parts.services.status("upgrading")
        log.info(.server, "upgrading") { $0.field("version", BuildInfo.version) }
        do throws(SystemError) {
            let folder = try Self.folder(of: path) ?? parts.folder
            let task = UpgradeTask(
                self, supervisor: try Self.program("\(folder)/piko-supervisor"), worker: try Self.program("\(folder)/piko-worker"),
                reply: reply)
            upgrade = task
            try task.start()
        } catch {
            upgradeFailed("\(error)", reply)
        }
    }

    func upgradeFailed(_ reason: String, _ reply: (JSONValue) -> Void) {
        upgrade = nil
        if machine.isServing { parts.services.status("serving; not upgraded: \(reason)") }
        log.error(.server, "not upgraded; everything goes on as before") { $0.field("err", reason) }
        reply(.object([JSONMember("error", .string(reason))]))
    }

    private static func folder(of path: String?) throws(SystemError) -> String? {
        guard let path else { return nil }
        if FileContents.isDirectory(path) { return path }
        guard let slash = path.lastIndex(of: "/") else { return "." }
        return slash == path.startIndex ? "" : String(path[..<slash])
    }

    private static func program(_ path: String) throws(SystemError) -> HeldProgram {
        try FileContents.checkExecutable(path)
        return try HeldProgram(path: path)
    }

    /// What the node hands over, as it is now; nothing is taken out of the loop.
    func state() -> TakenState {
        var state = TakenState(
            started: started, directKey: directKey, isOutOfUse: isOutOfUse, currentGeneration: machine.currentGeneration,
            nextGeneration: machine.numberOfNextGeneration, nextWorker: machine.nextWorker, routesVersion: routes.lastVersion,
            settings: settingsBefore ?? setup.config.differing, counters: memory.descriptor,
            supervisorProgram: parts.own.description, workerProgram: parts.program.description)
        state.tunnels = routes.tunnels
        if nextKnowsQuotas { state.quotas = quotas.descriptor }
        state.keySets = keySets.kept.filter { $0.bytes.count <= TakenState.keySetBytesMax }
        state.cluster = cluster?.taken
        state.workers = processes.workers.filter(\.isLinked).map { process in
            TakenState.Worker(
                worker: process.worker, generation: process.generation, place: process.place, slab: process.slab,
                pid: process.child.pid, link: -1, protocolVersion: process.link.protocolVersion, passed: process.passed,
                pinged: process.pinged, held: [], isLeaving: machine.isLeaving(process.worker),
                isCut: machine.isCut(process.worker), isParting: machine.isParting(process.worker))
        }
        return state
    }

    // MARK: The exec

    /// Takes everything out of the loop and executes the program in place of this one.
    func replace(with program: TakenState.Program, _ mode: TakeOverMode, reason: String = "") {
        isFrozen = true
        stopClocks()
        var listeners: [TakenState.Socket] = []
        var control: TakenState.Program?
        var askers: [Int32] = []
        ports.detach { [unowned self] taken in
            listeners = taken.map { TakenState.Socket(kind: $0.kind, descriptor: $0.descriptor) }
            dispatcher.run()
            guard let controlServer else { return freezeLinks(program, mode, reason, listeners, control, askers) }
            controlServer.detach { [unowned self] listener, waiting in
                control = TakenState.Program(path: controlServer.path, descriptor: listener)
                askers = waiting
                freezeLinks(program, mode, reason, listeners, control, askers)
            }
        }
    }

    private func freezeLinks(
        _ program: TakenState.Program, _ mode: TakeOverMode, _ reason: String, _ listeners: [TakenState.Socket],
        _ control: TakenState.Program?, _ askers: [Int32]
    ) {
        dials.abandonAll()
        // Those that are starting are not handed on: the next program starts its own.
        let starting = processes.workers.filter { !$0.isLinked }
        let workers = processes.workers.filter(\.isLinked)
        var links: [UInt32: Int32] = [:]
        var left = workers.count + starting.count
        var isDone = false
        func finish() {
            guard !isDone else { return }
            isDone = true
            var state = state()
            state.listeners = listeners
            state.control = control
            state.askers = askers
            state.waiting = dispatcher.takeWaiting()
            if mode == .upgrade { state.nextWorkerProgram = nextWorkerProgram?.description }
            if let before = programsBefore {
                state.supervisorProgram = before.supervisor.description
                state.workerProgram = before.worker.description
            }
            state.workers = state.workers.compactMap { worker in
                guard let link = links[worker.worker], let process = processes[worker.worker] else { return nil }
                var worker = worker
                worker.link = link
                worker.held = process.link.held
                worker.hasDrained = process.hasDrained
                return worker
            }
            // Those of a worker that does not come along end with it.
            let taken = Set(state.workers.map(\.worker))
            state.tunnels.removeAll { !taken.contains($0.worker) }
            // Last, as other nodes should hear of this one.
            detachCluster { [self] cluster in
                state.cluster = cluster
                // What comes from here on waits in the kernel for the next program.
                state.signals = lateSignals
                Self.execute(
                    program, mode, reason, state, arguments: parts.invocation.words,
                    environment: Self.inherited(parts.serviceSettings, startedAs: parts.startedAs))
            }
        }
        // A worker that hangs does not hold the others up; it is lost anyway.
        let timer = CallbackTimer(loop) {
            for process in workers where links[process.worker] == nil { process.child.signal(EndSignal.kill) }
            finish()
        }
        timer.schedule(after: Self.freezeMax)
        freezeTimer = timer
        // Those that closed their sockets are about to end, and are this program's to reap.
        var ending: Set<UInt32> = []
        func settle() {
            left -= 1
            if left == 0 { finish() }
        }
        endedWhileFrozen = { worker in if ending.remove(worker) != nil { settle() } }
        for process in workers {
            let worker = process.worker
            process.link.detach { descriptor in
                links[worker] = descriptor
                if descriptor == nil { ending.insert(worker) } else { settle() }
            }
        }
        for process in starting {
            ending.insert(process.worker)
            process.child.signal(EndSignal.kill)
        }
        if left == 0 { finish() }
    }

    /// Takes the gossip port out of the loop. Without memory for the core's state the next program joins anew. For a program that
    /// knows nothing of clusters this is the end of the membership.
    private func detachCluster(_ done: @escaping (TakenState.Cluster?) -> Void) {
        guard let cluster else { return done(nil) }
        guard nextKnowsClusters else { return cluster.leave { done(nil) } }
        cluster.detach { taken, snapshot in
            guard var taken else { return done(nil) }
            guard let file = try? MemoryFile.make(name: "piko-cluster", holding: snapshot.span) else {
                for descriptor in [taken.datagrams, taken.listener] { _ = OwnedDescriptor(descriptor) }
                return done(nil)
            }
            taken.snapshot = file.take()
            done(taken)
        }
    }

    private static let freezeMax = Duration.seconds(10)

    /// What the next program finds in its environment of what this one was told at its start.
    static func inherited(_ services: ServiceSettings, startedAs: String?) -> [String] {
        services.variables + (startedAs.map { ["\(NodeStart.startedVariable)=\($0)"] } ?? [])
    }

    /// Executes the program. When even that fails, this one is executed again.
    static func execute(
        _ program: TakenState.Program, _ mode: TakeOverMode, _ reason: String, _ state: TakenState, arguments: [String],
        environment: [String]
    ) -> Never {
        var reason = reason
        var attempts = [(program, mode), (state.supervisorProgram, TakeOverMode.back)]
        if mode == .back { attempts.removeLast() }
        for (program, mode) in attempts {
            guard let file = try? state.memoryFile() else { break }
            // Not that of the program, if it is not in the state: the new one would not know of it.
            for descriptor in state.descriptors + [file.raw] { ProcessReplacement.keepOpen(descriptor) }
            let failure = ProcessReplacement.execute(
                program.descriptor, name: program.path, arguments: ["piko-supervisor"] + arguments,
                environment: environment + [
                    "\(TakeOverMode.modeVariable)=\(mode.rawValue)", "\(TakeOverMode.stateVariable)=\(file.raw)",
                    "\(TakeOverMode.reasonVariable)=\(reason)",
                ])
            reason = "\(failure)"
        }
        fatalError("piko-supervisor: cannot go on: \(reason)")
    }
}
