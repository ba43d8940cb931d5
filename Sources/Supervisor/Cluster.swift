// The node in its cluster: drives the gossip core with sockets, clock and names, tells it what this node is and has, and the node
// what the others are and have.
//
// The core decides, this performs: every event goes through `handle`, whose outputs are worked through after the core has
// returned. What comes from other nodes is decoded, and believed or not, by the core alone.

import Base
import Config
import Control
import Gossip
import Memory
import Reactor
import Telemetry

/// A cluster's member.
final class Cluster {
    unowned let node: Node
    let loop: Loop
    private(set) var machine: GossipMachine
    private let port: GossipPort
    private let book: AddressBook
    let join: ClusterJoin
    private(set) var rebalance: ClusterRebalance?
    private var clock: CallbackTimer?
    /// The other nodes, as the core told them last.
    private(set) var known: [String: GossipNode] = [:]
    private var advertised: AdvertisedAddresses
    private var keys: [[UInt8]]
    private var isDraining = false
    private var isClosed = false
    private var leaving: (() -> Void)?
    private var leaveTimer: CallbackTimer?
    private var conflictWarning = WarningLimit()
    private var lookUpWarning = WarningLimit()
    /// Packets that were longer than any may be, and those that the kernel had no room for.
    private(set) var packetsTooLong: UInt64 = 0
    private(set) var packetsNotSent: UInt64 = 0

    private static let leaveMax = Duration.seconds(1)

    /// A member that begins: `sockets` are its port.
    init(_ node: Node, _ config: ServerConfig, _ sockets: consuming GossipSockets) throws(SystemError) {
        self.node = node
        loop = node.loop
        let relay = PortRelay()
        port = try GossipPort(node.loop, sockets, owner: relay)
        portRelay = relay
        book = AddressBook(node.loop)
        keys = config.cluster.gossip.keyBytes
        advertised = AdvertisedAddresses(config, gossip: port.address, ports: node.ports)
        let local = LocalNode(
            id: Self.nodeID(config.cluster), incarnation: SystemClock.unixNanoseconds / 1_000_000,
            address: GossipAddress(advertised.gossip),
            attributes: [.proxyAddress: advertised.proxy, .adminAddress: advertised.admin, .version: BuildInfo.version])
        machine = GossipMachine(
            configuration: Self.configuration(config.cluster), node: local, seed: Random.number(), now: node.loop.now)
        join = Self.makeJoin(node, config, port, advertised, hasJoined: false, hasServed: false)
        connect(config)
    }

    /// A member that goes on from where another program was. When the snapshot is not understood, it begins anew under its name.
    init(_ node: Node, _ config: ServerConfig, _ sockets: consuming GossipSockets, taking taken: TakenState.Cluster, snapshot: [UInt8])
        throws(SystemError)
    {
        self.node = node
        loop = node.loop
        let relay = PortRelay()
        port = try GossipPort(node.loop, sockets, owner: relay)
        portRelay = relay
        book = AddressBook(node.loop)
        let configuration = Self.configuration(config.cluster)
        keys = configuration.keys
        var hasJoined = taken.hasJoined
        do throws(GossipSnapshotError) {
            machine = try GossipMachine(
                snapshot: snapshot, configuration: configuration, seed: Random.number(), now: node.loop.now)
            advertised = AdvertisedAddresses(config, gossip: port.address, ports: node.ports)
            isDraining = taken.isDraining
        } catch {
            node.log.error(.cluster, "the cluster's state can't be taken over; this node joins anew")
            advertised = AdvertisedAddresses(config, gossip: port.address, ports: node.ports)
            let local = LocalNode(
                id: taken.nodeID, incarnation: SystemClock.unixNanoseconds / 1_000_000, address: GossipAddress(advertised.gossip),
                attributes: [.proxyAddress: advertised.proxy, .adminAddress: advertised.admin, .version: BuildInfo.version])
            machine = GossipMachine(configuration: configuration, node: local, seed: Random.number(), now: node.loop.now)
            hasJoined = false
        }
        join = Self.makeJoin(node, config, port, advertised, hasJoined: hasJoined, hasServed: true)
        connect(config)
    }

    private let portRelay: PortRelay

    private func connect(_ config: ServerConfig) {
        portRelay.cluster = self
        node.nodeID = machine.local.id
        clock = CallbackTimer(loop) { [unowned self] in handle(.timer) }
        book.changed = { [unowned self] text in
            for other in known.values where other.proxyAddress == text { tell(other) }
        }
        book.inUse = { [unowned self] in
            known.values.filter { $0.status != .left }.flatMap { [$0.proxyAddress, $0.adminAddress] }
        }
        join.found = { [unowned self] addresses in handle(.join(addresses.map { GossipAddress($0.description) })) }
        join.changed = { [unowned self] in joinChanged() }
        join.lookUpFailed = { [unowned self] host, reason in
            guard lookUpWarning.isDue(loop.now) else { return }
            node.log.warn(.cluster, "cannot look up a name to join") {
                $0.field("host", host)
                $0.field("err", reason)
            }
        }
        rebalance = ClusterRebalance(self, config.upstream.rebalance)
    }

    private static func makeJoin(
        _ node: Node, _ config: ServerConfig, _ port: GossipPort, _ advertised: AdvertisedAddresses, hasJoined: Bool, hasServed: Bool
    ) -> ClusterJoin {
        let own = port.address
        let name = SocketAddress(text: advertised.gossip)
        return ClusterJoin(
            node.loop, config.cluster.joinAddresses(defaultPort: own.port), hasJoined: hasJoined, hasServed: hasServed
        ) { address in
            if address == name || address == own { return true }
            guard address.port == own.port, own.isUnspecified else { return false }
            var bare = address
            bare.port = 0
            return address.isLoopback || SocketAddress.ofMachine.contains(bare)
        }
    }

    /// The name of a node that begins.
    private static func nodeID(_ config: ServerConfig.Cluster) -> String {
        if !config.nodeID.isEmpty { return config.nodeID }
        let letters = Array("abcdefghijklmnopqrstuvwxyz0123456789")
        return config.nodeIDPrefix + String((0..<7).map { _ in letters[Int(Random.number() % UInt64(letters.count))] })
    }

    static func configuration(_ config: ServerConfig.Cluster) -> GossipConfiguration {
        var configuration = GossipConfiguration()
        configuration.clusterID = config.id
        configuration.keys = config.gossip.keyBytes
        configuration.interval = config.gossip.interval
        configuration.packetBytesMax = config.gossip.packetBytesMax
        return configuration
    }

    // MARK: Life

    var id: String { machine.local.id }

    /// Begins to talk. The workers' tunnels are known by now, if there are any.
    func start() {
        let config = node.setup.config
        if config.cluster.gossip.secretKeys.isEmpty, !port.address.isLoopback {
            node.log.warn(.gossip, "no cluster.gossip.secret_keys: whoever reaches the gossip port can take requests from this cluster") {
                $0.field("gossip_addr", port.address.description)
            }
        }
        node.log.info(.cluster, "this node in its cluster") {
            $0.field("node-id", id)
            $0.field("gossip_addr", port.address.description)
            $0.field("advertise_addr", advertised.gossip)
            $0.field("proxy_addr", advertised.proxy)
            $0.field("admin_addr", advertised.admin)
        }
        for other in machine.nodes(now: loop.now).dropFirst() {
            known[other.node.id] = other.node
            tell(other.node)
            tellEndpoints(of: other.node)
        }
        takeUpEndpoints()
        node.localCountChanged = { [weak self] endpoint, count in self?.handle(.setEndpoint(endpoint, count: count)) }
        takeUpAttributes(config)
        if isDraining != node.isLeaving { setDraining(node.isLeaving) }
        handle(.timer)
        book.start()
        join.start(timeout: config.cluster.joinTimeout)
        rebalance?.start()
    }

    /// What the core believes that this node has becomes what it has.
    private func takeUpEndpoints() {
        let counts = Dictionary(node.localCounts.map { (ExactName($0.endpoint), $0.count) }) { $1 }
        let before = Dictionary(machine.endpoints(of: id).map { (ExactName($0.endpoint), $0.count) }) { $1 }
        for endpoint in before.keys where counts[endpoint] == nil { handle(.setEndpoint(endpoint.text, count: 0)) }
        for (endpoint, count) in counts where before[endpoint] != count { handle(.setEndpoint(endpoint.text, count: count)) }
    }

    private func takeUpAttributes(_ config: ServerConfig) {
        let own = machine.node(id, now: loop.now)?.node
        advertised = AdvertisedAddresses(config, gossip: port.address, ports: node.ports)
        if own?.proxyAddress != advertised.proxy { handle(.setAttribute(.proxyAddress, advertised.proxy)) }
        if own?.adminAddress != advertised.admin { handle(.setAttribute(.adminAddress, advertised.admin)) }
        if own?.version != BuildInfo.version { handle(.setAttribute(.version, BuildInfo.version)) }
    }

    /// Another configuration is in force.
    func reconfigure(_ config: ServerConfig) {
        if config.cluster.gossip.keyBytes != keys {
            keys = config.cluster.gossip.keyBytes
            handle(.setKeys(keys))
            node.log.info(.gossip, "the cluster's keys have changed") { $0.field("keys", keys.count) }
        }
        takeUpAttributes(config)
        join.change(config.cluster.joinAddresses(defaultPort: port.address.port))
        rebalance?.change(config.upstream.rebalance)
    }

    /// Keys of the configuration that can't be changed while the node runs.
    static func fixedKeys(_ old: ServerConfig, _ new: ServerConfig) -> [String] {
        let fixed = [
            "cluster.node_id", "cluster.node_id_prefix", "cluster.id", "cluster.gossip.bind_addr",
            "cluster.gossip.advertise_addr", "cluster.gossip.interval", "cluster.gossip.max_packet_size",
        ]
        return ServerConfig.differences(old, new).filter(fixed.contains)
    }

    // MARK: Draining and leaving

    /// The time in which all others have heard that this node drains; zero when there is nobody to hear it.
    var announceTime: Duration {
        guard known.values.contains(where: { $0.status == .active || $0.status == .draining }) else { return .zero }
        return min(max(machine.configuration.interval * 10, .milliseconds(500)), .seconds(3))
    }

    /// Others are told to choose other nodes, or that they need not any more.
    func setDraining(_ drains: Bool) {
        isDraining = drains
        handle(.setDraining(drains))
    }

    /// Says goodbye; `done` when that is out, or after a moment.
    func leave(_ done: @escaping () -> Void) {
        guard !isClosed else { return done() }
        leaving = done
        join.stop()
        let timer = CallbackTimer(loop) { [unowned self] in left() }
        timer.schedule(after: Self.leaveMax)
        leaveTimer = timer
        handle(.leave)
    }

    private func left() {
        leaveTimer?.cancel()
        let done = leaving
        leaving = nil
        close()
        done?()
    }

    private func close() {
        isClosed = true
        clock?.cancel()
        book.stop()
        join.stop()
        rebalance?.stop()
        port.close()
    }

    /// Takes everything out of the loop, for another program.
    func detach(_ done: @escaping (TakenState.Cluster?, _ snapshot: [UInt8]) -> Void) {
        guard !isClosed else { return done(nil, []) }
        isClosed = true
        clock?.cancel()
        book.stop()
        join.stop()
        rebalance?.stop()
        port.detach { [unowned self] datagrams, listener in
            var taken = taken
            taken.datagrams = datagrams
            taken.listener = listener
            done(taken, machine.snapshot(now: loop.now))
        }
    }

    /// What is handed over, without descriptors.
    var taken: TakenState.Cluster {
        TakenState.Cluster(
            nodeID: id, datagrams: -1, listener: -1, snapshot: -1, hasJoined: join.state == .joined, isDraining: isDraining)
    }

    /// The core's state, for a rehearsal.
    var snapshot: [UInt8] { machine.snapshot(now: loop.now) }

    private func joinChanged() {
        node.announceReadiness()
        guard join.state != .joining || !join.holdsReadiness else { return }
        switch join.state {
        case .joined: node.log.info(.cluster, "joined") { $0.field("nodes", known.count + 1) }
        case .joining: node.log.warn(.cluster, "no node to join has answered yet; this one is ready meanwhile")
        case .failed:
            let config = node.setup.config.cluster
            if config.abortsIfJoinFails {
                node.log.error(.cluster, "no node of cluster.join was reached in time; ending (cluster.abort_if_join_fails)") {
                    $0.field("join", config.join)
                }
                node.end(status: 1)
            } else {
                node.log.error(.cluster, "no node of cluster.join was reached in time; this one goes on alone, and goes on trying") {
                    $0.field("join", config.join)
                }
            }
        }
    }

    // MARK: The core

    func handle(_ event: GossipEvent) {
        guard !isClosed else { return }
        var outputs: [GossipOutput] = []
        machine.handle(event, now: loop.now, into: &outputs)
        for output in outputs where !isClosed { perform(output) }
    }

    private func perform(_ output: GossipOutput) {
        switch output {
        case .packet(let bytes, let address):
            if let to = book.address(address.text), !port.send(bytes, to: to) { packetsNotSent += 1 }
        case .openStream(let bytes, let address, let exchange):
            if let to = book.address(address.text) {
                port.exchanges.open(bytes, to: to, exchange: exchange)
            } else {
                FailLater.tell(self, exchange)
            }
        case .reply(let bytes, let stream): port.exchanges.reply(bytes, stream: stream)
        case .refuse(let stream): port.exchanges.refuse(stream: stream)
        case .wake(let instant): clock?.schedule(at: instant)
        case .change(let change): perform(change)
        }
    }

    private func perform(_ change: GossipChange) {
        switch change {
        case .nodeAppeared(let other), .nodeChanged(let other): nodeChanged(other)
        case .nodeRemoved(let id, _):
            known[id] = nil
            node.removeNode(id)
            node.log.info(.cluster, "a node is forgotten") { $0.field("other_node", id) }
        case .endpoint(let id, let endpoint, let count):
            guard let other = known[id], other.status != .left else { return }
            node.setRemote(endpoint, node: id, count: count)
        case .joined: join.joined()
        case .leaveFinished: left()
        case .idConflict:
            if conflictWarning.isDue(loop.now) {
                node.log.error(.cluster, "another running node has this node's name; give one of them another cluster.node_id") {
                    $0.field("node-id", id)
                }
            }
        }
    }

    private func nodeChanged(_ other: GossipNode) {
        let before = known[other.id]
        known[other.id] = other
        if before?.status != other.status || before?.incarnation != other.incarnation {
            let text: StaticString =
                switch other.status {
                case .active: "a node is active"
                case .draining: "a node is draining"
                case .unreachable: "a node is unreachable"
                case .left: "a node left"
                }
            node.log.log(other.status == .unreachable ? .warn : .info, .cluster, text) {
                $0.field("other_node", other.id)
                $0.field("gossip_addr", other.address.text)
            }
        }
        tell(other)
        if before?.status == .left, other.status != .left { tellEndpoints(of: other) }
    }

    /// Tells the node how another one is.
    private func tell(_ other: GossipNode) {
        let status: NodeStatus
        switch other.status {
        case .active: status = .active
        case .draining: status = .draining
        case .unreachable: status = .unreachable
        case .left: return node.removeNode(other.id)
        }
        // Asked for before anybody needs it.
        if !other.adminAddress.isEmpty { _ = book.address(other.adminAddress) }
        node.setNode(
            other.id, status: status, proxyAddress: other.proxyAddress.isEmpty ? nil : book.address(other.proxyAddress))
    }

    private func tellEndpoints(of other: GossipNode) {
        guard other.status != .left else { return }
        for (endpoint, count) in machine.endpoints(of: other.id) { node.setRemote(endpoint, node: other.id, count: count) }
    }

    /// Whether there is such a node, reachable or not.
    func knows(_ id: String) -> Bool { known[id] != nil }

    /// Where another node's admin port is, as far as that is known.
    func adminAddress(of id: String) -> SocketAddress? {
        guard let text = known[id]?.adminAddress, !text.isEmpty else { return nil }
        return book.address(text)
    }

    var exchanges: GossipExchangeCounters { port.exchanges.counters }
    var gossipAddress: SocketAddress { port.address }

    fileprivate func tooLong() { packetsTooLong += 1 }
}

/// Passes on what comes; made before the cluster is.
private final class PortRelay: GossipPortOwner {
    weak var cluster: Cluster?

    func packetArrived(_ bytes: [UInt8], from: GossipAddress) { cluster?.handle(.packet(bytes, from: from)) }
    func packetTooLong() { cluster?.tooLong() }
    func requestArrived(_ bytes: [UInt8], from: GossipAddress, stream: UInt64) {
        cluster?.handle(.streamRequest(bytes, from: from, stream: stream))
    }
    func replyArrived(_ bytes: [UInt8], exchange: UInt32) { cluster?.handle(.streamReply(bytes, exchange: exchange)) }
    func exchangeFailed(_ exchange: UInt32) { cluster?.handle(.streamFailed(exchange: exchange)) }
}

/// Nobody knows yet what the address means.
private final class FailLater: AfterTurn {
    private weak var cluster: Cluster?
    private let exchange: UInt32

    static func tell(_ cluster: Cluster, _ exchange: UInt32) { cluster.loop.afterTurn(FailLater(cluster, exchange)) }

    private init(_ cluster: Cluster, _ exchange: UInt32) {
        self.cluster = cluster
        self.exchange = exchange
    }

    override func run() { cluster?.handle(.streamFailed(exchange: exchange)) }
}
