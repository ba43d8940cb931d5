// What is open for each subject of a quota, and how fast its requests come, in memory that the supervisor and its workers share.
//
// A slot is one subject: its key, the arrival time of its rate (`RequestRate`), and one cell for each counter slab with the
// number of streams that the slab's process has open. Each cell has one writer; whoever needs the number sums them. When a worker
// ends, the supervisor zeroes its cells, and what it had open is given back.
//
// A slot is found by the subject's hash, among the `window` slots that begin there. It is claimed with a compare-and-swap,
// when it is free or idle: nothing open, no debt in its rate. Whoever draws counts first and then looks whether the slot is still
// the subject's; whoever reclaims marks the slot first and then looks whether it is still idle. So one of them sees the other.
// Two that claim slots for one subject at a time each see the other's, and give theirs up.
//
// Workers can write to this memory. A wild one can refuse its siblings' clients or let in too many; it leads nobody out of it:
// the layout is read once and checked against the size.

public import Base
import Synchronization

/// Why memory can't be read as quotas.
public enum QuotaRegionError: Error, Equatable {
    /// It does not begin as quotas do, or not in a version that this program knows.
    case notQuotas
    /// The layout does not fit into the region.
    case invalidLayout
}

/// The quotas of a node.
@safe
public final class QuotaRegion {
    /// Subjects that a node keeps count of at once.
    public static let slotsDefault = 16_384
    /// Slots in which a subject may be.
    static let windowMax = 64

    static let magic: UInt64 = 0x3141_5551_4f4b_4950  // "PIKOQUA1"
    static let headerWords = 512
    private enum Word { static let magic = 0, slots = 1, slabs = 2 }

    /// How many slots there are: a power of two.
    public let slotCount: Int
    /// How many processes can count.
    public let slabCount: Int
    private let region: SharedRegion
    private let keys: UnsafeMutablePointer<Atomic<UInt64>>
    private let firstSlot: Int
    private let slotWords: Int

    var window: Int { min(Self.windowMax, slotCount) }

    private static func slotWords(slabs: Int) -> Int { (1 + (slabs + 1) / 2 + 7) / 8 * 8 }

    private static func isSane(slots: Int, slabs: Int) -> Bool {
        slots >= 1 && slots <= 1 << 20 && slots & (slots - 1) == 0 && slabs >= 1 && slabs < Int(QuotaSubject.keyMin) - 1
    }

    /// The bytes that so many need.
    public static func byteCount(slots: Int = slotsDefault, slabs: Int) -> Int {
        (headerWords + slots + slots * slotWords(slabs: slabs)) * 8
    }

    /// Lays out a zeroed region. Done once, by its creator.
    public init(formatting region: SharedRegion, slots: Int = slotsDefault, slabs: Int) {
        precondition(Self.isSane(slots: slots, slabs: slabs), "QuotaRegion layout")
        precondition(region.byteCount >= Self.byteCount(slots: slots, slabs: slabs), "QuotaRegion is too small")
        self.region = region
        slotCount = slots
        slabCount = slabs
        slotWords = Self.slotWords(slabs: slabs)
        firstSlot = Self.headerWords + slots
        unsafe keys = region.words(from: Self.headerWords, count: slots)
        let header = unsafe region.words(from: 0, count: Self.headerWords)
        unsafe header[Word.slots].store(UInt64(slots), ordering: .relaxed)
        unsafe header[Word.slabs].store(UInt64(slabs), ordering: .relaxed)
        unsafe header[Word.magic].store(Self.magic, ordering: .releasing)
    }

    /// Reads the layout that another process wrote.
    public init(opening region: SharedRegion) throws(QuotaRegionError) {
        guard region.wordCount >= Self.headerWords else { throw .notQuotas }
        let header = unsafe region.words(from: 0, count: Self.headerWords)
        guard unsafe header[Word.magic].load(ordering: .acquiring) == Self.magic else { throw .notQuotas }
        let slots = Int(clamping: unsafe header[Word.slots].load(ordering: .relaxed))
        let slabs = Int(clamping: unsafe header[Word.slabs].load(ordering: .relaxed))
        guard Self.isSane(slots: slots, slabs: slabs), region.byteCount >= Self.byteCount(slots: slots, slabs: slabs) else {
            throw .invalidLayout
        }
        self.region = region
        slotCount = slots
        slabCount = slabs
        slotWords = Self.slotWords(slabs: slabs)
        firstSlot = Self.headerWords + slots
        unsafe keys = region.words(from: Self.headerWords, count: slots)
    }

    /// What the process with the slab draws with. There may be one for each slab.
    public func account(slab: Int) -> QuotaAccount {
        precondition(slab >= 0 && slab < slabCount, "no such slab")
        return QuotaAccount(self, slab: slab)
    }

    /// Gives back everything that the slab's process has open. It must be gone, or not yet there; the supervisor calls.
    public func clear(slab: Int) {
        precondition(slab >= 0 && slab < slabCount, "no such slab")
        for slot in 0..<slotCount {
            let key = key(slot)
            if key == 0 { continue }
            setOpen(slot, slab, 0)
            // It ended while it reclaimed the slot.
            if key == Self.mark(slab) { free(slot) }
        }
    }

    /// The streams that the subject has open in all processes; 0 when it has no slot.
    public func openStreams(of subject: QuotaSubject) -> UInt64 { find(subject.key).map { openStreams($0) } ?? 0 }

    // MARK: Slots

    /// What stands in place of a key while the slab's process reclaims the slot.
    private static func mark(_ slab: Int) -> UInt64 { UInt64(slab) + 1 }

    private func place(_ key: UInt64, _ step: Int) -> Int {
        (Int(truncatingIfNeeded: (key &* 0x9e37_79b9_7f4a_7c15) >> 32) &+ step) & (slotCount - 1)
    }

    func key(_ slot: Int) -> UInt64 { unsafe keys[slot].load(ordering: .sequentiallyConsistent) }

    /// The slot of the key; nil: it has none.
    func find(_ key: UInt64) -> Int? {
        for step in 0..<window where self.key(place(key, step)) == key { return place(key, step) }
        return nil
    }

    /// The slot of the key, claimed by the slab's process when it has none; nil: all that it could have are in use.
    func slot(for key: UInt64, slab: Int, now: UInt64) -> Int? {
        for _ in 0..<Self.triesMax {
            if let known = find(key) { return known }
            guard let claimed = claim(key, slab, now) else { return nil }
            if !isElsewhere(key, than: claimed) { return claimed }
            if unsafe keys[claimed].compareExchange(expected: key, desired: Self.mark(slab), ordering: .sequentiallyConsistent).exchanged {
                if isIdle(claimed, now) { free(claimed) } else { unsafe keys[claimed].store(key, ordering: .sequentiallyConsistent) }
            }
        }
        return find(key)
    }

    private static let triesMax = 8

    private func claim(_ key: UInt64, _ slab: Int, _ now: UInt64) -> Int? {
        for step in 0..<window {
            let slot = place(key, step)
            let (isMine, found) = unsafe keys[slot].compareExchange(expected: 0, desired: key, ordering: .sequentiallyConsistent)
            if isMine || found == key { return slot }
        }
        for step in 0..<window {
            let slot = place(key, step)
            let found = self.key(slot)
            if found == key { return slot }
            guard found >= QuotaSubject.keyMin, isIdle(slot, now),
                unsafe keys[slot].compareExchange(expected: found, desired: Self.mark(slab), ordering: .sequentiallyConsistent).exchanged
            else { continue }
            let isStillIdle = isIdle(slot, now)
            if isStillIdle { arrival(slot) { word in word.store(0, ordering: .relaxed) } }
            unsafe keys[slot].store(isStillIdle ? key : found, ordering: .sequentiallyConsistent)
            if isStillIdle { return slot }
        }
        return nil
    }

    private func isElsewhere(_ key: UInt64, than slot: Int) -> Bool {
        for step in 0..<window where place(key, step) != slot && self.key(place(key, step)) == key { return true }
        return false
    }

    private func free(_ slot: Int) {
        arrival(slot) { word in word.store(0, ordering: .relaxed) }
        unsafe keys[slot].store(0, ordering: .sequentiallyConsistent)
    }

    private func isIdle(_ slot: Int, _ now: UInt64) -> Bool {
        atomicMemoryFence(ordering: .sequentiallyConsistent)
        return arrival(slot) { word in word.load(ordering: .relaxed) } <= now && openStreams(slot) == 0
    }

    // MARK: A slot's numbers

    /// Calls `body` with the slot's arrival time.
    func arrival<Result>(_ slot: Int, _ body: (borrowing Atomic<UInt64>) -> Result) -> Result {
        unsafe body(region.words(from: firstSlot + slot * slotWords, count: 1).pointee)
    }

    private func cells(_ slot: Int) -> UnsafeMutablePointer<Atomic<UInt32>> {
        unsafe region.halfWords(from: 2 * (firstSlot + slot * slotWords + 1), count: slabCount)
    }

    func openStreams(_ slot: Int) -> UInt64 {
        let cells = unsafe cells(slot)
        var sum: UInt64 = 0
        for slab in 0..<slabCount { sum &+= UInt64(unsafe cells[slab].load(ordering: .relaxed)) }
        return sum
    }

    func open(_ slot: Int, _ slab: Int) -> UInt32 { unsafe cells(slot)[slab].load(ordering: .relaxed) }

    func setOpen(_ slot: Int, _ slab: Int, _ count: UInt32) {
        unsafe cells(slot)[slab].store(count, ordering: .sequentiallyConsistent)
        atomicMemoryFence(ordering: .sequentiallyConsistent)
    }
}
