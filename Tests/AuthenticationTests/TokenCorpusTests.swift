// Replays the corpus of the token fuzzer, seeds and finds alike, through the driver's own code.

import FoundationEssentials
import Testing

@Suite struct TokenCorpusTests {
    @Test func everyFileIsHandled() throws {
        let tests = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        let folder = tests.appending(path: "Corpus/token")
        let names = try FileManager.default.contentsOfDirectory(atPath: folder.path).sorted()
        #expect(names.count >= 12)
        for name in names {
            let input = Array(try Data(contentsOf: folder.appending(path: name)))
            #expect(TokenFuzz.failure(of: input) == nil, "token/\(name)")
        }
    }
}
