// Joining: what `cluster.join` names is looked up, and looked up again for ever, so that parts of a cluster that lost each other
// meet again. Whether a node answers is the gossip core's business; this says when the node has joined, or has failed to.
//
//   joining ──a node answered, or there is none but this one──► joined
//      └──────`cluster.join_timeout`──► failed (and goes on trying)

import Base
import Config
import Gossip
import Reactor

/// Looks up whom to join, and watches that it comes to something.
final class ClusterJoin {
    enum State: Equatable {
        case joining
        case joined
        case failed
    }

    private let loop: Loop
    private let resolver: Resolver
    private var addresses: [BindAddress]
    private let isOwn: (SocketAddress) -> Bool
    private var timer: CallbackTimer?
    private var limit: CallbackTimer?
    private var patience: CallbackTimer?
    private var pause = ClusterJoin.pauseFirst
    private var round = 0
    private(set) var state: State
    /// Whether the node waits for the join before it says that it is ready. It does not wait for ever: where a name stands for
    /// nodes that are ready only, the first one would wait for itself.
    private(set) var holdsReadiness: Bool

    /// Told what the names mean now, whatever came of each.
    var found: ([SocketAddress]) -> Void = { _ in }
    /// Told when `state` or `holdsReadiness` changed.
    var changed: () -> Void = {}
    /// Told of a name that could not be looked up.
    var lookUpFailed: (_ host: String, _ reason: String) -> Void = { _, _ in }

    /// The times between look-ups: while nobody is found, and from then on.
    private static let pauseFirst = Duration.seconds(1)
    private static let pauseMax = Duration.seconds(10)
    private static let readinessMax = Duration.seconds(5)

    /// `isOwn`: whether an address is this node's own. `hasJoined`: the node joined before. `hasServed`: it was ready before, joined
    /// or not, and stays so.
    init(
        _ loop: Loop, _ addresses: [BindAddress], hasJoined: Bool, hasServed: Bool = false, isOwn: @escaping (SocketAddress) -> Bool
    ) {
        self.loop = loop
        resolver = Resolver(loop)
        self.addresses = addresses
        self.isOwn = isOwn
        let joins = !addresses.isEmpty && !hasJoined
        state = joins ? .joining : .joined
        holdsReadiness = joins && !hasServed
    }

    /// Begins. `timeout`: the time to the first join.
    func start(timeout: Duration) {
        timer = CallbackTimer(loop) { [unowned self] in lookUp() }
        if state == .joining {
            let limit = CallbackTimer(loop) { [unowned self] in
                guard state == .joining else { return }
                state = .failed
                holdsReadiness = false
                changed()
            }
            limit.schedule(after: timeout)
            self.limit = limit
            let patience = CallbackTimer(loop) { [unowned self] in
                guard holdsReadiness else { return }
                holdsReadiness = false
                changed()
            }
            patience.schedule(after: min(timeout, Self.readinessMax))
            self.patience = patience
        }
        lookUp()
    }

    /// Other addresses from now on.
    func change(_ addresses: [BindAddress]) {
        guard addresses != self.addresses else { return }
        self.addresses = addresses
        pause = Self.pauseFirst
        lookUp()
    }

    /// A node answered.
    func joined() {
        guard state != .joined else { return }
        state = .joined
        holdsReadiness = false
        limit = nil
        patience = nil
        changed()
    }

    func stop() {
        timer?.cancel()
        limit?.cancel()
        patience?.cancel()
        round += 1
    }

    private func lookUp() {
        round += 1
        let round = round
        timer?.cancel()
        if addresses.isEmpty { return found([]) }
        var left = addresses.count
        var all: [SocketAddress] = []
        var failed = false
        for address in addresses {
            resolver.resolve(host: address.host, port: address.port) { [weak self] answer in
                guard let self, round == self.round else { return }
                left -= 1
                switch answer {
                case .success(let list): all += list
                case .failure(let error):
                    failed = true
                    lookUpFailed(address.host, error.description)
                }
                if left == 0 { finish(BindPlan.distinct(all), failed: failed) }
            }
        }
    }

    private func finish(_ all: [SocketAddress], failed: Bool) {
        let others = all.filter { !isOwn($0) }
        // Nobody but this node: it is the first one.
        if others.isEmpty, !failed { joined() }
        // What could not be looked up this time may still be there.
        if !failed || !others.isEmpty { found(others) }
        timer?.schedule(after: pause)
        pause = min(pause * 2, Self.pauseMax)
    }
}
