// A node's numbers in short, out of the sum of its slabs: what a status page shows, and what differences of two of them tell.

public import Memory

/// Sums since the node's start, and gauges.
public struct NodeTotals: Equatable, Sendable {
    /// Requests by the class of their status, 2xx … 5xx, and all others in front.
    public var requests = [UInt64](repeating: 0, count: 5)
    /// Requests by how long they took, without those that became byte streams: the buckets of the latency histogram, the last for all longer ones, not added up.
    public var latencies = [UInt64](repeating: 0, count: LatencyHistogram.sumColumn)
    public var latencyNanoseconds: UInt64 = 0
    public var inFlight: UInt64 = 0
    /// Those of the requests that another node sent here, and counts as well.
    public var fromNodes: UInt64 = 0
    /// Bytes of bodies and streams, from clients and to them.
    public var bytesIn: UInt64 = 0
    public var bytesOut: UInt64 = 0
    /// Connections open, by port.
    public var connections = [UInt64](repeating: 0, count: PortLabel.allCases.count)

    /// Upper bounds of `latencies` in seconds, without the last.
    public static var latencyBounds: [Double] { LatencyHistogram.bounds.map { Double($0) / 1e9 } }

    public init(_ snapshot: CounterSnapshot) {
        func fixed(_ slot: Int) -> UInt64 { slot < snapshot.fixed.count ? snapshot.fixed[slot] : 0 }
        func gauge(_ counter: Counter) -> UInt64 {
            let value = fixed(counter.rawValue)
            return Int64(bitPattern: value) < 0 ? 0 : value
        }
        func sum(_ histogram: SizeHistogram) -> UInt64 { fixed(histogram.firstSlot + SizeHistogram.bounds.count + 1) }
        for (raw, columns) in snapshot.rows {
            let status = SeriesKey(reading: raw).series?.status ?? 0
            let place = (2...5).contains(status / 100) ? Int(status / 100) - 1 : 0
            for (index, count) in columns.prefix(LatencyHistogram.sumColumn).enumerated() {
                requests[place] &+= count
                if status != 101 { latencies[index] &+= count }
            }
            if status != 101, columns.count > LatencyHistogram.sumColumn { latencyNanoseconds &+= columns[LatencyHistogram.sumColumn] }
        }
        inFlight = gauge(.requestsInFlight)
        let sent = fixed(Counter.nodeRequests.rawValue), declined = fixed(Counter.nodeRequestsDeclined.rawValue)
        fromNodes = sent > declined ? sent - declined : 0
        // The bodies of upgraded connections are counted with both.
        bytesIn = sum(.requestBytes) &+ fixed(Counter.streamBytesReceived.rawValue)
        bytesOut = sum(.responseBytes) &+ fixed(Counter.streamBytesSent.rawValue)
        for port in PortLabel.allCases { connections[port.rawValue] = gauge(port.open) }
    }
}
