// The machine's whole state as bytes and back, for the same node's next program: it goes on as the same life, with the same
// numbers, and nobody notices. Probes that wait are not kept; who did not answer them is probed again.
//
// No format for strangers: it comes from our own program, maybe an older or a newer one, so it has a version, and what does not
// fit is refused whole.

public import Base

/// The bytes are no snapshot that this program understands.
public struct GossipSnapshotError: Error, Equatable {
    public init() {}
}

extension GossipMachine {
    private static let snapshotVersion: UInt64 = 1

    /// The whole state, for the same node's next program. The machine may go on only when nothing came of the other.
    public func snapshot(now: Instant) -> [UInt8] {
        var writer = GossipWriter()
        writer.write(varint: Self.snapshotVersion)
        writer.write(text: configuration.clusterID)
        writer.write(now.nanoseconds)
        writer.write(envelope.life)
        writer.write(varint: envelope.packetNumber)
        writer.write(varint: envelope.streamNumber)
        writer.write(varint: envelope.replayGuard.senders.count)
        for sender in envelope.replayGuard.senders {
            writer.write(sender.life)
            writer.write(varint: sender.lastUse.nanoseconds)
            for window in [sender.packets, sender.streams] {
                writer.write(varint: window.highest)
                writer.write(UInt64(truncatingIfNeeded: window.seen))
                writer.write(UInt64(truncatingIfNeeded: window.seen >> 64))
            }
        }
        let places = members.places
        writer.write(varint: places.count)
        for place in places { Self.write(members[place], &writer) }
        writer.write(varint: graves.all.count)
        for grave in graves.all {
            writer.write(grave.life)
            writer.write(varint: grave.refutation.map { UInt64($0) + 1 } ?? 0)
            writer.write(varint: grave.until.nanoseconds)
        }
        writer.write(varint: joinAddresses.count)
        for address in joinAddresses { writer.write(text: address.text) }
        writer.write(varint: lost.count)
        for lost in lost {
            writer.write(text: lost.address.text)
            writer.write(varint: lost.until.nanoseconds)
        }
        writer.write(byte: (isJoined ? 1 : 0) | (isJoining ? 2 : 0) | (leaving == .no ? 0 : 4))
        writer.write(varint: raises)
        writer.write(varint: lastRaise.nanoseconds)
        writer.write(varint: GossipCounter.allCases.count)
        for counter in GossipCounter.allCases { writer.write(varint: counters[counter]) }
        return writer.bytes
    }

    private static func write(_ member: Member, _ writer: inout GossipWriter) {
        writer.write(member.life)
        writer.write(member.introduction)
        writer.write(varint: UInt64(member.refutation))
        switch member.state {
        case .alive: writer.write(byte: 0)
        case .suspect(let until):
            writer.write(byte: 1)
            writer.write(varint: until.nanoseconds)
        case .dead(let since, let isCertain):
            writer.write(byte: isCertain ? 3 : 2)
            writer.write(varint: since.nanoseconds)
        case .left(let since):
            writer.write(byte: 4)
            writer.write(varint: since.nanoseconds)
        }
        writer.write(varint: member.heard.nanoseconds)
        writer.write(byte: member.isAccused ? 1 : 0)
        member.entries.forEach(after: 0) { slot, entry in
            writer.write(varint: slot + 1)
            writer.write(varint: entry.version)
            writer.write(varint: UInt64(entry.count))
            writer.write(text: entry.text)
            return true
        }
        writer.write(byte: 0)
    }

    /// Goes on from a snapshot, as the same life of the same node; `seed` as for a new one. The cluster's id must be the same.
    public init(
        snapshot: [UInt8], configuration: GossipConfiguration, seed: UInt64, now: Instant
    ) throws(GossipSnapshotError) {
        do {
            try self.init(restoring: snapshot, configuration, seed, now)
        } catch {
            throw GossipSnapshotError()
        }
    }

    private init(
        restoring bytes: [UInt8], _ configuration: GossipConfiguration, _ seed: UInt64, _ now: Instant
    ) throws(GossipWireError) {
        var reader = GossipReader(bytes)
        guard try reader.varint() == Self.snapshotVersion,
            try reader.text(bytesMax: 1 << 16) == configuration.clusterID
        else { throw .invalidValue }
        let taken = Instant(nanoseconds: try reader.number64())
        let life = try reader.number64()
        // A program that went on from this snapshot before, and came to nothing, used less than one number each microsecond.
        let skipped = (now - taken).clampedNanoseconds / 1_000 + 1
        let (packetNumber, isOver) = try reader.varint().addingReportingOverflow(skipped)
        let (streamNumber, isOverToo) = try reader.varint().addingReportingOverflow(skipped)
        guard life != 0, !isOver, !isOverToo else { throw .invalidValue }
        var senders: [ReplayGuard.Sender] = []
        for _ in 0..<(try reader.varint(most: UInt64(configuration.limits.sendersMax))) {
            var sender = ReplayGuard.Sender(
                life: try reader.number64(), lastUse: Instant(nanoseconds: try reader.varint()))
            sender.packets = try Self.window(&reader)
            sender.streams = try Self.window(&reader)
            senders.append(sender)
        }
        var envelope = GossipEnvelope(
            clusterID: configuration.clusterID, keys: configuration.keys, life: life, sendersMax: configuration.limits.sendersMax)
        envelope.restore(
            packetNumber: packetNumber, streamNumber: streamNumber,
            replayGuard: ReplayGuard(sendersMax: configuration.limits.sendersMax, senders: senders))

        let count = try reader.varint(most: UInt64(configuration.limits.nodesMax))
        guard count > 0 else { throw .invalidValue }
        let local = try Self.member(&reader, configuration.limits)
        guard local.life == life else { throw .invalidValue }
        var members = MemberTable(local: local)
        var suspicions: [UInt64] = []
        for _ in 1..<count {
            let member = try Self.member(&reader, configuration.limits)
            guard members.place(of: member.life) == nil, members.place(ofID: member.id) == nil else { throw .invalidValue }
            if case .suspect = member.state { suspicions.append(member.life) }
            _ = members.add(member)
        }
        var graves = Graves(gravesMax: configuration.limits.gravesMax)
        for _ in 0..<(try reader.varint(most: UInt64(configuration.limits.gravesMax))) {
            let life = try reader.number64()
            let refutation = try reader.varint(most: UInt64(UInt32.max) + 1)
            graves.bury(
                Graves.Grave(
                    life: life, refutation: refutation == 0 ? nil : UInt32(refutation - 1),
                    until: Instant(nanoseconds: try reader.varint())))
        }
        self.init(configuration: configuration, envelope: envelope, members: members, graves: graves, seed: seed, now: now)
        self.suspicions = suspicions
        try restoreRest(&reader, now)
    }

    private mutating func restoreRest(_ reader: inout GossipReader, _ now: Instant) throws(GossipWireError) {
        for _ in 0..<(try reader.varint(most: UInt64(configuration.limits.joinMax))) {
            joinAddresses.append(GossipAddress(try reader.text(bytesMax: GossipLimits.addressBytesMax)))
        }
        for _ in 0..<(try reader.varint(most: UInt64(configuration.limits.lostMax))) {
            let address = GossipAddress(try reader.text(bytesMax: GossipLimits.addressBytesMax))
            lost.append(LostAddress(address: address, until: Instant(nanoseconds: try reader.varint())))
        }
        let flags = try reader.byte()
        guard flags < 8 else { throw .invalidValue }
        isJoined = flags & 1 != 0
        isJoining = flags & 2 != 0
        if flags & 4 != 0 { leaving = .rounds(3) }
        raises = Int(try reader.varint(most: UInt64(UInt32.max)))
        lastRaise = Instant(nanoseconds: try reader.varint())
        // A newer program has more counters, an older one fewer; those that both have are the first ones.
        for index in 0..<(try reader.varint(most: 1_024)) {
            let value = try reader.varint()
            if let counter = GossipCounter(rawValue: Int(index)) { counters[counter] = value }
        }
        guard reader.isAtEnd else { throw .invalidValue }
        let slots = members[0].entries.slots
        for slot in slots.indices.dropFirst(EntryTable.firstEndpoint) where slots[slot].text.isEmpty { freeSlots.append(slot) }
    }

    private static func window(_ reader: inout GossipReader) throws(GossipWireError) -> ReplayWindow {
        let highest = try reader.varint()
        let low = try reader.number64()
        let high = try reader.number64()
        return ReplayWindow(highest: highest, seen: UInt128(high) << 64 | UInt128(low))
    }

    private static func member(_ reader: inout GossipReader, _ limits: GossipLimits) throws(GossipWireError) -> Member {
        let life = try reader.number64()
        let introduction = try GossipMessage.introduction(&reader)
        guard life != 0 else { throw .invalidValue }
        var member = Member(
            life: life, id: introduction.id, incarnation: introduction.incarnation, address: introduction.address)
        member.refutation = UInt32(try reader.varint(most: UInt64(UInt32.max)))
        switch try reader.byte() {
        case 0: member.state = .alive
        case 1: member.state = .suspect(until: Instant(nanoseconds: try reader.varint()))
        case 2: member.state = .dead(since: Instant(nanoseconds: try reader.varint()), isCertain: false)
        case 3: member.state = .dead(since: Instant(nanoseconds: try reader.varint()), isCertain: true)
        case 4: member.state = .left(since: Instant(nanoseconds: try reader.varint()))
        default: throw .invalidValue
        }
        member.heard = Instant(nanoseconds: try reader.varint())
        member.isAccused = try reader.byte() == 1
        var changed: [String] = []
        while true {
            let slot = try reader.varint(most: UInt64(limits.nodeEntriesMax))
            guard slot > 0 else { return member }
            let version = try reader.varint()
            let count = UInt32(try reader.varint(most: UInt64(UInt32.max)))
            let text = try reader.text(bytesMax: GossipLimits.textBytesMax)
            guard version > member.entries.version else { throw .invalidValue }
            member.entries.write(Int(slot) - 1, text, count, version: version, changed: &changed)
            changed.removeAll(keepingCapacity: true)
        }
    }
}
