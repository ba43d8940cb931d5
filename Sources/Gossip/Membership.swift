// Lives that come and go: what a section says of a life is believed, refuted, or refused.

internal import Base

extension GossipMachine {
    // MARK: What is told

    /// Takes a section of somebody's.
    mutating func apply(_ section: Section, _ now: Instant) {
        counters[.deltaEntriesIn] += UInt64(section.entries.count)
        guard section.life != envelope.life else { return hearOfSelf(section, now) }
        guard let place = members.place(of: section.life) ?? learn(section, now) else { return }
        switch section.state {
        case .alive: believeAlive(place, section.refutation, now)
        case .suspect: believeSuspect(place, section.refutation, now)
        case .dead: believeDead(place, section, now)
        case .left:
            if case .left = members[place].state { return }
            end(place, now)
        }
        if !section.entries.isEmpty, !members[place].isGone { applyEntries(place, section, now) }
    }

    private mutating func hearOfSelf(_ section: Section, _ now: Instant) {
        switch section.state {
        case .alive: if section.refutation > members[0].refutation { refute(above: section.refutation - 1, now) }
        case .suspect, .dead: if section.refutation >= members[0].refutation { refute(above: section.refutation, now) }
        case .left: if leaving == .no { raise(above: members[0].incarnation, now) }
        }
    }

    private mutating func refute(above refutation: UInt32, _ now: Instant) {
        guard refutation < UInt32.max - 1 else { return raise(above: members[0].incarnation, now) }
        counters[.refutations] += 1
        members[0].refutation = refutation + 1
        members.settle(0)
        tell(0, members[0].entries.version, now)
        hurry(now)
    }

    /// Begins a new life under an incarnation above one that somebody has of this node's id.
    mutating func raise(above incarnation: UInt64, _ now: Instant) {
        if raises >= 3 {
            guard now - lastRaise > .seconds(10) else { return }
            outputs.append(.change(.idConflict))
        }
        guard incarnation < UInt64.max else { return }
        raises += 1
        lastRaise = now
        let life = random.next() | 1
        envelope.beginLife(life)
        members.renameLocal(life: life, incarnation: incarnation + 1)
        tell(0, 0, now)
        members[0].newsBase = 0
        members[0].newsMarks = [Member.NewsMark(version: 0, instant: now)]
        hurry(now)
    }

    private mutating func believeAlive(_ place: Int, _ refutation: UInt32, _ now: Instant) {
        guard refutation > members[place].refutation else { return }
        switch members[place].state {
        case .left: return
        case .dead:
            members[place].refutation = refutation
            revive(place, now)
            return
        case .suspect: counters[.suspicionsRefuted] += 1
        case .alive: break
        }
        members[place].refutation = refutation
        members[place].isAccused = false
        members.setState(place, .alive)
        tell(place, members[place].entries.version, now)
    }

    private mutating func revive(_ place: Int, _ now: Instant) {
        counters[.recovered] += 1
        members[place].isAccused = false
        members.setState(place, .alive)
        insertIntoProbeOrder(members[place].life)
        tell(place, members[place].entries.version, now)
        changed(place)
    }

    private mutating func believeSuspect(_ place: Int, _ refutation: UInt32, _ now: Instant) {
        guard !members[place].isGone, refutation >= members[place].refutation else {
            // Newer than what was held against it.
            return believeAlive(place, refutation, now)
        }
        guard !members[place].isAccused || refutation > members[place].refutation else { return }
        members[place].isAccused = true
        members[place].refutation = refutation
        members.settle(place)
        tell(place, members[place].entries.version, now)
    }

    private mutating func believeDead(_ place: Int, _ section: Section, _ now: Instant) {
        guard !members[place].isGone, section.refutation >= members[place].refutation else { return }
        members[place].refutation = section.refutation
        members.settle(place)
        let wasHeard = members[place].heard > Instant(nanoseconds: 0) && now - members[place].heard < timing.probeTimeout
        if section.isFresh, !wasHeard {
            die(place, isCertain: true, now)
        } else {
            members[place].isAccused = true
            doubt(place, now)
        }
    }

    /// A life said goodbye, or another one took its place.
    private mutating func end(_ place: Int, _ now: Instant) {
        members[place].isAccused = false
        members.setState(place, .left(since: now))
        tell(place, members[place].entries.version, now)
        changed(place)
    }

    private mutating func applyEntries(_ place: Int, _ section: Section, _ now: Instant) {
        let before = members[place].entries.version
        guard section.base <= before, section.entries[section.entries.count - 1].version > before else { return }
        var changedEndpoints: [String] = []
        var isChanged = false
        for entry in section.entries where entry.version > members[place].entries.version {
            guard hasRoom(place, entry.slot) else {
                counters[.refusedEntries] += 1
                break
            }
            members[place].entries.write(entry.slot, entry.text, entry.count, version: entry.version, changed: &changedEndpoints)
            if entry.slot < EntryTable.firstEndpoint { isChanged = true }
        }
        members.settle(place)
        if members[place].entries.attribute(.status) == GossipNodeStatus.left.rawValue {
            end(place, now)
        } else {
            tell(place, before, now)
            if isChanged { changed(place) }
        }
        let id = members[place].id
        if changedEndpoints.count > 1 {
            var seen: Set<String> = []
            changedEndpoints.removeAll { !seen.insert($0).inserted }
        }
        for endpoint in changedEndpoints {
            let count = members[place].entries.count(of: endpoint)
            outputs.append(.change(.endpoint(node: id, endpoint: endpoint, count: count)))
        }
    }

    private func hasRoom(_ place: Int, _ slot: Int) -> Bool {
        let more = slot + 1 - members[place].entries.slots.count
        return slot < configuration.limits.nodeEntriesMax && (more <= 0 || members.slots + more <= configuration.limits.entriesMax)
    }

    // MARK: Lives

    /// A life that was not known.
    private mutating func learn(_ section: Section, _ now: Instant) -> Int? {
        guard section.state == .alive || section.state == .suspect, section.base == 0 || section.entries.isEmpty,
            let introduction = section.introduction
        else { return nil }
        return learn(section.life, introduction, refutation: section.refutation, now)
    }

    /// Takes a life in, unless it is known to have ended or its id has a newer one. Returns its place, if it has one.
    mutating func learn(_ life: UInt64, _ introduction: Introduction, refutation: UInt32, _ now: Instant) -> Int? {
        if let place = members.place(of: life) { return place == 0 ? nil : place }
        if introduction.id == members[0].id {
            if introduction.incarnation >= members[0].incarnation {
                raise(above: introduction.incarnation, now)
            } else {
                bury(life, nil, now)
            }
            return nil
        }
        if let grave = graves.grave(of: life) {
            guard let remembered = grave.refutation, refutation > remembered else {
                counters[.ghostsRefused] += 1
                return nil
            }
        }
        if let other = members.place(ofID: introduction.id) {
            let isNewer = (introduction.incarnation, life) > (members[other].incarnation, members[other].life)
            guard isNewer || members[other].isGone else {
                counters[.ghostsRefused] += 1
                bury(life, nil, now)
                return nil
            }
            remove(other, isFinal: isNewer, now)
        }
        guard members.count < configuration.limits.nodesMax else {
            counters[.refusedNodes] += 1
            return nil
        }
        graves.exhume(life)
        var member = Member(
            life: life, id: introduction.id, incarnation: introduction.incarnation, address: introduction.address)
        member.refutation = refutation
        let place = members.add(member)
        lost.removeAll { $0.address == introduction.address }
        insertIntoProbeOrder(life)
        tell(place, 0, now)
        outputs.append(.change(.nodeAppeared(applicationNode(place))))
        return place
    }

    private mutating func bury(_ life: UInt64, _ refutation: UInt32?, _ now: Instant) {
        graves.bury(Graves.Grave(life: life, refutation: refutation, until: now + configuration.limits.graveTime))
    }

    /// Forgets a life; `isFinal` when it can't come back.
    mutating func remove(_ place: Int, isFinal: Bool, _ now: Instant) {
        let member = members[place]
        var isOver = isFinal
        if case .left = member.state { isOver = true }
        bury(member.life, isOver ? nil : member.refutation, now)
        news.removeAll { $0 == place }
        members.remove(place)
        if !isOver { lose(member.address, now) }
        outputs.append(.change(.nodeRemoved(id: member.id, incarnation: member.incarnation)))
    }

    mutating func expire(_ now: Instant) {
        graves.expire(now: now)
        for place in members.gone {
            switch members[place].state {
            case .dead(let since, _), .left(let since):
                guard now - since >= configuration.expiry else { continue }
                counters[.expired] += 1
                remove(place, isFinal: false, now)
            case .alive, .suspect: preconditionFailure("the living are not among the gone")
            }
        }
    }

    /// This node stood still for so long that what it knows is worth nothing: it begins anew, with the addresses that it knows.
    mutating func forgetOthers(_ now: Instant) {
        probes.removeAll()
        relays.removeAll()
        for place in members.places where place != 0 {
            let member = members[place]
            news.removeAll { $0 == place }
            members.remove(place)
            lose(member.address, now)
            outputs.append(.change(.nodeRemoved(id: member.id, incarnation: member.incarnation)))
        }
        nextContact = now
    }

    // MARK: The application

    /// Tells the application that a node changed.
    mutating func changed(_ place: Int) {
        guard place != 0 else { return }
        outputs.append(.change(.nodeChanged(applicationNode(place))))
    }

    func applicationNode(_ place: Int) -> GossipNode {
        let member = members[place]
        var node = GossipNode(id: member.id, incarnation: member.incarnation, address: member.address, status: .active)
        node.proxyAddress = member.entries.attribute(.proxyAddress)
        node.adminAddress = member.entries.attribute(.adminAddress)
        node.version = member.entries.attribute(.version)
        switch member.state {
        case .alive, .suspect: node.status = GossipNodeStatus(rawValue: member.entries.attribute(.status)) ?? .active
        case .dead: node.status = .unreachable
        case .left: node.status = .left
        }
        return node
    }
}
