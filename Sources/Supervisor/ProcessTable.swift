// The worker processes of this node: starting one, and finding it by its number.
//
// Invariants: a worker is in the table from its start to the news of its end; its counter slab is that of its place, which
// nobody else uses meanwhile.

import Control
import Reactor
import Telemetry

/// A living worker.
final class WorkerProcess {
    /// The worker's number, never used again.
    let worker: UInt32
    /// Its place among the workers.
    let place: Int
    let child: ChildProcess
    let link: WorkerLink
    private let counters: Counters
    /// Connections handed to it.
    var passed: UInt64 = 0
    /// Whether it takes connections: from READY until it is told to end.
    var isServing = false
    /// Whether it was ever READY, and so has siblings.
    var hasServed = false
    /// Connections of this turn, by port.
    var batches = [ConnectionBatch](repeating: ConnectionBatch(), count: ListenerKind.allCases.count)

    init(worker: UInt32, place: Int, child: ChildProcess, link: WorkerLink, counters: Counters) {
        self.worker = worker
        self.place = place
        self.child = child
        self.link = link
        self.counters = counters
    }

    var load: WorkerLoad {
        var open: UInt64 = 0
        for port in PortLabel.allCases { open &+= min(counters.value(port.open), UInt64(UInt32.max)) }
        return WorkerLoad(passed: passed, received: counters.value(.connectionsReceived), open: open)
    }
}

/// Connections of one port on their way to one worker.
struct ConnectionBatch {
    var descriptors: [Int32] = []
    var peers: [PeerAddress] = []
}

/// All living workers.
final class ProcessTable {
    /// In the order of their start.
    private(set) var workers: [WorkerProcess] = []
    private let loop: Loop
    private let path: String
    private let backend: String
    /// What workers that are started from now on give up.
    var confinement = WorkerConfinement()

    /// `path` is the worker program's.
    init(_ loop: Loop, path: String, backend: String) {
        self.loop = loop
        self.path = path
        self.backend = backend
    }

    /// The worker with the number.
    subscript(worker: UInt32) -> WorkerProcess? {
        workers.first { $0.worker == worker }
    }

    /// Starts a worker process, whose control socket is its descriptor 3. It dies with this process.
    func start(
        worker: UInt32, place: Int, counters: Counters, owner: any WorkerLinkOwner, ended: @escaping (ExitStatus) -> Void
    ) throws(SystemError) {
        do throws(SystemError) {
            try launch(worker: worker, place: place, counters: counters, owner: owner, ended: ended)
        } catch {
            counters.add(.workerStartFailures)
            throw error
        }
    }

    private func launch(
        worker: UInt32, place: Int, counters: Counters, owner: any WorkerLinkOwner, ended: @escaping (ExitStatus) -> Void
    ) throws(SystemError) {
        var pair = try MessageSocket.pair()
        let theirs = pair.takeSecond()
        let link = try WorkerLink(loop, worker: worker, adopting: pair.takeFirst(), owner: owner)
        let words = ["piko-worker", "--io-backend", backend] + confinement.words
        var description = ProcessDescription(path: path, arguments: words, environment: ProgramEnvironment.strings)
        description.descriptors = [theirs.raw]
        description.diesWithParent = true
        do {
            let child = try ChildProcess.spawn(loop, description, exited: ended)
            workers.append(WorkerProcess(worker: worker, place: place, child: child, link: link, counters: counters))
        } catch {
            link.close()
            throw error
        }
    }

    /// Takes a worker that ended out of the table.
    func remove(_ worker: UInt32) -> WorkerProcess? {
        guard let index = workers.firstIndex(where: { $0.worker == worker }) else { return nil }
        return workers.remove(at: index)
    }
}
