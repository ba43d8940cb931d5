// Counters that outlive the process that counts: slabs of 64-bit words in memory that the supervisor and its workers share.
//
// Each process writes one slab and nobody else writes it, so an addition is a relaxed load and store, without a lock and
// without a locked instruction. Whoever is asked for the numbers sums the slabs. When a worker ends, the supervisor folds
// its slab into its own; a sequence number keeps readers from seeing one count twice or not at all meanwhile.
//
// What the words mean is the caller's business (`Telemetry`). Here they are, in each slab:
//  - a header of 8 words; word 0 is the owner plus one, 0 for a slab that nobody uses;
//  - `fixedSlots` words, one for each counter or gauge;
//  - a table of `rows` rows (a power of two) and one more, for series that are known only when they happen: word 0 of a row
//    is its key, 0 while the row is free, and `columns` words of numbers follow. A key whose row can't be had, because the
//    table is full, is counted in the last row, whose key is `CounterRegion.otherKey`.
//
// The layout is written in front of the slabs, so that a newer binary reads an older one's memory: slots and columns that
// it does not find there count as zero. Everything is read from that header once, and checked against the region's size:
// workers can write to this memory, and a worker that went wild must not lead another process out of it.

import Synchronization

/// How many words of which kind a slab has.
public struct CounterLayout: Equatable, Sendable {
    /// Counters and gauges that are always there.
    public var fixedSlots: Int
    /// Rows of the table of labelled series, without the one for all others. A power of two.
    public var rows: Int
    /// Numbers in each row.
    public var columns: Int

    public init(fixedSlots: Int, rows: Int, columns: Int) {
        self.fixedSlots = fixedSlots
        self.rows = rows
        self.columns = columns
    }

    var rowWords: Int { 1 + columns }
    var slabWords: Int {
        // Whole pages of 4 KiB, so that no two processes write into one cache line or page.
        let words = CounterRegion.slabHeaderWords + fixedSlots + (rows + 1) * rowWords
        return (words + 511) / 512 * 512
    }

    var isSane: Bool {
        fixedSlots >= 0 && fixedSlots <= 65_536 && columns >= 0 && columns <= 256 && rows >= 1 && rows <= 4_096
            && rows & (rows - 1) == 0
    }
}

/// Why memory can't be read as counters.
public enum CounterRegionError: Error, Equatable {
    /// It does not begin as counters do.
    case notCounters
    /// The layout's version is one that this program does not know.
    case unknownVersion(UInt64)
    /// The layout does not fit into the region.
    case invalidLayout
}

/// The sum of all slabs at one moment.
public struct CounterSnapshot: Sendable {
    /// The fixed slots. May be shorter than the reader's own layout, when an older program wrote the region.
    public var fixed: [UInt64]
    /// The labelled series in order of their keys; `otherKey` comes last.
    public var rows: [(key: UInt64, columns: [UInt64])]

    public init(fixed: [UInt64], rows: [(key: UInt64, columns: [UInt64])]) {
        self.fixed = fixed
        self.rows = rows
    }
}

/// All slabs of a node.
public final class CounterRegion {
    /// The key under which series are counted that found no row.
    public static let otherKey = UInt64.max

    static let magic: UInt64 = 0x3152_544e_4f4b_4950  // "PIKONTR1"
    static let version: UInt64 = 1
    static let headerWords = 512
    static let slabHeaderWords = 8
    /// Words of the region's header.
    private enum Word { static let magic = 0, version = 1, slabs = 2, fixed = 3, rows = 4, columns = 5, slabWords = 6, sequence = 7 }

    /// The layout of the slabs here.
    public let layout: CounterLayout
    /// How many slabs there are.
    public let slabCount: Int
    private let region: SharedRegion
    private let slabWords: Int

    /// The bytes that so many slabs need.
    public static func byteCount(layout: CounterLayout, slabs: Int) -> Int {
        (headerWords + layout.slabWords * slabs) * 8
    }

    /// Lays out a zeroed region. Done once, by its creator.
    public init(formatting region: SharedRegion, layout: CounterLayout, slabs: Int) {
        precondition(layout.isSane && slabs >= 1, "CounterRegion layout")
        precondition(region.byteCount >= CounterRegion.byteCount(layout: layout, slabs: slabs), "CounterRegion is too small")
        self.region = region
        self.layout = layout
        slabCount = slabs
        slabWords = layout.slabWords
        let header = unsafe region.words(from: 0, count: CounterRegion.headerWords)
        unsafe header[Word.version].store(CounterRegion.version, ordering: .relaxed)
        unsafe header[Word.slabs].store(UInt64(slabs), ordering: .relaxed)
        unsafe header[Word.fixed].store(UInt64(layout.fixedSlots), ordering: .relaxed)
        unsafe header[Word.rows].store(UInt64(layout.rows), ordering: .relaxed)
        unsafe header[Word.columns].store(UInt64(layout.columns), ordering: .relaxed)
        unsafe header[Word.slabWords].store(UInt64(slabWords), ordering: .relaxed)
        unsafe header[Word.magic].store(CounterRegion.magic, ordering: .releasing)
    }

    /// Reads the layout that another process wrote.
    public init(opening region: SharedRegion) throws(CounterRegionError) {
        guard region.wordCount >= CounterRegion.headerWords else { throw .notCounters }
        let header = unsafe region.words(from: 0, count: CounterRegion.headerWords)
        guard unsafe header[Word.magic].load(ordering: .acquiring) == CounterRegion.magic else { throw .notCounters }
        let version = unsafe header[Word.version].load(ordering: .relaxed)
        guard version == CounterRegion.version else { throw .unknownVersion(version) }
        let layout = CounterLayout(
            fixedSlots: Int(clamping: unsafe header[Word.fixed].load(ordering: .relaxed)),
            rows: Int(clamping: unsafe header[Word.rows].load(ordering: .relaxed)),
            columns: Int(clamping: unsafe header[Word.columns].load(ordering: .relaxed)))
        let slabs = Int(clamping: unsafe header[Word.slabs].load(ordering: .relaxed))
        let slabWords = Int(clamping: unsafe header[Word.slabWords].load(ordering: .relaxed))
        guard layout.isSane, slabWords == layout.slabWords,
            slabs >= 1, slabs <= (region.wordCount - CounterRegion.headerWords) / slabWords
        else { throw .invalidLayout }
        self.region = region
        self.layout = layout
        self.slabWords = slabWords
        slabCount = slabs
    }

    /// The first byte behind the slabs, where other things may lie.
    public var endOffset: Int { (CounterRegion.headerWords + slabWords * slabCount) * 8 }

    /// The slab at `index`, to be written by one process.
    public func slab(_ index: Int) -> CounterSlab {
        precondition(index >= 0 && index < slabCount, "no such counter slab")
        return CounterSlab(region: region, first: CounterRegion.headerWords + index * slabWords, layout: layout)
    }

    /// Adds the numbers of the slab `index` to those of `target` and clears it, all but the slots for which `isGauge` says
    /// that they hold the state of what has ended. Its writer must be gone; the owner of `target` calls.
    public func fold(_ index: Int, into target: Int, isGauge: (Int) -> Bool) {
        precondition(index != target)
        let source = slab(index)
        let sum = slab(target)
        let sequence = unsafe region.words(from: Word.sequence, count: 1)
        let before = unsafe sequence.pointee.load(ordering: .relaxed)
        unsafe sequence.pointee.store(before | 1, ordering: .relaxed)
        atomicMemoryFence(ordering: .sequentiallyConsistent)
        for slot in 0..<layout.fixedSlots where !isGauge(slot) {
            let value = source.value(slot)
            if value != 0 { sum.add(slot, value) }
        }
        for row in 0...layout.rows {
            let key = source.key(ofRow: row)
            if key == 0 { continue }
            let place = sum.row(forKey: key)
            for column in 0..<layout.columns {
                let value = source.value(row: row, column: column)
                if value != 0 { sum.add(row: place, column: column, value) }
            }
        }
        source.clear()
        atomicMemoryFence(ordering: .sequentiallyConsistent)
        unsafe sequence.pointee.store((before | 1) &+ 1, ordering: .releasing)
    }

    /// The sum over all slabs in use. When a fold comes between, it is read again, a bounded number of times.
    public func read() -> CounterSnapshot {
        let sequence = unsafe region.words(from: Word.sequence, count: 1)
        var snapshot = CounterSnapshot(fixed: [], rows: [])
        for _ in 0..<100 {
            let before = unsafe sequence.pointee.load(ordering: .acquiring)
            snapshot = sumOfSlabs()
            atomicMemoryFence(ordering: .sequentiallyConsistent)
            let after = unsafe sequence.pointee.load(ordering: .relaxed)
            if before == after && before & 1 == 0 { break }
        }
        return snapshot
    }

    private func sumOfSlabs() -> CounterSnapshot {
        var fixed = [UInt64](repeating: 0, count: layout.fixedSlots)
        var rows: [UInt64: [UInt64]] = [:]
        for index in 0..<slabCount {
            let slab = slab(index)
            guard slab.owner != nil else { continue }
            for slot in 0..<layout.fixedSlots { fixed[slot] &+= slab.value(slot) }
            for row in 0...layout.rows {
                let key = slab.key(ofRow: row)
                if key == 0 { continue }
                var columns = rows[key] ?? [UInt64](repeating: 0, count: layout.columns)
                for column in 0..<layout.columns { columns[column] &+= slab.value(row: row, column: column) }
                rows[key] = columns
            }
        }
        let sorted = rows.sorted { $0.key < $1.key }.map { (key: $0.key, columns: $0.value) }
        return CounterSnapshot(fixed: fixed, rows: sorted)
    }
}

/// The counters of one process.
@safe
public final class CounterSlab {
    private let region: SharedRegion
    private let header: UnsafeMutablePointer<Atomic<UInt64>>
    private let fixed: UnsafeMutablePointer<Atomic<UInt64>>
    private let table: UnsafeMutablePointer<Atomic<UInt64>>
    private let layout: CounterLayout

    fileprivate init(region: SharedRegion, first: Int, layout: CounterLayout) {
        self.region = region
        self.layout = layout
        let words = unsafe region.words(from: first, count: layout.slabWords)
        unsafe header = unsafe words
        unsafe fixed = unsafe words + CounterRegion.slabHeaderWords
        unsafe table = unsafe words + CounterRegion.slabHeaderWords + layout.fixedSlots
    }

    /// A slab of its own for a program of one process, or a test.
    public convenience init(layout: CounterLayout) {
        let region = SharedRegion(privateBytes: CounterRegion.byteCount(layout: layout, slabs: 1))
        _ = CounterRegion(formatting: region, layout: layout, slabs: 1)
        self.init(region: region, first: CounterRegion.headerWords, layout: layout)
        owner = 0
    }

    /// The number that whoever uses the slab has given itself; nil while it is free. Set before the first count, as
    /// readers skip a free slab.
    public var owner: UInt64? {
        get {
            let raw = unsafe header.pointee.load(ordering: .acquiring)
            return raw == 0 ? nil : raw - 1
        }
        set { unsafe header.pointee.store(newValue.map { $0 &+ 1 } ?? 0, ordering: .releasing) }
    }

    /// Adds to a slot. A negative amount (a gauge that falls) is added as its two's complement.
    public func add(_ slot: Int, _ amount: UInt64 = 1) {
        precondition(slot >= 0 && slot < layout.fixedSlots, "no such counter")
        unsafe CounterSlab.add(fixed + slot, amount)
    }

    /// Sets a slot.
    public func set(_ slot: Int, _ value: UInt64) {
        precondition(slot >= 0 && slot < layout.fixedSlots, "no such counter")
        unsafe fixed[slot].store(value, ordering: .relaxed)
    }

    /// A slot's value.
    public func value(_ slot: Int) -> UInt64 {
        precondition(slot >= 0 && slot < layout.fixedSlots, "no such counter")
        return unsafe fixed[slot].load(ordering: .relaxed)
    }

    /// The row of a series, taken when it is new. A full table gives the row of all others. `key` is not 0.
    public func row(forKey key: UInt64) -> Int {
        precondition(key != 0)
        if key != CounterRegion.otherKey {
            let start = Int(truncatingIfNeeded: (key &* 0x9e37_79b9_7f4a_7c15) >> 32)
            for step in 0..<layout.rows {
                let row = (start &+ step) & (layout.rows - 1)
                let word = unsafe table + row * layout.rowWords
                let present = unsafe word.pointee.load(ordering: .relaxed)
                if present == key { return row }
                if present == 0 {
                    unsafe word.pointee.store(key, ordering: .releasing)
                    return row
                }
            }
        }
        let last = unsafe table + layout.rows * layout.rowWords
        unsafe last.pointee.store(CounterRegion.otherKey, ordering: .releasing)
        return layout.rows
    }

    /// Adds to a number of a row.
    public func add(row: Int, column: Int, _ amount: UInt64 = 1) {
        unsafe CounterSlab.add(word(row, column), amount)
    }

    /// A number of a row.
    public func value(row: Int, column: Int) -> UInt64 {
        unsafe word(row, column).pointee.load(ordering: .relaxed)
    }

    /// A row's key; 0 while it is free.
    public func key(ofRow row: Int) -> UInt64 {
        precondition(row >= 0 && row <= layout.rows, "no such row")
        let key = unsafe table[row * layout.rowWords].load(ordering: .acquiring)
        // The last row is what it is, whatever lies there.
        return row == layout.rows && key != 0 ? CounterRegion.otherKey : key
    }

    /// Sets everything to zero and frees the slab. Its writer must be gone.
    func clear() {
        for index in 0..<layout.fixedSlots { unsafe fixed[index].store(0, ordering: .relaxed) }
        for index in 0..<(layout.rows + 1) * layout.rowWords { unsafe table[index].store(0, ordering: .relaxed) }
        owner = nil
    }

    private func word(_ row: Int, _ column: Int) -> UnsafeMutablePointer<Atomic<UInt64>> {
        precondition(row >= 0 && row <= layout.rows && column >= 0 && column < layout.columns, "no such series")
        return unsafe table + (row * layout.rowWords + 1 + column)
    }

    /// One writer: no read-modify-write instruction is needed.
    @inline(__always)
    private static func add(_ word: UnsafeMutablePointer<Atomic<UInt64>>, _ amount: UInt64) {
        let sum = unsafe word.pointee.load(ordering: .relaxed) &+ amount
        unsafe word.pointee.store(sum, ordering: .relaxed)
    }
}
