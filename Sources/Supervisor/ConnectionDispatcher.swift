// From accepted connections to workers: each connection gets its worker at once, and all of a turn go to it in one message
// for each port (64 a message at most), at the end of the turn.
//
// While no worker serves, or all are full, accepted connections wait here, a bounded number; the ports are paused meanwhile,
// so that all others wait in the kernel's queue.
//
// Invariant: every descriptor is in exactly one batch, or in `waiting`, or sent, or closed.

import Control
import Memory
import Reactor
import Telemetry

/// Hands connections to workers.
final class ConnectionDispatcher: AfterTurn {
    private struct Waiting {
        var descriptor: Int32
        var peer: PeerAddress
        var listener: ListenerKind
    }

    private let loop: Loop
    private let processes: ProcessTable
    private let counters: Counters
    private let room: WorkerRoom
    private let log: Logger
    private var refusalWarning = WarningLimit()
    /// Who may come in.
    var gate = ConnectionGate()
    private var retry: CallbackTimer?
    /// No worker has room for clients and agents.
    private(set) var isFull = false
    /// Called when `isFull` changed.
    var fullChanged: () -> Void = {}
    /// One for each port, so that connections of a kind are dealt out evenly whatever comes between them.
    private var choices = [WorkerChoice](repeating: WorkerChoice(), count: ListenerKind.allCases.count)
    private var waiting: [Waiting] = []

    /// Connections that wait for a worker.
    static let waitingMax = 1_024
    /// How often it is looked whether full workers have room again.
    private static let retryEvery = Duration.milliseconds(50)

    init(_ loop: Loop, processes: ProcessTable, counters: Counters, room: WorkerRoom, log: Logger) {
        self.loop = loop
        self.processes = processes
        self.counters = counters
        self.room = room
        self.log = log
        super.init()
        retry = CallbackTimer(loop) { [unowned self] in lookForRoom() }
    }

    /// Takes a new connection.
    func dispatch(_ descriptor: consuming OwnedDescriptor, listener: ListenerKind) {
        let address = SocketAddress.peer(of: descriptor.raw)
        let peer = address.flatMap { PeerAddress(encoded: $0.encoded.span) } ?? .none
        let refusal = gate.judge(listener, peer.ip, now: loop.now) {
            processes.workers.reduce(0) { $0 + $1.connections(of: listener) }
        }
        if let refusal { return refuse(descriptor, listener, refusal, address) }
        put(Waiting(descriptor: descriptor.take(), peer: peer, listener: listener))
    }

    /// Closes a connection of which nothing was read.
    private func refuse(
        _ descriptor: consuming OwnedDescriptor, _ listener: ListenerKind, _ refusal: GateRefusal, _ address: SocketAddress?
    ) {
        counters.add(refusal.counter)
        guard refusalWarning.isDue(loop.now) else { return }
        log.warn(.server, "connection refused") {
            $0.field("port", listener.name)
            $0.field("reason", refusal.text)
            if let address { $0.field("client_addr", address.description) }
        }
    }

    private func put(_ connection: Waiting) {
        let workers = processes.workers
        let chosen = choices[connection.listener.batchIndex].next(count: workers.count) { index in
            guard workers[index].isServing else { return nil }
            let connections = workers[index].load.connections
            return room.hasRoom(connections, for: connection.listener) ? connections : nil
        }
        guard let chosen else {
            hold(connection)
            if connection.listener != .admin, workers.contains(where: { $0.isServing }) { becameFull() }
            return
        }
        let worker = workers[chosen]
        worker.passed += 1
        gate.clients.given(worker.worker, connection.listener, connection.peer)
        let batch = connection.listener.batchIndex
        worker.batches[batch].descriptors.append(connection.descriptor)
        worker.batches[batch].peers.append(connection.peer)
        if worker.batches[batch].peers.count == ControlLimits.descriptorsMax { flush(worker, connection.listener) }
        loop.afterTurn(self)
    }

    private func hold(_ connection: Waiting) {
        if waiting.count < Self.waitingMax {
            waiting.append(connection)
        } else {
            counters.add(.refusedByLimit)
            gate.clients.dropped(connection.listener, connection.peer)
            _ = OwnedDescriptor(connection.descriptor)
        }
    }

    private func becameFull() {
        if !isFull {
            isFull = true
            counters.add(.acceptPauses)
            fullChanged()
        }
        retry?.schedule(after: Self.retryEvery)
    }

    private func lookForRoom() {
        let hasRoom = processes.workers.contains { $0.isServing && room.hasRoom($0.load.connections, for: .proxy) }
        if hasRoom {
            isFull = false
            fullChanged()
            workerServes()
        } else {
            retry?.schedule(after: Self.retryEvery)
        }
    }

    /// A worker begins to serve, or has room: those that waited go to it.
    func workerServes() {
        let held = waiting
        waiting = []
        for connection in held { put(connection) }
    }

    /// A worker ended: what it was to get goes to others.
    func workerEnded(_ worker: WorkerProcess) {
        for listener in ListenerKind.allCases { takeBack(worker, listener) }
    }

    /// Gives up those that wait, for another program.
    func takeWaiting() -> [TakenState.Socket] {
        retry?.cancel()
        defer { waiting = [] }
        return waiting.map { TakenState.Socket(kind: $0.listener, descriptor: $0.descriptor, peer: [UInt8](copying: $0.peer.bytes.span)) }
    }

    /// Takes up connections that waited in another program.
    func take(waiting sockets: [TakenState.Socket]) {
        for socket in sockets {
            put(
                Waiting(
                    descriptor: socket.descriptor, peer: PeerAddress(encoded: socket.peer.span) ?? .none, listener: socket.kind))
        }
    }

    override func run() {
        for worker in processes.workers {
            for listener in ListenerKind.allCases { flush(worker, listener) }
        }
    }

    private func flush(_ worker: WorkerProcess, _ listener: ListenerKind) {
        let index = listener.batchIndex
        guard !worker.batches[index].peers.isEmpty else { return }
        let message = ControlMessage.accepted(listener: listener, acceptedAt: loop.now, peers: worker.batches[index].peers)
        if worker.link.trySend(message, worker.batches[index].descriptors, taking: true) {
            worker.batches[index] = ConnectionBatch()
        } else {
            worker.isServing = false
            takeBack(worker, listener)
        }
    }

    private func takeBack(_ worker: WorkerProcess, _ listener: ListenerKind) {
        let batch = worker.batches[listener.batchIndex]
        worker.batches[listener.batchIndex] = ConnectionBatch()
        for index in batch.descriptors.indices {
            gate.clients.takenBack(worker.worker, listener, batch.peers[index])
            put(Waiting(descriptor: batch.descriptors[index], peer: batch.peers[index], listener: listener))
        }
    }
}

extension ListenerKind {
    fileprivate var batchIndex: Int { Int(rawValue) - 1 }

    /// The label of the port's counters.
    var label: PortLabel {
        switch self {
        case .proxy: .proxy
        case .upstream: .upstream
        case .admin: .admin
        }
    }

    /// The port's name, for people.
    var name: StaticString {
        switch self {
        case .proxy: "proxy"
        case .upstream: "upstream"
        case .admin: "admin"
        }
    }
}
