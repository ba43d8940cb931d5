// The metrics text as OpenMetrics: rows of what comes in and what comes out.

import Memory
import Telemetry
import Testing

private func converted(_ text: String, _ exemplars: Exemplars = Exemplars()) -> String {
    let bytes = Array(text.utf8)
    var output = ByteBuffer()
    OpenMetricsText.write(bytes.span, exemplars, into: &output)
    OpenMetricsText.end(&output)
    return String(decoding: [UInt8](copying: output.span), as: UTF8.self)
}

@Suite struct OpenMetricsTextTests {
    static let rows: [(String, String)] = [
        ("", "# EOF\n"),
        ("# HELP a_total Things.\n# TYPE a_total counter\na_total{x=\"1\"} 3\n", "# HELP a Things.\n# TYPE a counter\na_total{x=\"1\"} 3\n# EOF\n"),
        ("# HELP a_total Odd.\n# TYPE a_total gauge\na_total 3\n", "# HELP a_total Odd.\n# TYPE a_total gauge\na_total 3\n# EOF\n"),
        ("h_bucket{le=\"256\"} 1\n", "h_bucket{le=\"256.0\"} 1\n# EOF\n"),
        ("h_bucket{le=\"0.5\"} 1\n", "h_bucket{le=\"0.5\"} 1\n# EOF\n"),
        ("h_bucket{le=\"+Inf\"} 1\n", "h_bucket{le=\"+Inf\"} 1\n# EOF\n"),
        ("h_bucket{le=\"1.048576e+06\"} 1\n", "h_bucket{le=\"1.048576e+06\"} 1\n# EOF\n"),
        ("h_bucket{status=\"200\",le=\"10\"} 1\n", "h_bucket{status=\"200\",le=\"10.0\"} 1\n# EOF\n"),
        ("a{endpoint=\"x,le=\\\"5\\\"\"} 1\n", "a{endpoint=\"x,le=\\\"5\\\"\"} 1\n# EOF\n"),
    ]

    @Test(arguments: rows.indices)
    func converts(row: Int) { #expect(converted(Self.rows[row].0) == Self.rows[row].1) }

    @Test func namesARequestOfABucket() {
        var exemplars = Exemplars()
        exemplars.note(Exemplar(high: 0x4bf9_2f35_77b3_4da6, low: 0xa3ce_929d_0e0e_4736, nanoseconds: 7_000_000, at: 1_700_000_000_500_000_000))
        let name = "piko_proxy_time_to_first_byte_seconds_bucket"
        let text = converted("\(name){le=\"0.005\"} 0\n\(name){le=\"0.01\"} 1\n\(name){le=\"0.025\"} 1\n", exemplars)
        let id = "4bf92f3577b34da6a3ce929d0e0e4736"
        #expect(
            text
                == "\(name){le=\"0.005\"} 0\n\(name){le=\"0.01\"} 1 # {trace_id=\"\(id)\"} 0.007 1700000000.5\n\(name){le=\"0.025\"} 1\n# EOF\n")
    }

    /// A counter whose name has another end can't be said in OpenMetrics.
    @Test func countersEndAsTheyMust() {
        let region = CounterRegion(
            formatting: SharedRegion(privateBytes: CounterRegion.byteCount(layout: Counters.layout, slabs: 1)), layout: Counters.layout, slabs: 1)
        var text = ByteBuffer()
        MetricsText.render(region.read(), version: "1", nodeStart: 0, into: &text)
        for line in String(decoding: [UInt8](copying: text.span), as: UTF8.self).split(separator: "\n") where line.hasSuffix(" counter") {
            #expect(line.dropLast(" counter".count).hasSuffix("_total"), "\(line)")
        }
    }
}
