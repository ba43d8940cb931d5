// What the agent's token says about itself.
import Telemetry
import Testing

@testable import Agent

@Suite struct TokenReportTests {
    private static func base64url(_ text: String) -> String {
        let alphabet = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
        var output = ""
        var bits = 0
        var count = 0
        for byte in text.utf8 {
            bits = (bits << 8 | Int(byte)) & 0xffff
            count += 8
            while count >= 6 {
                output.append(alphabet[bits >> (count - 6) & 63])
                count -= 6
            }
        }
        if count > 0 { output.append(alphabet[bits << (6 - count) & 63]) }
        return output
    }

    private static func token(_ claims: String) -> String {
        [base64url("{\"alg\":\"HS256\"}"), base64url(claims), base64url("no signature")].joined(separator: ".")
    }

    static let rows: [(String, [Diagnosis.Verdict], String)] = [
        ("{}", [.ok, .ok], "never expires"), ("{\"exp\":1000}", [.fail, .ok], "expired 0 s ago"), ("{\"exp\":1001}", [.ok, .ok], "good for 1 s"),
        ("{\"nbf\":2000,\"exp\":9000}", [.fail, .ok], "good only in 16 minutes"), ("{\"iat\":1300,\"exp\":9000}", [.warn, .ok], "made 5 minutes in the future"),
        ("{\"iss\":\"me\",\"aud\":[\"a\",\"b\"],\"exp\":9000}", [.ok, .ok], "iss me, aud a b, exp 1970-01-01T02:30:00Z"),
        ("{\"piko\":{\"endpoints\":[\"one\",\"tw*\"]}}", [.ok, .ok], "one, tw*"), ("{\"piko\":{\"endpoints\":[\"one\"]}}", [.ok, .fail], "one: not two"),
        ("{\"exp\":\"soon\"}", [.fail], "wrong type"), ("[]", [.fail], "no JSON object"),
    ]

    @Test(arguments: rows.indices)
    func judges(row: Int) {
        let (claims, verdicts, words) = Self.rows[row]
        let token = Self.token(claims)
        let checks = TokenReport.checks(token, endpoints: ["one", "two"], now: 1_000)
        #expect(checks.map(\.verdict) == verdicts)
        #expect(checks.contains { $0.found.contains(words) }, "\(checks)")
        for check in checks { #expect(!check.found.contains(token) && (check.verdict != .fail || !check.hint.isEmpty)) }
    }

    @Test func noTokenAndNoToken() {
        #expect(TokenReport.checks("", endpoints: ["one"], now: 1).map(\.verdict) == [.note])
        #expect(TokenReport.checks("secret", endpoints: ["one"], now: 1).allSatisfy { $0.verdict == .fail && !$0.found.contains("secret") })
    }
}
