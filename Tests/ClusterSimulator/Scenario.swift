// A random life of a small cluster, and what must be true of it at every step.
//
// For some time anything happens to nodes and network; then the network is whole, and after a bound everybody must know the
// truth. Meanwhile, at each change and every tenth of a second:
//
// * a change of an endpoint is newer than the last one that the observer saw of it (each count is given once, so an old one is
//   an endpoint that was removed and is back: a tombstone that lost its hold);
// * a node that runs on an undisturbed network is held by the others for what it is, and its endpoints are known;
// * a life that ended is not held active, and is forgotten when its time is over.

import Base
import Gossip

/// One run.
public final class Scenario {
    /// How long things happen, and how long the network is then whole.
    public struct Times: Sendable {
        public var chaos: Duration = .seconds(14)
        public var quiet: Duration = .seconds(16)
        public var expiry: Duration = .seconds(10)
        /// What must be known is known after this time without a disturbance.
        public var bound: Duration = .seconds(13)

        public init() {}

        /// With the expiry that nodes have, and cuts that outlast it.
        public static var long: Times {
            var times = Times()
            times.chaos = .seconds(150)
            times.quiet = .seconds(90)
            times.expiry = .seconds(60)
            times.bound = .seconds(25)
            return times
        }
    }

    /// A life of a node as it really was.
    private struct Truth {
        var id: String
        var node: Int
        var started: Instant
        var ended: Instant?
        var isDraining = false
    }

    /// What an observer was told of a node.
    private struct View {
        var node: GossipNode
        var since: Instant
        var endpoints: [String: UInt32] = [:]
        /// The highest count that was seen of each endpoint.
        var highest: [String: UInt32] = [:]
    }

    private let seed: UInt64
    private let times: Times
    private let cluster: SimulatedCluster
    private var random: SimulationRandom
    /// By place: the incarnation that runs there; nil when none does.
    private var running: [UInt64?] = []
    private var truths: [UInt64: Truth] = [:]
    private var views: [[String: View]] = []
    private var endpoints: [[String: (count: UInt32, since: Instant)]] = []
    private var serial: UInt32 = 0
    private var incarnation: UInt64 = 1_000
    private var idCount = 0
    /// When something last happened to the network or to a node that may delay everybody.
    private var disturbed: Instant
    /// When each node itself was last disturbed.
    private var nodeDisturbed: [Instant] = []
    private var leaving: Set<Int> = []
    private var log: [String] = []
    /// A hash of all that was sent and happened: the same for runs that were the same.
    public var digest: Int { cluster.nodes.reduce(log.count) { ($0 &* 31 &+ $1.bytesSent) &* 31 &+ $1.packetsSent } }
    /// What was violated first.
    public private(set) var failure: String?

    public init(seed: UInt64, times: Times = Times()) {
        self.seed = seed
        self.times = times
        random = SimulationRandom(seed: seed ^ 0xA5A5_5A5A)
        var configuration = GossipConfiguration()
        configuration.expiry = times.expiry
        configuration.clusterID = "simulated"
        if random.chance(250) { configuration.keys = [Array("a key of thirty-two bytes or more".utf8)] }
        if random.chance(200) { configuration.packetBytesMax = 400 }
        cluster = SimulatedCluster(configuration: configuration, seed: seed)
        disturbed = cluster.now
    }

    /// Runs it; returns what was violated, with what happened, or nil.
    public func run() -> String? {
        cluster.observer = { [unowned self] node, change in self.observe(node, change) }
        let count = 2 + random.below(5)
        for place in 0..<count {
            _ = cluster.addNode("")
            running.append(nil)
            views.append([:])
            endpoints.append([:])
            nodeDisturbed.append(cluster.now)
            start(place, id: newID())
        }
        changeConditions()
        let end = cluster.now + times.chaos
        while cluster.now < end, failure == nil {
            step(for: .milliseconds(50 + random.below(1_200)))
            if failure == nil { act() }
        }
        if failure == nil { calm() }
        step(for: times.quiet)
        if failure == nil { checkAll() }
        if failure == nil { return nil }
        return "seed \(seed): \(failure!)\n" + log.suffix(60).joined(separator: "\n")
    }

    private func step(for time: Duration) {
        let end = cluster.now + time
        while cluster.now < end, failure == nil {
            cluster.run(until: min(end, cluster.now + .milliseconds(100)))
            check()
        }
    }

    private func note(_ text: String) { log.append("\(cluster.now.nanoseconds / 1_000_000) ms: \(text)") }

    private func fail(_ text: String) {
        if failure == nil {
            failure = text
            note("FAILED: \(text)")
        }
    }

    private func newID() -> String {
        idCount += 1
        return "node\(idCount)"
    }

    // MARK: What happens

    private func start(_ place: Int, id: String) {
        incarnation += 10
        note("start \(place) as \(id), incarnation \(incarnation)")
        running[place] = incarnation
        truths[incarnation] = Truth(id: id, node: place, started: cluster.now)
        views[place] = [:]
        endpoints[place] = [:]
        nodeDisturbed[place] = cluster.now
        // All others are joined, or one by chance, but each has at least one that it can find.
        let others = running.indices.filter { $0 != place }
        cluster.start(place, id: id, incarnation: incarnation, join: others)
        for _ in 0..<random.below(4) { changeEndpoint(place) }
    }

    private func end(_ place: Int) {
        truths[running[place]!]!.ended = cluster.now
        running[place] = nil
        leaving.remove(place)
        cluster.kill(place)
        views[place] = [:]
    }

    private func changeEndpoint(_ place: Int) {
        guard running[place] != nil, !cluster.isStopped(place) else { return }
        let name = "endpoint-\(random.below(6))"
        if endpoints[place][name] != nil, random.chance(500) {
            endpoints[place][name] = nil
            note("\(place) removes \(name)")
            cluster.handle(place, .setEndpoint(name, count: 0))
        } else {
            serial += 1
            endpoints[place][name] = (serial, cluster.now)
            note("\(place) sets \(name) to \(serial)")
            cluster.handle(place, .setEndpoint(name, count: serial))
        }
        nodeDisturbed[place] = cluster.now
    }

    private func disturb(_ text: String) {
        note(text)
        disturbed = cluster.now
    }

    private func changeConditions() {
        var conditions = NetworkConditions()
        conditions.loss = [0, 0, 10, 50, 100, 200][random.below(6)]
        conditions.doubled = [0, 0, 20, 200][random.below(4)]
        conditions.delayMin = 50
        conditions.delayMax = [500, 2_000, 20_000, 150_000][random.below(4)]
        cluster.conditions = conditions
        disturb("loss \(conditions.loss), doubled \(conditions.doubled), delay at most \(conditions.delayMax)")
    }

    private func act() {
        let place = random.below(running.count)
        switch random.below(20) {
        case 0...5: for _ in 0...random.below(3) { changeEndpoint(place) }
        case 6: if running[place] != nil {
            disturb("kill \(place)")
            end(place)
        }
        case 7, 8: if running[place] == nil { start(place, id: newID()) }
        case 9, 10: restart(place)
        case 11: if running[place] != nil, !cluster.isStopped(place), leaving.isEmpty {
            disturb("\(place) leaves")
            leaving.insert(place)
            cluster.handle(place, .leave)
        }
        case 12:
            let other = random.below(running.count)
            if other != place {
                cluster.cut(from: place, to: other)
                disturb("cut from \(place) to \(other)")
            }
        case 13: partition()
        case 14, 15:
            cluster.heal()
            disturb("healed")
        case 16: changeConditions()
        case 17: if running[place] != nil, !leaving.contains(place) {
            let time = Duration.milliseconds(100 + random.below(random.chance(300) ? 12_000 : 3_000))
            disturb("\(place) stands still for \(time)")
            cluster.stop(place, for: time)
            disturbed = cluster.now + time
        }
        case 18: if running[place] != nil, !cluster.isStopped(place) {
            let time = Duration.milliseconds(100 + random.below(random.chance(300) ? 15_000 : 2_000))
            disturb("the clock of \(place) jumps by \(time)")
            cluster.jump(place, by: time)
        }
        default: if running[place] != nil, !cluster.isStopped(place), !leaving.contains(place) {
            if random.chance(500) {
                note("\(place) is upgraded")
                cluster.upgrade(place)
            } else {
                truths[running[place]!]!.isDraining.toggle()
                let isDraining = truths[running[place]!]!.isDraining
                note("\(place) drains: \(isDraining)")
                nodeDisturbed[place] = cluster.now
                cluster.handle(place, .setDraining(isDraining))
            }
        }
        }
    }

    private func restart(_ place: Int) {
        let id = cluster.nodes[place].id
        if running[place] != nil { end(place) }
        disturb("\(place) starts again")
        start(place, id: random.chance(600) ? id : newID())
    }

    private func partition() {
        let sides = running.map { _ in random.chance(500) }
        for from in sides.indices {
            for to in sides.indices where sides[from] != sides[to] { cluster.cut(from: from, to: to) }
        }
        disturb("parted: \(sides.map { $0 ? "1" : "0" }.joined())")
    }

    private func calm() {
        cluster.heal()
        var conditions = NetworkConditions()
        conditions.loss = [0, 50, 100][random.below(3)]
        conditions.delayMax = 5_000
        cluster.conditions = conditions
        for place in running.indices where running[place] == nil && random.chance(500) { start(place, id: newID()) }
        disturbed = max(disturbed, cluster.now)
        note("calm")
    }

    // MARK: What must be true

    private func observe(_ place: Int, _ change: GossipChange) {
        switch change {
        case .nodeAppeared(let node):
            if views[place][node.id] != nil { fail("\(place) was told twice of \(node.id)") }
            views[place][node.id] = View(node: node, since: cluster.now)
        case .nodeChanged(let node):
            guard let view = views[place][node.id], view.node.incarnation == node.incarnation else {
                return fail("\(place) was told of a change of \(node.id), which it did not know")
            }
            if view.node.status != node.status { note("\(place) holds \(node.id) \(node.status)") }
            views[place][node.id]!.node = node
        case .nodeRemoved(let id, let incarnation):
            if views[place][id]?.node.incarnation != incarnation { fail("\(place) was told that \(id) is gone, which it did not know") }
            views[place][id] = nil
        case .endpoint(let id, let endpoint, let count):
            guard views[place][id] != nil else { return fail("\(place) was told of an endpoint of \(id), which it did not know") }
            if count > 0 {
                let highest = views[place][id]!.highest[endpoint] ?? 0
                if count < highest || count == highest && views[place][id]!.endpoints[endpoint] != count {
                    fail("\(place) was told that \(endpoint) of \(id) is \(count) after \(highest)")
                }
                views[place][id]!.highest[endpoint] = count
                views[place][id]!.endpoints[endpoint] = count
            } else {
                views[place][id]!.endpoints[endpoint] = nil
            }
        case .joined: break
        case .leaveFinished:
            note("\(place) has left")
            end(place)
        case .idConflict: fail("\(place) found its id at another node")
        }
    }

    /// What must be known by now.
    private func check() {
        for observer in running.indices where running[observer] != nil && !leaving.contains(observer) {
            for view in views[observer].values {
                // Incarnations are raised by one where a node starts with too low a number; here they never are.
                guard let truth = truths[view.node.incarnation], truth.id == view.node.id else {
                    return fail("\(observer) knows \(view.node.id) of an incarnation that never was, \(view.node.incarnation)")
                }
                guard let ended = truth.ended else { continue }
                let known = max(ended, disturbed, nodeDisturbed[observer])
                let isAvoided = view.node.status == .unreachable || view.node.status == .left
                if cluster.now - known > times.bound, !isAvoided {
                    return fail("\(observer) holds \(view.node.id) \(view.node.status), which ended \(cluster.now - ended) ago")
                }
                if cluster.now - known > times.bound + times.expiry {
                    return fail("\(observer) still knows \(view.node.id), which ended \(cluster.now - ended) ago")
                }
            }
            guard cluster.cuts.isEmpty, cluster.now - max(disturbed, nodeDisturbed[observer]) > times.bound else { continue }
            for place in running.indices where place != observer && !leaving.contains(place) {
                guard let incarnation = running[place], cluster.now - nodeDisturbed[place] > times.bound else { continue }
                checkView(of: place, incarnation, by: observer)
            }
        }
    }

    private func checkView(of place: Int, _ incarnation: UInt64, by observer: Int) {
        let truth = truths[incarnation]!
        guard let view = views[observer][truth.id], view.node.incarnation == incarnation else {
            return fail("\(observer) does not know \(truth.id)")
        }
        let status: GossipNodeStatus = truth.isDraining ? .draining : .active
        if view.node.status != status { return fail("\(observer) holds \(truth.id) \(view.node.status), not \(status)") }
        if view.node.proxyAddress != "\(truth.id):8000" { return fail("\(observer) has no address of \(truth.id)") }
        if view.endpoints != endpoints[place].mapValues(\.count) {
            return fail("\(observer) has \(view.endpoints) of \(truth.id), not \(endpoints[place].mapValues(\.count))")
        }
    }

    /// At the end: everybody knows the same.
    private func checkAll() {
        check()
        guard failure == nil else { return }
        for observer in running.indices where running[observer] != nil {
            for place in running.indices where place != observer && running[place] != nil {
                checkView(of: place, running[place]!, by: observer)
            }
            let known = cluster.nodes[observer].machine!.nodes(now: cluster.nodeNow(observer))
            if known.count != views[observer].count + 1 { fail("\(observer) knows \(known.count) nodes and told of \(views[observer].count)") }
            for node in known.dropFirst() {
                let told = views[observer][node.node.id]
                if told?.node != node.node { fail("\(observer) told \(String(describing: told?.node)) and knows \(node.node)") }
                let pairs = cluster.nodes[observer].machine!.endpoints(of: node.node.id).map { ($0.endpoint, $0.count) }
                if told?.endpoints != Dictionary(uniqueKeysWithValues: pairs) { fail("\(observer) told other endpoints than it knows") }
            }
        }
    }
}
