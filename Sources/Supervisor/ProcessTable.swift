// The worker processes of this node: starting one, and finding it by its number.
//
// Invariants: a worker is in the table from its start to the news of its end; its counter slab is its own meanwhile.

import Control
import Reactor
import Telemetry

/// A living worker.
final class WorkerProcess {
    /// The worker's number, never used again.
    let worker: UInt32
    /// The configuration and program that it runs with.
    let generation: UInt32
    /// Its place among the workers of its generation.
    let place: Int
    /// Its counter slab.
    let slab: Int
    let child: ChildProcess
    let link: WorkerLink
    private let counters: Counters
    /// Connections handed to it.
    var passed: UInt64 = 0
    /// Whether it is READY, and so has siblings and hears what changes; until its end.
    var isLinked = false
    /// Whether it has sockets to the other workers.
    var isJoined = false
    /// Whether it said that nothing is left, when nothing was done about that any more.
    var hasDrained = false
    /// Whether it gets new connections: it is of the current generation, and READY.
    var isServing = false
    /// Its last answer to a ping, and what was asked last.
    var ponged: UInt64 = 0
    var pinged: UInt64 = 0
    /// Kills it, when it is stuck.
    var burial: CallbackTimer?
    /// Connections of this turn, by port.
    var batches = [ConnectionBatch](repeating: ConnectionBatch(), count: ListenerKind.allCases.count)

    init(
        worker: UInt32, generation: UInt32, place: Int, slab: Int, child: ChildProcess, link: WorkerLink, counters: Counters
    ) {
        self.worker = worker
        self.generation = generation
        self.place = place
        self.slab = slab
        self.child = child
        self.link = link
        self.counters = counters
    }

    /// A gauge of its own.
    func gauge(_ gauge: Counter) -> UInt64 { counters.value(gauge) }

    var load: WorkerLoad {
        var open: UInt64 = 0
        for port in PortLabel.allCases { open &+= min(counters.value(port.open), UInt64(UInt32.max)) }
        return WorkerLoad(passed: passed, received: counters.value(.connectionsReceived), open: open)
    }

    /// Connections of a port that it has open, with those on their way to it, whatever their port.
    func connections(of listener: ListenerKind) -> UInt64 {
        let received = counters.value(.connectionsReceived)
        let waiting = passed >= received ? passed - received : 0
        return min(counters.value(listener.label.open), UInt64(UInt32.max)) + min(waiting, UInt64(UInt32.max))
    }
}

/// Connections of one port on their way to one worker.
struct ConnectionBatch {
    var descriptors: [Int32] = []
    var peers: [PeerAddress] = []
}

/// A program, held open so that a package that is replaced on disk never mixes versions.
final class HeldProgram {
    let path: String
    let descriptor: OwnedDescriptor

    /// Opens the program at the path.
    init(path: String) throws(SystemError) {
        self.path = path
        descriptor = try FileContents.open(path)
    }

    /// The program that runs in this process, whose file may have been replaced; `path` is where it stood.
    init(running path: String) throws(SystemError) {
        self.path = path
        descriptor = try FileContents.open("/proc/self/exe")
    }

    /// One that was opened by somebody else.
    init(path: String, adopting descriptor: consuming OwnedDescriptor) {
        self.path = path
        self.descriptor = descriptor
    }

    /// How it is handed on.
    var description: TakenState.Program { TakenState.Program(path: path, descriptor: descriptor.raw) }
}

/// All living workers.
final class ProcessTable {
    /// In the order of their start.
    private(set) var workers: [WorkerProcess] = []
    private let loop: Loop
    let program: HeldProgram
    /// What workers that are started from now on give up.
    var confinement = WorkerConfinement()

    init(_ loop: Loop, program: HeldProgram) {
        self.loop = loop
        self.program = program
    }

    /// The worker with the number.
    subscript(worker: UInt32) -> WorkerProcess? {
        workers.first { $0.worker == worker }
    }

    /// Starts a worker process, whose control socket is its descriptor 3. It dies with this process.
    func start(
        worker: UInt32, generation: UInt32, place: Int, slab: Int, backend: String, counters: Counters,
        owner: any WorkerLinkOwner, ended: @escaping (ExitStatus) -> Void
    ) throws(SystemError) {
        do throws(SystemError) {
            try launch(
                worker: worker, generation: generation, place: place, slab: slab, backend: backend, counters: counters, owner: owner,
                ended: ended)
        } catch {
            counters.add(.workerStartFailures)
            throw error
        }
    }

    private func launch(
        worker: UInt32, generation: UInt32, place: Int, slab: Int, backend: String, counters: Counters,
        owner: any WorkerLinkOwner, ended: @escaping (ExitStatus) -> Void
    ) throws(SystemError) {
        var pair = try MessageSocket.pair()
        let theirs = pair.takeSecond()
        let link = try WorkerLink(loop, worker: worker, adopting: pair.takeFirst(), owner: owner)
        let words = ["piko-worker", "--io-backend", backend] + confinement.words
        var description = ProcessDescription(path: program.path, arguments: words, environment: ProgramEnvironment.strings)
        description.executable = program.descriptor.raw
        description.descriptors = [theirs.raw]
        description.diesWithParent = true
        do {
            let child = try ChildProcess.spawn(loop, description, exited: ended)
            add(
                WorkerProcess(
                    worker: worker, generation: generation, place: place, slab: slab, child: child, link: link,
                    counters: counters))
        } catch {
            link.close()
            throw error
        }
    }

    /// Takes up a worker that another program started.
    func add(_ process: WorkerProcess) { workers.append(process) }

    /// Takes a worker that ended out of the table.
    func remove(_ worker: UInt32) -> WorkerProcess? {
        guard let index = workers.firstIndex(where: { $0.worker == worker }) else { return nil }
        return workers.remove(at: index)
    }
}
