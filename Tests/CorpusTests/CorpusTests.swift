// Replays Tests/Corpus/<target>/*: the seeds of the fuzzers and every input that one of them ever broke something with. A find
// is fixed first and then stays here for ever.

import FuzzTargets
import Foundation
import Testing

@Suite struct CorpusTests {
    static let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent().appendingPathComponent("Corpus")

    @Test(arguments: FuzzTarget.allCases)
    func replay(_ target: FuzzTarget) throws {
        let folder = Self.folder.appendingPathComponent(target.rawValue)
        let files = try FileManager.default.contentsOfDirectory(at: folder, includingPropertiesForKeys: nil)
        #expect(!files.isEmpty)
        for file in files {
            target.run([UInt8](try Data(contentsOf: file)))
        }
    }

    /// A short burst of random inputs in every run, from a fixed seed: noise finds little, but a broken target is seen at once.
    @Test(arguments: FuzzTarget.allCases)
    func noise(_ target: FuzzTarget) {
        var state: UInt64 = 0x9E37_79B9_7F4A_7C15
        func next() -> UInt64 {
            state ^= state << 13
            state ^= state >> 7
            state ^= state << 17
            return state
        }
        for _ in 0..<2_000 {
            let count = Int(next() % 200)
            target.run((0..<count).map { _ in UInt8(truncatingIfNeeded: next() >> 20) })
        }
    }
}
