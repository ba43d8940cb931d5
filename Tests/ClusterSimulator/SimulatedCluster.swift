// A cluster in one process: gossip machines on a network and a clock that are made up, from a seed. Packets are lost, late, doubled
// and out of order, links are cut in one direction or both, nodes stop, stand still, jump in time and start again.
//
// The same seed gives the same run, on every machine. Nothing here looks at the machines' insides: it gives them events and does
// what they say.

public import Base
public import Gossip

/// Random numbers of a simulation: SplitMix64.
public struct SimulationRandom: RandomNumberGenerator {
    private var state: UInt64

    public init(seed: UInt64) { state = seed }

    public mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }

    /// A number below `count`.
    public mutating func below(_ count: Int) -> Int { Int(truncatingIfNeeded: next().multipliedFullWidth(by: UInt64(count)).high) }

    /// True so many times in a thousand.
    public mutating func chance(_ thousandths: Int) -> Bool { below(1_000) < thousandths }
}

/// What the network does to packets.
public struct NetworkConditions: Sendable {
    /// Lost and doubled packets in a thousand.
    public var loss = 0
    public var doubled = 0
    /// The time on the way, in microseconds.
    public var delayMin = 100
    public var delayMax = 1_000

    public init() {}
}

/// A node of a simulated cluster.
public final class SimulatedNode {
    public let address: GossipAddress
    public internal(set) var id: String
    /// Nil: it is down.
    public internal(set) var machine: GossipMachine?
    /// How far its clock is ahead.
    var clockOffset: Duration = .zero
    /// It stands still until then.
    var stopped = Instant(nanoseconds: 0)
    var timerNumber: UInt64 = 0
    /// Bytes and packets that it sent.
    public internal(set) var bytesSent = 0
    public internal(set) var packetsSent = 0
    public internal(set) var streamBytes = 0

    init(address: GossipAddress, id: String) {
        self.address = address
        self.id = id
    }
}

/// The nodes, the network and the clock.
public final class SimulatedCluster {
    /// What a node told its application.
    public typealias Observer = (_ node: Int, _ change: GossipChange) -> Void

    private enum Happening {
        case timer(node: Int, number: UInt64)
        case packet(to: Int, from: Int, bytes: [UInt8])
        case request(to: Int, from: Int, exchange: UInt32, bytes: [UInt8], life: UInt64)
        case reply(to: Int, from: Int, exchange: UInt32, bytes: [UInt8], life: UInt64)
        case failure(to: Int, exchange: UInt32, life: UInt64)
    }

    private struct Scheduled {
        var at: UInt64
        var number: UInt64
        var happening: Happening

        static func < (left: Scheduled, right: Scheduled) -> Bool { (left.at, left.number) < (right.at, right.number) }
    }

    public let configuration: GossipConfiguration
    public private(set) var nodes: [SimulatedNode] = []
    public var conditions = NetworkConditions()
    public private(set) var now = Instant(nanoseconds: 1_000_000_000)
    public var random: SimulationRandom
    public var observer: Observer = { _, _ in }
    /// Gives the time in seconds; what nodes then take for messages on streams is added up in `metered`.
    public var meter: (() -> Double)?
    public private(set) var metered: [Double] = []
    /// Directed links that are cut: from * 65,536 + to.
    public private(set) var cuts: Set<Int> = []
    private var queue: [Scheduled] = []
    private var scheduledCount: UInt64 = 0
    private var places: [GossipAddress: Int] = [:]
    private var streams: [UInt64: (from: Int, exchange: UInt32, life: UInt64)] = [:]
    private var streamCount: UInt64 = 0
    private var lives: [UInt64] = []
    private var lifeCount: UInt64 = 0
    private var outputs: [GossipOutput] = []

    public init(configuration: GossipConfiguration, seed: UInt64) {
        self.configuration = configuration
        random = SimulationRandom(seed: seed)
    }

    // MARK: Nodes

    /// A place for a node, not started.
    public func addNode(_ id: String) -> Int {
        let index = nodes.count
        let address = GossipAddress("10.\(index >> 16).\(index >> 8 & 255).\(index & 255):8003")
        nodes.append(SimulatedNode(address: address, id: id))
        places[address] = index
        lives.append(0)
        metered.append(0)
        return index
    }

    public func nodeNow(_ node: Int) -> Instant { now + nodes[node].clockOffset }

    public func start(_ node: Int, id: String, incarnation: UInt64, join: [Int], limits: GossipLimits? = nil) {
        nodes[node].id = id
        nodes[node].stopped = Instant(nanoseconds: 0)
        lifeCount += 1
        lives[node] = lifeCount
        let local = LocalNode(
            id: id, incarnation: incarnation, address: nodes[node].address,
            attributes: [.proxyAddress: "\(id):8000", .adminAddress: "\(id):8002", .version: "1.0"])
        var configuration = self.configuration
        if let limits { configuration.limits = limits }
        nodes[node].machine = GossipMachine(
            configuration: configuration, node: local, seed: random.next(), now: nodeNow(node))
        if !join.isEmpty { handle(node, .join(join.map { nodes[$0].address })) }
        handle(node, .timer)
    }

    public func kill(_ node: Int) {
        nodes[node].machine = nil
        lives[node] = 0
    }

    /// The node's program is replaced by another one that goes on from its snapshot.
    public func upgrade(_ node: Int) {
        let snapshot = nodes[node].machine!.snapshot(now: nodeNow(node))
        nodes[node].machine = try! GossipMachine(
            snapshot: snapshot, configuration: configuration, seed: random.next(), now: nodeNow(node))
        lifeCount += 1
        lives[node] = lifeCount
        handle(node, .timer)
    }

    public func stop(_ node: Int, for time: Duration) { nodes[node].stopped = now + time }

    public func jump(_ node: Int, by time: Duration) {
        nodes[node].clockOffset += time
        handle(node, .timer)
    }

    public func isStopped(_ node: Int) -> Bool { nodes[node].stopped > now }

    // MARK: Links

    public func cut(from: Int, to: Int) { cuts.insert(from << 16 | to) }
    public func heal() { cuts.removeAll() }
    public func isCut(from: Int, to: Int) -> Bool { !cuts.isEmpty && cuts.contains(from << 16 | to) }

    // MARK: Time

    /// Goes on until the instant.
    public func run(until end: Instant) {
        while let first = queue.first, first.at <= end.nanoseconds {
            let next = pop()
            now = Instant(nanoseconds: max(now.nanoseconds, next.at))
            happen(next)
        }
        now = end
    }

    public func run(for time: Duration) { run(until: now + time) }

    /// An event for a node that runs.
    public func handle(_ node: Int, _ event: GossipEvent) {
        guard nodes[node].machine != nil else { return }
        var outputs = self.outputs
        self.outputs = []
        let isStream = switch event {
        case .streamReply, .streamRequest: true
        default: false
        }
        if let meter, isStream {
            let start = meter()
            nodes[node].machine!.handle(event, now: nodeNow(node), into: &outputs)
            metered[node] += meter() - start
        } else {
            nodes[node].machine!.handle(event, now: nodeNow(node), into: &outputs)
        }
        for output in outputs { perform(output, node) }
        outputs.removeAll(keepingCapacity: true)
        self.outputs = outputs
    }

    private func happen(_ scheduled: Scheduled) {
        let node: Int
        switch scheduled.happening {
        case .timer(let to, _), .packet(let to, _, _), .request(let to, _, _, _, _), .reply(let to, _, _, _, _), .failure(let to, _, _): node = to
        }
        guard nodes[node].machine != nil else {
            if case .request(_, let from, let exchange, _, let life) = scheduled.happening {
                schedule(.failure(to: from, exchange: exchange, life: life), after: 1_000)
            }
            return
        }
        if nodes[node].stopped > now {
            // Kept by the kernel until it goes on. Its buffers are bounded; some packets will do.
            if case .packet = scheduled.happening, random.chance(950) { return }
            push(Scheduled(at: nodes[node].stopped.nanoseconds, number: scheduled.number, happening: scheduled.happening))
            return
        }
        switch scheduled.happening {
        case .timer(let to, let number):
            if nodes[to].timerNumber == number { handle(to, .timer) }
        case .packet(let to, let from, let bytes):
            if !isCut(from: from, to: to) { handle(to, .packet(bytes, from: nodes[from].address)) }
        case .request(let to, let from, let exchange, let bytes, let life):
            guard !isCut(from: from, to: to), !isCut(from: to, to: from) else {
                return schedule(.failure(to: from, exchange: exchange, life: life), after: 10_000_000)
            }
            streamCount += 1
            streams[streamCount] = (from, exchange, life)
            handle(to, .streamRequest(bytes, from: nodes[from].address, stream: streamCount))
        case .reply(let to, let from, let exchange, let bytes, let life):
            guard lives[to] == life else { return }
            if isCut(from: from, to: to) { return schedule(.failure(to: to, exchange: exchange, life: life), after: 10_000_000) }
            handle(to, .streamReply(bytes, exchange: exchange))
        case .failure(let to, let exchange, let life):
            if lives[to] == life { handle(to, .streamFailed(exchange: exchange)) }
        }
    }

    private func perform(_ output: GossipOutput, _ node: Int) {
        switch output {
        case .packet(let bytes, let address):
            precondition(bytes.count <= configuration.packetBytesMax, "a packet of \(bytes.count) bytes")
            nodes[node].bytesSent += bytes.count
            nodes[node].packetsSent += 1
            guard let to = places[address] else { return }
            if conditions.loss > 0, random.chance(conditions.loss) { return }
            schedule(.packet(to: to, from: node, bytes: bytes), after: delay())
            if conditions.doubled > 0, random.chance(conditions.doubled) {
                schedule(.packet(to: to, from: node, bytes: bytes), after: delay())
            }
        case .openStream(let bytes, let address, let exchange):
            precondition(bytes.count <= GossipLimits.streamBytesMax, "a stream message of \(bytes.count) bytes")
            nodes[node].streamBytes += bytes.count
            guard let to = places[address] else { return schedule(.failure(to: node, exchange: exchange, life: lives[node]), after: 1_000) }
            schedule(.request(to: to, from: node, exchange: exchange, bytes: bytes, life: lives[node]), after: 3 * delay())
        case .reply(let bytes, let stream):
            precondition(bytes.count <= GossipLimits.streamBytesMax, "a stream message of \(bytes.count) bytes")
            nodes[node].streamBytes += bytes.count
            guard let (from, exchange, life) = streams.removeValue(forKey: stream) else { return }
            schedule(.reply(to: from, from: node, exchange: exchange, bytes: bytes, life: life), after: 2 * delay())
        case .refuse(let stream):
            guard let (from, exchange, life) = streams.removeValue(forKey: stream) else { return }
            schedule(.failure(to: from, exchange: exchange, life: life), after: delay())
        case .wake(let at):
            nodes[node].timerNumber += 1
            schedule(
                .timer(node: node, number: nodes[node].timerNumber), after: Int(clamping: (at - nodeNow(node)).clampedNanoseconds / 1_000) + 1)
        case .change(let change): observer(node, change)
        }
    }

    private func delay() -> Int { conditions.delayMin + random.below(max(1, conditions.delayMax - conditions.delayMin)) }

    // MARK: The queue, a binary heap

    private func schedule(_ happening: Happening, after microseconds: Int) {
        scheduledCount += 1
        push(Scheduled(at: now.nanoseconds + UInt64(microseconds) * 1_000, number: scheduledCount, happening: happening))
    }

    private func push(_ scheduled: Scheduled) {
        queue.append(scheduled)
        var child = queue.count - 1
        while child > 0, queue[child] < queue[(child - 1) / 2] {
            queue.swapAt(child, (child - 1) / 2)
            child = (child - 1) / 2
        }
    }

    private func pop() -> Scheduled {
        queue.swapAt(0, queue.count - 1)
        let first = queue.removeLast()
        var parent = 0
        while 2 * parent + 1 < queue.count {
            var child = 2 * parent + 1
            if child + 1 < queue.count, queue[child + 1] < queue[child] { child += 1 }
            guard queue[child] < queue[parent] else { break }
            queue.swapAt(child, parent)
            parent = child
        }
        return first
    }
}
