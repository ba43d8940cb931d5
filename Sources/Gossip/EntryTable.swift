// What one node says: its attributes and endpoints, as numbered slots that are written again and again.
//
// Why slots, and not keys with tombstones: a removed endpoint's slot is empty until another endpoint takes it, so removals
// need no memory of their own that somebody must collect at the right time, and a delta can be cut anywhere. The node that
// owns the table picks the slots; the others do as it did, in the order of its versions. When most slots are empty, the owner
// moves the last ones down and cuts the table off (slot 7 says where).
//
// Invariants: versions are unique and grow; `version` is the highest; the list from `oldest` to `newest` has every written
// slot in the order of versions, so a delta costs what it holds. `places` (open addressing, linear probing) finds the one slot
// of an endpoint. Whoever has version V of a table has exactly the owner's slots as they were written up to V.

internal import Base

/// The slots of one node.
struct EntryTable {
    /// The first slot of an endpoint; those below are attributes.
    static let firstEndpoint = 8
    /// The slot whose count says how many slots there are.
    static let sizeSlot = 7

    struct Slot {
        /// The endpoint's name, or the attribute's value; empty when the endpoint was removed.
        var text = ""
        /// Zero: never written.
        var version: UInt64 = 0
        var count: UInt32 = 0
        /// The slots written before and after this one; -1 for none.
        var older: Int32 = -1
        var newer: Int32 = -1
    }

    private(set) var slots: [Slot] = []
    /// Slots of endpoints, -1 where none; a power of two long, or empty.
    private var places: [Int32] = []
    private(set) var newest: Int32 = -1
    private(set) var oldest: Int32 = -1
    private(set) var version: UInt64 = 0
    /// Endpoints, and their counts in all.
    private(set) var endpoints = 0
    private(set) var listeners = 0

    /// Slots of removed endpoints.
    var removed: Int { max(0, slots.count - Self.firstEndpoint) - endpoints }

    /// The slot of an endpoint.
    func slot(of endpoint: String) -> Int? {
        guard !places.isEmpty else { return nil }
        let place = find(endpoint)
        return places[place] < 0 ? nil : Int(places[place])
    }

    func count(of endpoint: String) -> UInt32 { slot(of: endpoint).map { slots[$0].count } ?? 0 }

    func attribute(_ attribute: GossipAttribute) -> String {
        let slot = Int(attribute.rawValue)
        return slot < slots.count ? slots[slot].text : ""
    }

    /// Writes a slot, under a version above all others. Names of endpoints whose count may have changed are appended.
    mutating func write(_ slot: Int, _ text: String, _ count: UInt32, version: UInt64, changed: inout [String]) {
        precondition(version > self.version, "versions of a table grow")
        if slots.count <= slot { grow(to: slot + 1) }
        if slot >= Self.firstEndpoint {
            let before = slots[slot].text
            if before != text, !before.isEmpty, self.slot(of: before) == slot {
                forget(slot)
                changed.append(before)
            }
        }
        unlink(slot)
        if slot >= Self.firstEndpoint, !text.isEmpty {
            place(text, slot, count)
            changed.append(text)
        }
        slots[slot].text = text
        slots[slot].count = count
        slots[slot].version = version
        link(slot)
        self.version = version
        if slot == Self.sizeSlot { cut(to: max(Int(count), Self.firstEndpoint), changed: &changed) }
    }

    /// Writes all slots again, in the same order, under versions above this one, the last one being the table's size, so that
    /// whoever has slots that this table has not cuts them off.
    mutating func rewrite(above version: UInt64) {
        var slot = oldest
        var next = version
        while slot >= 0 {
            next += 1
            slots[Int(slot)].version = next
            slot = slots[Int(slot)].newer
        }
        // Slots that were never written may have been by another program.
        for hole in slots.indices.dropFirst(Self.firstEndpoint) where slots[hole].version == 0 {
            next += 1
            slots[hole].version = next
            link(hole)
        }
        self.version = next
        var changed: [String] = []
        write(Self.sizeSlot, "", UInt32(max(slots.count, Self.firstEndpoint)), version: next + 1, changed: &changed)
    }

    /// Calls with the slots that were written after `base`, oldest first, until it returns false.
    func forEach(after base: UInt64, _ body: (Int, Slot) -> Bool) {
        var slot = newest
        var first: Int32 = -1
        if base == 0 {
            first = oldest
        } else {
            while slot >= 0, slots[Int(slot)].version > base {
                first = slot
                slot = slots[Int(slot)].older
            }
        }
        while first >= 0 {
            if !body(Int(first), slots[Int(first)]) { return }
            first = slots[Int(first)].newer
        }
    }

    /// The version after which the latest entries were written that have room in so many bytes, and `base` at the least.
    func base(ofLatest bytes: Int, notBefore base: UInt64) -> UInt64 {
        var slot = newest
        var used = 0
        while slot >= 0, slots[Int(slot)].version > base {
            used += slots[Int(slot)].text.utf8.count + 12
            if used > bytes { return slots[Int(slot)].version }
            slot = slots[Int(slot)].older
        }
        return base
    }

    private mutating func grow(to count: Int) {
        // In steps of a quarter: a million of them should not leave another million unused.
        if slots.capacity < count { slots.reserveCapacity(max(count, Self.firstEndpoint, slots.count + slots.count / 4)) }
        while slots.count < count { slots.append(Slot()) }
    }

    /// Takes away the slots from `count` on.
    private mutating func cut(to count: Int, changed: inout [String]) {
        while slots.count > count {
            let slot = slots.count - 1
            if !slots[slot].text.isEmpty, self.slot(of: slots[slot].text) == slot {
                changed.append(slots[slot].text)
                forget(slot)
            }
            unlink(slot)
            slots.removeLast()
        }
    }

    private mutating func unlink(_ slot: Int) {
        guard slots[slot].version > 0 else { return }
        let older = slots[slot].older
        let newer = slots[slot].newer
        if older >= 0 { slots[Int(older)].newer = newer } else { oldest = newer }
        if newer >= 0 { slots[Int(newer)].older = older } else { newest = older }
    }

    private mutating func link(_ slot: Int) {
        slots[slot].older = newest
        slots[slot].newer = -1
        if newest >= 0 { slots[Int(newest)].newer = Int32(slot) } else { oldest = Int32(slot) }
        newest = Int32(slot)
    }

    // MARK: Places

    private func find(_ endpoint: String) -> Int {
        var place = ExactName(endpoint).hashValue & (places.count - 1)
        while places[place] >= 0, !slots[Int(places[place])].text.utf8.elementsEqual(endpoint.utf8) { place = (place + 1) & (places.count - 1) }
        return place
    }

    /// The endpoint is in this slot from now on; its text is not written yet.
    private mutating func place(_ endpoint: String, _ slot: Int, _ count: UInt32) {
        if (endpoints + 1) * 3 > places.count * 2 { rehash() }
        let place = find(endpoint)
        if places[place] >= 0 {
            listeners -= Int(slots[Int(places[place])].count)
        } else {
            endpoints += 1
        }
        places[place] = Int32(slot)
        listeners += Int(count)
    }

    private mutating func rehash() {
        let before = places
        places = [Int32](repeating: -1, count: max(8, before.count * 2))
        for slot in before where slot >= 0 { places[find(slots[Int(slot)].text)] = slot }
    }

    /// The endpoint in this slot is gone. Those that were put further because of it move up.
    private mutating func forget(_ slot: Int) {
        endpoints -= 1
        listeners -= Int(slots[slot].count)
        let mask = places.count - 1
        var hole = find(slots[slot].text)
        var place = hole
        while true {
            place = (place + 1) & mask
            guard places[place] >= 0 else { break }
            let home = ExactName(slots[Int(places[place])].text).hashValue & mask
            if (place - home) & mask >= (place - hole) & mask {
                places[hole] = places[place]
                hole = place
            }
        }
        places[hole] = -1
    }
}
