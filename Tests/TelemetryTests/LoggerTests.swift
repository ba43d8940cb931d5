// Log lines read back by an independent reader of JSON, whatever bytes they carry; the access log; lines that are too long.

import Base
import Foundation
import Memory
import Telemetry
import Testing

@Suite struct WarningLimitTests {
    @Test func oneASecond() {
        var limit = WarningLimit()
        let start = Instant(nanoseconds: 5_000_000_000)
        let due = [0, 1, 999, 1_000, 1_500, 2_000, 60_000].map { limit.isDue(start + .milliseconds($0)) }
        #expect(due == [true, false, false, true, false, true, true])
    }
}

private final class Lines: LogSink {
    var lines: [String] = []
    var accepts = true
    override func write(_ line: Span<UInt8>) -> Bool {
        if accepts { lines.append(String(decoding: (0..<line.count).map { line[$0] }, as: UTF8.self)) }
        #expect(line.count <= LogLimits.lineBytesMax)
        return accepts
    }
}

private func make(_ settings: LogSettings = LogSettings(), time: UInt64 = 1_795_342_272_345_678_901) -> (Logger, Lines) {
    let lines = Lines()
    return (Logger(settings: settings, clock: { time }, sink: lines), lines)
}

/// The line as an independent reader of JSON sees it.
private func object(_ line: String?) throws -> [String: Any] {
    let data = Data(try #require(line).utf8)
    return try #require(try JSONSerialization.jsonObject(with: data) as? [String: Any])
}

@Suite struct LoggerTests {
    @Test func writesOneObjectALine() throws {
        let (logger, sink) = make()
        logger.info(.proxyHTTP, "text") {
            $0.field("endpoint-id", "my-endpoint")
            $0.field("status", 200)
            $0.field("small", -3)
            $0.field("ok", true)
            $0.field("took", Duration.milliseconds(1_500))
            $0.field("nodes", ["a", "b\"c"])
            $0.beginObject("inner")
            $0.field("x", UInt64.max)
            $0.endObject()
            $0.field("last", "é")
        }
        #expect(
            sink.lines == [
                #"{"level":"info","ts":"2026-11-22T10:11:12.345Z","subsystem":"proxy.http","msg":"text","#
                    + #""endpoint-id":"my-endpoint","status":200,"small":-3,"ok":true,"took":"1.5s","nodes":["a","b\"c"],"#
                    + #""inner":{"x":18446744073709551615},"last":"é"}"# + "\n"
            ])
    }

    @Test func wantsOtherLinesFromNowOn() {
        let (logger, sink) = make(LogSettings(level: .warn, subsystems: ["server"]))
        logger.info(.main, "no")
        logger.debug(.server, "yes")
        logger.change(level: .info, subsystems: ["main"])
        logger.debug(.server, "no")
        logger.debug(.main, "yes")
        logger.info(.server, "yes")
        #expect(sink.lines.count == 3 && sink.lines.allSatisfy { $0.contains("yes") })
    }

    @Test func writesForPeople() {
        let (logger, sink) = make(LogSettings(format: .human), time: 951_782_400_000_000_000)
        logger.warn(.server, "worker ended") {
            $0.field("status", 9)
            $0.field("empty", "")
            $0.field("err", "bind: Address already in use")
            $0.beginObject("request")
            $0.field("path", "/a=b\u{1b}[2J")
            $0.endObject()
        }
        #expect(
            sink.lines == [
                "2000-02-29T00:00:00.000Z WARN  server: worker ended status=9 empty=\"\" "
                    + "err=\"bind: Address already in use\" request={path=\"/a=b\\u001b[2J\"}\n"
            ])
    }

    @Test func writesWhatIsWanted() {
        let (logger, sink) = make(LogSettings(level: .warn, subsystems: ["proxy.http", "unknown"]))
        logger.info(.proxy, "no") { _ in Issue.record("fields of an unwanted line") }
        logger.debug(.proxyHTTP, "yes")
        logger.warn(.proxy, "yes")
        #expect(sink.lines.count == 2)
        #expect(logger.isEnabled(.error, .main) && !logger.isEnabled(.info, .main) && logger.isEnabled(.debug, .proxyHTTP))
    }

    @Test func countsDroppedLines() {
        let (logger, sink) = make()
        let counters = Counters()
        logger.counters = counters
        sink.accepts = false
        logger.info(.main, "lost")
        logger.info(.main, "lost")
        #expect(logger.dropped == 2)
        #expect(counters.value(.logLinesDropped) == 2)
    }

    /// Any bytes whatever make a valid line, which reads back as the text that they are.
    @Test func survivesAnyBytes() throws {
        let (logger, sink) = make()
        var random = SystemRandomNumberGenerator()
        var values = (0...255).map { [UInt8($0)] } + [[0xc2, 0x9b], [0xe2, 0x80, 0xa8], [0xed, 0xa0, 0x80], [0xf0, 0x9f, 0x98, 0x80]]
        values += (0..<2_000).map { _ in (0..<Int.random(in: 0...40, using: &random)).map { _ in UInt8.random(in: 0...255, using: &random) } }
        for bytes in values {
            logger.info(.main, "m") { $0.field("value", bytes.span) }
            let popped = sink.lines.popLast()
            let line = try #require(popped)
            #expect(!line.dropLast().utf8.contains { $0 < 0x20 || $0 == 0x7f })
            #expect(!line.unicodeScalars.contains { (0x80..<0xa0).contains($0.value) || $0.value == 0x2028 || $0.value == 0x2029 })
            let value = try object(line)["value"] as? String
            if let text = String(validating: bytes, as: UTF8.self) { #expect(value == text) }
        }
    }

    @Test func cutsWhatIsTooLong() throws {
        for format in [LogFormat.json, .human] {
            for fill in stride(from: 0, through: 4_200, by: 7) {
                let (logger, sink) = make(LogSettings(format: format))
                logger.info(.main, "m") {
                    $0.field("long", String(repeating: "\u{1}é", count: fill / 3))
                    $0.field("more", String(repeating: "x", count: fill))
                    $0.beginObject("a")
                    $0.beginObject("b")
                    $0.field("list", (0..<fill / 10).map { "item\($0)" })
                    $0.field("text", String(repeating: "\"", count: fill))
                    $0.field("number", fill)
                    $0.beginObject("c")
                    $0.field("deep", "x")
                    $0.endObject()
                    $0.endObject()
                    $0.field("flag", true)
                }
                if format == .json { _ = try object(sink.lines.first) }
                #expect(sink.lines.first?.hasSuffix("\n") == true)
                if fill > 2_000 { #expect(sink.lines.first?.contains("cut") == true) }
            }
        }
    }
}

@Suite struct AccessLogTests {
    private func line(_ filter: HeaderFilter, head: String) throws -> [String: [String]] {
        let (logger, sink) = make()
        let bytes = Array(head.utf8)
        var places: [LoggedHeader] = []
        var start = 0
        for line in head.split(separator: "\n") {
            let colon = line.utf8.firstIndex(of: UInt8(ascii: ":"))!
            let name = line.utf8.distance(from: line.startIndex, to: colon)
            places.append(LoggedHeader(name: start..<(start + name), value: (start + name + 1)..<(start + line.utf8.count)))
            start += line.utf8.count + 1
        }
        logger.info(.proxyAccess, "request") {
            $0.beginObject("request")
            $0.request(proto: "HTTP/1.1", method: Array("GET".utf8).span, host: Array("h".utf8).span, target: Array("/p?token=1".utf8).span)
            $0.headers("request_headers", filter, in: bytes.span, count: places.count) { places[$0] }
            $0.field("status", 200)
            $0.endObject()
        }
        let request = try #require(try object(sink.lines.first)["request"] as? [String: Any])
        #expect(request["path"] as? String == "/p")
        #expect(request["status"] as? Int == 200)
        return try #require(request["request_headers"] as? [String: [String]])
    }

    @Test func groupsHeadersAndHidesSecrets() throws {
        let head = "content-type:text/plain\nX-A:1\nAUTHORIZATION:Bearer secret\nx-a:2\nCookie:k=v\nx-piko-authorization:s"
        #expect(
            try line(HeaderFilter(), head: head) == [
                "Content-Type": ["text/plain"], "X-A": ["1", "2"], "Authorization": ["***"], "Cookie": ["***"],
                "X-Piko-Authorization": ["***"],
            ])
        #expect(try line(HeaderFilter(allow: ["X-a", "Cookie"]), head: head) == ["X-A": ["1", "2"], "Cookie": ["***"]])
        #expect(
            try line(HeaderFilter(block: ["x-A", "cookie", "Authorization"]), head: head) == [
                "Content-Type": ["text/plain"], "X-Piko-Authorization": ["***"],
            ])
    }

    @Test func showsSecretsWhenAskedTo() throws {
        let head = "Authorization:Bearer a\nset-cookie:k=v\nx-piko-authorization:b\nx-piko-node:proof\nx-piko-credential:c"
        #expect(
            try line(HeaderFilter(showsSecrets: true), head: head) == [
                "Authorization": ["Bearer a"], "Set-Cookie": ["k=v"], "X-Piko-Authorization": ["b"], "X-Piko-Node": ["***"],
                "X-Piko-Credential": ["***"],
            ])
    }

    @Test func survivesManyHeaders() throws {
        let head = (0..<500).map { "name-\($0):\(String(repeating: "v", count: $0))" }.joined(separator: "\n")
        #expect(try line(HeaderFilter(), head: head).count > 10)
    }

    @Test func raisesFailuresToWarnings() {
        let settings = AccessLogSettings(level: .debug)
        #expect(settings.level(status: 499) == .debug && settings.level(status: 500) == .warn)
        #expect(AccessLogSettings(level: .error).level(status: 503) == .error)
    }
}
