// The body of a message: parts, each behind a byte that says what it is. docs/cluster.md is the specification.
//
// A body is read completely before anything of it is done, so a malformed one changes nothing. The reader trusts no count: it
// takes memory for what is there, not for what is announced.

/// A node's life as others speak of it.
enum LifeState: UInt8 {
    case alive = 0
    case suspect = 1
    case dead = 2
    case left = 3
}

/// Who a life is.
struct Introduction: Equatable {
    var id: String
    var incarnation: UInt64
    var address: GossipAddress
}

/// How far somebody knows a life that it holds alive.
struct DigestEntry: Equatable {
    var life: UInt64
    var version: UInt64
    var refutation: UInt32
}

/// A slot that was written.
struct DeltaEntry: Equatable {
    var slot: Int
    var version: UInt64
    var count: UInt32
    var text: String
}

/// What is told of one life.
struct Section: Equatable {
    var life: UInt64
    var state: LifeState
    /// Of `dead`: it was found a moment ago, by somebody who is well.
    var isFresh: Bool
    var refutation: UInt32
    var introduction: Introduction?
    /// The entries are all that were written after this version, up to that of the last one.
    var base: UInt64 = 0
    var entries: [DeltaEntry] = []
}

/// A whole body.
struct GossipMessage: Equatable {
    /// Numbers of the parts on the wire.
    enum Part: UInt8 {
        case ping = 1
        case ack = 2
        case relay = 3
        case relayed = 4
        case buckets = 5
        case digest = 6
        case want = 7
        case hello = 8
        case welcome = 9
        case sections = 10
    }

    /// Hash buckets of a summary.
    static let buckets = 64

    /// The hash of the sender's state; an `ack` is asked for.
    var ping: UInt64?
    /// The hash of the sender's state; it lives.
    var ack: UInt64?
    /// Ping this life, and say `relayed` when it answers.
    var relay: UInt64?
    /// This life answered.
    var relayed: UInt64?
    /// The sender's hashes of each bucket.
    var bucketHashes: [UInt32]?
    /// All that the sender holds alive in the buckets of the mask.
    var digestMask: UInt64 = 0
    var digest: [DigestEntry]?
    /// Sections that the sender asks for: what was written after these versions.
    var want: [DigestEntry] = []
    /// Who the sender is: says so to somebody it does not know; or as the answer.
    var hello: Introduction?
    var welcome: Introduction?
    /// News; always the last part.
    var sections: [Section] = []

    init() {}

    /// Reads a body.
    init(_ reader: inout GossipReader, limits: GossipLimits) throws(GossipWireError) {
        var seen: UInt32 = 0
        while !reader.isAtEnd {
            guard let part = Part(rawValue: try reader.byte()) else { throw .invalidValue }
            let bit = UInt32(1) << UInt32(part.rawValue)
            guard seen & bit == 0 else { throw .invalidValue }
            seen |= bit
            switch part {
            case .ping: ping = try reader.number64()
            case .ack: ack = try reader.number64()
            case .relay: relay = try reader.number64()
            case .relayed: relayed = try reader.number64()
            case .buckets:
                var hashes: [UInt32] = []
                hashes.reserveCapacity(Self.buckets)
                for _ in 0..<Self.buckets { hashes.append(try reader.number32()) }
                bucketHashes = hashes
            case .digest:
                digestMask = try reader.number64()
                digest = try Self.entries(&reader, limits)
            case .want: want = try Self.entries(&reader, limits)
            case .hello: hello = try Self.introduction(&reader)
            case .welcome: welcome = try Self.introduction(&reader)
            case .sections:
                while !reader.isAtEnd {
                    guard sections.count < limits.nodesMax else { throw .oversized }
                    sections.append(try Self.section(&reader, limits))
                }
            }
        }
        guard seen != 0 else { throw .truncated }
    }

    private static func entries(_ reader: inout GossipReader, _ limits: GossipLimits) throws(GossipWireError) -> [DigestEntry] {
        let count = try reader.varint(most: UInt64(limits.nodesMax))
        var entries: [DigestEntry] = []
        for _ in 0..<count {
            let life = try reader.number64()
            guard life != 0 else { throw .invalidValue }
            let version = try reader.varint()
            entries.append(DigestEntry(life: life, version: version, refutation: UInt32(try reader.varint(most: UInt64(UInt32.max)))))
        }
        return entries
    }

    static func introduction(_ reader: inout GossipReader) throws(GossipWireError) -> Introduction {
        let incarnation = try reader.varint()
        let id = try reader.text(bytesMax: GossipLimits.idBytesMax)
        let address = try reader.text(bytesMax: GossipLimits.addressBytesMax)
        guard !id.isEmpty, !address.isEmpty else { throw .invalidValue }
        return Introduction(id: id, incarnation: incarnation, address: GossipAddress(address))
    }

    private static func section(_ reader: inout GossipReader, _ limits: GossipLimits) throws(GossipWireError) -> Section {
        let life = try reader.number64()
        let flags = try reader.byte()
        guard life != 0, flags < 32, let state = LifeState(rawValue: flags & 3) else { throw .invalidValue }
        var section = Section(
            life: life, state: state, isFresh: flags & 4 != 0, refutation: UInt32(try reader.varint(most: UInt64(UInt32.max))))
        if flags & 8 != 0 { section.introduction = try introduction(&reader) }
        guard flags & 16 != 0 else { return section }
        section.base = try reader.varint()
        var version = section.base
        while true {
            let slot = try reader.varint(most: UInt64(limits.nodeEntriesMax))
            guard slot > 0 else { return section }
            let step = try reader.varint()
            let (next, isOver) = version.addingReportingOverflow(step)
            guard step > 0, !isOver else { throw .invalidValue }
            version = next
            let count = UInt32(try reader.varint(most: UInt64(UInt32.max)))
            let text = try reader.text(bytesMax: GossipLimits.textBytesMax)
            let entry = DeltaEntry(slot: Int(slot) - 1, version: version, count: count, text: text)
            guard entry.slot < EntryTable.firstEndpoint || text.isEmpty == (count == 0) else { throw .invalidValue }
            section.entries.append(entry)
        }
    }
}

extension GossipWriter {
    mutating func write(_ part: GossipMessage.Part) { write(byte: part.rawValue) }

    mutating func write(_ introduction: Introduction) {
        write(varint: introduction.incarnation)
        write(text: introduction.id)
        write(text: introduction.address.text)
    }

    mutating func write(_ entry: DigestEntry) {
        write(entry.life)
        write(varint: entry.version)
        write(varint: UInt64(entry.refutation))
    }

    /// The most bytes of an entry of a digest.
    static let digestEntryBytesMax = 8 + 10 + 5

    /// Writes a part of entries.
    mutating func write(_ entries: [DigestEntry]) {
        write(varint: entries.count)
        for entry in entries { write(entry) }
    }

    /// Writes a section as far as it ends below `limit`. Returns the version up to which its entries were written, or nil when
    /// not even its beginning has room.
    mutating func write(
        section life: UInt64, _ state: LifeState, isFresh: Bool, refutation: UInt32, introduction: Introduction?,
        entries: EntryTable?, base: UInt64, limit: Int, written: inout Int
    ) -> UInt64? {
        let start = count
        let hasEntries = entries != nil && (entries!.version > base)
        write(life)
        write(byte: state.rawValue | (isFresh ? 4 : 0) | (introduction != nil ? 8 : 0) | (hasEntries ? 16 : 0))
        write(varint: UInt64(refutation))
        if let introduction { write(introduction) }
        guard hasEntries, let entries else {
            if count <= limit { return base }
            truncate(to: start)
            return nil
        }
        write(varint: base)
        guard count + 1 <= limit else {
            truncate(to: start)
            return nil
        }
        var version = base
        entries.forEach(after: base) { slot, entry in
            let before = count
            write(varint: slot + 1)
            write(varint: entry.version - version)
            write(varint: UInt64(entry.count))
            write(text: entry.text)
            guard count + 1 <= limit else {
                truncate(to: before)
                return false
            }
            version = entry.version
            written += 1
            return true
        }
        write(byte: 0)
        return version
    }
}
