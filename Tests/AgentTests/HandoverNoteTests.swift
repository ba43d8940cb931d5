// What an agent and its successor tell each other: texts that must not change silently, because the two may be of different
// builds.
import Testing

@testable import Agent

@Suite struct HandoverNoteTests {
    static let notes: [(HandoverNote, String)] = [
        (HandoverNote(connectedCount: 2, metricsCount: 1, metricsAddress: ":5000"), "1 2 1 :5000"),
        (HandoverNote(connectedCount: 0, metricsCount: 0, metricsAddress: ""), "1 0 0 "),
        (HandoverNote(connectedCount: 7, metricsCount: 2, metricsAddress: "[::1]:5000"), "1 7 2 [::1]:5000"),
    ]

    @Test(arguments: notes) func note(note: HandoverNote, text: String) {
        #expect(note.text == text)
        #expect(HandoverNote(text) == note)
    }

    @Test(arguments: ["", "1", "2 1 1 x", "1 -1 0 x", "1 1 -1 x", "1 1 33 x", "1 1 x x", "1 1 1", "x 1 1 x", "1 99999999999999999999 1 x"])
    func unknownNotes(text: String) {
        #expect(HandoverNote(text) == nil)
    }

    @Test func descriptors() {
        #expect(HandoverNote("1 1 0 x")?.metricsDescriptors == [])
        #expect(HandoverNote("1 1 2 x")?.metricsDescriptors == [4, 5])
    }

    static let messages: [(HandoverMessage, String)] = [
        (.started(version: "0.1.0"), "started 0.1.0"), (.ready, "ready"), (.failed("no such port: 1"), "failed no such port: 1"),
        (.takeOver, "take-over"), (.giveUp, "give-up"),
    ]

    @Test(arguments: messages) func message(message: HandoverMessage, text: String) {
        #expect(message.text == text)
        #expect(HandoverMessage(text) == message)
    }

    @Test func unknownMessages() {
        #expect(HandoverMessage("") == nil)
        #expect(HandoverMessage("later") == nil)
        #expect(HandoverMessage("failed") == .failed(""))
        #expect(HandoverMessage.failed(String(repeating: "é", count: 5_000)).text.utf8.count < 4_096)
    }
}
