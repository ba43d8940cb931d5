// Rebalancing: a node that has more agents than its share asks some of them to connect anew, a few each second. They do so before
// they leave, so nothing is cut; where they land is up to the load balancer in front of the nodes.

import Base
import Config
import Control
import Gossip
import Reactor
import Telemetry

/// How many agents are asked, decided.
enum RebalancePlan {
    /// `own`: agents of this node. `others`: those of each other node that is alive and takes agents.
    static func shed(own: Int, others: [Int], _ config: ServerConfig.Rebalance) -> Int {
        guard config.threshold > 0, config.shedRate > 0, !others.isEmpty, own > 0, own >= config.tunnelsMin else { return 0 }
        let total = others.reduce(own) { $0 + max(0, $1) }
        let mean = Double(total) / Double(others.count + 1)
        // `own` is a part of the mean, so it is not zero.
        guard Double(own) > mean * (1 + config.threshold) else { return 0 }
        // Not more than what is too much.
        let excess = own - Int(mean)
        return min(excess, max(1, Int(Double(own) * config.shedRate)))
    }

    /// Shares out so many over workers with so many agents each, in proportion.
    static func share(_ count: Int, over tunnels: [Int]) -> [Int] {
        let total = tunnels.reduce(0, +)
        guard total > 0 else { return tunnels.map { _ in 0 } }
        var left = min(count, total)
        var shares = tunnels.map { min($0, left * $0 / total) }
        left -= shares.reduce(0, +)
        for index in tunnels.indices.sorted(by: { tunnels[$0] > tunnels[$1] }) where left > 0 {
            let more = min(left, tunnels[index] - shares[index])
            shares[index] += more
            left -= more
        }
        return shares
    }
}

/// Looks each second whether this node has more than its share.
final class ClusterRebalance {
    private unowned let cluster: Cluster
    private var config: ServerConfig.Rebalance
    private var timer: CallbackTimer?
    /// Agents that were asked to go.
    private(set) var asked: UInt64 = 0

    private static let every = Duration.seconds(1)

    init(_ cluster: Cluster, _ config: ServerConfig.Rebalance) {
        self.cluster = cluster
        self.config = config
    }

    func start() {
        let timer = CallbackTimer(cluster.loop) { [unowned self] in
            step()
            self.timer?.schedule(after: Self.every)
        }
        self.timer = timer
        if config.threshold > 0 { timer.schedule(after: Self.every) }
    }

    func change(_ config: ServerConfig.Rebalance) {
        self.config = config
        if config.threshold > 0 {
            if timer?.isScheduled == false { timer?.schedule(after: Self.every) }
        } else {
            timer?.cancel()
        }
    }

    func stop() { timer?.cancel() }

    private func step() {
        let node = cluster.node
        guard !node.isLeaving, node.isReady else { return }
        let others = cluster.machine.nodes(now: cluster.loop.now).dropFirst().filter { $0.node.status == .active }
        let count = RebalancePlan.shed(own: node.routes.tunnelCount, others: others.map(\.listeners), config)
        guard count > 0 else { return }
        asked += UInt64(count)
        node.log.info(.upstream, "more agents than this node's share; asking some to connect anew") {
            $0.field("shedding", count)
            $0.field("local_conns", node.routes.tunnelCount)
        }
        node.shed(count)
    }
}

extension Node {
    /// Asks so many agents to go elsewhere.
    func shed(_ count: Int) {
        let workers = processes.workers.filter { $0.isLinked && $0.link.knowsNodes }
        let shares = RebalancePlan.share(count, over: workers.map { routes.sessions(of: $0.worker) })
        for (worker, share) in zip(workers, shares) where share > 0 { worker.link.send(.shed(count: UInt32(share))) }
    }
}
