// News: what changed a moment ago is told to whoever is spoken to, the least told first, some times that grow with the logarithm
// of the cluster; then it is old, and sooner where others turn out to know it. Whoever missed it notices that states differ, and asks.
//
// News of a member are its state and its latest entries, from the version that it had when they began. As whoever hears them
// can use them only when it has that version, they go back somewhat further than the last change.

internal import Base

extension GossipMachine {
    /// How often a piece of news is told.
    private var sendsMax: UInt16 { UInt16(4 + 3 * (Int.bitWidth - members.living.count.leadingZeroBitCount)) }

    /// There are news of a member, which had the version `before` until now.
    mutating func tell(_ place: Int, _ before: UInt64, _ now: Instant) {
        if members[place].sendsLeft == 0 {
            members[place].newsMarks = [Member.NewsMark(version: before, instant: now)]
            members[place].newsBase = before
        } else {
            news.removeAll { $0 == place }
            if let last = members[place].newsMarks.last, now - last.instant >= configuration.interval {
                members[place].newsMarks.append(Member.NewsMark(version: before, instant: now))
                let old = members[place].newsMarks.prefix { now - $0.instant > timing.newsTime }.count
                members[place].newsMarks.removeFirst(old)
                members[place].newsBase = members[place].newsMarks[0].version
            }
        }
        members[place].sendsLeft = sendsMax
        news.insert(place, at: 0)
    }

    /// Another one knows all of it: the news are half as new. Suspicions are no part of what states agree about.
    mutating func coolNews() {
        guard !news.isEmpty else { return }
        var kept: [Int] = []
        for place in news {
            if !members[place].isAccused, !members[place].isSuspect { members[place].sendsLeft /= 2 }
            if members[place].sendsLeft > 0 { kept.append(place) } else { members[place].newsMarks = [] }
        }
        news = kept
    }

    /// Lets own news go out at once, but not too often.
    mutating func hurry(_ now: Instant) {
        guard eagerAt == nil, leaving != .done else { return }
        eagerAt = max(now, lastEager + configuration.interval / 5)
    }

    mutating func tellEagerly(_ now: Instant) {
        eagerAt = nil
        lastEager = now
        for place in someLiving(3, without: 0) { ping(place, now) }
    }

    /// Writes the part of news, if there are any that have room. `recipient` hears first what concerns itself.
    mutating func writeNews(_ writer: inout GossipWriter, to recipient: UInt64, limit: Int, now: Instant) {
        let start = writer.count
        guard start + 1 < limit else { return }
        writer.write(.sections)
        let first = writer.count
        writeNotice(&writer, of: recipient, limit: limit, now: now)
        var place = 0
        var passed: [Int] = []
        while place < news.count, passed.count < 256 {
            let member = news[place]
            if members[member].life == recipient {
                place += 1
                continue
            }
            let base = newsBase(of: member, room: limit - writer.count)
            guard writeSection(&writer, of: member, base: base, limit: limit, now: now) != nil else { break }
            members[member].sendsLeft -= 1
            passed.append(member)
            news.remove(at: place)
        }
        for member in passed {
            if members[member].sendsLeft > 0 { news.append(member) } else { members[member].newsMarks = [] }
        }
        if writer.count == first { writer.truncate(to: start) }
    }

    /// From where on a member's news are told: from their beginning, or, when there are too many, the latest that have room.
    private func newsBase(of place: Int, room: Int) -> UInt64 {
        let base = members[place].newsBase
        guard !members[place].isGone else { return base }
        return members[place].entries.base(ofLatest: max(0, room - 64), notBefore: base)
    }

    /// Writes a section of a member: all that was written after `base`, or its beginning. Returns the version that it ends
    /// with; nil when nothing has room.
    mutating func writeSection(_ writer: inout GossipWriter, of place: Int, base: UInt64, limit: Int, now: Instant) -> UInt64? {
        let member = members[place]
        var state = LifeState.alive
        var isFresh = false
        switch member.state {
        case .alive: state = member.isAccused ? .suspect : .alive
        case .suspect: state = .suspect
        case .dead(let since, let isCertain):
            state = .dead
            isFresh = isCertain && now - since < timing.certainTime
        case .left: state = .left
        }
        var written = 0
        let version = writer.write(
            section: member.life, state, isFresh: isFresh, refutation: member.refutation,
            introduction: base == 0 && !member.isGone ? member.introduction : nil, entries: member.isGone ? nil : member.entries,
            base: base, limit: limit, written: &written)
        counters[.deltaEntriesOut] += UInt64(written)
        return version
    }

    /// Writes what is held against a life, for itself or for those who hold it alive. Returns whether there was something.
    @discardableResult
    mutating func writeNotice(_ writer: inout GossipWriter, of life: UInt64, limit: Int, now: Instant) -> Bool {
        if let place = members.place(of: life) {
            guard place != 0 else { return false }
            switch members[place].state {
            case .alive: guard members[place].isAccused else { return false }
            case .suspect, .dead, .left: break
            }
            return writeSection(&writer, of: place, base: members[place].entries.version, limit: limit, now: now) != nil
        }
        guard let grave = graves.grave(of: life) else { return false }
        var written = 0
        return writer.write(
            section: life, grave.refutation == nil ? .left : .dead, isFresh: false, refutation: grave.refutation ?? 0,
            introduction: nil, entries: nil, base: 0, limit: limit, written: &written) != nil
    }
}
