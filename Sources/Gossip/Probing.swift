// Failure detection, as SWIM has it: each round one member is pinged, all in turn. Without an answer it is pinged again, and others
// are asked to ping it; when all of that twice brought nothing, it is suspected, which is told, and pinged on. When it says nothing for the
// time of suspicion, it is dead; one that lives and hears of it refutes: it raises its refutation number, which everybody
// believes over what was said of the number before. Every message of a member is an answer.
//
// Only who got no answer itself suspects and decides, so that one node's bad link is one node's affair. And a node of whose
// last probes half failed doubts itself: what it found dead it tells as a doubt, and others look for themselves.

internal import Base

/// A ping that waits for its answer.
struct Probe: Equatable {
    var life: UInt64
    var begun: Instant
    /// When it goes on, and how far it is.
    var due: Instant
    var tries = 1
}

/// A ping for somebody else.
struct Relay: Equatable {
    var life: UInt64
    var origin: UInt64
    var until: Instant
}

extension GossipMachine {
    private static let relaysPerTry = 3
    private static let triesMax = 3

    /// Whether this node's own link seems sound: of the last probes, one for each member and at most sixteen, less than half failed.
    var isWell: Bool {
        let count = min(probeResultCount, members.living.count, UInt16.bitWidth)
        let failed = (UInt32(probeResults) & (1 << UInt32(count) - 1)).nonzeroBitCount
        return failed == 0 || failed * 2 < count
    }

    mutating func ping(_ place: Int, _ now: Instant) {
        var writer = beginPacket(to: members[place].life)
        writer.write(.ping)
        writer.write(members.hash)
        writeNews(&writer, to: members[place].life, limit: packetLimit, now: now)
        send(&writer, to: members[place].address)
    }

    mutating func probeNextMember(_ now: Instant) {
        for _ in 0..<2 {
            while probeNext < probeOrder.count {
                let life = probeOrder[probeNext]
                probeNext += 1
                guard let place = members.place(of: life), members[place].state == .alive,
                    !probes.contains(where: { $0.life == life })
                else { continue }
                return beginProbe(place, now)
            }
            probeOrder = members.living.map { members[$0].life }
            probeOrder.shuffle(using: &random)
            probeNext = 0
        }
    }

    /// A member that was not among the living when the order was made gets its turn in it too.
    mutating func insertIntoProbeOrder(_ life: UInt64) {
        let ahead = probeOrder.count - probeNext
        guard ahead < configuration.limits.nodesMax else { return }
        probeOrder.insert(life, at: probeNext + random.below(ahead + 1))
    }

    private mutating func beginProbe(_ place: Int, _ now: Instant) {
        ping(place, now)
        guard probes.count < configuration.limits.probesMax else { return }
        probes.append(Probe(life: members[place].life, begun: now, due: now + timing.probeTimeout))
    }

    /// Looks for itself whether a member lives of which others say that it does not.
    mutating func doubt(_ place: Int, _ now: Instant) {
        guard members[place].state == .alive, now - members[place].doubted > .seconds(1), probes.count < configuration.limits.probesMax / 2,
            !probes.contains(where: { $0.life == members[place].life })
        else { return }
        members[place].doubted = now
        beginProbe(place, now)
    }

    /// This node stood still: nobody is to blame for what it did not hear.
    mutating func forgiveProbes(_ now: Instant) {
        probes.removeAll()
        relays.removeAll()
        for life in suspicions {
            guard let place = members.place(of: life), case .suspect = members[place].state else { continue }
            members.setState(place, .suspect(until: now + timing.suspicionTime))
        }
    }

    mutating func advanceProbes(_ now: Instant) {
        var kept: [Probe] = []
        let all = probes
        probes = []
        for var probe in all {
            guard let place = members.place(of: probe.life), members[place].state == .alive else { continue }
            if members[place].heard >= probe.begun {
                note(probeFailed: false)
                continue
            }
            if probe.due <= now {
                if probe.tries == Self.triesMax {
                    note(probeFailed: true)
                    suspect(place, now)
                    continue
                }
                probe.tries += 1
                probe.due = now + timing.probeTimeout
                pingWithHelp(place, now)
            }
            kept.append(probe)
        }
        probes = kept
        relays.removeAll { $0.until <= now }
    }

    private mutating func note(probeFailed: Bool) {
        probeResults = probeResults << 1 | (probeFailed ? 1 : 0)
        probeResultCount = min(16, probeResultCount + 1)
    }

    private mutating func pingWithHelp(_ place: Int, _ now: Instant) {
        ping(place, now)
        for helper in someLiving(Self.relaysPerTry, without: place) {
            guard members[helper].state == .alive else { continue }
            var writer = beginPacket(to: members[helper].life)
            writer.write(.relay)
            writer.write(members[place].life)
            send(&writer, to: members[helper].address)
        }
    }

    private mutating func suspect(_ place: Int, _ now: Instant) {
        counters[.suspicions] += 1
        members.setState(place, .suspect(until: now + timing.suspicionTime))
        members[place].doubted = now
        if !suspicions.contains(members[place].life) { suspicions.append(members[place].life) }
        tell(place, members[place].entries.version, now)
    }

    mutating func advanceSuspicions(_ now: Instant) {
        guard !suspicions.isEmpty else { return }
        var kept: [UInt64] = []
        for life in suspicions {
            guard let place = members.place(of: life), case .suspect(let until) = members[place].state else { continue }
            kept.append(life)
            if until <= now {
                die(place, isCertain: isWell, now)
            } else if now - members[place].doubted >= timing.probeTimeout {
                members[place].doubted = now
                pingWithHelp(place, now)
            }
        }
        suspicions = kept
    }

    /// A member is held dead from now on.
    mutating func die(_ place: Int, isCertain: Bool, _ now: Instant) {
        counters[.unreachable] += 1
        members[place].isAccused = false
        members.setState(place, .dead(since: now, isCertain: isCertain))
        tell(place, members[place].entries.version, now)
        hurry(now)
        changed(place)
    }

    /// An own message of a member came.
    mutating func heard(_ life: UInt64, _ now: Instant) {
        guard let place = members.place(of: life), place != 0 else { return }
        members[place].heard = now
        if case .suspect = members[place].state { clearSuspicion(place) }
        guard !relays.isEmpty else { return }
        for relay in relays where relay.life == life {
            guard let origin = members.place(of: relay.origin) else { continue }
            var writer = beginPacket(to: relay.origin)
            writer.write(.relayed)
            writer.write(life)
            send(&writer, to: members[origin].address)
        }
        relays.removeAll { $0.life == life }
    }

    /// Somebody who was asked got an answer of the member.
    mutating func heardOf(_ life: UInt64, _ now: Instant) {
        guard let place = members.place(of: life), place != 0 else { return }
        if case .suspect = members[place].state { clearSuspicion(place) }
        if let index = probes.firstIndex(where: { $0.life == life }) {
            probes.remove(at: index)
            note(probeFailed: false)
        }
    }

    private mutating func clearSuspicion(_ place: Int) {
        counters[.suspicionsRefuted] += 1
        members.setState(place, .alive)
    }

    /// Somebody asks whether a member answers this node.
    mutating func relay(_ life: UInt64, for origin: UInt64, _ now: Instant) {
        guard let place = members.place(of: life), place != 0, !members[place].isGone, members.place(of: origin) != nil,
            relays.count < configuration.limits.probesMax
        else { return counters[.refusedProbes] += 1 }
        relays.append(Relay(life: life, origin: origin, until: now + timing.probeTimeout * 2))
        ping(place, now)
    }

    /// Pings one of those that are held dead, now and then: it may be a cut that has healed. It hears what is held against
    /// it and refutes.
    mutating func contactTheDead(_ now: Instant) {
        let dead = members.gone.filter { if case .dead = members[$0].state { true } else { false } }
        guard !dead.isEmpty else { return }
        // Some three times a second for each of the dead, by all the living together.
        let wanted = 3 * Double(dead.count) / Double(members.living.count + 1) * configuration.interval.seconds
        let chance = max(1, Int(min(0.1, wanted) * 1_000_000))
        guard random.below(1_000_000) < chance else { return }
        ping(dead[random.below(dead.count)], now)
    }
}
