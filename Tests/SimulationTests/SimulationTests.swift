// A thousand random lives of small clusters. A failure names its seed and what happened; the same again, alone:
//
//   PIKO_SEED=123 swift test --filter SimulationTests
//
// `script/simulate` runs a hundred thousand.

import ClusterSimulator
import Foundation
import Testing

@Suite struct SimulationTests {
    /// The seed to replay, if one is given.
    static let seed = ProcessInfo.processInfo.environment["PIKO_SEED"].flatMap { UInt64($0) }
    static let firsts: [UInt64] = seed.map { [$0] } ?? Array(stride(from: 1, to: 1_001, by: 50))

    @Test(arguments: firsts)
    func livesOfClusters(_ first: UInt64) {
        for seed in first..<(Self.seed == nil ? first + 50 : first + 1) {
            if let failure = Scenario(seed: seed).run() { Issue.record("\(failure)") }
        }
    }

    /// With the expiry that nodes have, so that cuts are healed with and without memory of the other side.
    @Test(arguments: seed.map { [$0] } ?? Array(1...20))
    func longLives(_ seed: UInt64) {
        if let failure = Scenario(seed: seed, times: .long).run() { Issue.record("\(failure)") }
    }

    /// The same seed is the same run: what fails can be replayed.
    @Test func aSeedRepeats() {
        let first = Scenario(seed: 7)
        let second = Scenario(seed: 7)
        #expect(first.run() == second.run())
        #expect(first.digest == second.digest && first.digest != Scenario(seed: 8).digest)
    }
}
