// The cluster's gossip as one deterministic machine.

public import Base

/// Gossip of one node: events and the time go in, outputs come out. No socket, clock or thread is in it.
public struct GossipMachine {
    /// What was counted since the machine was made (a restored one goes on where the old one was).
    public private(set) var counters = GossipCounters()
    /// The settings.
    public let configuration: GossipConfiguration
    /// This node.
    public private(set) var local: LocalNode

    /// A machine that knows this node only. The seed should be 64 random bits: the life's number is made of it.
    public init(configuration: GossipConfiguration, node: LocalNode, seed: UInt64, now: Instant) {
        self.configuration = configuration
        local = node
    }

    /// Goes on from a snapshot, as the same life of the same node; `seed` as above. Addresses to join come from the snapshot too.
    public init(
        snapshot: [UInt8], configuration: GossipConfiguration, seed: UInt64, now: Instant
    ) throws(GossipSnapshotError) {
        throw GossipSnapshotError()
    }

    /// Takes an event; what is to be done about it is appended to `outputs`. At the start, `timer` gets things going.
    public mutating func handle(_ event: GossipEvent, now: Instant, into outputs: inout [GossipOutput]) {}

    /// The whole state, for the same node's next program. The machine must not be used after it, unless nothing came of the other.
    public func snapshot(now: Instant) -> [UInt8] { [] }

    /// All known nodes, this one first.
    public func nodes(now: Instant) -> [GossipNodeView] { [] }

    /// The known node of this id.
    public func node(_ id: String, now: Instant) -> GossipNodeView? { nil }

    /// The entries of a node by version, from the `start`th on and at most `count`.
    public func entries(of id: String, from start: Int, count: Int) -> [GossipEntryView] { [] }

    /// The endpoints of a node with their counts: what the application was told, for one that starts anew (after an upgrade).
    public func endpoints(of id: String) -> [(endpoint: String, count: UInt32)] { [] }
}

/// The bytes are no snapshot that this program understands.
public struct GossipSnapshotError: Error, Equatable {
    public init() {}
}
