// Replays the corpus of the YAML fuzzer, seeds and finds alike, through the driver's own code.

import FoundationEssentials
import Testing

@Suite struct YAMLCorpusTests {
    @Test func everyFileIsHandled() throws {
        let tests = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        let folder = tests.appending(path: "Corpus/yaml")
        let names = try FileManager.default.contentsOfDirectory(atPath: folder.path).sorted()
        #expect(names.count >= 15)
        for name in names {
            let input = Array(try Data(contentsOf: folder.appending(path: name)))
            #expect(YAMLFuzz.failure(of: input) == nil, "yaml/\(name)")
        }
    }
}
