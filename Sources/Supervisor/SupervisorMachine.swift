// The life of a node, decided without any I/O: which worker is started when, when the node serves, how one generation of
// workers follows another, and how the node ends.
//
//   node:    starting ──all workers READY──► serving ──SIGTERM──► delaying ──► draining ──time over──► stopping ──► ended
//                └───────────────SIGTERM, or giving up───────────────────────────────────────▲
//
//   worker:  waiting ──► starting ──READY──► ready ──SIGTERM──► draining ──► drained ──all drained──► leaving ──► gone
//               ▲────────────┴── ended ────────┤                    ▲                                   ▲
//                                              └─ a newer          │ time over, too many generations   │
//                                                 generation ──► retiring ──empty──► parting ──empty───┘
//
// A generation is the workers of one configuration and one program. A reload starts the next; only when all of its workers
// are READY it becomes the current one, and the one before retires: its workers hand over what can move and stay for the
// rest. Should one of the new workers end or take too long before that, the reload failed and nothing has changed.
//
// A worker that retires and is empty is parted from its siblings before it is told to end, so that nothing is on its way to
// it then. A drained worker stays until all are: it still answers on the admin port, and takes clients whose tunnel it holds.
//
// A current worker that was READY and ends is replaced at once; when its replacements end soon too, with growing pauses. The
// node gives up only when a worker keeps ending before it is READY and no other one serves, or the node never served:
// then something is wrong that another try does not mend.
//
// Invariants: each place has at most one living worker; worker numbers are never used again; there is always exactly one
// current generation, and at most one that is coming; after `exit` no action follows.

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
    /// The time that a worker of an old generation has from being told to end to being ended.
    var cutTime = Duration.seconds(10)
}

/// What the configuration says about the node's life.
struct SupervisorPolicy: Equatable {
    /// The time that requests have after SIGTERM.
    var gracePeriod = Duration.seconds(60)
    /// The time between the end of readiness and the end of accepting.
    var shutdownDelay = Duration.zero
    /// How long a worker of an old generation may go on; zero: as long as it has connections.
    var drainTimeout = Duration.zero
    /// Generations that live at the same time. Of more, the oldest is told to end.
    var generationsMax = 8
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
    /// A new generation of so many workers is wanted. Only while `mayReload`.
    case reload(workers: Int, SupervisorPolicy)
    /// SIGTERM or SIGINT.
    case terminate
    /// Time passed.
    case tick
}

/// Why a reload came to nothing.
enum ReloadFailure: Equatable {
    /// A worker of the new generation ended, or could not be started.
    case workerEnded(UInt32)
    /// A worker of the new generation was not READY in time.
    case workerTooSlow(UInt32)
    /// The node was told to end.
    case abandoned
}

/// What the shell has to do, in order.
enum SupervisorAction: Equatable {
    /// Start a process in the place.
    case start(worker: UInt32, generation: UInt32, place: Int)
    /// All workers serve: accept connections and tell the world.
    case serve
    /// The generation is the current one from now on: new connections go to it.
    case switchOver(generation: UInt32)
    /// The reload came to nothing; the current generation goes on.
    case reloadFailed(ReloadFailure)
    /// Tell all workers whether the node is ready.
    case announceReady(Bool)
    /// Take no more clients and agents. The admin port goes on.
    case stopAccepting
    /// Tell the worker to hand over what it has, within the time (zero: no limit).
    case retire(UInt32, within: Duration)
    /// Tell all others to send the worker nothing more; it says drained again when it has heard of that from all.
    case part(UInt32)
    /// Tell the worker to finish what runs.
    case drain(UInt32, within: Duration)
    /// Tell the worker to end.
    case shutdown(UInt32)
    /// Kill it.
    case kill(UInt32)
    /// The last worker of an old generation has ended.
    case generationEnded(UInt32)
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
        case delaying(until: Instant)
        case draining(until: Instant)
        case stopping
        case ended
    }

    private enum PlaceState: Equatable {
        case empty
        case waiting(until: Instant)
        case starting(worker: UInt32, until: Instant)
        case ready(worker: UInt32, since: Instant)
        case retiring(worker: UInt32, until: Instant)
        case parting(worker: UInt32, until: Instant)
        case draining(worker: UInt32, until: Instant)
        case drained(worker: UInt32)
        /// Told to end; killed at `until`.
        case leaving(worker: UInt32, until: Instant)

        var worker: UInt32? {
            switch self {
            case .empty, .waiting: nil
            case .starting(let worker, _), .ready(let worker, _), .retiring(let worker, _), .parting(let worker, _),
                .draining(let worker, _), .drained(let worker), .leaving(let worker, _):
                worker
            }
        }

        var isReady: Bool {
            if case .ready = self { true } else { false }
        }

        /// When something is to be done about it.
        var deadline: Instant {
            switch self {
            case .waiting(let until), .starting(_, let until), .retiring(_, let until), .parting(_, let until),
                .draining(_, let until), .leaving(_, let until):
                until
            case .empty, .ready, .drained: .never
            }
        }
    }

    private struct Place {
        var state = PlaceState.empty
        /// Ends in a row without a sound life between them: sets the pause.
        var pauses = 0
        /// Ends in a row before READY.
        var failures = 0
    }

    private struct Generation {
        let number: UInt32
        let policy: SupervisorPolicy
        var places: [Place]

        var isEmpty: Bool { places.allSatisfy { $0.state == .empty } }
    }

    private let limits: SupervisorLimits
    private var phase = Phase.starting
    /// Those that live, oldest first. The one that is coming, if any, is the last.
    private var generations: [Generation]
    private var current: UInt32
    private var coming: UInt32?
    private var nextGeneration: UInt32
    private(set) var nextWorker: UInt32 = 1
    /// The time that other nodes need to hear that this one drains; nothing is closed before.
    var announceTime = Duration.zero
    private var exitCode: Int32 = 0

    /// A node that is to be started.
    init(workers: Int, policy: SupervisorPolicy, limits: SupervisorLimits = SupervisorLimits()) {
        precondition(workers >= 1)
        self.limits = limits
        current = 1
        nextGeneration = 2
        generations = [Generation(number: 1, policy: policy, places: Array(repeating: Place(), count: workers))]
    }

    /// A worker that was there before this program took the node over.
    struct Adopted: Equatable {
        var worker: UInt32
        var generation: UInt32
        var place: Int
        /// Whether it was told to end, or to finish within a time.
        var isLeaving = false
        var isCut = false
        /// Whether its siblings were told to send it nothing more.
        var isParting = false
    }

    /// A node that serves, taken over from another program: its workers, those of the generation `current` being the ones that
    /// get new connections, and the first numbers that were not used yet. `begin` starts those that are missing.
    init(
        adopting adopted: [Adopted], current: UInt32, nextGeneration: UInt32, nextWorker: UInt32, workers: Int,
        policy: SupervisorPolicy, now: Instant, limits: SupervisorLimits = SupervisorLimits()
    ) {
        self.limits = limits
        self.current = current
        self.nextGeneration = nextGeneration
        self.nextWorker = nextWorker
        phase = .serving
        generations = []
        let until = policy.drainTimeout == .zero ? Instant.never : now + policy.drainTimeout
        for number in Set(adopted.map(\.generation)).union([current]).sorted() {
            let own = adopted.filter { $0.generation == number }
            let places = max((own.map(\.place).max() ?? 0) + 1, number == current ? workers : 0)
            var generation = Generation(number: number, policy: policy, places: Array(repeating: Place(), count: places))
            for worker in own {
                generation.places[worker.place].state = worker.isLeaving
                    ? .leaving(worker: worker.worker, until: now + limits.shutdownMax)
                    : worker.isCut ? .draining(worker: worker.worker, until: now + limits.cutTime)
                    : worker.isParting ? .parting(worker: worker.worker, until: until)
                    : number == current ? .ready(worker: worker.worker, since: now) : .retiring(worker: worker.worker, until: until)
            }
            generations.append(generation)
        }
    }

    // MARK: What others ask

    /// The number of the next generation.
    var numberOfNextGeneration: UInt32 { nextGeneration }

    /// Whether the node serves.
    var isServing: Bool { phase == .serving }

    /// Whether a reload may begin.
    var mayReload: Bool { phase == .serving && coming == nil }

    /// The generation that gets new connections.
    var currentGeneration: UInt32 { current }

    /// The generation that is being started, if one is.
    var comingGeneration: UInt32? { coming }

    /// The numbers of the generations that live.
    var livingGenerations: [UInt32] { generations.map(\.number) }

    /// Whether the worker was started and is to say READY.
    func isStarting(_ worker: UInt32) -> Bool {
        if case .starting = state(of: worker) { true } else { false }
    }

    /// Whether the worker was told to end.
    func isLeaving(_ worker: UInt32) -> Bool {
        if case .leaving = state(of: worker) { true } else { false }
    }

    /// Whether the worker was told to finish within a time.
    func isCut(_ worker: UInt32) -> Bool {
        if case .draining = state(of: worker) { true } else { false }
    }

    /// Whether the worker is about to be ended: nothing is to be linked to it any more.
    func isParting(_ worker: UInt32) -> Bool {
        switch state(of: worker) {
        case .parting, .leaving: true
        default: false
        }
    }

    /// The node's state in a word, for people.
    var stateName: StaticString {
        switch phase {
        case .starting: "starting"
        case .serving: "serving"
        case .delaying, .draining: "draining"
        case .stopping, .ended: "stopping"
        }
    }

    /// The word for a worker's state.
    func stateName(of worker: UInt32) -> StaticString {
        switch state(of: worker) {
        case .starting: "starting"
        case .ready: "ready"
        case .retiring, .parting: "retiring"
        case .draining: "draining"
        case .drained: "drained"
        case .leaving: "leaving"
        case .empty, .waiting: "ended"
        }
    }

    private func state(of worker: UInt32) -> PlaceState {
        guard let at = find(worker) else { return .empty }
        return generations[at.generation].places[at.place].state
    }

    private func find(_ worker: UInt32) -> (generation: Int, place: Int)? {
        for generation in generations.indices {
            if let place = generations[generation].places.firstIndex(where: { $0.state.worker == worker }) {
                return (generation, place)
            }
        }
        return nil
    }

    /// When `tick` is due.
    var nextDeadline: Instant {
        if phase == .ended { return .never }
        var next = Instant.never
        switch phase {
        case .delaying(let until), .draining(let until): next = until
        case .starting, .serving, .stopping, .ended: break
        }
        for generation in generations {
            for place in generation.places { next = min(next, place.state.deadline) }
        }
        return next
    }

    // MARK: Events

    /// Takes an event and says what to do.
    mutating func handle(_ event: SupervisorEvent, now: Instant) -> [SupervisorAction] {
        var actions: [SupervisorAction] = []
        if phase == .ended { return actions }
        switch event {
        case .begin:
            guard let index = generations.firstIndex(where: { $0.number == current }) else { break }
            for place in generations[index].places.indices where generations[index].places[place].state == .empty {
                start(index, place, now, &actions)
            }
        case .workerReady(let worker): becameReady(worker, now, &actions)
        case .workerDrained(let worker): becameDrained(worker, now, &actions)
        case .workerEnded(let worker): ended(worker, now, &actions)
        case .reload(let workers, let policy): reload(workers, policy, now, &actions)
        case .terminate: terminate(now, &actions)
        case .tick: tick(now, &actions)
        }
        return actions
    }

    // MARK: Workers

    private mutating func start(_ generation: Int, _ place: Int, _ now: Instant, _ actions: inout [SupervisorAction]) {
        let worker = nextWorker
        nextWorker += 1
        generations[generation].places[place].state = .starting(worker: worker, until: now + limits.startMax)
        actions.append(.start(worker: worker, generation: generations[generation].number, place: place))
    }

    private mutating func becameReady(_ worker: UInt32, _ now: Instant, _ actions: inout [SupervisorAction]) {
        guard let at = find(worker), case .starting = state(of: worker) else { return }
        generations[at.generation].places[at.place].state = .ready(worker: worker, since: now)
        generations[at.generation].places[at.place].failures = 0
        guard generations[at.generation].places.allSatisfy(\.state.isReady) else {
            let next = generations[at.generation].places.firstIndex { $0.state == .empty }
            if let next, generations[at.generation].number == coming { start(at.generation, next, now, &actions) }
            return
        }
        if phase == .starting {
            phase = .serving
            actions += [.serve, .announceReady(true)]
        } else if generations[at.generation].number == coming {
            switchOver(now, &actions)
        }
    }

    private mutating func becameDrained(_ worker: UInt32, _ now: Instant, _ actions: inout [SupervisorAction]) {
        guard let at = find(worker) else { return }
        switch state(of: worker) {
        case .retiring(_, let until):
            generations[at.generation].places[at.place].state = .parting(worker: worker, until: until)
            actions.append(.part(worker))
        case .parting: leave(at.generation, at.place, worker, now, &actions)
        case .draining:
            if isEnding {
                generations[at.generation].places[at.place].state = .drained(worker: worker)
                stopIfAllDrained(now, &actions)
            } else {
                leave(at.generation, at.place, worker, now, &actions)
            }
        case .empty, .waiting, .starting, .ready, .drained, .leaving: break
        }
    }

    /// Whether the node drains to its end.
    private var isEnding: Bool {
        if case .draining = phase { true } else { false }
    }

    private mutating func stopIfAllDrained(_ now: Instant, _ actions: inout [SupervisorAction]) {
        guard isEnding else { return }
        let someDrain = generations.contains { $0.places.contains { if case .draining = $0.state { true } else { false } } }
        if !someDrain { stop(now, &actions) }
    }

    private mutating func leave(
        _ generation: Int, _ place: Int, _ worker: UInt32, _ now: Instant, _ actions: inout [SupervisorAction]
    ) {
        generations[generation].places[place].state = .leaving(worker: worker, until: now + limits.shutdownMax)
        actions.append(.shutdown(worker))
    }

    private mutating func ended(_ worker: UInt32, _ now: Instant, _ actions: inout [SupervisorAction]) {
        guard let at = find(worker) else { return }
        let before = state(of: worker)
        let number = generations[at.generation].number
        generations[at.generation].places[at.place].state = .empty
        switch phase {
        case .starting, .serving, .delaying:
            if number == current {
                replace(at.generation, at.place, before, now, &actions)
            } else if number == coming {
                failReload(.workerEnded(worker), now, &actions)
            }
        case .draining: stopIfAllDrained(now, &actions)
        case .stopping: endIfEmpty(&actions)
        case .ended: break
        }
        forgetEmpty(&actions)
    }

    /// Forgets the old generations of which no worker is left.
    private mutating func forgetEmpty(_ actions: inout [SupervisorAction]) {
        guard phase != .ended else { return }
        for generation in generations where generation.isEmpty && generation.number != current && generation.number != coming {
            actions.append(.generationEnded(generation.number))
        }
        generations.removeAll { $0.isEmpty && $0.number != current && $0.number != coming }
    }

    private mutating func replace(
        _ generation: Int, _ place: Int, _ before: PlaceState, _ now: Instant, _ actions: inout [SupervisorAction]
    ) {
        var entry = generations[generation].places[place]
        if case .ready(_, let since) = before {
            if now - since >= limits.soundAfter { entry.pauses = 0 }
        } else {
            entry.failures += 1
            if entry.pauses == 0 { entry.pauses = 1 }
        }
        let pauses = entry.pauses
        entry.pauses = min(pauses + 1, 30)
        generations[generation].places[place] = entry
        // A node that has served goes on trying: what is short now, descriptors or processes, will be there again.
        if entry.failures >= limits.failuresMax && phase == .starting {
            exitCode = 1
            actions.append(.giveUp)
            stop(now, &actions)
        } else if pauses == 0 {
            start(generation, place, now, &actions)
        } else {
            let pause = min(limits.pauseMax, limits.pauseFirst * (1 << (pauses - 1)))
            generations[generation].places[place].state = .waiting(until: now + pause)
        }
    }

    // MARK: Generations

    private mutating func reload(
        _ workers: Int, _ policy: SupervisorPolicy, _ now: Instant, _ actions: inout [SupervisorAction]
    ) {
        guard mayReload, workers >= 1 else { return }
        coming = nextGeneration
        generations.append(
            Generation(number: nextGeneration, policy: policy, places: Array(repeating: Place(), count: workers)))
        nextGeneration += 1
        let index = generations.count - 1
        for place in generations[index].places.indices.prefix(Self.startsAtOnce(of: workers)) { start(index, place, now, &actions) }
    }

    /// How many workers of a new generation start at the same time: those that serve meanwhile keep most of the processors.
    private static func startsAtOnce(of workers: Int) -> Int { max(1, workers / 4) }

    /// All workers of the generation that was coming are READY.
    private mutating func switchOver(_ now: Instant, _ actions: inout [SupervisorAction]) {
        guard let number = coming, let policy = generations.last?.policy else { return }
        let before = current
        current = number
        coming = nil
        actions.append(.switchOver(generation: number))
        let until = policy.drainTimeout == .zero ? Instant.never : now + policy.drainTimeout
        for index in generations.indices where generations[index].number == before {
            for place in generations[index].places.indices {
                switch generations[index].places[place].state {
                case .ready(let worker, _):
                    generations[index].places[place].state = .retiring(worker: worker, until: until)
                    actions.append(.retire(worker, within: policy.drainTimeout))
                case .starting(let worker, _): leave(index, place, worker, now, &actions)
                case .waiting: generations[index].places[place].state = .empty
                case .empty, .retiring, .parting, .draining, .drained, .leaving: break
                }
            }
        }
        forgetEmpty(&actions)
        if generations.count > policy.generationsMax {
            for index in 0..<(generations.count - policy.generationsMax) { cut(index, now, &actions) }
        }
    }

    /// Tells the workers of an old generation to end.
    private mutating func cut(_ index: Int, _ now: Instant, _ actions: inout [SupervisorAction]) {
        for place in generations[index].places.indices {
            switch generations[index].places[place].state {
            case .retiring(let worker, _), .parting(let worker, _):
                generations[index].places[place].state = .draining(worker: worker, until: now + limits.cutTime)
                actions.append(.drain(worker, within: limits.cutTime))
            case .empty, .waiting, .starting, .ready, .draining, .drained, .leaving: break
            }
        }
    }

    private mutating func failReload(_ failure: ReloadFailure, _ now: Instant, _ actions: inout [SupervisorAction]) {
        guard let number = coming, let index = generations.firstIndex(where: { $0.number == number }) else { return }
        coming = nil
        for place in generations[index].places.indices {
            if let worker = generations[index].places[place].state.worker { leave(index, place, worker, now, &actions) }
        }
        actions.append(.reloadFailed(failure))
        forgetEmpty(&actions)
    }

    // MARK: The end

    private mutating func terminate(_ now: Instant, _ actions: inout [SupervisorAction]) {
        switch phase {
        case .starting: stop(now, &actions)
        case .serving:
            failReload(.abandoned, now, &actions)
            let policy = currentPolicy
            actions.append(.announceReady(false))
            let delay = max(policy.shutdownDelay, announceTime)
            if delay > .zero {
                phase = .delaying(until: now + delay)
            } else {
                drain(now, &actions)
            }
        case .delaying, .draining, .stopping:
            // Somebody is in a hurry: nothing is waited for.
            for generation in generations {
                for place in generation.places {
                    if let worker = place.state.worker { actions.append(.kill(worker)) }
                }
            }
            phase = .ended
            actions.append(.exit(exitCode))
        case .ended: break
        }
    }

    private var currentPolicy: SupervisorPolicy {
        generations.first { $0.number == current }?.policy ?? SupervisorPolicy()
    }

    /// Lets everything that runs come to its end.
    private mutating func drain(_ now: Instant, _ actions: inout [SupervisorAction]) {
        let time = currentPolicy.gracePeriod
        phase = .draining(until: now + time)
        actions.append(.stopAccepting)
        for index in generations.indices {
            for place in generations[index].places.indices {
                switch generations[index].places[place].state {
                case .ready(let worker, _), .retiring(let worker, _), .parting(let worker, _), .draining(let worker, _):
                    generations[index].places[place].state = .draining(worker: worker, until: .never)
                    actions.append(.drain(worker, within: time))
                case .starting(let worker, _): leave(index, place, worker, now, &actions)
                case .waiting: generations[index].places[place].state = .empty
                case .empty, .drained, .leaving: break
                }
            }
        }
        stopIfAllDrained(now, &actions)
    }

    /// Ends all workers.
    private mutating func stop(_ now: Instant, _ actions: inout [SupervisorAction]) {
        phase = .stopping
        for index in generations.indices {
            for place in generations[index].places.indices {
                switch generations[index].places[place].state {
                case .starting(let worker, _), .ready(let worker, _), .retiring(let worker, _), .parting(let worker, _),
                    .draining(let worker, _), .drained(let worker):
                    leave(index, place, worker, now, &actions)
                case .waiting: generations[index].places[place].state = .empty
                case .empty, .leaving: break
                }
            }
        }
        endIfEmpty(&actions)
    }

    private mutating func endIfEmpty(_ actions: inout [SupervisorAction]) {
        guard generations.allSatisfy(\.isEmpty) else { return }
        phase = .ended
        actions.append(.exit(exitCode))
    }

    // MARK: Time

    private mutating func tick(_ now: Instant, _ actions: inout [SupervisorAction]) {
        if case .delaying(let until) = phase, until <= now { drain(now, &actions) }
        if case .draining(let until) = phase, until <= now { stop(now, &actions) }
        for index in generations.indices {
            for place in generations[index].places.indices where generations[index].places[place].state.deadline <= now {
                expired(index, place, now, &actions)
            }
        }
    }

    private mutating func expired(_ index: Int, _ place: Int, _ now: Instant, _ actions: inout [SupervisorAction]) {
        switch generations[index].places[place].state {
        case .waiting: start(index, place, now, &actions)
        case .starting(let worker, _):
            if generations[index].number == coming {
                failReload(.workerTooSlow(worker), now, &actions)
            }
            generations[index].places[place].state = .starting(worker: worker, until: .never)
            actions.append(.kill(worker))
        case .retiring(let worker, _), .parting(let worker, _):
            generations[index].places[place].state = .draining(worker: worker, until: now + limits.cutTime)
            actions.append(.drain(worker, within: limits.cutTime))
        case .draining(let worker, _): leave(index, place, worker, now, &actions)
        case .leaving(let worker, _):
            generations[index].places[place].state = .leaving(worker: worker, until: .never)
            actions.append(.kill(worker))
        case .empty, .ready, .drained: break
        }
    }
}
