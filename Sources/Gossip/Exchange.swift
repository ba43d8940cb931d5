// What comes in and what is answered: the comparison of states.
//
//     A  ping(hash A)      ->  B
//     A  <- ack(hash B)        B     the same hash: that was all. Else with B's digest, or, of a large cluster, its buckets' hashes
//     A  digest            ->  B     of the buckets that differ
//     A  <- sections, want     B     what A lacks, and what B lacks and A has
//     A  sections          ->  B
//
// Each answer is one packet at most, so nobody's packet makes more than one of ours. What does not fit is noticed, and then the
// same is done on a stream: the request has the digest and what the other wants, the answer what this node lacks.

internal import Base

extension GossipMachine {
    /// A section that stops so many versions before the end, or so many sections and wishes, are worth a stream.
    private static let streamVersions: UInt64 = 256
    private static let streamSections = 24

    // MARK: Packets

    mutating func receivePacket(_ bytes: [UInt8], _ from: GossipAddress, _ now: Instant) {
        counters[.packetsIn] += 1
        counters[.packetBytesIn] += UInt64(bytes.count)
        guard bytes.count <= max(1_400, configuration.packetBytesMax) else { return counters[.droppedOversized] += 1 }
        switch envelope.open(bytes, isStream: false, now: now) {
        case .dropped(let counter): counters[counter] += 1
        case .misdirected(let sender): welcome(sender, from)
        case .greeting(let sender, let body):
            guard let message = decode(bytes, body) else { return }
            guard message.hello != nil else { return counters[.droppedMalformed] += 1 }
            welcome(sender, from)
        case .message(let sender, let body):
            guard let message = decode(bytes, body) else { return }
            receive(message, sender, from, now)
        }
    }

    private mutating func decode(_ bytes: [UInt8], _ body: Range<Int>) -> GossipMessage? {
        var reader = GossipReader(bytes, body)
        do {
            return try GossipMessage(&reader, limits: configuration.limits)
        } catch {
            counters[error == .oversized ? .droppedOversized : .droppedMalformed] += 1
            return nil
        }
    }

    private mutating func receive(_ message: GossipMessage, _ sender: UInt64, _ from: GossipAddress, _ now: Instant) {
        heard(sender, now)
        for section in message.sections { apply(section, now) }
        if let introduction = message.welcome { receiveWelcome(introduction, sender, now) }
        if let life = message.relayed { heardOf(life, now) }
        if let life = message.relay { relay(life, for: sender, now) }
        if let hash = message.ack, hash == members.hash {
            notice(agreement: sender)
            spread.agrees(sender, of: members.count - 1, now)
            coolNews()
        }
        if let hashes = message.bucketHashes { answer(hashes, sender, from, now) }
        if let hash = message.ping { acknowledge(hash, sender, from, now) }
        if !message.want.isEmpty { answer(want: message.want, sender, from, now) }
        if let digest = message.digest {
            counters[.digestEntriesIn] += UInt64(digest.count)
            answer(digest, mask: message.digestMask, sender, from, now)
        }
    }

    private mutating func acknowledge(_ hash: UInt64, _ sender: UInt64, _ from: GossipAddress, _ now: Instant) {
        var writer = beginPacket(to: sender)
        writer.write(.ack)
        writer.write(members.hash)
        if hash == members.hash { spread.agrees(sender, of: members.count - 1, now) }
        if hash != members.hash {
            if nextSummary <= now {
                nextSummary = now + configuration.interval * 2
                writeSummary(&writer)
            }
            writeNews(&writer, to: sender, limit: packetLimit, now: now)
        } else if members.place(of: sender) == nil || members.place(of: sender).map({ members[$0].isGone }) == true {
            // Both know the same, but not the sender as alive.
            writeNews(&writer, to: sender, limit: packetLimit, now: now)
        }
        send(&writer, to: from)
    }

    /// Writes the whole digest if it has room with some left for news; else the hashes of the buckets.
    private mutating func writeSummary(_ writer: inout GossipWriter) {
        let room = packetLimit / 2
        if 1 + 8 + 2 + (members.living.count + 1) * 14 <= room {
            let start = writer.count
            writeDigest(&writer, mask: .max, limit: writer.count + room)
            if writer.count > start { return }
        }
        guard writer.count + 1 + GossipMessage.buckets * 4 <= packetLimit else { return }
        writer.write(.buckets)
        for hash in members.bucketHashes { writer.write(UInt32(truncatingIfNeeded: hash)) }
    }

    /// Writes the digest of the buckets of the mask; of as many of them as have room.
    private mutating func writeDigest(_ writer: inout GossipWriter, mask: UInt64, limit: Int) {
        var inBuckets = [[DigestEntry]](repeating: [], count: GossipMessage.buckets)
        for place in [0] + members.living {
            let member = members[place]
            let bucket = Member.bucket(of: member.life)
            guard mask >> UInt64(bucket) & 1 == 1 else { continue }
            inBuckets[bucket].append(
                DigestEntry(life: member.life, version: member.entries.version, refutation: member.refutation))
        }
        var body = GossipWriter()
        var written: UInt64 = 0
        var count = 0
        let first = random.below(GossipMessage.buckets)
        for step in 0..<GossipMessage.buckets {
            let bucket = (first + step) % GossipMessage.buckets
            guard mask >> UInt64(bucket) & 1 == 1 else { continue }
            let before = body.count
            for entry in inBuckets[bucket] { body.write(entry) }
            if writer.count + 1 + 8 + 2 + body.count > limit {
                body.truncate(to: before)
                if written == 0 { continue }
                break
            }
            written |= 1 << UInt64(bucket)
            count += inBuckets[bucket].count
        }
        guard written != 0 else { return }
        counters[.digestEntriesOut] += UInt64(count)
        writer.write(.digest)
        writer.write(written)
        writer.write(varint: count)
        writer.bytes.append(contentsOf: body.bytes)
    }

    private mutating func answer(_ hashes: [UInt32], _ sender: UInt64, _ from: GossipAddress, _ now: Instant) {
        var mask: UInt64 = 0
        for (bucket, hash) in members.bucketHashes.enumerated() where UInt32(truncatingIfNeeded: hash) != hashes[bucket] {
            mask |= 1 << UInt64(bucket)
        }
        guard mask != 0 else { return }
        var writer = beginPacket(to: sender)
        let start = writer.count
        writeDigest(&writer, mask: mask, limit: packetLimit)
        if writer.count > start { send(&writer, to: from) }
    }

    // MARK: Digests

    /// What a digest says about two states.
    struct Comparison {
        /// What this node lacks.
        var want: [DigestEntry] = []
        /// What the other lacks: places, and the versions that it has.
        var sections: [(place: Int, base: UInt64)] = []
        /// Lives that the other holds alive and this node does not.
        var notices: [UInt64] = []
        /// How many entries this node lacks, or thereabouts.
        var lacking: UInt64 = 0
        var isEmpty: Bool { want.isEmpty && sections.isEmpty && notices.isEmpty }
    }

    func compare(_ digest: [DigestEntry], mask: UInt64) -> Comparison {
        var comparison = Comparison()
        var listed = Set<UInt64>(minimumCapacity: digest.count)
        for entry in digest {
            listed.insert(entry.life)
            guard let place = members.place(of: entry.life) else {
                if let grave = graves.grave(of: entry.life), grave.refutation == nil || grave.refutation! >= entry.refutation {
                    comparison.notices.append(entry.life)
                } else {
                    comparison.want.append(DigestEntry(life: entry.life, version: 0, refutation: 0))
                    comparison.lacking &+= entry.version
                }
                continue
            }
            let member = members[place]
            switch member.state {
            case .left: comparison.notices.append(entry.life)
            case .dead where member.refutation >= entry.refutation: comparison.notices.append(entry.life)
            case .dead, .alive, .suspect:
                let version = member.entries.version
                if entry.version > version || entry.refutation > member.refutation {
                    comparison.want.append(DigestEntry(life: entry.life, version: version, refutation: member.refutation))
                    comparison.lacking &+= entry.version > version ? entry.version - version : 0
                }
                if !member.isGone, entry.version < version || entry.refutation < member.refutation {
                    comparison.sections.append((place, entry.version))
                }
            }
        }
        for place in [0] + members.living {
            let life = members[place].life
            if mask >> UInt64(Member.bucket(of: life)) & 1 == 1, !listed.contains(life) { comparison.sections.append((place, 0)) }
        }
        return comparison
    }

    /// Others know more of this node's entries than it does itself when it went on from a snapshot from which another program had
    /// gone on before. What holds is what this one has, so it says all of it again, above what they know.
    private mutating func reassert(_ digest: [DigestEntry], _ now: Instant) {
        guard let own = digest.first(where: { $0.life == envelope.life }), own.version > members[0].entries.version else { return }
        guard own.version < UInt64.max / 2 else { return raise(above: members[0].incarnation, now) }
        let before = members[0].entries.version
        members[0].entries.rewrite(above: own.version)
        members.settle(0)
        tell(0, before, now)
    }

    private mutating func answer(
        _ digest: [DigestEntry], mask: UInt64, _ sender: UInt64, _ from: GossipAddress, _ now: Instant
    ) {
        reassert(digest, now)
        let comparison = compare(digest, mask: mask)
        guard !comparison.isEmpty else { return }
        let isMuch = comparison.lacking > Self.streamVersions || comparison.want.count > Self.streamSections
        var writer = beginPacket(to: sender)
        let start = writer.count
        writeWant(&writer, comparison.want.prefix(Self.streamSections), limit: packetLimit / 2)
        let isCut = writeSections(&writer, comparison, to: sender, limit: packetLimit, now: now)
        if writer.count > start { send(&writer, to: from) }
        if isMuch || isCut { exchange(with: sender, now) }
    }

    private func writeWant(_ writer: inout GossipWriter, _ want: ArraySlice<DigestEntry>, limit: Int) {
        let fitting = want.prefix(max(0, limit - writer.count - 3) / GossipWriter.digestEntryBytesMax)
        guard !fitting.isEmpty else { return }
        writer.write(.want)
        writer.write(Array(fitting))
    }

    /// Writes notices and sections, those of this node first. Returns whether much had no room.
    private mutating func writeSections(
        _ writer: inout GossipWriter, _ comparison: Comparison, to recipient: UInt64, limit: Int, now: Instant
    ) -> Bool {
        let start = writer.count
        guard start + 1 < limit, !(comparison.sections.isEmpty && comparison.notices.isEmpty) else { return false }
        writer.write(.sections)
        let first = writer.count
        for life in comparison.notices { writeNotice(&writer, of: life, limit: limit, now: now) }
        var left = comparison.sections.count
        var isCut = false
        // Not always the same ones first when not all have room.
        let offset = left > 1 && comparison.sections[0].place != 0 ? random.below(left) : 0
        for step in 0..<left {
            let section = comparison.sections[(step + offset) % comparison.sections.count]
            // The recipient knows best about itself.
            if members[section.place].life == recipient {
                left -= 1
                continue
            }
            guard let version = writeSection(&writer, of: section.place, base: section.base, limit: limit, now: now) else { break }
            left -= 1
            let known = members[section.place].entries.version
            if known > version, known - version > Self.streamVersions { isCut = true }
        }
        if writer.count == first { writer.truncate(to: start) }
        return isCut || left > Self.streamSections
    }

    private mutating func answer(want: [DigestEntry], _ sender: UInt64, _ from: GossipAddress, _ now: Instant) {
        let comparison = comparison(ofWant: want)
        var writer = beginPacket(to: sender)
        let start = writer.count
        let isCut = writeSections(&writer, comparison, to: sender, limit: packetLimit, now: now)
        if writer.count > start { send(&writer, to: from) }
        if isCut { exchange(with: sender, now) }
    }

    private func comparison(ofWant want: [DigestEntry]) -> Comparison {
        var comparison = Comparison()
        for entry in want {
            if let place = members.place(of: entry.life), !members[place].isGone {
                comparison.sections.append((place, entry.version))
            } else {
                comparison.notices.append(entry.life)
            }
        }
        return comparison
    }

    // MARK: Streams

    /// The most bytes of a stream message before its proof.
    private var streamLimit: Int { GossipLimits.streamBytesMax - GossipEnvelope.proofBytes }

    /// Compares states with a member on a stream, if there is room for one more and none with it.
    mutating func exchange(with life: UInt64, want: [DigestEntry] = [], _ now: Instant) {
        guard nextStream <= now, let place = members.place(of: life), place != 0, exchanges.count < configuration.limits.streamsMax,
            !exchanges.contains(where: { $0.life == life })
        else { return }
        var writer = envelope.begin(to: life, isStream: true, capacity: 4_096)
        writeDigest(&writer, mask: .max, limit: streamLimit)
        if want.isEmpty {
            // Who this is.
            var comparison = Comparison()
            comparison.sections = [(0, 0)]
            _ = writeSections(&writer, comparison, to: life, limit: min(streamLimit, writer.count + 65_536), now: now)
        } else {
            _ = writeSections(&writer, comparison(ofWant: want), to: life, limit: streamLimit, now: now)
        }
        envelope.seal(&writer)
        counters[.streamsOut] += 1
        counters[.streamBytesOut] += UInt64(writer.count)
        let number = nextExchange
        nextExchange &+= 1
        exchanges.append(Exchange(number: number, life: life, until: now + timing.streamTime, isGift: !want.isEmpty))
        outputs.append(.openStream(writer.bytes, to: members[place].address, exchange: number))
    }

    mutating func receiveRequest(_ bytes: [UInt8], _ from: GossipAddress, _ stream: UInt64, _ now: Instant) {
        guard let (sender, message) = openStream(bytes, now) else { return outputs.append(.refuse(stream: stream)) }
        heard(sender, now)
        for section in message.sections { apply(section, now) }
        reassert(message.digest ?? [], now)
        let comparison = compare(message.digest ?? [], mask: message.digestMask)
        counters[.digestEntriesIn] += UInt64(message.digest?.count ?? 0)
        var writer = envelope.begin(to: sender, isStream: true, capacity: 4_096)
        writer.write(.ack)
        writer.write(members.hash)
        if !comparison.want.isEmpty {
            writer.write(.want)
            writer.write(comparison.want)
        }
        _ = writeSections(&writer, comparison, to: sender, limit: streamLimit, now: now)
        envelope.seal(&writer)
        counters[.streamBytesOut] += UInt64(writer.count)
        outputs.append(.reply(writer.bytes, stream: stream))
    }

    mutating func receiveReply(_ bytes: [UInt8], _ number: UInt32, _ now: Instant) {
        guard let index = exchanges.firstIndex(where: { $0.number == number }) else { return }
        let exchange = exchanges.remove(at: index)
        guard let (sender, message) = openStream(bytes, now), sender == exchange.life else {
            return counters[.streamsFailed] += 1
        }
        heard(sender, now)
        let before = members.hash
        for section in message.sections { apply(section, now) }
        notice(agreement: sender)
        if !exchange.isGift, !message.want.isEmpty { return self.exchange(with: sender, want: message.want, now) }
        if members.hash == before { nextStream = now + .seconds(5) }
    }

    private mutating func openStream(_ bytes: [UInt8], _ now: Instant) -> (UInt64, GossipMessage)? {
        counters[.streamsIn] += 1
        counters[.streamBytesIn] += UInt64(bytes.count)
        guard bytes.count <= GossipLimits.streamBytesMax else {
            counters[.droppedOversized] += 1
            return nil
        }
        switch envelope.open(bytes, isStream: true, now: now) {
        case .dropped(let counter): counters[counter] += 1
        case .misdirected, .greeting: counters[.droppedReplay] += 1
        case .message(let sender, let body):
            if let message = decode(bytes, body) { return (sender, message) }
        }
        return nil
    }

    mutating func streamFailed(_ number: UInt32) {
        guard let index = exchanges.firstIndex(where: { $0.number == number }) else { return }
        exchanges.remove(at: index)
        counters[.streamsFailed] += 1
    }
}
