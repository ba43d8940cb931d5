// Requests as lines of Apache's combined format: what they look like, and that no value breaks out of its place. And which requests
// are chosen.

import Base
import Foundation
import Memory
import Telemetry
import Testing

private final class OneLine: LogSink {
    var bytes: [UInt8] = []
    var accepts = true
    override func write(_ line: Span<UInt8>) -> Bool {
        bytes = [UInt8](copying: line)
        #expect(line.count <= LogLimits.lineBytesMax)
        return accepts
    }
}

@Suite struct CombinedLineTests {
    private func line(
        client: String? = "192.0.2.1", method: [UInt8] = Array("GET".utf8), target: [UInt8] = Array("/".utf8), bytes: UInt64 = 5,
        referer: [UInt8] = [], userAgent: [UInt8] = []
    ) -> String {
        let sink = OneLine()
        let logger = Logger(settings: LogSettings(), clock: { 1_795_342_272_345_678_901 }, sink: sink)
        let entry = CombinedEntry(client: client.flatMap { IPAddress(text: $0) }, proto: "HTTP/1.1", status: 200, bytes: bytes)
        logger.combined(.info, .proxyAccess, entry, method: method.span, target: target.span, referer: referer.span, userAgent: userAgent.span)
        return String(decoding: sink.bytes, as: UTF8.self)
    }

    @Test func looksAsApacheWritesIt() {
        #expect(
            line(target: Array("/a/b?secret=1".utf8), referer: Array("https://e.com/".utf8), userAgent: Array("curl/8.0 (x)".utf8))
                == #"192.0.2.1 - - [22/Nov/2026:10:11:12 +0000] "GET /a/b HTTP/1.1" 200 5 "https://e.com/" "curl/8.0 (x)""# + "\n")
        #expect(line(client: nil, bytes: 0) == #"- - - [22/Nov/2026:10:11:12 +0000] "GET / HTTP/1.1" 200 - "-" "-""# + "\n")
        #expect(line(client: "2001:db8::1").hasPrefix("2001:db8::1 - - ["))
    }

    @Test(arguments: [
        (#"a"b"#, #"a\"b"#), (#"a\"#, #"a\\"#), (#"\""#, #"\\\""#), ("a\nb\r\tc", #"a\nb\r\tc"#), ("\u{1b}[31m\u{0}\u{7f}", #"\x1b[31m\x00\x7f"#),
        ("é", #"\xc3\xa9"#), ("\u{2028}", #"\xe2\x80\xa8"#),
    ])
    func escapes(_ value: String, _ expected: String) {
        #expect(line(userAgent: Array(value.utf8)).hasSuffix("\"-\" \"\(expected)\"\n"))
        #expect(line(referer: Array(value.utf8)).hasSuffix("\"\(expected)\" \"-\"\n"))
        #expect(line(target: Array(value.utf8)).contains("\"GET \(expected) HTTP/1.1\""))
    }

    /// Whatever the bytes are: one line of printable ASCII whose quoted parts end where they should.
    @Test func nothingBreaksOut() throws {
        let shape = try Regex(#"[0-9a-f.:]+ - - \[[^\]"]+\] "((?:[^"\\]|\\.)*)" 200 5 "((?:[^"\\]|\\.)*)" "((?:[^"\\]|\\.)*)"\n"#)
        for first in UInt8.min...UInt8.max {
            for rest in [[], Array("\"".utf8), Array("\" 200 5".utf8), [UInt8](repeating: first, count: 5_000)] {
                let text = line(method: [first], target: [first] + rest, referer: rest + [first], userAgent: [first] + rest)
                #expect(text.wholeMatch(of: shape) != nil, "\(text)")
                #expect(text.utf8.dropLast().allSatisfy { $0 >= 0x20 && $0 < 0x7f })
            }
        }
        #expect(line(userAgent: [UInt8](repeating: 0x61, count: 2_000)).hasSuffix("aaa...\"\n"))
    }

    @Test func countsWhatIsDropped() {
        let sink = OneLine()
        sink.accepts = false
        let logger = Logger(settings: LogSettings(level: .warn), clock: { 0 }, sink: sink)
        let entry = CombinedEntry(client: nil, proto: "HTTP/1.0", status: 500, bytes: 0)
        for level in [LogLevel.info, .warn, .error] {
            logger.combined(level, .proxyAccess, entry, method: Span(), target: Span(), referer: Span(), userAgent: Span())
        }
        #expect(logger.dropped == 2)
    }
}

@Suite struct SamplingTests {
    private let top: UInt64 = 1 << 56

    @Test(arguments: [(1.0, 1_000...1_000), (0.0, 0...0), (0.25, 200...300), (0.0001, 0...2), (2, 1_000...1_000), (-1, 0...0)])
    func shares(_ sample: Double, _ expected: ClosedRange<Int>) {
        let settings = AccessLogSettings(sample: sample)
        // Numbers that are spread over all 56 bits; what is above them does not count.
        let chosen = (0..<UInt64(1_000)).filter {
            let number = $0 &* 0x9e37_79b9_7f4a_7c15
            #expect(settings.wants(status: 200, isCompleted: true, number: number) == settings.wants(status: 404, isCompleted: true, number: number ^ 0xff << 56))
            return settings.wants(status: 200, isCompleted: true, number: number)
        }
        #expect(expected.contains(chosen.count), "\(chosen.count)")
        #expect(settings.wants(status: 500, isCompleted: true, number: 0))
        #expect(settings.wants(status: 200, isCompleted: false, number: 0))
    }

    /// The same requests everywhere: whoever takes a smaller share takes part of those that others take.
    @Test func smallerSharesArePartsOfLarger() {
        let quarter = AccessLogSettings(sample: 0.25)
        let half = AccessLogSettings(sample: 0.5)
        #expect(half.wants(status: 200, isCompleted: true, number: top / 2) && !half.wants(status: 200, isCompleted: true, number: top / 2 - 1))
        #expect(quarter.wants(status: 200, isCompleted: true, number: top - 1) && !quarter.wants(status: 200, isCompleted: true, number: top / 2))
    }
}
