// Replays the corpora of the fuzzers of tokens and of keys, seeds and finds alike, through the drivers' own code.

import FoundationEssentials
import Testing

@Suite struct TokenCorpusTests {
    @Test(arguments: ["token", "key_set"])
    func everyFileIsHandled(driver: String) throws {
        let tests = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        let folder = tests.appending(path: "Corpus").appending(path: driver)
        let names = try FileManager.default.contentsOfDirectory(atPath: folder.path).sorted()
        #expect(names.count >= 12)
        for name in names {
            let input = Array(try Data(contentsOf: folder.appending(path: name)))
            let failure = driver == "token" ? TokenFuzz.failure(of: input) : KeySetFuzz.failure(of: input)
            #expect(failure == nil, "\(driver)/\(name)")
        }
    }
}
