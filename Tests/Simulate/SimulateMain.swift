// Simulated clusters from the command line: many seeds, or the figures of docs/cluster.md.
//
//   Simulate seeds FIRST COUNT [long]                runs so many random lives of small clusters; names the seeds that fail
//   Simulate dissemination NODES TRIALS [LOSS]       LOSS: packets in a thousand
//   Simulate death NODES TRIALS [LOSS]
//   Simulate suspicions NODES SECONDS LOSS [SEED]
//   Simulate traffic NODES CHANGES SECONDS           CHANGES: endpoints that come or go in a second
//   Simulate endpoints COUNT OWNERS

import Base
import ClusterSimulator
import Glibc
import Gossip

@main struct Simulate {
    static func main() {
        let arguments = CommandLine.arguments.dropFirst().map { $0 }
        let numbers = arguments.dropFirst().compactMap { Int($0) }
        let begun = seconds()
        switch (arguments.first ?? "", numbers.count) {
        case ("seeds", 2): seeds(UInt64(numbers[0]), UInt64(numbers[1]), isLong: arguments.last == "long")
        case ("dissemination", 2...): Figures(nodes: numbers[0]).dissemination(trials: numbers[1], loss: numbers.dropFirst(2).first ?? 0)
        case ("death", 2...): Figures(nodes: numbers[0]).death(trials: numbers[1], loss: numbers.dropFirst(2).first ?? 0)
        case ("suspicions", 3...):
            Figures(nodes: numbers[0], seed: UInt64(numbers.dropFirst(3).first ?? 1))
                .suspicions(loss: numbers[2], time: .seconds(numbers[1]))
        case ("traffic", 3): Figures(nodes: numbers[0], isSigned: true).traffic(changes: numbers[1], time: .seconds(numbers[2]))
        case ("endpoints", 2): Figures.endpoints(numbers[0], owners: numbers[1], memory: residentBytes, seconds: seconds)
        default:
            print("usage: Simulate seeds|dissemination|death|suspicions|traffic|endpoints NUMBERS; see the head of its source")
            exit(2)
        }
        if arguments.first != "seeds" { print("    (took \(Int(seconds() - begun)) s)") }
    }

    static func seeds(_ first: UInt64, _ count: UInt64, isLong: Bool) {
        var failed = 0
        for seed in first..<first + count {
            guard let failure = Scenario(seed: seed, times: isLong ? .long : Scenario.Times()).run() else { continue }
            print(failure)
            failed += 1
        }
        print("\(count)\(isLong ? " long" : "") seeds from \(first): \(failed) failed")
        exit(failed == 0 ? 0 : 1)
    }

    /// Resident bytes of this process.
    static func residentBytes() -> Int {
        let file = open("/proc/self/statm", O_RDONLY)
        defer { close(file) }
        var text = [UInt8](repeating: 0, count: 256)
        let length = read(file, &text, text.count)
        let words = String(decoding: text.prefix(max(0, length)), as: UTF8.self).split(separator: " ")
        return (words.dropFirst().first.flatMap { Int($0) } ?? 0) * Int(sysconf(Int32(_SC_PAGESIZE)))
    }

    static func seconds() -> Double {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return Double(time.tv_sec) + Double(time.tv_nsec) * 1e-9
    }
}
