// The cluster's gossip as one deterministic machine: who is there, what each node has, who is to be avoided.
//
// How it works is told in docs/cluster.md; in short: each interval a node pings another one, in turn, with the hash of what
// it knows and the news; the other answers with its hash and its news. Where hashes differ they compare further, bucket by
// bucket and life by life, and send what the other lacks, on a stream where it is much. Who does not answer, not to
// others who are asked either, is suspected, and is held dead when nothing was heard of it for a while longer.
//
// This file: the events, the rounds, and what is sent. Exchange.swift: what comes in and what is answered. Probing.swift:
// failure detection. Rumours.swift: news. Membership.swift: lives that come and go. Joining.swift: contact with strangers.

public import Base

/// Gossip of one node: events and the time go in, outputs come out. No socket, clock or thread is in it.
public struct GossipMachine {
    /// What was counted since the machine was made (a restored one goes on where the old one was).
    public internal(set) var counters = GossipCounters()
    /// How long others take to know what changed here.
    public internal(set) var spread = SpreadTimes()
    /// The settings.
    public let configuration: GossipConfiguration

    let timing: Timing
    var envelope: GossipEnvelope
    var members: MemberTable
    var graves: Graves
    var random: GossipRandom
    /// What is to be done; handed out at the end of each event.
    var outputs: [GossipOutput] = []

    var nextRound: Instant
    /// When news go out before the next round.
    var eagerAt: Instant?
    var lastEager = Instant(nanoseconds: 0)
    private var wakeAt: Instant?

    /// Places of members with news; the next to be told first.
    var news: [Int] = []
    /// Slots of this node's removed endpoints, to be taken again; may name some that are taken.
    var freeSlots: [Int] = []
    /// The living in the order in which they are probed, and how far that is.
    var probeOrder: [UInt64] = []
    var probeNext = 0
    var probes: [Probe] = []
    var relays: [Relay] = []
    /// Lives that this node suspects, or did a moment ago.
    var suspicions: [UInt64] = []
    /// How the last probes ended, the newest in bit 0; and how many of the bits count.
    var probeResults: UInt16 = 0
    var probeResultCount = 0
    /// No summary is given before this, so that news can do their part.
    var nextSummary = Instant(nanoseconds: 0)

    var joinAddresses: [GossipAddress] = []
    var lost: [LostAddress] = []
    var isJoined = false
    var isJoining = false
    var nextContact: Instant
    /// Answers to strangers that are left in this round.
    var welcomesLeft = Timing.welcomesMax
    var exchanges: [Exchange] = []
    var nextExchange: UInt32 = 1
    /// No stream is opened before this: the last one brought nothing, so what differs is beyond a limit.
    var nextStream = Instant(nanoseconds: 0)
    var leaving = Leaving.no
    /// How often this node had to take a new incarnation, and when last.
    var raises = 0
    var lastRaise = Instant(nanoseconds: 0)

    enum Leaving: Equatable {
        case no
        /// So many rounds to go.
        case rounds(Int)
        case done
    }

    /// A stream of this node's that waits for its answer.
    struct Exchange: Equatable {
        var number: UInt32
        var life: UInt64
        var until: Instant
        /// It gives what the other asked for on the one before.
        var isGift = false
    }

    /// An address whose node was forgotten.
    struct LostAddress: Equatable {
        var address: GossipAddress
        var until: Instant
    }

    /// Times that follow from the settings.
    struct Timing {
        static let welcomesMax = 64
        let probeTimeout: Duration
        let suspicionTime: Duration
        /// News that are older are left to the comparison of states.
        let newsTime: Duration
        let streamTime = Duration.seconds(15)
        /// A death that was found within this time is told as certain.
        let certainTime = Duration.seconds(10)
        /// Rounds that come later than this mean that this node stood still.
        let lateness: Duration

        init(_ configuration: GossipConfiguration) {
            let interval = configuration.interval
            probeTimeout = configuration.probeTimeout ?? max(.milliseconds(300), interval * 3)
            suspicionTime = configuration.suspicionTime ?? max(.milliseconds(1_500), interval * 15)
            newsTime = max(.seconds(2), interval * 20)
            lateness = max(.seconds(1), interval * 10)
        }
    }

    /// A machine that knows this node only. The seed should be 64 random bits: the life's number is made of it.
    public init(configuration: GossipConfiguration, node: LocalNode, seed: UInt64, now: Instant) {
        precondition(!node.id.isEmpty && node.id.utf8.count <= GossipLimits.idBytesMax, "a node's id has 1 to 128 bytes")
        precondition(node.address.text.utf8.count <= GossipLimits.addressBytesMax, "an address has at most 256 bytes")
        precondition(configuration.packetBytesMax >= 256, "a packet has room for 256 bytes")
        self.configuration = configuration
        timing = Timing(configuration)
        random = GossipRandom(seed: seed)
        let life = random.next() | 1
        envelope = GossipEnvelope(
            clusterID: configuration.clusterID, keys: configuration.keys, life: life, sendersMax: configuration.limits.sendersMax)
        var member = Member(life: life, id: node.id, incarnation: node.incarnation, address: node.address)
        var attributes = node.attributes
        attributes[.status] = attributes[.status] ?? GossipNodeStatus.active.rawValue
        for attribute in GossipAttribute.allCases {
            guard let value = attributes[attribute] else { continue }
            var changed: [String] = []
            let version = member.entries.version + 1
            member.entries.write(Int(attribute.rawValue), Self.bounded(value), 0, version: version, changed: &changed)
        }
        members = MemberTable(local: member)
        graves = Graves(gravesMax: configuration.limits.gravesMax)
        nextRound = now
        nextContact = now
    }

    /// Goes on from a state that was restored (Snapshot.swift).
    init(configuration: GossipConfiguration, envelope: GossipEnvelope, members: MemberTable, graves: Graves, seed: UInt64, now: Instant) {
        self.configuration = configuration
        timing = Timing(configuration)
        self.envelope = envelope
        self.members = members
        self.graves = graves
        random = GossipRandom(seed: seed)
        nextRound = now
        nextContact = now
    }

    /// Takes an event; what is to be done about it is appended to `outputs`. At the start, `timer` gets things going.
    public mutating func handle(_ event: GossipEvent, now: Instant, into outputs: inout [GossipOutput]) {
        guard leaving != .done else {
            if case .streamRequest(_, _, let stream) = event { outputs.append(.refuse(stream: stream)) }
            return
        }
        switch event {
        case .timer: timer(now)
        case .packet(let bytes, let from): receivePacket(bytes, from, now)
        case .streamRequest(let bytes, let from, let stream): receiveRequest(bytes, from, stream, now)
        case .streamReply(let bytes, let exchange): receiveReply(bytes, exchange, now)
        case .streamFailed(let exchange): streamFailed(exchange)
        case .setAttribute(let attribute, let value):
            if attribute != .status { setAttribute(attribute, value, now) }
        case .setEndpoint(let endpoint, let count): setEndpoint(endpoint, count, now)
        case .setDraining(let isDraining):
            if leaving == .no { setAttribute(.status, (isDraining ? GossipNodeStatus.draining : .active).rawValue, now) }
        case .join(let addresses): join(addresses, now)
        case .leave: leave(now)
        case .setKeys(let keys): envelope.setKeys(keys)
        }
        let wake = leaving == .done ? .never : min(nextRound, eagerAt ?? .never)
        if wake != wakeAt || event == .timer {
            wakeAt = wake
            if wake != .never { self.outputs.append(.wake(at: wake)) }
        }
        outputs.append(contentsOf: self.outputs)
        self.outputs.removeAll(keepingCapacity: true)
    }

    // MARK: Rounds

    private mutating func timer(_ now: Instant) {
        if let at = eagerAt, at <= now { tellEagerly(now) }
        guard nextRound <= now else { return }
        let lateness = now - nextRound
        if lateness > configuration.expiry {
            forgetOthers(now)
        } else if lateness > timing.lateness {
            forgiveProbes(now)
        }
        welcomesLeft = Timing.welcomesMax
        expire(now)
        compact(now)
        advanceProbes(now)
        advanceSuspicions(now)
        probeNextMember(now)
        contactTheDead(now)
        contactStrangers(now)
        advanceLeave(now)
        let interval = configuration.interval.clampedNanoseconds
        let jitter = UInt64(random.below(Int(clamping: interval / 5) + 1))
        nextRound = now + .nanoseconds(Int64(clamping: interval - interval / 10 + jitter))
    }

    // MARK: This node's own entries

    private static func bounded(_ value: String) -> String {
        precondition(value.utf8.count <= GossipLimits.textBytesMax, "an attribute has at most 256 bytes")
        return value
    }

    mutating func setAttribute(_ attribute: GossipAttribute, _ value: String, _ now: Instant) {
        guard value.utf8.count <= GossipLimits.textBytesMax else { return counters[.refusedEntries] += 1 }
        guard members[0].entries.attribute(attribute) != value else { return }
        write(Int(attribute.rawValue), value, 0, now)
    }

    private mutating func setEndpoint(_ endpoint: String, _ count: UInt32, _ now: Instant) {
        guard (1...GossipLimits.textBytesMax).contains(endpoint.utf8.count) else { return counters[.refusedEntries] += 1 }
        if let slot = members[0].entries.slot(of: endpoint) {
            guard members[0].entries.slots[slot].count != count else { return }
            write(slot, count == 0 ? "" : endpoint, count, now)
            if count == 0 { freeSlots.append(slot) }
        } else if count > 0 {
            var slot = max(EntryTable.firstEndpoint, members[0].entries.slots.count)
            if let free = takeFreeSlot() {
                slot = free
            } else if slot >= configuration.limits.nodeEntriesMax {
                return counters[.refusedEntries] += 1
            }
            write(slot, endpoint, count, now)
        }
    }

    private mutating func takeFreeSlot() -> Int? {
        while let slot = freeSlots.popLast() {
            if slot < members[0].entries.slots.count, members[0].entries.slots[slot].text.isEmpty { return slot }
        }
        return nil
    }

    private mutating func write(_ slot: Int, _ text: String, _ count: UInt32, _ now: Instant) {
        let before = members[0].entries.version
        var changed: [String] = []
        members[0].entries.write(slot, text, count, version: before + 1, changed: &changed)
        members.settle(0)
        spread.changed(now)
        tell(0, before, now)
        hurry(now)
    }

    /// Moves some of the last endpoints into empty slots when most are empty, and cuts the table off behind the last one.
    private mutating func compact(_ now: Instant) {
        guard members[0].entries.removed > max(64, members[0].entries.endpoints) else { return }
        var end = members[0].entries.slots.count
        for _ in 0..<64 {
            while end > EntryTable.firstEndpoint, members[0].entries.slots[end - 1].text.isEmpty { end -= 1 }
            guard end > EntryTable.firstEndpoint else { break }
            let last = members[0].entries.slots[end - 1]
            guard let free = takeFreeSlot(below: end - 1) else { break }
            write(free, last.text, last.count, now)
            end -= 1
        }
        if end < members[0].entries.slots.count { write(EntryTable.sizeSlot, "", UInt32(end), now) }
    }

    private mutating func takeFreeSlot(below end: Int) -> Int? {
        while let slot = takeFreeSlot() {
            if slot < end { return slot }
        }
        return nil
    }

    // MARK: Sending

    /// The most bytes of a packet before its proof.
    var packetLimit: Int { configuration.packetBytesMax - (envelope.overhead - GossipEnvelope.headerBytes) }

    mutating func beginPacket(to life: UInt64) -> GossipWriter {
        envelope.begin(to: life, isStream: false, capacity: 256)
    }

    mutating func send(_ writer: inout GossipWriter, to address: GossipAddress) {
        envelope.seal(&writer)
        counters[.packetsOut] += 1
        counters[.packetBytesOut] += UInt64(writer.count)
        outputs.append(.packet(writer.bytes, to: address))
    }

    /// A place of the living, by chance; nil when there is none.
    mutating func anyLiving() -> Int? {
        members.living.isEmpty ? nil : members.living[random.below(members.living.count)]
    }

    /// So many different places of the living by chance, without this one.
    mutating func someLiving(_ count: Int, without excluded: Int) -> [Int] {
        var chosen: [Int] = []
        for _ in 0..<count * 4 where chosen.count < count {
            guard let place = anyLiving() else { break }
            if place != excluded, !chosen.contains(place) { chosen.append(place) }
        }
        return chosen
    }
}
