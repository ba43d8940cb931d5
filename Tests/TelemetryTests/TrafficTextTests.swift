// Traffic, durations and totals, out of counters.

import Memory
import Telemetry
import Testing

private func text(_ write: (inout MetricsWriter) -> Void) -> String {
    var metrics = MetricsWriter()
    write(&metrics)
    return String(decoding: [UInt8](copying: metrics.text.span), as: UTF8.self)
}

private func entry(_ name: String, _ values: [TrafficColumn: UInt64]) -> TrafficEntry {
    TrafficEntry(name: Array(name.utf8), values: TrafficColumn.allCases.map { values[$0] ?? 0 })
}

@Suite struct TrafficTextTests {
    @Test func writesWhatThereIs() {
        let entries = [
            entry("", [.connections: 2]), entry("acme/\"web\"", [.status2xx: 3, .status5xx: 1, .nanoseconds: 1_500_000_000]),
            entry("b", [.bytesIn: 7, .bytesOut: 8]),
        ]
        let nodes = TrafficRegion(formatting: SharedRegion(privateBytes: TrafficRegion.byteCount(slots: 4)), at: 0, slots: 4)
        let name = Array("n2".utf8)
        nodes.add(nodes.place(of: name.span, now: 1), .connections, 9)
        let written = text {
            var piece = 0
            while MetricsText.render(piece: piece, entries, nodes, into: &$0) { piece += 1 }
        }
        let lines = written.split(separator: "\n").filter { !$0.hasPrefix("#") }
        #expect(
            lines == [
                #"piko_endpoint_requests_total{endpoint="\"web\"",tenant="acme",class="2xx"} 3"#,
                #"piko_endpoint_requests_total{endpoint="\"web\"",tenant="acme",class="5xx"} 1"#,
                #"piko_endpoint_request_seconds_total{endpoint="\"web\"",tenant="acme"} 1.5"#,
                #"piko_endpoint_connections_total{endpoint="other"} 2"#,
                #"piko_endpoint_received_bytes_total{endpoint="b"} 7"#,
                #"piko_endpoint_sent_bytes_total{endpoint="b"} 8"#,
                #"piko_upstreams_remote_requests_total{node_id="n2"} 9"#,
            ])
    }

    /// What is written in several pieces is what would be written in one.
    @Test func writesManyInPieces() {
        let nodes = TrafficRegion(formatting: SharedRegion(privateBytes: TrafficRegion.byteCount(slots: 4)), at: 0, slots: 4)
        let entries = (0..<1_000).map { entry("e\($0)", [.status2xx: 1, .bytesOut: 2]) }
        let written = text {
            var piece = 0
            while MetricsText.render(piece: piece, entries, nodes, into: &$0) { piece += 1 }
        }
        let lines = written.split(separator: "\n")
        #expect(lines.count { $0.hasPrefix("# TYPE ") } == 6)
        #expect(lines.count { $0.hasPrefix("piko_endpoint_requests_total{") } == 1_000)
        #expect(lines.count { $0.hasPrefix("piko_endpoint_sent_bytes_total{") } == 1_000)
    }

    @Test func addsUpANode() {
        let memory = SharedRegion(privateBytes: CounterRegion.byteCount(layout: Counters.layout, slabs: 1))
        let region = CounterRegion(formatting: memory, layout: Counters.layout, slabs: 1)
        let counters = Counters(slab: region.slab(0))
        counters.slab.owner = 0
        counters.request(status: 200, method: .get, latency: .milliseconds(1))
        counters.request(status: 503, method: .post, latency: .seconds(20))
        counters.request(status: 101, method: .get, latency: .milliseconds(30))
        counters.observe(.requestBytes, 100)
        counters.observe(.responseBytes, 5_000)
        counters.add(.streamBytesReceived, 11)
        counters.add(.openProxy, 4)
        counters.subtract(.requestsInFlight)
        counters.observe(.timeToFirstByte, .milliseconds(2))
        counters.observe(.timeToFirstByte, .seconds(99))
        let totals = NodeTotals(region.read())
        #expect(totals.requests == [1, 1, 0, 0, 1])
        #expect(totals.latencies == [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])
        #expect(totals.bytesIn == 111 && totals.bytesOut == 5_000 && totals.connections == [4, 0, 0] && totals.inFlight == 0)
        var buffer = ByteBuffer()
        MetricsText.render(region.read(), version: "1", nodeStart: 0, into: &buffer)
        let written = String(decoding: [UInt8](copying: buffer.span), as: UTF8.self)
        #expect(written.contains("piko_proxy_time_to_first_byte_seconds_bucket{le=\"0.005\"} 1\n"))
        #expect(written.contains("piko_proxy_time_to_first_byte_seconds_bucket{le=\"+Inf\"} 2\n"))
        #expect(written.contains("piko_proxy_time_to_first_byte_seconds_sum 99.002\n"))
        #expect(written.contains("piko_loop_turn_seconds_bucket{le=\"0.0001\"} 0\n"))
    }
}
