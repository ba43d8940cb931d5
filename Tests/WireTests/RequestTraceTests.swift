// `traceparent`, `tracestate` and `x-request-id`: what of them counts, what is made, and what goes on. Heads arrive whole, byte by
// byte and split at every offset.

import Memory
import TestKit
import Testing
import Wire

@Suite struct RequestTraceTests {
    private static let id = "4bf92f3577b34da6a3ce929d0e0e4736"
    private static let valid = "00-\(id)-00f067aa0ba902b7-01"

    /// The head and what it says of itself.
    private func read(_ fields: String) throws -> (head: Head, bytes: [UInt8], trace: RequestTrace) {
        let text = "GET / HTTP/1.1\r\nHost: e\r\n\(fields)\r\n"
        let head = try #require(parseHead(text).head)
        let bytes = latin1(text)
        return (head, bytes, RequestTrace(head, bytes.span))
    }

    private func text(_ id: InlineArray<32, UInt8>) -> String { String(decoding: id.indices.map { id[$0] }, as: UTF8.self) }

    @Test(arguments: [
        (valid, true),
        ("00-\(id)-00f067aa0ba902b7-00", true),
        ("00-\(id)-00f067aa0ba902b7-ff", true),
        // Later versions may have more.
        ("01-\(id)-00f067aa0ba902b7-01", true),
        ("cc-\(id)-00f067aa0ba902b7-01-what-the-future-brings", true),
        ("fe-\(id)-00f067aa0ba902b7-01-", true),
        ("01-\(id)-00f067aa0ba902b7-01.more", false),
        ("ff-\(id)-00f067aa0ba902b7-01", false),
        ("00-\(id)-00f067aa0ba902b7-01-more", false),
        ("00-\(id)-00f067aa0ba902b7-01-", false),
        ("00-\(id)-00f067aa0ba902b7-1", false),
        ("00-\(id)-00f067aa0ba902b7", false),
        ("00-00000000000000000000000000000000-00f067aa0ba902b7-01", false),
        ("00-\(id)-0000000000000000-01", false),
        ("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", false),
        ("00-\(id)-00F067AA0BA902B7-01", false),
        ("00-\(id)-00f067aa0ba902b7-0A", false),
        ("0A-\(id)-00f067aa0ba902b7-01", false),
        ("00-\(id)-00f067aa0ba902bx-01", false),
        ("00_\(id)_00f067aa0ba902b7_01", false),
        ("0-0\(id)-00f067aa0ba902b7-01", false),
        ("\(valid), \(valid)", false),
        ("", false),
        ("00", false),
    ])
    func tracesOfHeads(_ value: String, isValid: Bool) throws {
        for padding in ["", " \t"] {
            let trace = try read("TraceParent:\(padding)\(value)\(padding)\r\n").trace
            #expect(trace.isBrought == isValid && trace.isKnown == isValid, "\(value)")
            if isValid { #expect(text(trace.id) == Self.id) }
        }
    }

    @Test(arguments: [
        ("x-request-id: abc-123\r\n", "abc-123"),
        ("X-REQUEST-ID: \(String(repeating: "~", count: 128))\r\n", String(repeating: "~", count: 128)),
        ("x-request-id: \(String(repeating: "a", count: 129))\r\n", nil),
        ("x-request-id: a b\r\n", nil),
        ("x-request-id: caf\u{e9}\r\n", nil),
        ("x-request-id:\r\n", nil),
        ("x-request-id: a\r\nx-request-id: a\r\n", nil),
        ("x-request-id: a\r\nConnection: x-request-id\r\n", nil),
        ("", nil),
    ])
    func requestIDs(_ fields: String, expected: String?) throws {
        let (_, bytes, trace) = try read(fields)
        #expect(trace.requestID.map { String(decoding: bytes[$0], as: UTF8.self) } == expected)
    }

    /// What goes on for what came; `T` stands for the made trace's number, `P` for the made caller's.
    @Test(arguments: [
        ("", "traceparent: 00-T-P-01\r\nx-request-id: T\r\n"),
        ("traceparent: \(valid)\r\ntracestate: a=b,c=d\r\nx-request-id: mine\r\n", "traceparent: \(valid)\r\ntracestate: a=b,c=d\r\nx-request-id: mine\r\n"),
        ("Traceparent: \(valid)\r\nTraceState: a=b\r\nTRACESTATE: c=d\r\n", "Traceparent: \(valid)\r\nTraceState: a=b\r\nTRACESTATE: c=d\r\nx-request-id: \(id)\r\n"),
        ("traceparent: wrong\r\nX-Other: 1\r\ntracestate: a=b\r\nX-Request-Id: mine\r\n", "X-Other: 1\r\nX-Request-Id: mine\r\ntraceparent: 00-T-P-01\r\n"),
        ("tracestate: a=b\r\n", "traceparent: 00-T-P-01\r\nx-request-id: T\r\n"),
        ("traceparent: \(valid)\r\ntraceparent: \(valid)\r\ntracestate: a=b\r\n", "traceparent: 00-T-P-01\r\nx-request-id: T\r\n"),
        ("traceparent: \(valid)\r\nConnection: traceparent\r\n", "traceparent: 00-T-P-01\r\nx-request-id: T\r\n"),
        ("x-request-id: a b\r\n", "traceparent: 00-T-P-01\r\nx-request-id: T\r\n"),
    ])
    func whatGoesOn(_ fields: String, expected: String) throws {
        let (head, bytes, brought) = try read(fields)
        var trace = brought
        var seeded = SeededGenerator(seed: 7)
        var numbers = TraceNumbers(using: &seeded)
        trace.complete(using: &numbers)
        let hexadecimal = String(trace.parent, radix: 16)
        let parent = String(repeating: "0", count: 16 - hexadecimal.utf8.count) + hexadecimal
        let rest = expected.replacing("T-P", with: "\(text(trace.id))-\(parent)").replacing("id: T", with: "id: \(text(trace.id))")
        var rewrite = RequestRewrite()
        rewrite.trace = trace
        var output = ByteBuffer()
        HeadWriter.writeRequest(head, bytes.span, rewrite: rewrite, into: &output)
        let written = WireTests.text(output)
        #expect(written == "GET / HTTP/1.1\r\nHost: e\r\n\(rest)\r\n")
        // Whoever gets it keeps it as it is.
        let again = RequestTrace(try #require(parseHead(written).head), latin1(written).span)
        #expect(again.isBrought && again.requestID != nil && text(again.id) == text(trace.id))
        // Who does not care passes everything on.
        var untouched = ByteBuffer()
        HeadWriter.writeRequest(head, bytes.span, rewrite: RequestRewrite(), into: &untouched)
        if !fields.contains("Connection") { #expect(WireTests.text(untouched) == "GET / HTTP/1.1\r\nHost: e\r\n\(fields)\r\n") }
    }

    @Test func numbersDiffer() {
        var seeded = SeededGenerator(seed: 1)
        var numbers = TraceNumbers(using: &seeded)
        var seen: Set<UInt64> = []
        for _ in 0..<10_000 { seen.insert(numbers.next()) }
        #expect(seen.count == 10_000)
        // The first numbers of the generator's authors from the state 1, 2, 3, 4.
        struct Counting: RandomNumberGenerator {
            var last: UInt64 = 0
            mutating func next() -> UInt64 {
                last += 1
                return last
            }
        }
        var counting = Counting()
        var known = TraceNumbers(using: &counting)
        #expect((0..<5).map { _ in known.next() } == [11_520, 0, 1_509_978_240, 1_215_971_899_390_074_240, 1_216_172_134_540_287_360])
    }
}
