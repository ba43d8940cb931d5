// What each endpoint was sent, in memory that the supervisor and its workers share: it lies behind the counters' slabs, and so
// outlives workers, reloads and upgrades as they do.
//
// A slot is one endpoint: its key (a hash of its name), the second in which it was last used, its name, and numbers. Any worker may
// add to any slot, so additions are atomic; a client's worker changes from one connection to the next, so that slots for each worker
// would be mostly empty. There are so many slots and no more: whoever finds none is counted in the last one, which belongs to all
// others. A slot that nobody used for an hour may be taken from its endpoint. An endpoint has its slot among the `windowMax` behind a place
// that its name tells, so that a few find none shortly before all are taken.
//
// A slot is claimed with a compare-and-swap, then gets its name, then its key. Two workers that claim slots for one endpoint at the
// same moment make two of them; whoever reads adds them up. Whoever adds while the slot is taken from its endpoint adds to the next
// one: an hour without a request makes that a matter of one request, and nothing worse than a number comes of it.
//
// Workers can write to this memory: a wild one can make numbers wrong. Lengths and places are checked, so it leads nobody out of it.

import Synchronization

/// The numbers of one endpoint.
public enum TrafficColumn: Int, CaseIterable, Sendable {
    /// Requests whose answer was 1xx or none of these.
    case otherStatus = 0
    case status2xx, status3xx, status4xx, status5xx
    /// From the first byte of a request to the end of its answer, all together.
    case nanoseconds
    /// TCP connections and such as were upgraded.
    case connections
    /// Bytes from clients and to them: bodies, and all of a connection's bytes.
    case bytesIn, bytesOut

    /// The one for a response's status.
    public static func status(_ status: Int) -> TrafficColumn {
        switch status / 100 {
        case 2: .status2xx
        case 3: .status3xx
        case 4: .status4xx
        case 5: .status5xx
        default: .otherStatus
        }
    }
}

/// An endpoint's numbers at one moment.
public struct TrafficEntry: Equatable, Sendable {
    /// The name as it is in the routing table, a tenant's with the tenant's in front; empty: all others.
    public var name: [UInt8]
    /// In the order of `TrafficColumn`.
    public var values: [UInt64]

    public init(name: [UInt8], values: [UInt64]) {
        precondition(values.count == TrafficColumn.allCases.count, "a number for each column")
        self.name = name
        self.values = values
    }

    public subscript(_ column: TrafficColumn) -> UInt64 { values[column.rawValue] }

    /// Requests, whatever their answer.
    public var requests: UInt64 { values[TrafficColumn.otherStatus.rawValue...TrafficColumn.status5xx.rawValue].reduce(0, &+) }
}

/// Where an endpoint is counted: its slot, and how to see that it is still its own.
public struct TrafficPlace: Sendable {
    fileprivate var slot: Int
    fileprivate var key: UInt64
    /// When it was looked for.
    fileprivate var since: UInt64
}

/// The traffic of a node's endpoints.
@safe
public final class TrafficRegion {
    /// Endpoints that are counted by themselves.
    public static let slotsDefault = 1_024
    /// Bytes of a name; endpoints with longer ones are counted with all others.
    public static let nameBytesMax = 384
    /// Seconds after its last use in which a slot stays its endpoint's.
    public static let keptSeconds: UInt64 = 3_600

    static let magic: UInt64 = 0x3146_5254_4f4b_4950  // "PIKOTRF1"
    static let headerWords = 8
    private static let slotWords = 64
    private static let nameWords = 48
    /// What stands in place of a key while a slot gets its name.
    private static let claimed: UInt64 = 1
    private enum Word { static let key = 0, used = 1, length = 2, name = 3, columns = 51 }

    private let region: SharedRegion
    private let first: Int
    private let slotCount: Int

    /// The bytes that so many slots need.
    public static func byteCount(slots: Int = slotsDefault) -> Int { (headerWords + (slots + 1) * slotWords) * 8 }

    /// Lays out zeroed memory, from the byte `offset` of the region on. Done once, by its creator.
    public init(formatting region: SharedRegion, at offset: Int, slots: Int = slotsDefault) {
        precondition(offset % 8 == 0 && slots >= 1 && region.byteCount - offset >= Self.byteCount(slots: slots), "TrafficRegion layout")
        self.region = region
        first = offset / 8
        slotCount = slots
        let header = unsafe region.words(from: first, count: Self.headerWords)
        unsafe header[1].store(UInt64(slots), ordering: .relaxed)
        unsafe header[0].store(Self.magic, ordering: .releasing)
    }

    /// What another process laid out there; nil: nothing, as in the memory of an older program.
    public init?(opening region: SharedRegion, at offset: Int) {
        guard offset % 8 == 0, region.byteCount - offset >= Self.headerWords * 8 else { return nil }
        let header = unsafe region.words(from: offset / 8, count: Self.headerWords)
        guard unsafe header[0].load(ordering: .acquiring) == Self.magic else { return nil }
        let slots = Int(clamping: unsafe header[1].load(ordering: .relaxed))
        guard slots >= 1, slots <= 1 << 20, region.byteCount - offset >= Self.byteCount(slots: slots) else { return nil }
        self.region = region
        first = offset / 8
        slotCount = slots
    }

    // MARK: Counting

    /// Where the endpoint is counted; `now` in seconds, on any clock that all processes share.
    public func place(of name: Span<UInt8>, now: UInt64) -> TrafficPlace {
        guard name.count <= Self.nameBytesMax, !name.isEmpty, !Self.isOthers(name) else { return others(now) }
        let key = Self.key(name)
        let start = Int(truncatingIfNeeded: key >> 32)
        let window = min(slotCount, Self.windowMax)
        for step in 0..<window {
            let slot = (start &+ step) % slotCount
            if self.key(slot) == key, isNamed(slot, name) { return TrafficPlace(slot: slot, key: key, since: now) }
        }
        for step in 0..<window {
            let slot = (start &+ step) % slotCount
            let found = self.key(slot)
            guard found == 0 || found != Self.claimed && used(slot) &+ Self.keptSeconds < now else { continue }
            let words = unsafe words(slot)
            guard unsafe words[Word.key].compareExchange(expected: found, desired: Self.claimed, ordering: .acquiringAndReleasing).exchanged
            else { continue }
            // Whoever reads what follows sees the claim as well.
            atomicMemoryFence(ordering: .releasing)
            unsafe words[Word.used].store(now, ordering: .relaxed)
            write(name, to: slot)
            for column in TrafficColumn.allCases { unsafe words[Word.columns + column.rawValue].store(0, ordering: .relaxed) }
            unsafe words[Word.key].store(key, ordering: .releasing)
            return TrafficPlace(slot: slot, key: key, since: now)
        }
        return others(now)
    }

    /// Slots in which an endpoint may be.
    private static let windowMax = 256
    /// Seconds after which an endpoint that found no slot looks again.
    private static let retrySeconds: UInt64 = 10
    /// What all others are called, and so no endpoint by itself.
    public static let othersName: StaticString = "other"

    private static func isOthers(_ name: Span<UInt8>) -> Bool {
        guard name.count == othersName.utf8CodeUnitCount else { return false }
        let wanted = Array("\(othersName)".utf8)
        for index in name.indices where name[index] != wanted[index] { return false }
        return true
    }

    /// The place of all that have none of their own.
    private func others(_ now: UInt64) -> TrafficPlace { TrafficPlace(slot: slotCount, key: 0, since: now) }

    /// Whether the place is one of an endpoint's own, and not that of all others.
    public func isOwn(_ place: TrafficPlace) -> Bool { place.slot < slotCount && key(place.slot) == place.key }

    /// Whether it is to be counted there still, and not to be looked for anew.
    public func isGood(_ place: TrafficPlace, now: UInt64) -> Bool {
        place.slot == slotCount ? now < place.since &+ Self.retrySeconds : isOwn(place)
    }

    /// Marks the place as in use at this second.
    public func touch(_ place: TrafficPlace, now: UInt64) {
        guard place.slot < slotCount, used(place.slot) != now else { return }
        unsafe words(place.slot)[Word.used].store(now, ordering: .relaxed)
    }

    /// Adds to a number.
    public func add(_ place: TrafficPlace, _ column: TrafficColumn, _ amount: UInt64 = 1) {
        if amount == 0 { return }
        _ = unsafe words(place.slot)[Word.columns + column.rawValue].wrappingAdd(amount, ordering: .relaxed)
    }

    // MARK: Reading

    /// All endpoints that were counted, sorted by name; all others come first, when there are any.
    public func read() -> [TrafficEntry] {
        var entries: [TrafficEntry] = []
        for slot in 0..<slotCount {
            let key = key(slot)
            guard key != 0, key != Self.claimed else { continue }
            let entry = TrafficEntry(name: name(slot), values: values(slot))
            atomicMemoryFence(ordering: .acquiring)
            // Taken from its endpoint meanwhile: the next reading has it.
            if self.key(slot) == key { entries.append(entry) }
        }
        let rest = TrafficEntry(name: [], values: values(slotCount))
        if rest.values.contains(where: { $0 != 0 }) { entries.append(rest) }
        entries.sort { $0.name.lexicographicallyPrecedes($1.name) }
        return Self.merged(entries)
    }

    private static func merged(_ entries: [TrafficEntry]) -> [TrafficEntry] {
        var merged: [TrafficEntry] = []
        merged.reserveCapacity(entries.count)
        for entry in entries {
            if let last = merged.indices.last, merged[last].name == entry.name {
                for index in entry.values.indices { merged[last].values[index] &+= entry.values[index] }
            } else {
                merged.append(entry)
            }
        }
        return merged
    }

    private func values(_ slot: Int) -> [UInt64] {
        let words = unsafe words(slot)
        return TrafficColumn.allCases.map { unsafe words[Word.columns + $0.rawValue].load(ordering: .relaxed) }
    }

    private func name(_ slot: Int) -> [UInt8] {
        let words = unsafe words(slot)
        let length = Int(clamping: min(unsafe words[Word.length].load(ordering: .relaxed), UInt64(Self.nameBytesMax)))
        return (0..<length).map { index in
            UInt8(truncatingIfNeeded: unsafe words[Word.name + index / 8].load(ordering: .relaxed) >> (8 * UInt64(index % 8)))
        }
    }

    // MARK: Slots

    private func words(_ slot: Int) -> UnsafeMutablePointer<Atomic<UInt64>> {
        precondition(slot >= 0 && slot <= slotCount, "no such traffic slot")
        return unsafe region.words(from: first + Self.headerWords + slot * Self.slotWords, count: Self.slotWords)
    }

    private func key(_ slot: Int) -> UInt64 { unsafe words(slot)[Word.key].load(ordering: .acquiring) }
    private func used(_ slot: Int) -> UInt64 { unsafe words(slot)[Word.used].load(ordering: .relaxed) }

    private func isNamed(_ slot: Int, _ name: Span<UInt8>) -> Bool {
        let words = unsafe words(slot)
        guard unsafe words[Word.length].load(ordering: .relaxed) == UInt64(name.count) else { return false }
        for word in 0..<(name.count + 7) / 8 where unsafe words[Word.name + word].load(ordering: .relaxed) != Self.word(name, word) { return false }
        return true
    }

    private func write(_ name: Span<UInt8>, to slot: Int) {
        let words = unsafe words(slot)
        unsafe words[Word.length].store(UInt64(name.count), ordering: .relaxed)
        for word in 0..<Self.nameWords { unsafe words[Word.name + word].store(Self.word(name, word), ordering: .relaxed) }
    }

    /// Eight bytes of the name, with zeros behind its end.
    private static func word(_ name: Span<UInt8>, _ word: Int) -> UInt64 {
        var value: UInt64 = 0
        for byte in 0..<8 where word * 8 + byte < name.count { value |= UInt64(name[word * 8 + byte]) << (8 * UInt64(byte)) }
        return value
    }

    /// FNV-1a, mixed, and never one of the two numbers that are no key. Names that collide are told apart by their bytes.
    private static func key(_ name: Span<UInt8>) -> UInt64 {
        var hash: UInt64 = 0xcbf2_9ce4_8422_2325
        for index in name.indices { hash = (hash ^ UInt64(name[index])) &* 0x100_0000_01b3 }
        // All bits of a key depend on all of the name's: numbered names differ in their last bytes alone (MurmurHash3's finalizer).
        hash = (hash ^ hash >> 33) &* 0xff51_afd7_ed55_8ccd
        hash = (hash ^ hash >> 33) &* 0xc4ce_b9fe_1a85_ec53
        return max(hash ^ hash >> 33, 2)
    }
}
