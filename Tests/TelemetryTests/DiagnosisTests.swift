// What a diagnosis looks like.
import Telemetry
import Testing

@Suite struct DiagnosisTests {
    @Test func isATableOrJSON() {
        var diagnosis = Diagnosis()
        diagnosis.add("kernel", .ok, "Linux 6.1")
        #expect(diagnosis.text(.table) == "ok       kernel  Linux 6.1\n\n0 failed, 0 to be looked at, 1 in order\n")
        diagnosis.add("TCP", .fail, "[::1]:1: connect: Connection refused\n\u{1b}x", time: .microseconds(1_250))
        let table = diagnosis.text(.table).split(separator: "\n").map(String.init)
        #expect(table[0] == "ok                   kernel  Linux 6.1")
        #expect(table[1] == "fail         1.3 ms  TCP     [::1]:1: connect: Connection refused")
        #expect(table[2] == "                             ?x")
        #expect(table[3].hasPrefix("                             -> nothing listens there"))
        #expect(!diagnosis.isGood)
        let json = diagnosis.text(.json)
        #expect(json.hasPrefix("{\"ok\":false,\"checks\":[{\"check\":\"kernel\",\"result\":\"ok\",\"found\":\"Linux 6.1\"},"))
        #expect(json.contains("\"time_ms\":1.25,\"hint\":\"nothing listens there"))
    }

    @Test(arguments: [
        (0, 100, 200, Diagnosis.Verdict.fail, "expired 100 s ago"), (300, 9_000_000, 200, .fail, "not valid for another 100 s"),
        (0, 200 + 86_400 * 13, 200, .warn, "13 days"), (0, 200 + 86_400 * 15, 200, .ok, "(15 days)"), (0, 100, 100, .fail, "expired 0 s ago"),
    ] as [(Int64, Int64, Int64, Diagnosis.Verdict, String)])
    func judgesTimesOfCertificates(before: Int64, after: Int64, now: Int64, verdict: Diagnosis.Verdict, words: String) {
        let result = Diagnosis.validity(notBefore: before, notAfter: after, now: now)
        #expect(result.verdict == verdict && result.text.contains(words))
        #expect(result.hint.isEmpty == (verdict == .ok))
        #expect(Diagnosis.validity(notBefore: 0, notAfter: 1_795_757_472, now: 0).text.hasPrefix("valid until 2026-11-27T05:31:12Z"))
    }
}
