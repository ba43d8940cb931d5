// Contact with strangers: addresses that were given, and those of nodes that were forgotten. A `hello` goes to whoever has the
// address; a `welcome` says who that is. Both again and again, so that a cut that lasted longer than the memory of the
// dead heals too. And how a node leaves.

internal import Base

extension GossipMachine {
    mutating func join(_ addresses: [GossipAddress], _ now: Instant) {
        var wanted: [GossipAddress] = []
        for address in addresses where address.text.utf8.count <= GossipLimits.addressBytesMax && !wanted.contains(address) {
            if wanted.count == configuration.limits.joinMax { break }
            wanted.append(address)
        }
        joinAddresses = wanted
        // Others may have found this node first: then it has joined already.
        let namesOthers = wanted.contains { $0 != members[0].address }
        isJoining = namesOthers && !isJoined
        if namesOthers && isJoined { outputs.append(.change(.joined)) }
        for address in strangers().prefix(8) { hello(address) }
    }

    /// Addresses that no living member has.
    private func strangers() -> [GossipAddress] {
        guard !joinAddresses.isEmpty || !lost.isEmpty else { return [] }
        let candidates = joinAddresses + lost.map(\.address)
        var strange = Set(candidates)
        strange.remove(members[0].address)
        for place in members.living where !strange.isEmpty { strange.remove(members[place].address) }
        return strange.isEmpty ? [] : candidates.filter { strange.contains($0) }
    }

    mutating func contactStrangers(_ now: Instant) {
        exchanges.removeAll { $0.until <= now }
        lost.removeAll { $0.until <= now }
        guard nextContact <= now, leaving == .no else { return }
        let strangers = strangers()
        guard !strangers.isEmpty else {
            nextContact = now + .seconds(5)
            return
        }
        hello(strangers[random.below(strangers.count)])
        // Alone, soon again; else some once a second for each stranger, by all the living together.
        let pause =
            members.living.isEmpty
            ? configuration.interval * 2
            : max(.seconds(5), .milliseconds(1_000 * (members.living.count + 1) / strangers.count))
        let nanoseconds = Int(clamping: pause.clampedNanoseconds)
        nextContact = now + .nanoseconds(Int64(nanoseconds / 2 + random.below(nanoseconds)))
    }

    private mutating func hello(_ address: GossipAddress) {
        guard address != members[0].address else { return }
        var writer = beginPacket(to: 0)
        writer.write(.hello)
        writer.write(members[0].introduction)
        send(&writer, to: address)
    }

    mutating func welcome(_ life: UInt64, _ from: GossipAddress) {
        guard welcomesLeft > 0, leaving == .no else { return }
        welcomesLeft -= 1
        var writer = beginPacket(to: life)
        writer.write(.welcome)
        writer.write(members[0].introduction)
        send(&writer, to: from)
    }

    mutating func receiveWelcome(_ introduction: Introduction, _ sender: UInt64, _ now: Instant) {
        guard leaving == .no else { return }
        if let place = members.place(of: sender) {
            // It is known and alive: a hello that was on its way. If it is held dead, it should hear of it.
            if members[place].isGone { ping(place, now) }
        } else if graves.grave(of: sender) != nil {
            var writer = beginPacket(to: sender)
            writer.write(.ping)
            writer.write(members.hash)
            writeNews(&writer, to: sender, limit: packetLimit, now: now)
            send(&writer, to: introduction.address)
        } else if learn(sender, introduction, refutation: 0, now) != nil {
            heard(sender, now)
            exchange(with: sender, now)
        }
    }

    /// This node and another one know the same, or told each other all that they know.
    mutating func notice(agreement life: UInt64) {
        guard !isJoined, members.place(of: life) != nil else { return }
        isJoined = true
        if isJoining { outputs.append(.change(.joined)) }
        isJoining = false
    }

    mutating func lose(_ address: GossipAddress, _ now: Instant) {
        lost.removeAll { $0.address == address }
        if lost.count >= configuration.limits.lostMax { lost.removeFirst() }
        lost.append(LostAddress(address: address, until: now + configuration.limits.lostTime))
        nextContact = min(nextContact, now + .seconds(1))
    }

    // MARK: Leaving

    mutating func leave(_ now: Instant) {
        guard leaving == .no else { return }
        setAttribute(.status, GossipNodeStatus.left.rawValue, now)
        leaving = .rounds(3)
        sayGoodbye(now)
    }

    mutating func advanceLeave(_ now: Instant) {
        guard case .rounds(let rounds) = leaving else { return }
        if rounds == 0 || members.living.isEmpty {
            leaving = .done
            outputs.append(.change(.leaveFinished))
        } else {
            leaving = .rounds(rounds - 1)
            sayGoodbye(now)
        }
    }

    private mutating func sayGoodbye(_ now: Instant) {
        for place in someLiving(8, without: 0) { ping(place, now) }
    }
}
