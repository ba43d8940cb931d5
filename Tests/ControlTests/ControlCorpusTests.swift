// Replays the corpus of the control messages' fuzzer, seeds and finds alike, through the driver's own code; and every message that
// was recorded, which is a seed too.

import Foundation
import Testing

@Suite struct ControlCorpusTests {
    static let tests = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()

    @Test func everyFileIsHandled() throws {
        let folder = Self.tests.appending(path: "Corpus/control")
        let names = try FileManager.default.contentsOfDirectory(atPath: folder.path).sorted()
        #expect(names.count >= 12)
        for name in names {
            let input = Array(try Data(contentsOf: folder.appending(path: name)))
            #expect(ControlFuzz.failure(of: input) == nil, "control/\(name)")
        }
    }

    @Test func everyRecordedMessageIsHandled() throws {
        let folder = Self.tests.appending(path: "Golden/control")
        let names = try FileManager.default.contentsOfDirectory(atPath: folder.path).sorted()
        #expect(names.count >= 50)
        for name in names {
            let text = try String(contentsOf: folder.appending(path: name), encoding: .utf8)
            let bytes = text.split(whereSeparator: \.isWhitespace).compactMap { UInt8($0, radix: 16) }
            let sender: UInt8 = bytes[0] < 64 ? 0 : bytes[0] < 128 ? 1 : 2
            #expect(ControlFuzz.failure(of: [sender] + bytes) == nil, "\(name)")
        }
    }
}
