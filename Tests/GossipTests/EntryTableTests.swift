// A node's slots: against a plain model, and as others see them by deltas that are cut anywhere.

import Testing

@testable import Gossip

@Suite struct EntryTableTests {
    /// Random writes; endpoints, counts and the order of versions are those of a model.
    @Test(arguments: 1...20)
    func agreesWithAModel(_ seed: Int) {
        var random = GossipRandom(seed: UInt64(seed))
        var table = EntryTable()
        var slots: [Int: (text: String, count: UInt32, version: UInt64)] = [:]
        var version: UInt64 = 0
        for _ in 0..<2_000 {
            version += UInt64(1 + random.below(3))
            var changed: [String] = []
            if random.below(50) == 0 {
                let size = 8 + random.below(30)
                table.write(EntryTable.sizeSlot, "", UInt32(size), version: version, changed: &changed)
                slots = slots.filter { $0.key < size }
                slots[7] = ("", UInt32(size), version)
            } else {
                let slot = 8 + random.below(40)
                // Names are few, so that one moves from slot to slot.
                let text = random.below(3) == 0 ? "" : "e\(random.below(30))"
                let count = text.isEmpty ? 0 : UInt32(1 + random.below(5))
                table.write(slot, text, count, version: version, changed: &changed)
                slots[slot] = (text, count, version)
            }
            // An endpoint's slot is the one that was written last with it; one that was named in a slot written over is gone.
            var order: [UInt64] = []
            table.forEach(after: 0) { slot, entry in
                order.append(entry.version)
                #expect(slots[slot].map { $0.text == entry.text && $0.count == entry.count && $0.version == entry.version } == true)
                return true
            }
            #expect(order == slots.values.map(\.version).sorted())
        }
        #expect(table.version == version)
    }

    /// What an owner does (a name is in one slot only, or has just moved), and a receiver that gets deltas cut anywhere: in the end
    /// the same endpoints, and at each time those of a moment of the owner's.
    @Test(arguments: 1...20)
    func deltasCutAnywhere(_ seed: Int) {
        var random = GossipRandom(seed: UInt64(seed))
        var owner = EntryTable()
        var receiver = EntryTable()
        var listed: [String: UInt32] = [:]
        for _ in 0..<1_500 {
            var changed: [String] = []
            let name = "endpoint-\(random.below(40))"
            let count = UInt32(random.below(4))
            if let slot = owner.slot(of: name) {
                owner.write(slot, count == 0 ? "" : name, count, version: owner.version + 1, changed: &changed)
            } else if count > 0 {
                let free = (8..<max(8, owner.slots.count)).first { owner.slots[$0].text.isEmpty } ?? max(8, owner.slots.count)
                owner.write(free, name, count, version: owner.version + 1, changed: &changed)
            }
            listed[name] = count == 0 ? nil : count
            #expect(owner.count(of: name) == count && owner.endpoints == listed.count)
            #expect(owner.listeners == listed.values.reduce(0) { $0 + Int($1) })
            if random.below(4) == 0 {
                var left = random.below(10)
                var entries: [(Int, EntryTable.Slot)] = []
                owner.forEach(after: receiver.version) { slot, entry in
                    entries.append((slot, entry))
                    left -= 1
                    return left > 0
                }
                for (slot, entry) in entries {
                    receiver.write(slot, entry.text, entry.count, version: entry.version, changed: &changed)
                }
            }
        }
        var changed: [String] = []
        var entries: [(Int, EntryTable.Slot)] = []
        owner.forEach(after: receiver.version) { slot, entry in
            entries.append((slot, entry))
            return true
        }
        for (slot, entry) in entries { receiver.write(slot, entry.text, entry.count, version: entry.version, changed: &changed) }
        #expect(receiver.endpoints == listed.count && receiver.version == owner.version)
        for (name, count) in listed { #expect(receiver.count(of: name) == count) }
    }
}
