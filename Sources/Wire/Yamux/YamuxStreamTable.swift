// The streams of one session: dense slots, an index from wire numbers to slots, and the two lists of streams whose time
// may run out. All of it is arrays of plain values that grow to the high-water mark and then allocate no more; a session
// without streams owns no memory.
//
// Invariants: a slot is either in use (number != 0, found by the index) or in the list of free slots. A stream is in a list
// exactly when its state says so. The lists are ordered by `since`, because time does not run backwards.

import Base
import Memory

/// The streams of one session.
struct YamuxStreamTable: ~Copyable {
    /// By slot.
    private var records: [YamuxStreamRecord] = []
    /// The first free slot below `records.count`.
    private var firstFree = YamuxStreamLink.none
    /// The ends of the lists.
    private var firsts: InlineArray<2, UInt32> = .init(repeating: YamuxStreamLink.none)
    private var lasts: InlineArray<2, UInt32> = .init(repeating: YamuxStreamLink.none)
    /// Number and slot, `number << 32 | slot`, hashed by the number with linear probing; 0 is an empty place. The size is
    /// zero or a power of two, at least twice `count`.
    private var index: [UInt64] = []

    /// Streams that live.
    private(set) var count = 0
    /// Those of them that are in the list `unacknowledged`.
    private(set) var unacknowledgedCount = 0

    /// The stream in the slot. The slot must be below the highest one ever used.
    subscript(_ slot: UInt32) -> YamuxStreamRecord {
        @inline(__always) _read { yield records[Int(slot)] }
        @inline(__always) _modify { yield &records[Int(slot)] }
    }

    /// The slot that `id` names; nil when that stream is gone.
    @inline(__always)
    func slot(of id: YamuxStreamID) -> UInt32? {
        Int(id.slot) < records.count && records[Int(id.slot)].number == id.number && id.number != 0 ? id.slot : nil
    }

    /// The slot of the stream with this number on the wire.
    @inline(__always)
    func slot(ofNumber number: UInt32) -> UInt32? {
        if index.isEmpty { return nil }
        let mask = index.count - 1
        var place = home(number)
        while index[place] != 0 {
            if index[place] >> 32 == UInt64(number) { return UInt32(truncatingIfNeeded: index[place]) }
            place = (place + 1) & mask
        }
        return nil
    }

    /// Takes a slot for a new stream. `event` is `open` or `accept`.
    mutating func insert(number: UInt32, event: YamuxStreamEvent, now: Instant) -> UInt32 {
        precondition(number != 0 && slot(ofNumber: number) == nil, "yamux: stream number in use")
        let slot: UInt32
        if firstFree == YamuxStreamLink.none {
            slot = UInt32(records.count)
            records.append(YamuxStreamRecord())
        } else {
            slot = firstFree
            firstFree = records[Int(slot)].links[0].next
        }
        records[Int(slot)] = YamuxStreamRecord()
        records[Int(slot)].number = number
        count += 1
        addToIndex(number: number, slot: slot)
        let applied = apply(event, to: slot, now: now)
        precondition(applied, "yamux: a new stream is opened or accepted")
        return slot
    }

    /// Takes the stream through one transition, which moves it between the lists and frees its slot when it is over. False,
    /// and nothing done, when the event is illegal in its state.
    mutating func apply(_ event: YamuxStreamEvent, to slot: UInt32, now: Instant) -> Bool {
        let old = records[Int(slot)].state
        guard let new = old.next(event) else { return false }
        if old == new { return true }
        records[Int(slot)].state = new
        move(slot, from: old, to: new, in: .unacknowledged, now: now)
        move(slot, from: old, to: new, in: .halfClosed, now: now)
        if new == .free { free(slot) }
        return true
    }

    /// The stream that has waited longest in the list, and since when.
    func oldest(in list: YamuxStreamList) -> (slot: UInt32, since: Instant)? {
        let slot = firsts[list.rawValue]
        return slot == YamuxStreamLink.none ? nil : (slot, records[Int(slot)].links[list.rawValue].since)
    }

    /// Puts a half-closed stream at the end of its list again: there was progress.
    mutating func refreshHalfClosed(_ slot: UInt32, now: Instant) {
        unlink(slot, from: YamuxStreamList.halfClosed.rawValue)
        append(slot, to: YamuxStreamList.halfClosed.rawValue, now: now)
    }

    // MARK: Lists

    private mutating func move(
        _ slot: UInt32, from old: YamuxStreamState, to new: YamuxStreamState, in list: YamuxStreamList, now: Instant
    ) {
        let waited = old.waits(in: list)
        let waits = new.waits(in: list)
        if waited == waits { return }
        if waits {
            append(slot, to: list.rawValue, now: now)
        } else {
            unlink(slot, from: list.rawValue)
        }
        if list == .unacknowledged { unacknowledgedCount += waits ? 1 : -1 }
    }

    private mutating func append(_ slot: UInt32, to list: Int, now: Instant) {
        let last = lasts[list]
        records[Int(slot)].links[list] = YamuxStreamLink(previous: last, next: YamuxStreamLink.none, since: now)
        if last == YamuxStreamLink.none {
            firsts[list] = slot
        } else {
            records[Int(last)].links[list].next = slot
        }
        lasts[list] = slot
    }

    private mutating func unlink(_ slot: UInt32, from list: Int) {
        let link = records[Int(slot)].links[list]
        if link.previous == YamuxStreamLink.none {
            firsts[list] = link.next
        } else {
            records[Int(link.previous)].links[list].next = link.next
        }
        if link.next == YamuxStreamLink.none {
            lasts[list] = link.previous
        } else {
            records[Int(link.next)].links[list].previous = link.previous
        }
    }

    private mutating func free(_ slot: UInt32) {
        removeFromIndex(number: records[Int(slot)].number)
        records[Int(slot)] = YamuxStreamRecord()
        records[Int(slot)].links[0].next = firstFree
        firstFree = slot
        count -= 1
    }

    // MARK: Index

    /// Where the search for a number starts. Fibonacci hashing spreads the consecutive numbers of a session evenly.
    @inline(__always)
    private func home(_ number: UInt32) -> Int {
        let product = UInt64(number) &* 0x9E37_79B9_7F4A_7C15
        return Int(truncatingIfNeeded: product >> 32) & (index.count - 1)
    }

    private mutating func addToIndex(number: UInt32, slot: UInt32) {
        if count * 2 > index.count {
            let old = index
            index = [UInt64](repeating: 0, count: max(16, old.count * 2))
            for entry in old where entry != 0 { place(entry) }
        }
        place(UInt64(number) << 32 | UInt64(slot))
    }

    private mutating func place(_ entry: UInt64) {
        var place = home(UInt32(truncatingIfNeeded: entry >> 32))
        while index[place] != 0 { place = (place + 1) & (index.count - 1) }
        index[place] = entry
    }

    /// Removes an entry and moves later ones of its run into the gap, so that no search stops short of them.
    private mutating func removeFromIndex(number: UInt32) {
        let mask = index.count - 1
        var gap = home(number)
        while index[gap] >> 32 != UInt64(number) { gap = (gap + 1) & mask }
        var place = (gap + 1) & mask
        while index[place] != 0 {
            let wanted = home(UInt32(truncatingIfNeeded: index[place] >> 32))
            if (place - wanted) & mask >= (place - gap) & mask {
                index[gap] = index[place]
                gap = place
            }
            place = (place + 1) & mask
        }
        index[gap] = 0
    }
}

// MARK: - On the way to another process

extension YamuxStreamTable {
    /// Writes down every stream that lives.
    func write(into state: inout StateWriter) {
        state.write(count)
        for record in records where record.number != 0 {
            state.write(record.number)
            state.write(record.state.rawValue)
            state.write(record.sendWindow)
            state.write(record.receiveWindow)
            state.write(record.unconsumed)
            state.write(record.returnable)
            state.write(record.links[0].since.nanoseconds)
            state.write(record.links[1].since.nanoseconds)
        }
    }

    /// The streams that were written down; their slots are new ones.
    init(reading state: inout StateReader, _ bytes: Span<UInt8>) throws(StateReadError) {
        self.init()
        let count: UInt32 = try state.integer(bytes)
        var since: [[Instant]] = []
        for slot in 0..<count {
            var record = YamuxStreamRecord()
            record.number = try state.integer(bytes)
            guard let streamState = YamuxStreamState(rawValue: try state.integer(bytes)), streamState != .free,
                record.number != 0, self.slot(ofNumber: record.number) == nil
            else { throw StateReadError() }
            record.state = streamState
            record.sendWindow = try state.integer(bytes)
            record.receiveWindow = try state.integer(bytes)
            record.unconsumed = try state.integer(bytes)
            record.returnable = try state.integer(bytes)
            since.append([Instant(nanoseconds: try state.number(bytes)), Instant(nanoseconds: try state.number(bytes))])
            records.append(record)
            self.count += 1
            addToIndex(number: record.number, slot: slot)
        }
        for list in [YamuxStreamList.unacknowledged, .halfClosed] {
            let waiting = records.indices.filter { records[$0].state.waits(in: list) }
            for slot in waiting.sorted(by: { since[$0][list.rawValue] < since[$1][list.rawValue] }) {
                append(UInt32(slot), to: list.rawValue, now: since[slot][list.rawValue])
            }
            if list == .unacknowledged { unacknowledgedCount = waiting.count }
        }
    }
}
