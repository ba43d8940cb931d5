// Metrics with labels, as text.

import Memory
import Telemetry
import Testing

@Suite struct MetricsWriterTests {
    @Test func writesFamilies() {
        var metrics = MetricsWriter()
        metrics.counter("piko_a_total", "How many.", 7)
        metrics.family("piko_b", .gauge, "By name.")
        metrics.value(1, [("name", "plain"), ("kind", "x")])
        metrics.value(2, [("name", "a\"b\\c\nd")])
        let text = String(decoding: [UInt8](copying: metrics.text.span), as: UTF8.self)
        #expect(
            text == """
                # HELP piko_a_total How many.
                # TYPE piko_a_total counter
                piko_a_total 7
                # HELP piko_b By name.
                # TYPE piko_b gauge
                piko_b{name="plain",kind="x"} 1
                piko_b{name="a\\"b\\\\c\\nd"} 2

                """)
    }
}
