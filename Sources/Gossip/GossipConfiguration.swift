// What a cluster's gossip is set to, and every bound of it. Nothing here is read from the outside: the program that drives the
// machine fills it from its own configuration.

/// Where a node's gossip is reached: the text of an address and port, as "10.0.1.7:8003" or "[fd00::7]:8003". The machine
/// compares addresses and hands them back; it never looks into them.
public struct GossipAddress: Hashable, Sendable, CustomStringConvertible {
    /// The address as text.
    public var text: String

    /// An address by its text.
    public init(_ text: String) { self.text = text }

    public var description: String { text }
}

/// The node that a machine speaks for.
public struct LocalNode: Equatable, Sendable {
    /// The node's id, unique in the cluster; at most `GossipLimits.idBytesMax` bytes.
    public var id: String
    /// Grows with each start of a node of this id; the wall clock in milliseconds will do. A start with a smaller number than the
    /// cluster remembers raises its own.
    public var incarnation: UInt64
    /// Where other nodes reach this node's gossip, for packets and for streams.
    public var address: GossipAddress
    /// What the node says of itself from the start on.
    public var attributes: [GossipAttribute: String]

    public init(id: String, incarnation: UInt64, address: GossipAddress, attributes: [GossipAttribute: String] = [:]) {
        self.id = id
        self.incarnation = incarnation
        self.address = address
        self.attributes = attributes
    }
}

/// What a node says of itself, beside its endpoints. The number is on the wire.
public enum GossipAttribute: UInt32, CaseIterable, Sendable {
    /// `active`, `draining` or `left`; set by `setDraining` and `leave`.
    case status = 0
    /// Where other nodes send requests for this node's endpoints.
    case proxyAddress = 1
    /// Where the admin port is.
    case adminAddress = 2
    /// The program's version.
    case version = 3

    /// The key that status pages show.
    public var key: String {
        switch self {
        case .status: "status"
        case .proxyAddress: "proxy_addr"
        case .adminAddress: "admin_addr"
        case .version: "version"
        }
    }
}

/// Settings of a cluster's gossip. All nodes should agree on all but the keys.
public struct GossipConfiguration: Equatable, Sendable {
    /// The cluster's name: what comes from a cluster of another name is dropped.
    public var clusterID = ""
    /// The secret keys. The first one signs, all of them verify; none means that nothing is signed or verified.
    public var keys: [[UInt8]] = []
    /// The time between two rounds of gossip.
    public var interval: Duration = .milliseconds(100)
    /// The most bytes of a packet, envelope included: 256 … 65,000.
    public var packetBytesMax = 1_400
    /// Without an answer for so long, a probe is repeated and others are asked to help; after three times as long the node is
    /// suspected. Nil: three intervals, at least 300 ms.
    public var probeTimeout: Duration?
    /// A suspected node that does not answer for so long is unreachable. Nil: fifteen intervals, at least 1.5 s.
    public var suspicionTime: Duration?
    /// An unreachable node, or one that left, is forgotten after so long.
    public var expiry: Duration = .seconds(60)
    /// The limits.
    public var limits = GossipLimits()

    public init() {}
}

/// The most of everything. What goes beyond is refused and counted.
public struct GossipLimits: Equatable, Sendable {
    /// Bytes of a node's id.
    public static let idBytesMax = 128
    /// Bytes of an address.
    public static let addressBytesMax = 256
    /// Bytes of an endpoint's name or of an attribute's value.
    public static let textBytesMax = 256
    /// Bytes of one stream message, envelope included. A driver must not read more.
    public static let streamBytesMax = 4 << 20

    /// Nodes that are known, this one included.
    public var nodesMax = 4_096
    /// Entries of one node: its endpoints, its attributes, and those that were removed and not yet forgotten.
    public var nodeEntriesMax = 1 << 20
    /// Entries of all nodes together, beyond which nothing is taken from others. This node's own are bounded by `nodeEntriesMax` alone.
    public var entriesMax = 1 << 22
    /// Ended lives that are remembered, so that they don't come back, and for how long.
    public var gravesMax = 16_384
    public var graveTime: Duration = .seconds(3_600)
    /// Addresses of forgotten nodes that are tried now and then, and for how long.
    public var lostMax = 1_024
    public var lostTime: Duration = .seconds(86_400)
    /// Addresses to join.
    public var joinMax = 1_024
    /// Senders whose packets are told from replayed ones.
    public var sendersMax = 8_192
    /// Probes that wait for an answer, this node's own and those for others.
    public var probesMax = 256
    /// Streams of this node's own at a time.
    public var streamsMax = 4

    public init() {}
}
