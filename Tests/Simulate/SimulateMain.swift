// Simulated clusters from the command line: many seeds, one seed, or the figures of docs/cluster.md.
//
//   simulate seeds FIRST COUNT [long]     runs so many random lives of small clusters; names the seeds that fail
//   simulate figures [PART…]              prints measured figures

import Base
import ClusterSimulator
import Gossip

@main struct Simulate {
    static func main() {
        let arguments = CommandLine.arguments.dropFirst().map { $0 }
        if arguments.count >= 3, arguments[0] == "seeds", let first = UInt64(arguments[1]), let count = UInt64(arguments[2]) {
            seeds(first, count, isLong: arguments.dropFirst(3).first == "long")
        } else {
            print("usage: simulate seeds FIRST COUNT [long]")
        }
    }

    static func seeds(_ first: UInt64, _ count: UInt64, isLong: Bool) {
        var failed = 0
        for seed in first..<first + count {
            if let failure = Scenario(seed: seed, times: isLong ? .long : Scenario.Times()).run() {
                print(failure)
                failed += 1
                if failed == 5 { break }
            }
        }
        print("\(count) seeds from \(first): \(failed) failed")
        if failed > 0 { fatalError("some failed") }
    }
}
