// The counters of a process, over its slab: fixed counters and gauges, the histograms of body sizes, and the table of
// requests by status and method. Counting allocates nothing and takes no lock.
//
// Slots: 0 ..< 192 are `Counter`s; from 192 the histograms follow, of sizes and then of durations, each as its buckets, the bucket of
// all larger values, and the sum. A row of the table holds the latency buckets, the one of all longer, and the sum in nanoseconds; its key is
// status << 8 | method.

import Base
public import Memory

/// The histograms of sizes.
public enum SizeHistogram: Int, CaseIterable, Sendable {
    case requestBytes, responseBytes

    /// Upper bounds of the buckets: 256 * 4^k.
    static let bounds: [UInt64] = (0..<8).map { 256 << (2 * UInt64($0)) }
    static let slots = 10
    var firstSlot: Int { 192 + rawValue * SizeHistogram.slots }
}

/// The histogram of latencies in a row: Prometheus's default buckets, in nanoseconds.
enum LatencyHistogram {
    static let bounds: [UInt64] = [
        5_000_000, 10_000_000, 25_000_000, 50_000_000, 100_000_000, 250_000_000, 500_000_000, 1_000_000_000,
        2_500_000_000, 5_000_000_000, 10_000_000_000,
    ]
    static let columns = 13
    static let sumColumn = 12
}

/// Histograms of durations without labels.
public enum DurationHistogram: Int, CaseIterable, Sendable {
    /// From a request's first byte to the first of its answer.
    case timeToFirstByte
    /// How long a turn of an event loop kept everything else waiting.
    case loopTurn

    /// Upper bounds of the buckets, in nanoseconds.
    var bounds: [UInt64] {
        switch self {
        case .timeToFirstByte: LatencyHistogram.bounds
        case .loopTurn: TurnTimes.bounds
        }
    }
    static let slots = 13
    var firstSlot: Int { 212 + rawValue * DurationHistogram.slots }
}

/// What a process counts.
public final class Counters {
    /// The slabs' layout. 64 rows are as many pairs of status and method; what a service invents beyond is `other`.
    public static let layout = CounterLayout(fixedSlots: 256, rows: 64, columns: LatencyHistogram.columns)

    /// The bytes of a node's memory for counters: so many slabs, the traffic of endpoints behind them, and that of other nodes.
    public static func memoryBytes(slabs: Int) -> Int {
        CounterRegion.byteCount(layout: layout, slabs: slabs) + TrafficRegion.byteCount() + TrafficRegion.byteCount(slots: nodesMax)
    }

    /// Other nodes that requests are counted for by themselves.
    static let nodesMax = 256

    /// The slab that is written.
    public let slab: CounterSlab

    /// Counts into a slab of a region that was laid out by this program or an older one.
    public init(slab: CounterSlab) { self.slab = slab }

    /// Counts into memory of its own.
    public convenience init() { self.init(slab: CounterSlab(layout: Counters.layout)) }

    /// Adds to a counter, or raises a gauge.
    public func add(_ counter: Counter, _ amount: UInt64 = 1) { slab.add(counter.rawValue, amount) }

    /// Lowers a gauge.
    public func subtract(_ counter: Counter, _ amount: UInt64 = 1) { slab.add(counter.rawValue, 0 &- amount) }

    /// Sets a gauge, or a counter that is counted elsewhere (the loop's).
    public func set(_ counter: Counter, _ value: UInt64) { slab.set(counter.rawValue, value) }

    /// The value of a counter in this slab alone.
    public func value(_ counter: Counter) -> UInt64 { slab.value(counter.rawValue) }

    /// Counts a size.
    public func observe(_ histogram: SizeHistogram, _ bytes: UInt64) {
        let bounds = SizeHistogram.bounds
        var bucket = 0
        while bucket < bounds.count, bytes > bounds[bucket] { bucket += 1 }
        slab.add(histogram.firstSlot + bucket)
        slab.add(histogram.firstSlot + bounds.count + 1, bytes)
    }

    /// Counts a duration.
    public func observe(_ histogram: DurationHistogram, _ duration: Duration) {
        let nanoseconds = duration.clampedNanoseconds
        let bounds = histogram.bounds
        var bucket = 0
        while bucket < bounds.count, nanoseconds > bounds[bucket] { bucket += 1 }
        slab.add(histogram.firstSlot + bucket)
        slab.add(histogram.firstSlot + DurationHistogram.slots - 1, nanoseconds)
    }

    /// Copies the buckets, and the sum behind them, of durations that are counted elsewhere.
    public func set(_ histogram: DurationHistogram, _ values: [UInt64]) {
        for (index, value) in values.prefix(DurationHistogram.slots).enumerated() { slab.set(histogram.firstSlot + index, value) }
    }

    /// Counts a finished request.
    public func request(status: Int, method: MethodLabel, latency: Duration) {
        let nanoseconds = latency.clampedNanoseconds
        let bounds = LatencyHistogram.bounds
        var bucket = 0
        while bucket < bounds.count, nanoseconds > bounds[bucket] { bucket += 1 }
        let row = slab.row(forKey: SeriesKey(status: status, method: method).rawValue)
        slab.add(row: row, column: bucket)
        slab.add(row: row, column: LatencyHistogram.sumColumn, nanoseconds)
    }

    /// Copies the event loop's own counters into the slab. The caller does it now and then.
    public func setLoop(
        turns: UInt64, events: UInt64, systemCalls: UInt64, staleCompletions: UInt64, bufferShortages: UInt64,
        handlesOpen: UInt64, handlesLingering: UInt64, outputBytes: UInt64, outputChunks: UInt64, pumpBytesCopied: UInt64,
        pumpBytesSpliced: UInt64, pipeShortages: UInt64, pumps: UInt64, pipes: UInt64
    ) {
        set(.loopTurns, turns)
        set(.loopEvents, events)
        set(.loopSystemCalls, systemCalls)
        set(.loopStaleCompletions, staleCompletions)
        set(.loopBufferShortages, bufferShortages)
        set(.loopHandlesOpen, handlesOpen)
        set(.loopHandlesLingering, handlesLingering)
        set(.loopOutputBytes, outputBytes)
        set(.loopOutputChunks, outputChunks)
        set(.pumpBytesCopied, pumpBytesCopied)
        set(.pumpBytesSpliced, pumpBytesSpliced)
        set(.pipeShortages, pipeShortages)
        set(.pumpsOpen, pumps)
        set(.pipesOpen, pipes)
    }

    /// Whether a slot is a gauge, for folding an ended process's slab.
    public static func isGauge(slot: Int) -> Bool { Counter(rawValue: slot)?.isGauge ?? false }
}

/// A row's key. Whatever number stands in the table, it reads as a status of three digits and a known method, or as other.
struct SeriesKey: Hashable, Comparable {
    var rawValue: UInt64

    init(status: Int, method: MethodLabel) {
        rawValue = status >= 100 && status <= 999 ? UInt64(status) << 8 | UInt64(method.rawValue) : CounterRegion.otherKey
    }

    init(reading raw: UInt64) {
        // 1000 is no status, and so other.
        let status = raw >> 8 <= 999 ? Int(raw >> 8) : 1_000
        let method = MethodLabel(rawValue: UInt8(truncatingIfNeeded: raw))
        self.init(status: method == nil ? 1_000 : status, method: method ?? .other)
    }

    /// Nil for the row of all others.
    var series: (status: UInt64, method: MethodLabel)? {
        guard rawValue != CounterRegion.otherKey else { return nil }
        return (rawValue >> 8, MethodLabel(rawValue: UInt8(truncatingIfNeeded: rawValue)) ?? .other)
    }

    static func < (left: SeriesKey, right: SeriesKey) -> Bool { left.rawValue < right.rawValue }
}

/// What is counted by name, behind the slabs of a node's memory.
public struct NamedTraffic {
    /// Requests and connections of clients, by endpoint.
    public let endpoints: TrafficRegion
    /// Requests that were sent to other nodes, by node; only `connections` are counted.
    public let nodes: TrafficRegion

    /// Lays it out, behind the slabs.
    public init(formatting memory: SharedRegion, behind region: CounterRegion) {
        endpoints = TrafficRegion(formatting: memory, at: region.endOffset)
        nodes = TrafficRegion(formatting: memory, at: region.endOffset + TrafficRegion.byteCount(), slots: Counters.nodesMax)
    }

    /// What is there; nil: nothing, as in the memory of an older program.
    public init?(opening memory: SharedRegion, behind region: CounterRegion) {
        guard let endpoints = TrafficRegion(opening: memory, at: region.endOffset),
            let nodes = TrafficRegion(opening: memory, at: region.endOffset + TrafficRegion.byteCount())
        else { return nil }
        self.endpoints = endpoints
        self.nodes = nodes
    }
}
