// The messages between the supervisor and its workers, and between sibling workers: one message a SOCK_SEQPACKET
// datagram, with descriptors beside it where the type says so. docs/protocol-control.md specifies the bytes.
//
// Why values and not views: all messages but `accepted` and `move` are rare, and those two cost one allocation a message,
// not one a connection: `accepted` carries up to 64 connections.
//
// Invariants: a decoded message was whole, of a known type that its sender may send, within every limit of
// `ControlLimits`, and had no byte after it. The shell checks what kind of thing a descriptor is.

public import Base

/// What `dialFailed` says beside the errors of connecting.
public enum DialCode {
    /// There is no such node.
    public static let unknownNode: UInt32 = 0
    /// EAGAIN: not as things are, and it was not tried: too many are being made, or another program takes over.
    public static let notNow: UInt32 = 11
    /// EHOSTUNREACH: nobody knows yet where the node is.
    public static let unreachable: UInt32 = 113
}

/// A fact or a wish, on its way between two of a node's own processes.
public enum ControlMessage: Equatable, Sendable {
    // Both ways, before anything else.

    /// Who speaks. Another protocol version than one's own ends the connection.
    case hello(protocolVersion: UInt32, binaryVersion: String)

    // Supervisor to worker.

    /// The effective configuration and the worker's place. Descriptors: the counters' memory, and that of the quotas.
    case configure(WorkerSetup)
    /// New connections, one descriptor each, in the order of `peers`. `acceptedAt` is on the monotonic clock.
    case accepted(listener: ListenerKind, acceptedAt: Instant, peers: [PeerAddress])
    /// Another worker lives: its generation, and the protocol version that it speaks. Descriptor: a SOCK_SEQPACKET socket
    /// to it.
    case sibling(worker: UInt32, generation: UInt32, protocolVersion: UInt32)
    /// That worker ended; its socket is to be closed.
    case siblingGone(worker: UInt32)
    /// The answer to `lookup`: the workers that hold tunnels of the endpoint, and the other nodes that do. Both empty: nobody
    /// does; then `lostFor` is how many milliseconds ago the last tunnel went away, nil when that is long ago.
    case routes(endpoint: String, version: UInt64, lostFor: UInt32?, entries: [RouteEntry], remote: [RemoteEntry])
    /// What is cached about the endpoint from before `version` is out of date.
    case routeChanged(endpoint: String, version: UInt64)
    /// The tunnel is in the node's routing table, and every worker was told.
    case registered(tunnel: UInt64)
    /// The tunnel was not taken, and why.
    case refused(tunnel: UInt64, reason: TunnelRefusal = .tableFull)
    /// A part of the answer to `statusRequest`.
    case statusPage(request: UInt64, kind: StatusKind, entries: [StatusEntry], last: Bool)
    /// Whether the node is ready, as `/ready` says.
    case ready(Bool)
    /// Take no new tunnels, finish what runs, say `drained`, within so many milliseconds.
    case drain(milliseconds: UInt64)
    /// End now.
    case shutdown
    /// A newer generation serves: give it every connection and tunnel that can move, finish what can't, say `drained`; within
    /// so many milliseconds, 0 for as long as it takes.
    case retire(milliseconds: UInt64)
    /// That worker is about to end: send it nothing more, and tell it so with `noMore`.
    case siblingRetires(worker: UInt32)
    /// Whether new tunnels are taken; when not, those that are there are told to go elsewhere.
    case admitTunnels(Bool)
    /// Are you there? Answered by `pong` with the same number.
    case ping(UInt64)
    /// Another node of the cluster, new or changed: how it is, and where its proxy port is (`none`: not known).
    case node(id: String, status: NodeStatus, proxy: PeerAddress)
    /// That node is not in the cluster any more.
    case nodeGone(id: String)
    /// The connection that was asked for by `dial`. Descriptor: its socket.
    case dialed(request: UInt64)
    /// There is none; `code` is the errno, or one of `DialCode`.
    case dialFailed(request: UInt64, code: UInt32)
    /// Ask so many agents to connect anew: other nodes have fewer.
    case shed(count: UInt32)
    /// A part of the answer to `reportRequest`: what to say to whoever asked. `status` is that of HTTP.
    case reportPage(request: UInt64, status: UInt16, bytes: [UInt8], last: Bool)
    /// What has the worker of what is named, "tunnels" for one? Answered by `inquiryPage`s. Known since version 6.
    case inquire(request: UInt64, path: String)
    /// A piece of a key that tokens of the port are checked with, in place of all that were told before: those are forgotten with
    /// `.begin`, and the new ones count from `.end` on.
    case tokenKeys(port: TokenPort, kind: TokenKeyKind, bytes: [UInt8])

    /// What the ports need for TLS, as `CredentialBundle` has it, before `configure` or in place of what was there. Descriptor: a
    /// memory file with so many bytes.
    case credentials(bytes: UInt64)

    // Worker to supervisor.

    /// The worker is configured and serves.
    case workerReady
    /// A tunnel wants to be found. `tunnel` is the worker's own number for it; what it draws from is in `quotas`.
    case register(tunnel: UInt64, endpoint: String, kind: TunnelKind, quotas: TunnelQuotas = TunnelQuotas())
    /// A tunnel is about to be closed, and its agent was asked to connect anew: it draws from no quota any more.
    case release(tunnel: UInt64)
    /// A tunnel is gone, or takes no new streams.
    case unregister(tunnel: UInt64, endpoint: String)
    /// Who holds tunnels of this endpoint? Answered by `routes`.
    case lookup(endpoint: String)
    /// Asks for what only the supervisor knows. Answered by `statusPage`s.
    case statusRequest(request: UInt64, kind: StatusKind)
    /// Nothing runs any more.
    case drained
    /// The answer to `ping`.
    case pong(UInt64)
    /// Asks for a connection to another node's proxy port: a worker can make none. Answered by `dialed` or `dialFailed`.
    case dial(request: UInt64, node: String)
    /// Asks for a connection to another node's admin port. Numbers are those of `dial`, and so are the answers.
    case dialAdmin(request: UInt64, node: String)
    /// Asks for a document about the cluster: "cluster/nodes", say.
    case reportRequest(request: UInt64, path: String)
    /// A part of the answer to `inquire`: a piece of JSON.
    case inquiryPage(request: UInt64, bytes: [UInt8], last: Bool)
    /// A token for the port names a key that is not among those that were told.
    case keyMissing(port: TokenPort)
    /// Connections of a port that came from a sibling, and such that ended or went to one, by their clients' addresses. Said where the
    /// port limits the connections of an address.
    case clients(listener: ListenerKind, came: [PeerAddress], went: [PeerAddress])

    // Worker to sibling worker.

    /// A client on its way to the worker that holds its tunnel. Descriptor: its socket, and a memfd when `bytes` says so.
    case move(listener: ListenerKind, client: PeerAddress, moves: UInt8, bytes: MovedBytes)
    /// An idle data connection for a worker that is in need of one. `isUsed`: an HTTP exchange ended on it before.
    /// Descriptor: its socket.
    case moveData(endpoint: String, agent: [UInt8], isUsed: Bool)
    /// An agent takes no new streams: its idle data connections are to be closed.
    case agentLeft(endpoint: String, agent: [UInt8])
    /// The bridges of a session's running streams, in the order of the session's state. Descriptors: their sockets.
    case moveStreams(handover: UInt64, count: UInt8)
    /// A tunnel on its way to this worker, after its bridges. Descriptors: its socket, and a memfd with its state.
    case moveSession(handover: UInt64, endpoint: String, stateBytes: UInt64)
    /// Whether the tunnel is served there now, and can be found.
    case sessionTaken(handover: UInt64, isTaken: Bool)
    /// Nothing more comes from here.
    case noMore
}

/// What kind of thing was registered as a tunnel.
public enum TunnelKind: UInt8, Sendable {
    /// An agent's session; streams go through it.
    case session = 0
    /// The same, and the agent opens data connections beside it.
    case directSession = 1
    /// All data connections of an endpoint at one worker.
    case dataConnections = 2
}

/// Why a tunnel was not taken.
public enum TunnelRefusal: UInt8, Sendable {
    /// The routing table is full.
    case tableFull = 0
    /// A subject has as many tunnels as it may.
    case tunnels = 1
    /// A subject has as many endpoints as it may.
    case endpoints = 2
}

/// What a tunnel draws from.
public struct TunnelQuotas: Equatable, Sendable {
    /// At most `Quota.countMax`.
    public var quotas: [Quota]
    /// Whether the tunnel was taken before and comes from another worker: it is counted, and not refused.
    public var isMoved: Bool

    public init(_ quotas: [Quota] = [], isMoved: Bool = false) {
        self.quotas = quotas
        self.isMoved = isMoved && !quotas.isEmpty
    }
}

/// What a message about tokens' keys holds.
public enum TokenKeyKind: UInt8, CaseIterable, Sendable {
    /// Nothing: the port's keys follow.
    case begin = 0
    /// A secret.
    case secret = 1
    /// A public key in PEM.
    case rsa = 2
    case ecdsa = 3
    /// A key set, from a file or fetched, or its end; `piece` is what comes before its end.
    case fileDocument = 4
    case fetchedDocument = 5
    case piece = 6
    /// Nothing: the keys are complete.
    case end = 7
}

/// Which of the node's ports.
public enum ListenerKind: UInt8, CaseIterable, Sendable {
    case proxy = 1
    case upstream = 2
    case admin = 3
}

/// Whose tokens: those of a port, or those of one tenant at a port.
public struct TokenPort: Hashable, Sendable {
    public var listener: ListenerKind
    /// The tenant's name; empty: the port's own.
    public var tenant: String

    public init(_ listener: ListenerKind, tenant: String = "") {
        self.listener = listener
        self.tenant = tenant
    }
}

/// What a status request asks for.
public enum StatusKind: UInt8, Sendable {
    /// Each endpoint of this node with the number of its tunnels.
    case endpoints = 1
}

/// How another node of the cluster is, as far as this one knows.
public enum NodeStatus: UInt8, Sendable {
    case active = 1
    /// It is about to leave: it serves what it has, and wants nothing new.
    case draining = 2
    /// It has not been heard of.
    case unreachable = 3
}

/// The configuration of a worker and its place in the node.
public struct WorkerSetup: Equatable, Sendable {
    /// The worker's place among the workers of its generation: 0 ..< `server.workers`.
    public var index: UInt32
    /// The generation: one for each configuration that the node has run with. Grows.
    public var generation: UInt32
    /// The worker's number, unique in the life of the supervisor.
    public var worker: UInt32
    /// The counter slab in the shared memory that this worker alone writes.
    public var slab: UInt32
    /// When the node started: nanoseconds of CLOCK_REALTIME.
    public var nodeStart: UInt64
    /// The key of the credentials for data connections; all of a node's workers have the same.
    public var directKey: [UInt8]
    /// The node's identifier in the cluster.
    public var nodeID: String
    /// The cluster's keys: the first one signs, all verify. Empty: the cluster has none.
    public var clusterKeys: [[UInt8]]
    /// The effective configuration, as `Config` flattens it.
    public var settings: [Setting]

    public init(
        index: UInt32, generation: UInt32, worker: UInt32, slab: UInt32, nodeStart: UInt64, directKey: [UInt8],
        nodeID: String = "", clusterKeys: [[UInt8]] = [], settings: [Setting]
    ) {
        self.index = index
        self.generation = generation
        self.worker = worker
        self.slab = slab
        self.nodeStart = nodeStart
        self.directKey = directKey
        self.nodeID = nodeID
        self.clusterKeys = clusterKeys
        self.settings = settings
    }
}

/// One configured key and its value as text.
public struct Setting: Equatable, Sendable {
    public var key: String
    public var value: String

    public init(key: String, value: String) {
        self.key = key
        self.value = value
    }
}

/// A worker that holds tunnels of an endpoint.
public struct RouteEntry: Equatable, Sendable {
    public var worker: UInt32
    /// Agents' sessions at the worker.
    public var tunnels: UInt32
    /// Those of them whose agent opens data connections as well.
    public var directTunnels: UInt32
    /// Whether the worker holds data connections.
    public var hasData: Bool

    public init(worker: UInt32, tunnels: UInt32, directTunnels: UInt32 = 0, hasData: Bool = false) {
        self.worker = worker
        self.tunnels = tunnels
        self.directTunnels = directTunnels
        self.hasData = hasData
    }
}

/// Another node that holds tunnels of an endpoint.
public struct RemoteEntry: Equatable, Sendable {
    public var node: String
    /// How many agents listen there.
    public var listeners: UInt32

    public init(node: String, listeners: UInt32) {
        self.node = node
        self.listeners = listeners
    }
}

/// One line of a status answer: an endpoint and the number of its tunnels.
public struct StatusEntry: Equatable, Sendable {
    public var name: String
    public var value: UInt64

    public init(name: String, value: UInt64) {
        self.name = name
        self.value = value
    }
}

/// What a moved client has already sent.
public enum MovedBytes: Equatable, Sendable {
    /// The bytes themselves, at most `ControlLimits.movedBytesMax`.
    case inline([UInt8])
    /// So many bytes in the memfd that comes as the second descriptor.
    case inMemory(UInt64)
}

/// A client's address as 18 bytes: 16 of IPv6 (IPv4 mapped into it), then the port, big-endian. `Control` carries it and
/// does not look into it.
public struct PeerAddress: Equatable, Sendable {
    /// The encoded address, as `SocketAddress` of the reactor reads and writes it.
    public private(set) var bytes: [18 of UInt8]

    /// Bytes of the encoded form.
    public static let encodedBytes = 18

    /// No address: all zero. A connection over a Unix socket has it.
    public static let none = PeerAddress()

    private init() { bytes = .init(repeating: 0) }

    /// Nil unless there are exactly 18 bytes.
    public init?(encoded: Span<UInt8>) {
        guard encoded.count == PeerAddress.encodedBytes else { return nil }
        bytes = .init(repeating: 0)
        for index in 0..<PeerAddress.encodedBytes { bytes[index] = encoded[index] }
    }

    /// The address without its port; nil when there is none.
    public var ip: IPAddress? {
        if self == .none { return nil }
        return IPAddress(bytes: bytes.span, at: 0)
    }

    public static func == (left: PeerAddress, right: PeerAddress) -> Bool {
        for index in 0..<encodedBytes where left.bytes[index] != right.bytes[index] { return false }
        return true
    }
}

/// The ends of a control connection, for the check of who may send what.
public enum ControlParty: Sendable {
    case supervisor
    case worker
    case sibling
}

extension ControlMessage {
    /// How many descriptors must come beside this message; any other count is a broken peer.
    public var descriptorCount: Int {
        switch self {
        case .configure: 2
        case .sibling, .dialed, .credentials: 1
        case .accepted(_, _, let peers): peers.count
        case .move(_, _, _, .inline), .moveData: 1
        case .move(_, _, _, .inMemory), .moveSession: 2
        case .moveStreams(_, let count): Int(count)
        case .hello, .siblingGone, .routes, .routeChanged, .registered, .refused, .statusPage, .ready, .drain, .shutdown,
            .retire, .siblingRetires, .admitTunnels, .ping, .workerReady, .register, .release, .unregister, .lookup, .statusRequest,
            .drained, .pong, .agentLeft, .sessionTaken, .noMore, .node, .nodeGone, .dialFailed, .dial, .shed,
            .reportPage, .tokenKeys, .keyMissing, .dialAdmin, .reportRequest, .clients,
            .inquire, .inquiryPage:
            0
        }
    }
}
