// Measurements on simulated clusters, for the table in docs/cluster.md: one function each, which prints a row. Sizes are payloads of
// UDP and of streams, as the machine makes them, envelopes with proofs included.

import Base
import Gossip

/// What is measured.
public struct Figures {
    private let nodes: Int
    private let seed: UInt64
    /// Sizes are those of signed packets; the proofs themselves are left out where they only cost time.
    private let isSigned: Bool

    public init(nodes: Int, seed: UInt64 = 1, isSigned: Bool = false) {
        self.nodes = nodes
        self.seed = seed
        self.isSigned = isSigned
    }

    /// A cluster of so many nodes in which everybody knows everybody, on a network with this loss in a thousand.
    private func cluster(loss: Int = 0) -> SimulatedCluster {
        var configuration = GossipConfiguration()
        if isSigned { configuration.keys = [Array("a key of thirty-two bytes or more".utf8)] }
        let cluster = SimulatedCluster(configuration: configuration, seed: seed)
        cluster.conditions.delayMin = 200
        cluster.conditions.delayMax = 2_000
        for index in 0..<nodes {
            let node = cluster.addNode("node\(index)")
            cluster.start(node, id: "node\(index)", incarnation: 1, join: index == 0 ? [] : [0, index / 2].filter { $0 != index })
            cluster.run(for: .milliseconds(nodes > 200 ? 5 : 20))
        }
        // Until all know all.
        for _ in 0..<600 {
            cluster.run(for: .milliseconds(100))
            if cluster.nodes.allSatisfy({ $0.machine!.knownNodes == nodes }) { break }
        }
        cluster.run(for: .seconds(5))
        precondition(cluster.nodes.allSatisfy { $0.machine!.knownNodes == nodes }, "the cluster did not find itself")
        cluster.conditions.loss = loss
        return cluster
    }

    /// The time until so many nodes know a new endpoint, in milliseconds: median and most of the trials.
    public func dissemination(trials: Int, loss: Int = 0) {
        let cluster = cluster(loss: loss)
        var nearlyAll: [Double] = []
        var all: [Double] = []
        for trial in 0..<trials {
            let origin = cluster.random.below(nodes)
            let name = "trial-\(trial)"
            var times: [Double] = []
            let start = cluster.now
            cluster.observer = { [unowned cluster] _, change in
                if case .endpoint(_, name, _) = change { times.append((cluster.now - start).seconds * 1_000) }
            }
            cluster.handle(origin, .setEndpoint(name, count: 1))
            cluster.run(for: .seconds(5))
            let wanted = Int((Double(nodes) * 0.999).rounded(.up)) - 1
            nearlyAll.append(times.count >= wanted ? times[max(0, wanted - 1)] : .infinity)
            all.append(times.count >= nodes - 1 ? times[nodes - 2] : .infinity)
        }
        print(
            "dissemination nodes=\(nodes) loss=\(loss)/1000 trials=\(trials)",
            "99.9%: median \(Self.text(Self.median(nearlyAll))) ms, most \(Self.text(nearlyAll.max()!)) ms;",
            "all: median \(Self.text(Self.median(all))) ms, most \(Self.text(all.max()!)) ms, rounds \(Self.text(Self.median(all) / 100)) to \(Self.text(all.max()! / 100))")
    }

    /// The time until all hold a killed node unreachable.
    public func death(trials: Int, loss: Int = 0) {
        var last: [Double] = []
        var first: [Double] = []
        let cluster = cluster(loss: loss)
        var victims: [Int] = []
        for trial in 0..<min(trials, nodes - 1) {
            let victim = nodes - 1 - trial
            victims.append(victim)
            var unaware = Set((0..<nodes).filter { !victims.contains($0) })
            let start = cluster.now
            var times: [Double] = []
            cluster.observer = { [unowned cluster] node, change in
                if case .nodeChanged(let changed) = change, changed.id == "node\(victim)", changed.status == .unreachable,
                    unaware.remove(node) != nil
                {
                    times.append((cluster.now - start).seconds)
                }
            }
            cluster.kill(victim)
            cluster.run(for: .seconds(10))
            first.append(times.first ?? .infinity)
            last.append(unaware.isEmpty ? times.last! : .infinity)
        }
        print(
            "death nodes=\(nodes) loss=\(loss)/1000 trials=\(last.count)",
            "first: median \(Self.text(Self.median(first))) s; all: median \(Self.text(Self.median(last))) s, most \(Self.text(last.max()!)) s")
    }

    /// Suspicions of nodes that live, and how many were confirmed.
    public func suspicions(loss: Int, time: Duration) {
        let cluster = cluster(loss: loss)
        let before = total(cluster, .suspicions)
        let deathsBefore = total(cluster, .unreachable)
        cluster.run(for: time)
        print(
            "suspicions nodes=\(nodes) loss=\(loss)/1000 seed=\(seed) simulated=\(Self.text(time.seconds)) s:",
            "\(total(cluster, .suspicions) - before) begun, \(total(cluster, .unreachable) - deathsBefore) confirmed")
    }

    private func total(_ cluster: SimulatedCluster, _ counter: GossipCounter) -> UInt64 {
        cluster.nodes.reduce(0) { $0 + $1.machine!.counters[counter] }
    }

    /// Payload bytes that a node sends in a second when nothing happens, and when so many endpoints a second come and go.
    public func traffic(changes: Int, time: Duration) {
        let cluster = cluster()
        func sent() -> (Int, Int, Int) {
            cluster.nodes.reduce((0, 0, 0)) { ($0.0 + $1.bytesSent, $0.1 + $1.packetsSent, $0.2 + $1.streamBytes) }
        }
        let before = sent()
        let start = cluster.now
        var serial = 0
        var live: [(Int, String)] = []
        while cluster.now - start < time {
            if changes == 0 {
                cluster.run(for: .seconds(1))
                continue
            }
            cluster.run(for: .nanoseconds(Int64(1_000_000_000 / changes)))
            if live.count > 200 || serial % 2 == 1, let (node, name) = live.first {
                live.removeFirst()
                cluster.handle(node, .setEndpoint(name, count: 0))
            } else {
                let node = cluster.random.below(nodes)
                cluster.handle(node, .setEndpoint("service-\(serial).example", count: 1))
                live.append((node, "service-\(serial).example"))
            }
            serial += 1
        }
        let after = sent()
        let scale = Double(nodes) * (cluster.now - start).seconds
        print(
            "traffic nodes=\(nodes) changes=\(changes)/s signed=\(isSigned):",
            "\(Self.text(Double(after.0 - before.0) / scale)) B/s in \(Self.text(Double(after.1 - before.1) / scale)) packets/s,",
            "streams \(Self.text(Double(after.2 - before.2) / scale)) B/s, for each node")
    }

    static func median(_ values: [Double]) -> Double { values.sorted()[values.count / 2] }

    static func text(_ value: Double) -> String {
        guard value.isFinite else { return "never" }
        let tenths = (value * 10).rounded()
        return value >= 100 ? "\(Int(value.rounded()))" : "\(tenths / 10)"
    }
}

extension Figures {
    /// What a node takes that joins a cluster in which the others have so many endpoints, and how long it takes to apply them.
    /// `memory` gives the resident bytes of this process, `seconds` the time.
    public static func endpoints(_ count: Int, owners: Int, memory: () -> Int, seconds: @escaping () -> Double) {
        var configuration = GossipConfiguration()
        configuration.expiry = .seconds(36_000)
        let cluster = SimulatedCluster(configuration: configuration, seed: 1)
        let receiver = cluster.addNode("receiver")
        cluster.start(receiver, id: "receiver", incarnation: 1, join: [])
        cluster.meter = seconds
        let before = memory()
        var known = 0
        // One owner after the other: it comes, is told of, and dies, so that only the receiver has all.
        for index in 1...owners {
            let owner = cluster.addNode("node\(index)")
            cluster.start(owner, id: "node\(index)", incarnation: 1, join: [])
            for number in 0..<count / owners { cluster.handle(owner, .setEndpoint("service-\(index)-\(number).example", count: 1)) }
            cluster.handle(owner, .join([cluster.nodes[receiver].address]))
            for _ in 0..<200 where known < count / owners * index {
                cluster.run(for: .milliseconds(100))
                known = cluster.nodes[receiver].machine!.nodes(now: cluster.now).dropFirst().reduce(0) { $0 + $1.endpoints }
            }
            cluster.kill(owner)
            cluster.run(for: .seconds(6))
        }
        let owned = cluster.nodes[receiver].machine!
        let taken = memory() - before
        print(
            "endpoints known=\(known) of \(count), \(owners) owners:",
            "\(text(Double(taken) / Double(max(1, known)))) bytes each,",
            "\(text(cluster.metered[receiver] * 1e9 / Double(max(1, known)))) ns each to apply, \(owned.counters[.streamsIn]) stream messages")
    }
}
