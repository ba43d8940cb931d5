// Chunked bodies, row by row: whole, byte by byte and split at every offset.

import Memory
import Testing
import Wire

/// A chunked body and what it decodes to; nil: refused.
struct ChunkRow: Sendable, CustomTestStringConvertible {
    let text: String
    let body: String?
    let trailers: String
    init(_ text: String, _ body: String?, trailers: String = "") {
        self.text = text
        self.body = body
        self.trailers = trailers
    }
    var testDescription: String { text.debugDescription }
}

enum ChunkOutcome: Equatable {
    /// Body, trailers, bytes taken.
    case complete(String, String, Int)
    case incomplete(String)
    case refused(Int, String)
}

/// Decodes a body whose pieces end at `arrival`; each piece is given to the decoder as bytes of its own.
func decodeChunks(_ bytes: [UInt8], limits: ChunkLimits = ChunkLimits(), arrival: [Int]) -> ChunkOutcome {
    var decoder = ChunkedDecoder(limits: limits)
    var body = ""
    var start = 0
    do throws(HTTPError) {
        for end in arrival {
            let piece = bytes.span.extracting(start..<end)
            var offset = 0
            events: while true {
                switch try decoder.next(piece, at: &offset) {
                case .needMore: break events
                case .data(let range): body += text(piece, range)
                case .end: return .complete(body, text(decoder.trailers), start + offset)
                }
            }
            start = end
        }
        return .incomplete(body)
    } catch {
        return .refused(error.status, "\(error.reason)")
    }
}

func decodeChunks(_ text: String, limits: ChunkLimits = ChunkLimits()) -> ChunkOutcome {
    let bytes = latin1(text)
    let whole = decodeChunks(bytes, limits: limits, arrival: [bytes.count])
    for arrival in arrivals(bytes.count) {
        let outcome = decodeChunks(bytes, limits: limits, arrival: arrival)
        #expect(outcome == whole, "arrival \(arrival) of \(text.debugDescription)")
    }
    return whole
}

@Suite struct HTTP1ChunkedTests {
    @Test(arguments: [
        ChunkRow("0\r\n\r\n", ""),
        ChunkRow("00000\r\n\r\n", ""),
        ChunkRow("5\r\nhello\r\n0\r\n\r\n", "hello"),
        ChunkRow("5\r\nhello\r\n000000000000000a\r\n0123456789\r\n0\r\n\r\n", "hello0123456789"),
        ChunkRow("A\r\n0123456789\r\n0\r\n\r\n", "0123456789"),
        ChunkRow("2\r\n\r\n\r\n0\r\n\r\n", "\r\n"),
        ChunkRow("1;a\r\nx\r\n0;b=c;d=\"e\\\" \\\\\t;\u{e4}\";f\r\n\r\n", "x"),
        ChunkRow("1\r\nx\r\n0\r\nX-Sum: 1\r\nx-two:2 \r\n\r\n", "x", trailers: "X-Sum: 1\r\nx-two:2 \r\n"),
        ChunkRow(
            "0\r\nContent-Length: 5\r\nX: 1\r\nHost: a\r\nTransfer-Encoding: x\r\nConnection: X\r\nAuthorization: x\r\nx-piko-forward: true\r\n\r\n",
            "", trailers: "X: 1\r\n"),
        ChunkRow("0\r\nTrailer: x\r\nSet-Cookie: x\r\nX-Forwarded-For: 1\r\n\r\n", ""),
        // Sizes.
        ChunkRow("\r\n", nil), ChunkRow("0x5\r\nhello\r\n", nil), ChunkRow("0_2e\r\n", nil), ChunkRow("+5\r\nhello\r\n", nil),
        ChunkRow("-1\r\n", nil), ChunkRow(" 5\r\nhello\r\n", nil), ChunkRow("5 \r\nhello\r\n", nil), ChunkRow("5\t\r\nhello\r\n", nil),
        ChunkRow("g\r\n", nil), ChunkRow("00000000000000005\r\nhello\r\n0\r\n\r\n", nil), ChunkRow("5,\r\n", nil),
        ChunkRow("5\u{0}\r\n", nil),
        // Line ends.
        ChunkRow("5\nhello\r\n0\r\n\r\n", nil), ChunkRow("5\rhello\r\n0\r\n\r\n", nil), ChunkRow("5\r\r\nhello\r\n0\r\n\r\n", nil),
        ChunkRow("5\r\nhello\n0\r\n\r\n", nil), ChunkRow("5\r\nhello0\r\n\r\n", nil), ChunkRow("5\r\nhello\r0\r\n\r\n", nil),
        ChunkRow("5\r\nhello!\r\n0\r\n\r\n", nil), ChunkRow("5\r\nhello\r\n\r\n0\r\n\r\n", nil), ChunkRow("0\r\n\n", nil),
        ChunkRow("0\n\r\n", nil), ChunkRow("0\r\n\r\r", nil),
        // Extensions.
        ChunkRow("1;\r\nx\r\n0\r\n\r\n", nil), ChunkRow("1;;\r\n", nil), ChunkRow("1;a;\r\n", nil), ChunkRow("1;a=\r\n", nil),
        ChunkRow("1;=b\r\n", nil), ChunkRow("1; a\r\n", nil), ChunkRow("1 ;a\r\n", nil), ChunkRow("1;a =b\r\n", nil),
        ChunkRow("1;a= b\r\n", nil),
        ChunkRow("1;a=b c\r\n", nil), ChunkRow("1;a\u{0}\r\n", nil), ChunkRow("1;a=\"\u{1}\"\r\n", nil), ChunkRow("1;a=\"b\"c\r\n", nil),
        ChunkRow("1;a=\"b\r\n", nil), ChunkRow("1;a=\"\\\r\n", nil), ChunkRow("1;a=\"\u{7f}\"\r\n", nil), ChunkRow("1;a\n", nil),
        ChunkRow("1;a\r;\n", nil),
        ChunkRow("1;\u{e4}\r\n", nil), ChunkRow("1;a==b\r\n", nil), ChunkRow("1;a=b=c\r\n", nil),
        // Trailers.
        ChunkRow("0\r\nX : 1\r\n\r\n", nil), ChunkRow("0\r\n X: 1\r\n\r\n", nil), ChunkRow("0\r\nX: 1\n\r\n", nil),
        ChunkRow("0\r\nX\r\n\r\n", nil),
        ChunkRow("0\r\nX: 1\r\n 2\r\n\r\n", nil), ChunkRow("0\r\nX: \u{0}\r\n\r\n", nil), ChunkRow("0\r\nX: 1\rY: 2\r\n\r\n", nil),
        ChunkRow("0\r\n: 1\r\n\r\n", nil),
        ChunkRow("0\r\nContent_Length: 1\r\n\r\n", nil), ChunkRow("0\r\n\r\r\n", nil),
        ChunkRow("0\r\n\nX: 1\r\n\r\n", nil),
    ])
    func rows(_ row: ChunkRow) {
        let outcome = decodeChunks(row.text + (row.body == nil ? "" : "next"))
        if let body = row.body {
            #expect(outcome == .complete(body, row.trailers, row.text.unicodeScalars.count))
        } else {
            guard case .refused(400, _) = outcome else {
                Issue.record("\(outcome)")
                return
            }
        }
    }

    @Test func limits() {
        let limits = ChunkLimits(extensionBytesMax: 6, trailerBytesMax: 12, trailersMax: 2)
        func status(_ text: String) -> Int? {
            if case .refused(let status, _) = decodeChunks(text, limits: limits) { status } else { nil }
        }
        #expect(status("1;a\r\nx\r\n1;a=b\r\nx\r\n0\r\n\r\n") == nil)
        #expect(status("1;a\r\nx\r\n1;a=bc\r\nx\r\n0\r\n\r\n") == 400)
        #expect(status("0\r\nX: 12345678\r\n\r\n") == 431)
        #expect(status("0\r\nX: 1234567\r\n\r\n") == nil)
        #expect(status("0\r\nHost: 1\r\nX: 12\r\n\r\n") == 431)
        #expect(status("0\r\nX: 123456789012345") == 431)
        #expect(status("0\r\nX:\r\nY:\r\n\r\n") == nil)
        #expect(decodeChunks("0\r\nX:\r\nY:\r\nZ:\r\n\r\n", limits: ChunkLimits(trailersMax: 2)) == .refused(431, "too many trailers"))
    }

    @Test func hugeChunksAreCountedExactly() throws {
        var decoder = ChunkedDecoder()
        let bytes = latin1("ffffffffffffffff\r\n" + String(repeating: "x", count: 100))
        var offset = 0
        #expect(try decoder.next(bytes.span, at: &offset) == .data(18..<118))
        #expect(try decoder.next(bytes.span, at: &offset) == .needMore)
        #expect(offset == 118)
    }

    @Test func serveOneBodyAfterTheOther() throws {
        var decoder = ChunkedDecoder()
        let bytes = latin1("1\r\nx\r\n0\r\nX: 1\r\n\r\n")
        for _ in 0..<3 {
            var offset = 0
            #expect(try decoder.next(bytes.span, at: &offset) == .data(3..<4))
            #expect(try decoder.next(bytes.span, at: &offset) == .end)
            #expect(try decoder.next(bytes.span, at: &offset) == .end)
            let trailers = text(decoder.trailers)
            #expect(offset == bytes.count && trailers == "X: 1\r\n")
            decoder.reset()
            let kept = decoder.trailers.count
            #expect(kept == 0)
        }
    }

    @Test func whatIsEncodedDecodes() {
        var output = ByteBuffer()
        for size in [1, 15, 16, 4_096] {
            ChunkedEncoder.writeHeader(size: size, into: &output)
            for _ in 0..<size { output.append(0x61) }
            ChunkedEncoder.writeChunkEnd(into: &output)
        }
        ChunkedEncoder.writeEnd(trailers: latin1("X-Sum: 1\r\n").span, into: &output)
        let bytes = latin1(text(output))
        let expected = ChunkOutcome.complete(String(repeating: "a", count: 1 + 15 + 16 + 4_096), "X-Sum: 1\r\n", bytes.count)
        #expect(decodeChunks(bytes, arrival: [bytes.count]) == expected)
        var end = ByteBuffer()
        ChunkedEncoder.writeEnd(into: &end)
        #expect(text(end) == "0\r\n\r\n")
    }
}
