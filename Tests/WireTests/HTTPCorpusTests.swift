// Replays the corpus of the HTTP fuzzer, seeds and finds alike, through the driver's own code.

import FoundationEssentials
import Testing

@Suite struct HTTPCorpusTests {
    @Test func everyFileIsHandled() throws {
        let tests = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        let folder = tests.appending(path: "Corpus/http_message")
        let names = try FileManager.default.contentsOfDirectory(atPath: folder.path).sorted()
        #expect(names.count >= 15)
        for name in names {
            let input = Array(try Data(contentsOf: folder.appending(path: name)))
            #expect(HTTPFuzz.failure(of: input) == nil, "http_message/\(name)")
        }
    }
}
