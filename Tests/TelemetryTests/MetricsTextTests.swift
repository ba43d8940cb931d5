// The metrics text: sums over processes, buckets, bounded labels, and what the format allows.

import Memory
import Telemetry
import Testing

private func text(_ snapshot: CounterSnapshot) -> String {
    var buffer = ByteBuffer()
    MetricsText.render(snapshot, version: "1.2.3", nodeStart: 1_500_000_000_250_000_000, into: &buffer)
    let span = buffer.span
    return String(decoding: (0..<span.count).map { span[$0] }, as: UTF8.self)
}

private func region(slabs: Int) -> CounterRegion {
    let bytes = CounterRegion.byteCount(layout: Counters.layout, slabs: slabs)
    return CounterRegion(formatting: SharedRegion(privateBytes: bytes), layout: Counters.layout, slabs: slabs)
}

/// Every sample line as name{labels} to value; fails on anything that the format does not allow.
private func samples(_ text: String) -> [String: String] {
    var samples: [String: String] = [:]
    var typed: Set<Substring> = []
    for line in text.split(separator: "\n", omittingEmptySubsequences: false).dropLast() {
        if line.hasPrefix("# TYPE ") {
            #expect(typed.insert(line.split(separator: " ")[2]).inserted, "two types: \(line)")
        } else if !line.hasPrefix("# HELP ") {
            let parts = line.split(separator: " ")
            #expect(parts.count == 2 && Double(parts[1]) != nil, "odd line: \(line)")
            let name = parts[0].prefix { $0 != "{" }
            let family = ["_bucket", "_sum", "_count"].first { name.hasSuffix($0) }.map { name.dropLast($0.count) } ?? name
            #expect(typed.contains(family) || typed.contains(name), "no type: \(line)")
            #expect(samples.updateValue(String(parts[1]), forKey: String(parts[0])) == nil, "twice: \(line)")
        }
    }
    #expect(text.hasSuffix("\n"))
    return samples
}

@Suite struct MetricsTextTests {
    @Test func writesTheSumOfAllProcesses() {
        let region = region(slabs: 2)
        for index in 0..<2 {
            region.slab(index).owner = UInt64(index)
            let counters = Counters(slab: region.slab(index))
            counters.add(.requestsInFlight)
            counters.add(.acceptedProxy, 3)
            counters.observe(.requestBytes, 256)
            counters.observe(.requestBytes, 257)
            counters.observe(.responseBytes, 5_000_000)
            counters.request(status: 200, method: .get, latency: .milliseconds(5))
            counters.request(status: 502, method: .other, latency: .seconds(11))
        }
        let samples = samples(text(region.read()))
        #expect(samples["piko_build_info{version=\"1.2.3\"}"] == "1")
        #expect(samples["piko_start_time_seconds"] == "1500000000.25")
        #expect(samples["piko_proxy_requests_in_flight"] == "2")
        #expect(samples["piko_connections_accepted_total{port=\"proxy\"}"] == "6")
        #expect(samples["piko_connections_accepted_total{port=\"admin\"}"] == "0")
        #expect(samples["piko_proxy_request_size_bytes_bucket{le=\"256\"}"] == "2")
        #expect(samples["piko_proxy_request_size_bytes_bucket{le=\"1024\"}"] == "4")
        #expect(samples["piko_proxy_request_size_bytes_bucket{le=\"4.194304e+06\"}"] == "4")
        #expect(samples["piko_proxy_request_size_bytes_sum"] == "1026")
        #expect(samples["piko_proxy_response_size_bytes_bucket{le=\"4.194304e+06\"}"] == "0")
        #expect(samples["piko_proxy_response_size_bytes_bucket{le=\"+Inf\"}"] == "2")
        #expect(samples["piko_proxy_response_size_bytes_count"] == "2")
        #expect(samples["piko_proxy_requests_total{method=\"GET\",status=\"200\"}"] == "2")
        #expect(samples["piko_proxy_requests_total{method=\"other\",status=\"502\"}"] == "2")
        let latency = "piko_proxy_request_latency_seconds"
        #expect(samples["\(latency)_bucket{method=\"GET\",status=\"200\",le=\"0.005\"}"] == "2")
        #expect(samples["\(latency)_bucket{method=\"other\",status=\"502\",le=\"10\"}"] == "0")
        #expect(samples["\(latency)_bucket{method=\"other\",status=\"502\",le=\"+Inf\"}"] == "2")
        #expect(samples["\(latency)_sum{method=\"GET\",status=\"200\"}"] == "0.01")
        #expect(samples["\(latency)_count{method=\"GET\",status=\"200\"}"] == "2")
    }

    @Test func hasEveryCounterOnce() {
        let names = Counter.allCases.filter { !$0.isGauge }.count + Counter.allCases.filter(\.isGauge).count
        #expect(names == Counter.allCases.count)
        #expect(Counter.allCases.allSatisfy { $0.rawValue < 192 })
        #expect(samples(text(region(slabs: 1).read())).count > Counter.allCases.count)
    }

    @Test func boundsLabels() {
        let counters = Counters()
        for status in 100..<600 {
            for method in MethodLabel.allCases { counters.request(status: status, method: method, latency: .zero) }
        }
        counters.request(status: -5, method: .get, latency: .seconds(1))
        counters.request(status: 1_000_000, method: .get, latency: .seconds(1))
        let slab = counters.slab
        var total: UInt64 = 0
        var used = 0
        for row in 0...Counters.layout.rows where slab.key(ofRow: row) != 0 {
            used += 1
            for column in 0..<12 { total += slab.value(row: row, column: column) }
        }
        #expect(used == 65 && total == 5_002)
    }

    /// Memory that other processes can write must not break the text.
    @Test func survivesOddKeys() {
        let columns = [UInt64](repeating: 1, count: 13)
        let keys: [UInt64] = [1, 2, 0xffff, 200 << 8 | 200, 200 << 8, 99 << 8, .max - 1, .max]
        let samples = samples(text(CounterSnapshot(fixed: [.max], rows: keys.map { ($0, columns) })))
        #expect(samples["piko_proxy_requests_total{method=\"other\",status=\"other\"}"] == "84")
        #expect(samples["piko_proxy_requests_total{method=\"GET\",status=\"200\"}"] == "12")
        #expect(samples["piko_proxy_requests_in_flight"] == "0")
    }

    @Test func tellsGaugesFromCounters() {
        #expect(Counters.isGauge(slot: Counter.openProxy.rawValue))
        #expect(!Counters.isGauge(slot: Counter.acceptedProxy.rawValue))
        #expect(!Counters.isGauge(slot: 200))
    }
}
