// Who may come in: decided for each accepted connection, from its address alone, before a byte of it is read.
//
// A port that takes the PROXY protocol sees its load balancers' addresses, not its clients'. What a trusted one brings is judged by
// the worker, which reads who the client is (`Worker/ClientAddress.swift`); here only the limits that need no address count.
//
// The connections of each address are counted where that is limited. A worker says which ended, and which came from or went to
// a sibling; so the count is of the node. Connections from before the limit was configured, or before an upgrade, are not in it.

import Base
import Config
import Control
import Telemetry

/// Why a connection may not come in.
enum GateRefusal: Equatable {
    case access, connections, address, rate

    var counter: Counter {
        switch self {
        case .access: .refusedByAccess
        case .connections: .refusedByConnections
        case .address: .refusedByAddress
        case .rate: .refusedByRate
        }
    }

    /// For the log.
    var text: StaticString {
        switch self {
        case .access: "the address may not connect"
        case .connections: "max_connections"
        case .address: "max_connections_per_ip"
        case .rate: "max_connection_rate"
        }
    }
}

/// Decides about new connections. Other nodes of the cluster, who bring the requests of many clients, are held to the lists and to the
/// number of connections in all, not to what one address or one second may bring.
struct ConnectionGate {
    private struct Port {
        var access = AddressAccess()
        var speaksForClients = AddressBlocks()
        var connectionsMax = 0
        var perAddressMax = 0
        var rate: ConnectionRate?
    }

    private var ports = [Port](repeating: Port(), count: ListenerKind.allCases.count)
    /// The connections of each address, of ports that limit them.
    var clients = ClientTable()

    /// Goes by this configuration from now on. Connections that are there stay.
    mutating func configure(_ config: ServerConfig) {
        let trusted = AddressBlocks(checked: config.trustedProxies.blocks)
        for kind in ListenerKind.allCases {
            let entrance = config.entrance(kind)
            var port = Port()
            port.access = AddressAccess(
                allow: AddressBlocks(checked: entrance.allow), deny: AddressBlocks(checked: entrance.deny))
            if entrance.usesProxyProtocol { port.speaksForClients = trusted }
            port.connectionsMax = entrance.connectionsMax
            port.perAddressMax = entrance.connectionsPerAddressMax
            if entrance.connectionRateMax > 0 {
                port.rate = ports[kind.place].rate
                if port.rate?.perSecond != entrance.connectionRateMax { port.rate = ConnectionRate(perSecond: entrance.connectionRateMax) }
            }
            ports[kind.place] = port
            clients.setCounted(kind, port.perAddressMax > 0, besides: trusted)
        }
    }

    /// Why the connection may not come in; nil: it may, and is counted. `open`: how many the port has.
    mutating func judge(_ kind: ListenerKind, _ address: IPAddress?, now: Instant, open: () -> UInt64) -> GateRefusal? {
        let place = kind.place
        let isBrought = address.map(ports[place].speaksForClients.contains) ?? false
        if !isBrought, !ports[place].access.admits(address) { return .access }
        if ports[place].connectionsMax > 0, open() >= UInt64(ports[place].connectionsMax) { return .connections }
        let isNode = address.map(clients.nodes.contains) ?? false
        if !isNode, ports[place].perAddressMax > 0, let address, clients.count(kind, address) >= ports[place].perAddressMax { return .address }
        if !isNode, ports[place].rate != nil, !ports[place].rate!.takes(now) { return .rate }
        if let address { clients.arrived(kind, address) }
        return nil
    }
}

/// New connections a second: as many at once as a second brings, then one for each part of a second.
struct ConnectionRate: Equatable {
    let perSecond: Int
    /// When the allowance is whole again; at most a second from now while connections are taken.
    private var full = Instant(nanoseconds: 0)

    init(perSecond: Int) { self.perSecond = perSecond }

    mutating func takes(_ now: Instant) -> Bool {
        let next = max(full, now) + .nanoseconds(Int64(1_000_000_000 / perSecond))
        guard next - now <= .seconds(1) else { return false }
        full = next
        return true
    }
}

/// The connections of each address, but of those that bring the requests of many (trusted proxies, other nodes): in all, and at each worker, whose connections end with it.
struct ClientTable {
    private struct Key: Hashable {
        var kind: ListenerKind
        var source: IPAddress
    }

    private var total: [Key: Int] = [:]
    private var atWorkers: [UInt32: [Key: Int]] = [:]
    /// Addresses of the cluster's other nodes, whose connections are not counted.
    var nodes: Set<IPAddress> = []
    private var isCounted = [Bool](repeating: false, count: ListenerKind.allCases.count)
    private var uncounted = [AddressBlocks](repeating: AddressBlocks(), count: ListenerKind.allCases.count)

    /// Whether the connections of a port are counted, but for those of some addresses.
    fileprivate mutating func setCounted(_ kind: ListenerKind, _ isCounted: Bool, besides blocks: AddressBlocks) {
        self.isCounted[kind.place] = isCounted
        uncounted[kind.place] = blocks
        guard !isCounted else { return }
        total = total.filter { $0.key.kind != kind }
        for worker in atWorkers.keys { atWorkers[worker] = atWorkers[worker]?.filter { $0.key.kind != kind } }
    }

    private func key(_ kind: ListenerKind, _ address: IPAddress?) -> Key? {
        guard isCounted[kind.place], let address, !nodes.contains(address), !uncounted[kind.place].contains(address) else { return nil }
        return Key(kind: kind, source: address.source)
    }

    /// The connections of an address.
    func count(_ kind: ListenerKind, _ address: IPAddress) -> Int {
        key(kind, address).flatMap { total[$0] } ?? 0
    }

    /// A connection was let in.
    fileprivate mutating func arrived(_ kind: ListenerKind, _ address: IPAddress) {
        if let key = key(kind, address) { total[key, default: 0] += 1 }
    }

    /// A connection that was let in ended before a worker got it.
    mutating func dropped(_ kind: ListenerKind, _ peer: PeerAddress) {
        if let key = key(kind, peer.ip) { lower(key) }
    }

    /// A worker gets a connection that was let in.
    mutating func given(_ worker: UInt32, _ kind: ListenerKind, _ peer: PeerAddress) {
        if let key = key(kind, peer.ip) { atWorkers[worker, default: [:]][key, default: 0] += 1 }
    }

    /// It did not get it after all.
    mutating func takenBack(_ worker: UInt32, _ kind: ListenerKind, _ peer: PeerAddress) {
        if let key = key(kind, peer.ip) { _ = lower(key, at: worker) }
    }

    /// What a worker says.
    mutating func changed(_ worker: UInt32, _ kind: ListenerKind, came: [PeerAddress], went: [PeerAddress]) {
        for peer in came {
            guard let key = key(kind, peer.ip) else { continue }
            total[key, default: 0] += 1
            atWorkers[worker, default: [:]][key, default: 0] += 1
        }
        for peer in went {
            if let key = key(kind, peer.ip), lower(key, at: worker) { lower(key) }
        }
    }

    /// A worker ended, and its connections with it.
    mutating func workerEnded(_ worker: UInt32) {
        for (key, count) in atWorkers.removeValue(forKey: worker) ?? [:] {
            let left = (total[key] ?? 0) - count
            total[key] = left > 0 ? left : nil
        }
    }

    private mutating func lower(_ key: Key) {
        let left = (total[key] ?? 0) - 1
        total[key] = left > 0 ? left : nil
    }

    /// False when the worker has none: it was not counted.
    private mutating func lower(_ key: Key, at worker: UInt32) -> Bool {
        guard let count = atWorkers[worker]?[key] else { return false }
        atWorkers[worker]?[key] = count > 1 ? count - 1 : nil
        return true
    }

    /// Whether nothing is counted, for tests.
    var isEmpty: Bool { total.isEmpty && atWorkers.values.allSatisfy(\.isEmpty) }
}

extension ListenerKind {
    fileprivate var place: Int { Int(rawValue) - 1 }
}

extension ServerConfig {
    /// What a port has about who may come in.
    func entrance(_ kind: ListenerKind) -> Entrance {
        switch kind {
        case .proxy: proxy.entrance
        case .upstream: upstream.entrance
        case .admin: admin.entrance
        }
    }
}
