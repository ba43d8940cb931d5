// What goes into the gossip machine and what comes out of it.

public import Base

/// What happens to the machine.
public enum GossipEvent: Equatable, Sendable {
    /// The instant of the last `wake` came. Early or late is no harm.
    case timer
    /// A packet came.
    case packet([UInt8], from: GossipAddress)
    /// Somebody opened a stream and sent this message; the answer is a `reply` with the same number, or `refuse`.
    case streamRequest([UInt8], from: GossipAddress, stream: UInt64)
    /// The answer on a stream that `openStream` asked for.
    case streamReply([UInt8], exchange: UInt32)
    /// The stream came to nothing: no connection, no answer in time, or no proper one.
    case streamFailed(exchange: UInt32)
    /// This node says of itself. The status is set by `setDraining` and `leave` instead.
    case setAttribute(GossipAttribute, String)
    /// This node has so many listeners of the endpoint; zero removes it.
    case setEndpoint(String, count: UInt32)
    /// Whether others should choose other nodes.
    case setDraining(Bool)
    /// Addresses that nodes of the cluster may have, in place of those before. Known nodes and this one's own are no harm. They
    /// are tried until they answer, and again whenever no known node has them.
    case join([GossipAddress])
    /// Says goodbye to the cluster; `leaveFinished` comes shortly, and after it the machine says no more.
    case leave
    /// The secret keys, in place of those before.
    case setKeys([[UInt8]])
}

/// What the machine wants done.
public enum GossipOutput: Equatable, Sendable {
    /// Send the packet; that it gets lost is no harm.
    case packet([UInt8], to: GossipAddress)
    /// Connect to the address, send the message, wait for one message; then `streamReply` or `streamFailed` with the number.
    case openStream([UInt8], to: GossipAddress, exchange: UInt32)
    /// Send the answer on the stream of the `streamRequest`, and close it when it is out.
    case reply([UInt8], stream: UInt64)
    /// Close the stream of the `streamRequest` without an answer.
    case refuse(stream: UInt64)
    /// Send a `timer` event then; it takes the place of the one before.
    case wake(at: Instant)
    /// For the application.
    case change(GossipChange)
}

/// Whether a node is to be chosen.
public enum GossipNodeStatus: String, Equatable, Sendable {
    /// It serves.
    case active
    /// It serves what it has, and will be gone soon.
    case draining
    /// It does not answer.
    case unreachable
    /// It said goodbye.
    case left
}

/// A node as the application sees it.
public struct GossipNode: Equatable, Sendable {
    /// Its id.
    public var id: String
    /// Its start.
    public var incarnation: UInt64
    /// Where its gossip is.
    public var address: GossipAddress
    /// Whether it is to be chosen.
    public var status: GossipNodeStatus
    /// What it says of itself; empty until it is known.
    public var proxyAddress = ""
    public var adminAddress = ""
    public var version = ""

    public init(id: String, incarnation: UInt64, address: GossipAddress, status: GossipNodeStatus) {
        self.id = id
        self.incarnation = incarnation
        self.address = address
        self.status = status
    }
}

/// What changed in the cluster. Of this node itself nothing is told.
public enum GossipChange: Equatable, Sendable {
    /// A node that was not known. Its endpoints follow.
    case nodeAppeared(GossipNode)
    /// Its status, address or attributes are others now.
    case nodeChanged(GossipNode)
    /// It is forgotten, and so are all its endpoints: it expired, or its id was started again (`nodeAppeared` follows then).
    case nodeRemoved(id: String, incarnation: UInt64)
    /// The node has so many listeners of the endpoint now; zero for none.
    case endpoint(node: String, endpoint: String, count: UInt32)
    /// After `join`: the first node's whole state is here.
    case joined
    /// Goodbye was said.
    case leaveFinished
    /// Another running node has this node's id.
    case idConflict
}

/// What the machine counts.
public enum GossipCounter: Int, CaseIterable, Sendable {
    case packetsIn, packetsOut, packetBytesIn, packetBytesOut
    case streamsIn, streamsOut, streamBytesIn, streamBytesOut, streamsFailed
    case digestEntriesIn, digestEntriesOut, deltaEntriesIn, deltaEntriesOut
    /// Dropped: not of our version or form; of another cluster; not signed with a key of ours; seen before or for another life of
    /// this node; a body that is none; larger than allowed.
    case droppedEnvelope, droppedCluster, droppedSignature, droppedReplay, droppedRecipient, droppedMalformed, droppedOversized
    /// Refused for a limit: nodes, entries, probes for others, streams.
    case refusedNodes, refusedEntries, refusedProbes, refusedStreams
    /// Nodes that this node suspected; suspicions that came to nothing; nodes found unreachable; nodes that came back; forgotten.
    case suspicions, suspicionsRefuted, unreachable, recovered, expired
    /// Times that this node said that it lives after all; that an ended life was mentioned and not let in.
    case refutations, ghostsRefused

    /// Its name in metrics, after `piko_gossip_`.
    public var name: String {
        var name = ""
        for character in "\(self)" {
            if character.isUppercase { name += "_" }
            name += character.lowercased()
        }
        return name
    }
}

/// The counters of one machine.
public struct GossipCounters: Equatable, Sendable {
    private var values = [UInt64](repeating: 0, count: GossipCounter.allCases.count)

    public init() {}

    public subscript(_ counter: GossipCounter) -> UInt64 {
        get { values[counter.rawValue] }
        set { values[counter.rawValue] = newValue }
    }
}

/// A node as status pages show it.
public struct GossipNodeView: Equatable, Sendable {
    /// The node.
    public var node: GossipNode
    /// How far this node knows its entries.
    public var entryVersion: UInt64
    /// Endpoints, and their listeners in all.
    public var endpoints: Int
    public var listeners: Int
    /// Entries that were removed and still take a place.
    public var removedEntries: Int
    /// When it is forgotten, of nodes that left or are unreachable.
    public var expiresIn: Duration?

    public init(
        node: GossipNode, entryVersion: UInt64, endpoints: Int, listeners: Int, removedEntries: Int, expiresIn: Duration?
    ) {
        self.node = node
        self.entryVersion = entryVersion
        self.endpoints = endpoints
        self.listeners = listeners
        self.removedEntries = removedEntries
        self.expiresIn = expiresIn
    }
}

/// An entry of a node as status pages show it.
public struct GossipEntryView: Equatable, Sendable {
    /// `proxy_addr`, `endpoint:NAME` and so on; `slot:N` for a removed entry.
    public var key: String
    public var value: String
    public var version: UInt64
    public var isRemoved: Bool

    public init(key: String, value: String, version: UInt64, isRemoved: Bool) {
        self.key = key
        self.value = value
        self.version = version
        self.isRemoved = isRemoved
    }
}
