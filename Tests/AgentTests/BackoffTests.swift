// The waits between attempts: their bounds, their jitter, and that the seed decides it.
import Testing

@testable import Agent

@Suite struct BackoffTests {
    @Test func waitsDoubleUpToTheLongest() {
        let expected = [100, 200, 400, 800, 1600, 3200, 6400, 12800, 15000, 15000]
        for seed in UInt64(0)..<200 {
            var backoff = Backoff(seed: seed)
            for milliseconds in expected {
                let wait = backoff.next()
                #expect(wait >= .milliseconds(milliseconds))
                #expect(wait <= .milliseconds(milliseconds) * 1.1)
            }
        }
    }

    @Test func theSeedDecidesTheJitter() {
        var first = Backoff(seed: 1)
        var again = Backoff(seed: 1)
        var other = Backoff(seed: 2)
        let waits = (0..<8).map { _ in first.next() }
        #expect(waits == (0..<8).map { _ in again.next() })
        #expect(waits != (0..<8).map { _ in other.next() })
    }

    @Test func theJitterIsSpread() {
        var backoff = Backoff(limits: .init(firstWait: .seconds(1), waitMax: .seconds(1)), seed: 7)
        let tenths = (0..<1000).map { _ in (backoff.next() - .seconds(1)) / .milliseconds(10) }
        for tenth in 0..<10 {
            let share = tenths.count { Int($0) == tenth }
            #expect((50...150).contains(share), "tenth \(tenth): \(share)")
        }
    }

    @Test func longestStaysUntilReset() {
        var backoff = Backoff(seed: 3)
        #expect(backoff.longest() >= .seconds(15))
        #expect(backoff.next() >= .seconds(15))
        backoff.reset()
        #expect(backoff.next() <= .milliseconds(110))
    }
}
