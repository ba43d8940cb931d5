// Counter slabs: sums, full tables, folding an ended slab, memory that is no counters, readers beside a fold.

import Memory
import Testing

private let layout = CounterLayout(fixedSlots: 4, rows: 4, columns: 2)

private func region(slabs: Int) -> (SharedRegion, CounterRegion) {
    let memory = SharedRegion(privateBytes: CounterRegion.byteCount(layout: layout, slabs: slabs))
    return (memory, CounterRegion(formatting: memory, layout: layout, slabs: slabs))
}

@Suite struct CounterRegionTests {
    @Test func sumsSlabsInUse() throws {
        let (memory, counters) = region(slabs: 3)
        let other = try CounterRegion(opening: memory)
        #expect(other.layout == layout && other.slabCount == 3)
        for index in 0..<3 {
            let slab = counters.slab(index)
            if index < 2 { slab.owner = UInt64(index) }
            slab.add(1, 10)
            slab.set(2, UInt64(index))
            slab.add(row: slab.row(forKey: 7), column: 1, 5)
        }
        let snapshot = other.read()
        #expect(snapshot.fixed == [0, 20, 1, 0])
        #expect(snapshot.rows.map(\.key) == [7])
        #expect(snapshot.rows[0].columns == [0, 10])
    }

    @Test func gaugesFall() {
        let (_, counters) = region(slabs: 1)
        let slab = counters.slab(0)
        slab.add(0, 3)
        slab.add(0, 0 &- 2)
        #expect(slab.value(0) == 1)
    }

    @Test func countsUnderOtherWhatFindsNoRow() {
        let (_, counters) = region(slabs: 1)
        let slab = counters.slab(0)
        slab.owner = 0
        for key in UInt64(1)...9 { slab.add(row: slab.row(forKey: key), column: 0) }
        // Known keys still find their rows.
        for key in UInt64(1)...4 { slab.add(row: slab.row(forKey: key), column: 0) }
        let rows = counters.read().rows
        #expect(rows.map(\.key) == [1, 2, 3, 4, CounterRegion.otherKey])
        #expect(rows.map { $0.columns[0] } == [2, 2, 2, 2, 5])
    }

    @Test func foldsAnEndedSlab() {
        let (_, counters) = region(slabs: 2)
        let own = counters.slab(0)
        let ended = counters.slab(1)
        own.owner = 0
        ended.owner = 1
        own.add(0, 1)
        ended.add(0, 2)
        ended.set(3, 99)  // a gauge
        for key in UInt64(1)...6 { ended.add(row: ended.row(forKey: key), column: 0, key) }
        own.add(row: own.row(forKey: 20), column: 0, 1)
        let before = counters.read()
        counters.fold(1, into: 0) { $0 == 3 }
        let after = counters.read()
        #expect(after.fixed[0] == before.fixed[0])
        #expect(after.fixed[3] == 0)
        #expect(ended.owner == nil && ended.value(0) == 0 && ended.key(ofRow: 0) == 0)
        #expect(after.rows.reduce(0) { $0 + $1.columns[0] } == before.rows.reduce(0) { $0 + $1.columns[0] })
        // Folding again adds nothing.
        counters.fold(1, into: 0) { $0 == 3 }
        #expect(counters.read().fixed == after.fixed)
    }

    @Test func refusesWhatIsNotCounters() {
        let empty = SharedRegion(privateBytes: 65_536)
        #expect(throws: CounterRegionError.notCounters) { try CounterRegion(opening: empty) }
        #expect(throws: CounterRegionError.notCounters) { try CounterRegion(opening: SharedRegion(privateBytes: 16)) }
        // A header that promises more than there is.
        let small = SharedRegion(privateBytes: CounterRegion.byteCount(layout: layout, slabs: 1) + 8_192)
        _ = CounterRegion(formatting: small, layout: layout, slabs: 2)
        #expect(throws: Never.self) { try CounterRegion(opening: small) }
        let whole = SharedRegion(privateBytes: CounterRegion.byteCount(layout: layout, slabs: 2))
        _ = CounterRegion(formatting: whole, layout: layout, slabs: 2)
        withCopy(of: whole, bytes: CounterRegion.byteCount(layout: layout, slabs: 1)) { copy in
            #expect(throws: CounterRegionError.invalidLayout) { try CounterRegion(opening: copy) }
        }
    }

    /// Readers see whole sums while slabs are folded and come back, over and over.
    @Test func readersNeverSeeHalfAFold() async {
        let (memory, counters) = region(slabs: 2)
        let own = counters.slab(0)
        own.owner = 0
        let shared = Unchecked(memory)
        let reader = Task.detached { () -> Bool in
            guard let region = try? CounterRegion(opening: shared.value) else { return false }
            var last: UInt64 = 0
            for _ in 0..<3_000 {
                let now = region.read().fixed[0]
                if now < last { return false }
                last = now
            }
            return true
        }
        for _ in 0..<3_000 {
            let slab = counters.slab(1)
            slab.owner = 1
            slab.add(0, 1)
            counters.fold(1, into: 0) { _ in false }
            // Workers end seldom: a reader, who tries a bounded number of times, finds a moment between two folds.
            for _ in 0..<5 { _ = counters.read() }
        }
        #expect(await reader.value)
        #expect(counters.read().fixed[0] == 3_000)
    }
}

/// The region is made for access from several processes; here several threads stand for them.
private struct Unchecked<Value>: @unchecked Sendable {
    let value: Value
    init(_ value: Value) { self.value = value }
}

/// A shorter region with the same first bytes.
private func withCopy(of region: SharedRegion, bytes: Int, _ body: (SharedRegion) -> Void) {
    let memory = UnsafeMutableRawPointer.allocate(byteCount: bytes, alignment: 64)
    region.withUnsafeBytes { memory.copyMemory(from: $0.baseAddress!, byteCount: bytes) }
    body(SharedRegion(unsafeBase: memory, byteCount: bytes) { address, _ in address.deallocate() })
}
