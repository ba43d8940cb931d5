// Replays the corpus of gossip's fuzzer: seeds of each kind of message, and every input that once found something.

import Foundation
import Testing

@Suite struct GossipCorpusTests {
    static let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .appendingPathComponent("Corpus/gossip")

    @Test func nothingIsFound() throws {
        let names = try FileManager.default.contentsOfDirectory(atPath: Self.folder.path).sorted()
        #expect(names.count >= 10)
        for name in names {
            let bytes = [UInt8](try Data(contentsOf: Self.folder.appendingPathComponent(name)))
            #expect(GossipFuzz.failure(of: bytes) == nil, "\(name)")
        }
    }
}
