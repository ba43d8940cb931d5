// Replays the fuzzers' corpora, seeds and finds alike, through the drivers' own code.

import FoundationEssentials
import Testing

@Suite struct FrameCorpusTests {
    @Test(arguments: ["websocket_frame", "yamux_frame", "direct", "connect_answer"])
    func everyFileIsHandled(driver: String) throws {
        let tests = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        let folder = tests.appending(path: "Corpus").appending(path: driver)
        let names = try FileManager.default.contentsOfDirectory(atPath: folder.path).sorted()
        #expect(names.count >= 10)
        for name in names {
            let input = Array(try Data(contentsOf: folder.appending(path: name)))
            let failure =
                switch driver {
                case "yamux_frame": YamuxFuzz.failure(of: input)
                case "direct": DirectFuzz.failure(of: input)
                case "connect_answer": ConnectFuzz.failure(of: input)
                default: WebSocketFuzz.failure(of: input)
                }
            #expect(failure == nil, "\(driver)/\(name)")
        }
    }
}
