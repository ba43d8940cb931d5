// Percentiles of the benchmark's latencies.
import Testing

@testable import Agent

@Suite struct LatencyHistogramTests {
    @Test func percentilesAreWithinAFewPerCent() {
        var histogram = LatencyHistogram()
        for value in 1...100_000 { histogram.add(.microseconds(value)) }
        #expect(histogram.count == 100_000 && histogram.longest == .microseconds(100_000))
        for (share, exact) in [(0.5, 50_000.0), (0.9, 90_000), (0.99, 99_000), (0.001, 100)] {
            let found = Double(histogram.percentile(share).components.attoseconds) / 1e12
            #expect(found >= exact && found <= exact * 1.07, "\(share): \(found)")
        }
        #expect(histogram.percentile(1) == histogram.longest)
    }

    @Test func smallAndNoValues() {
        var histogram = LatencyHistogram()
        #expect(histogram.percentile(0.5) == .zero)
        for nanoseconds in 0..<40 { histogram.add(.nanoseconds(nanoseconds)) }
        #expect(histogram.percentile(0.25) == .nanoseconds(9))
        #expect(histogram.percentile(1) == .nanoseconds(39))
        histogram.add(.seconds(1_000_000))
        #expect(histogram.percentile(1) == .seconds(1_000_000))
    }
}
