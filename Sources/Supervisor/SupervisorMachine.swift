// The life of a node, decided without any I/O: which worker is started when, when the node serves, and how it ends.
//
//   node:    starting ──all workers READY──► serving ──SIGTERM──► draining ──time over──► stopping ──► ended
//                └───────────────SIGTERM, or giving up─────────────────────────────────────▲
//
//   worker:  waiting ──► starting ──READY──► ready ──drain──► draining ──► drained ──all drained──► leaving ──► gone
//               ▲────────────┴── ended ────────┘
//
// A drained worker stays until all are: it still answers on the admin port, and takes clients whose tunnel it holds.
//
// A worker that was READY and ends is replaced at once; when its replacements end soon too, with growing pauses. The node
// gives up only when a worker keeps ending before it is READY and no other one serves, or the node never served: then
// something is wrong that another try does not mend.
//
// Invariants: each place has at most one living worker; worker numbers are never used again; after `exit` no action
// follows.

import Base

/// The times and counts of the machine.
struct SupervisorLimits {
    /// Pause before a worker that ended before READY is started again: doubles each time.
    var pauseFirst = Duration.milliseconds(100)
    var pauseMax = Duration.seconds(5)
    /// A worker that was READY for so long counts as sound: the next one in its place starts without a pause.
    var soundAfter = Duration.seconds(10)
    /// The time to READY.
    var startMax = Duration.seconds(30)
    /// Ends before READY, one after the other in one place, until the node gives up.
    var failuresMax = 5
    /// The time from `shutdown` to the kill.
    var shutdownMax = Duration.seconds(2)
}

/// What happened.
enum SupervisorEvent: Equatable {
    /// The ports are bound; workers may start.
    case begin
    case workerReady(UInt32)
    /// The worker said that nothing runs any more.
    case workerDrained(UInt32)
    /// The process ended, or could not be started.
    case workerEnded(UInt32)
    /// SIGTERM or SIGINT.
    case terminate
    /// Time passed.
    case tick
}

/// What the shell has to do, in order.
enum SupervisorAction: Equatable {
    /// Start a process in the place.
    case start(worker: UInt32, place: Int)
    /// All workers serve: accept connections and tell the world.
    case serve
    /// Tell all workers whether the node is ready.
    case announceReady(Bool)
    /// Take no more clients and agents. The admin port goes on.
    case stopAccepting
    /// Tell the worker to finish what runs.
    case drain(UInt32, within: Duration)
    /// Tell the worker to end.
    case shutdown(UInt32)
    /// Kill it.
    case kill(UInt32)
    /// The node can't run: say why.
    case giveUp
    /// End the process.
    case exit(Int32)
}

/// The decisions of a supervisor.
struct SupervisorMachine {
    private enum Phase: Equatable {
        case starting
        case serving
        case draining(until: Instant)
        case stopping
        case ended
    }

    private enum PlaceState: Equatable {
        case empty
        case waiting(until: Instant)
        case starting(worker: UInt32, until: Instant)
        case ready(worker: UInt32, since: Instant)
        case draining(worker: UInt32)
        case drained(worker: UInt32)
        /// Told to end; killed at `until`.
        case leaving(worker: UInt32, until: Instant)

        var worker: UInt32? {
            switch self {
            case .empty, .waiting: nil
            case .starting(let worker, _), .ready(let worker, _), .draining(let worker), .drained(let worker),
                .leaving(let worker, _):
                worker
            }
        }

        var isReady: Bool {
            if case .ready = self { true } else { false }
        }
    }

    private struct Place {
        var state = PlaceState.empty
        /// Ends in a row without a sound life between them: sets the pause.
        var pauses = 0
        /// Ends in a row before READY.
        var failures = 0
    }

    private let limits: SupervisorLimits
    private let gracePeriod: Duration
    private var phase = Phase.starting
    private var places: [Place]
    private var nextWorker: UInt32 = 1
    private var exitCode: Int32 = 0

    init(workers: Int, gracePeriod: Duration, limits: SupervisorLimits = SupervisorLimits()) {
        precondition(workers >= 1)
        self.limits = limits
        self.gracePeriod = gracePeriod
        places = Array(repeating: Place(), count: workers)
    }

    /// Whether the node serves.
    var isServing: Bool { phase == .serving }

    /// Whether the worker was started and is to say READY.
    func isStarting(_ worker: UInt32) -> Bool {
        if case .starting = places.first(where: { $0.state.worker == worker })?.state { true } else { false }
    }

    /// Whether the worker was told to end.
    func isLeaving(_ worker: UInt32) -> Bool {
        if case .leaving = places.first(where: { $0.state.worker == worker })?.state { true } else { false }
    }

    /// The node's state in a word, for people.
    var stateName: StaticString {
        switch phase {
        case .starting: "starting"
        case .serving: "serving"
        case .draining: "draining"
        case .stopping, .ended: "stopping"
        }
    }

    /// The word for a worker's state.
    func stateName(of worker: UInt32) -> StaticString {
        switch places.first(where: { $0.state.worker == worker })?.state {
        case .starting: "starting"
        case .ready: "ready"
        case .draining: "draining"
        case .drained: "drained"
        case .leaving: "leaving"
        case .empty, .waiting, nil: "ended"
        }
    }

    /// When `tick` is due.
    var nextDeadline: Instant {
        var next = Instant.never
        if case .draining(let until) = phase { next = until }
        for place in places {
            switch place.state {
            case .waiting(let until), .starting(_, let until), .leaving(_, let until): next = min(next, until)
            case .empty, .ready, .draining, .drained: break
            }
        }
        return phase == .ended ? .never : next
    }

    /// Takes an event and says what to do.
    mutating func handle(_ event: SupervisorEvent, now: Instant) -> [SupervisorAction] {
        var actions: [SupervisorAction] = []
        if phase == .ended { return actions }
        switch event {
        case .begin:
            for index in places.indices { start(index, now, &actions) }
        case .workerReady(let worker): becameReady(worker, now, &actions)
        case .workerDrained(let worker): becameDrained(worker, now, &actions)
        case .workerEnded(let worker): ended(worker, now, &actions)
        case .terminate: terminate(now, &actions)
        case .tick: tick(now, &actions)
        }
        return actions
    }

    private func index(of worker: UInt32) -> Int? {
        places.firstIndex { $0.state.worker == worker }
    }

    // MARK: Workers

    private mutating func start(_ index: Int, _ now: Instant, _ actions: inout [SupervisorAction]) {
        let worker = nextWorker
        nextWorker += 1
        places[index].state = .starting(worker: worker, until: now + limits.startMax)
        actions.append(.start(worker: worker, place: index))
    }

    private mutating func becameReady(_ worker: UInt32, _ now: Instant, _ actions: inout [SupervisorAction]) {
        guard let index = index(of: worker), case .starting = places[index].state else { return }
        places[index].state = .ready(worker: worker, since: now)
        places[index].failures = 0
        if phase == .starting, places.allSatisfy(\.state.isReady) {
            phase = .serving
            actions += [.serve, .announceReady(true)]
        }
    }

    private mutating func becameDrained(_ worker: UInt32, _ now: Instant, _ actions: inout [SupervisorAction]) {
        guard let index = index(of: worker), case .draining = places[index].state else { return }
        places[index].state = .drained(worker: worker)
        stopIfAllDrained(now, &actions)
    }

    private mutating func stopIfAllDrained(_ now: Instant, _ actions: inout [SupervisorAction]) {
        guard case .draining = phase else { return }
        let someDrain = places.contains { if case .draining = $0.state { true } else { false } }
        if !someDrain { stop(now, &actions) }
    }

    private mutating func leave(_ index: Int, _ worker: UInt32, _ now: Instant, _ actions: inout [SupervisorAction]) {
        places[index].state = .leaving(worker: worker, until: now + limits.shutdownMax)
        actions.append(.shutdown(worker))
    }

    private mutating func ended(_ worker: UInt32, _ now: Instant, _ actions: inout [SupervisorAction]) {
        guard let index = index(of: worker) else { return }
        let before = places[index].state
        places[index].state = .empty
        switch phase {
        case .starting, .serving: replace(index, before, now, &actions)
        case .draining: stopIfAllDrained(now, &actions)
        case .stopping: endIfEmpty(&actions)
        case .ended: break
        }
    }

    private mutating func replace(
        _ index: Int, _ before: PlaceState, _ now: Instant, _ actions: inout [SupervisorAction]
    ) {
        if case .ready(_, let since) = before {
            if now - since >= limits.soundAfter { places[index].pauses = 0 }
        } else {
            places[index].failures += 1
            if places[index].pauses == 0 { places[index].pauses = 1 }
        }
        // A node that has served goes on trying: what is short now, descriptors or processes, will be there again.
        if places[index].failures >= limits.failuresMax && phase == .starting {
            exitCode = 1
            actions.append(.giveUp)
            stop(now, &actions)
            return
        }
        let pauses = places[index].pauses
        places[index].pauses = min(pauses + 1, 30)
        if pauses == 0 {
            start(index, now, &actions)
        } else {
            places[index].state = .waiting(until: now + min(limits.pauseMax, limits.pauseFirst * (1 << (pauses - 1))))
        }
    }

    // MARK: The end

    private mutating func terminate(_ now: Instant, _ actions: inout [SupervisorAction]) {
        switch phase {
        case .starting: stop(now, &actions)
        case .serving:
            phase = .draining(until: now + gracePeriod)
            actions += [.announceReady(false), .stopAccepting]
            for index in places.indices {
                switch places[index].state {
                case .ready(let worker, _):
                    places[index].state = .draining(worker: worker)
                    actions.append(.drain(worker, within: gracePeriod))
                case .starting(let worker, _): leave(index, worker, now, &actions)
                case .waiting: places[index].state = .empty
                case .empty, .draining, .drained, .leaving: break
                }
            }
            stopIfAllDrained(now, &actions)
        case .draining, .stopping:
            // Somebody is in a hurry: nothing is waited for.
            for place in places {
                if let worker = place.state.worker { actions.append(.kill(worker)) }
            }
            phase = .ended
            actions.append(.exit(exitCode))
        case .ended: break
        }
    }

    /// Ends all workers.
    private mutating func stop(_ now: Instant, _ actions: inout [SupervisorAction]) {
        phase = .stopping
        for index in places.indices {
            switch places[index].state {
            case .starting(let worker, _), .ready(let worker, _), .draining(let worker), .drained(let worker):
                leave(index, worker, now, &actions)
            case .waiting: places[index].state = .empty
            case .empty, .leaving: break
            }
        }
        endIfEmpty(&actions)
    }

    private mutating func endIfEmpty(_ actions: inout [SupervisorAction]) {
        guard places.allSatisfy({ $0.state == .empty }) else { return }
        phase = .ended
        actions.append(.exit(exitCode))
    }

    private mutating func tick(_ now: Instant, _ actions: inout [SupervisorAction]) {
        if case .draining(let until) = phase, until <= now { stop(now, &actions) }
        for index in places.indices {
            switch places[index].state {
            case .waiting(let until) where until <= now: start(index, now, &actions)
            case .starting(let worker, let until) where until <= now:
                places[index].state = .starting(worker: worker, until: .never)
                actions.append(.kill(worker))
            case .leaving(let worker, let until) where until <= now:
                places[index].state = .leaving(worker: worker, until: .never)
                actions.append(.kill(worker))
            case .empty, .waiting, .starting, .ready, .draining, .drained, .leaving: break
            }
        }
    }
}
