// WebSocket frames: what leaves, byte for byte; what comes in, as tables of inputs, each whole, byte by byte and cut at
// every offset; every violation; both ends against each other with random frames and splits.

import Memory
import TestKit
import Testing

@testable import Wire

/// One event, with the bytes that belong to it.
enum WebSocketLogEntry: Equatable {
    case data([UInt8])
    case ping([UInt8])
    case pong([UInt8])
    case close(UInt16?, [UInt8])
    case failed(WebSocketError)
}

/// A decoder and what it found. Data is logged as one entry as long as nothing else comes between.
struct WebSocketHarness {
    var decoder: WebSocketDecoder
    var log: [WebSocketLogEntry] = []

    init(expectsMasked: Bool, limits: WebSocketLimits = WebSocketLimits()) {
        decoder = WebSocketDecoder(expectsMasked: expectsMasked, limits: limits)
    }

    /// Feeds the bytes in one piece. After an error the rest is dropped.
    mutating func feed(_ input: [UInt8]) {
        var bytes = input
        var offset = 0
        while true {
            do throws(WebSocketError) {
                var span = bytes.mutableSpan
                let event = try decoder.next(&span, at: &offset)
                switch event {
                case .needMore:
                    #expect(offset == bytes.count)
                    return
                case .data(let range):
                    #expect(!range.isEmpty)
                    if case .data(let before) = log.last {
                        log[log.count - 1] = .data(before + bytes[range])
                    } else {
                        log.append(.data(Array(bytes[range])))
                    }
                case .ping: log.append(.ping(controlPayload))
                case .pong: log.append(.pong(controlPayload))
                case .close(let code): log.append(.close(code, controlPayload))
                }
            } catch {
                if log.last != .failed(error) { log.append(.failed(error)) }
                return
            }
        }
    }

    /// Feeds the bytes in the pieces that end at the offsets.
    mutating func feed(_ bytes: [UInt8], cutAt cuts: [Int]) {
        var start = 0
        for end in cuts + [bytes.count] {
            feed(Array(bytes[start..<end]))
            start = end
        }
    }

    private var controlPayload: [UInt8] {
        let span = decoder.controlPayload
        return (0..<span.count).map { span[$0] }
    }
}

/// A frame written byte by byte, without the code under test. `lengthForm` forces 7, 16 or 64 bits.
func webSocketFrame(
    _ first: UInt8, _ payload: [UInt8], mask: [UInt8]? = nil, lengthForm: Int? = nil, length: UInt64? = nil
) -> [UInt8] {
    let length = length ?? UInt64(payload.count)
    let form = lengthForm ?? (length < 126 ? 7 : length < 65_536 ? 16 : 64)
    let maskBit: UInt8 = mask == nil ? 0 : 0x80
    var bytes = [first]
    switch form {
    case 7: bytes.append(maskBit | UInt8(length))
    case 16: bytes += [maskBit | 126, UInt8(truncatingIfNeeded: length >> 8), UInt8(truncatingIfNeeded: length)]
    default: bytes += [maskBit | 127] + (0..<8).map { UInt8(truncatingIfNeeded: length >> UInt64(56 - $0 * 8)) }
    }
    guard let mask else { return bytes + payload }
    return bytes + mask + payload.enumerated().map { $1 ^ mask[$0 % 4] }
}

/// An input and what must come of it.
struct WebSocketRow: CustomTestStringConvertible, Sendable {
    var name: String
    var masked = false
    var input: [UInt8]
    var log: [WebSocketLogEntry]

    var testDescription: String { name }
}

private let key: [UInt8] = [0x37, 0xfa, 0x21, 0x3d]
private let long = (0..<300).map { UInt8(truncatingIfNeeded: $0 &* 7) }

private let goodRows: [WebSocketRow] = [
    WebSocketRow(name: "binary", input: webSocketFrame(0x82, [1, 2, 3]), log: [.data([1, 2, 3])]),
    WebSocketRow(
        name: "masked binary", masked: true, input: webSocketFrame(0x82, [1, 2, 3, 4, 5, 6, 7], mask: key),
        log: [.data([1, 2, 3, 4, 5, 6, 7])]),
    WebSocketRow(
        name: "masked with zeros", masked: true, input: webSocketFrame(0x82, [1, 2, 3], mask: [0, 0, 0, 0]),
        log: [.data([1, 2, 3])]),
    // RFC 6455 section 5.7.
    WebSocketRow(
        name: "masked ping of the RFC", masked: true,
        input: [0x89, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58], log: [.ping(Array("Hello".utf8))]),
    WebSocketRow(
        name: "ping of the RFC", input: [0x89, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f], log: [.ping(Array("Hello".utf8))]),
    WebSocketRow(name: "pong", input: webSocketFrame(0x8a, []), log: [.pong([])]),
    WebSocketRow(
        name: "longest ping", masked: true, input: webSocketFrame(0x89, Array(long[0..<125]), mask: key),
        log: [.ping(Array(long[0..<125]))]),
    WebSocketRow(name: "16-bit length", masked: true, input: webSocketFrame(0x82, long, mask: key), log: [.data(long)]),
    WebSocketRow(name: "length 126", input: webSocketFrame(0x82, Array(long[0..<126])), log: [.data(Array(long[0..<126]))]),
    WebSocketRow(
        name: "empty messages", input: webSocketFrame(0x82, []) + webSocketFrame(0x82, []) + webSocketFrame(0x82, [1]),
        log: [.data([1])]),
    WebSocketRow(
        name: "fragments", masked: true,
        input: webSocketFrame(0x02, [1, 2], mask: key) + webSocketFrame(0x00, [], mask: key)
            + webSocketFrame(0x00, [3], mask: key)
            + webSocketFrame(0x80, [4, 5], mask: [1, 2, 3, 4]) + webSocketFrame(0x82, [6], mask: key),
        log: [.data([1, 2, 3, 4, 5, 6])]),
    WebSocketRow(
        name: "control between fragments",
        input: webSocketFrame(0x02, [1]) + webSocketFrame(0x89, [9]) + webSocketFrame(0x00, [2]) + webSocketFrame(0x8a, [8])
            + webSocketFrame(0x80, [3]),
        log: [.data([1]), .ping([9]), .data([2]), .pong([8]), .data([3])]),
    WebSocketRow(name: "close without a code", input: webSocketFrame(0x88, []), log: [.close(nil, [])]),
    WebSocketRow(name: "close", masked: true, input: webSocketFrame(0x88, [3, 0xe8], mask: key), log: [.close(1000, [])]),
    WebSocketRow(
        name: "close with a reason", input: webSocketFrame(0x88, [3, 0xe9] + Array("Auf Wiedersehen, schöne Welt".utf8)),
        log: [.close(1001, Array("Auf Wiedersehen, schöne Welt".utf8))]),
    WebSocketRow(
        name: "close between fragments, then anything",
        input: webSocketFrame(0x02, [1]) + webSocketFrame(0x88, [0x0f, 0xa0]) + [0xff, 0xff, 0xff],
        log: [.data([1]), .close(4000, [])]),
]

private func violation(
    _ error: WebSocketError, _ name: String, masked: Bool = false, _ input: [UInt8], after log: [WebSocketLogEntry] = []
) -> WebSocketRow {
    WebSocketRow(name: "\(error): \(name)", masked: masked, input: input, log: log + [.failed(error)])
}

// Row 18 of the security tests.
private let badRows: [WebSocketRow] =
    [
        violation(.textMessage, "text", webSocketFrame(0x81, [65])),
        violation(.textMessage, "empty text", webSocketFrame(0x81, [])),
        violation(.textMessage, "first fragment", webSocketFrame(0x01, [65])),
        violation(.badMasking, "unmasked from a client", masked: true, webSocketFrame(0x82, [1])),
        violation(.badMasking, "unmasked ping from a client", masked: true, webSocketFrame(0x89, [])),
        violation(.badMasking, "masked from a server", webSocketFrame(0x82, [1], mask: key)),
        violation(.reservedBits, "RSV1", webSocketFrame(0xc2, [1])),
        violation(.reservedBits, "RSV2", webSocketFrame(0xa2, [1])),
        violation(.reservedBits, "RSV3", webSocketFrame(0x92, [1])),
        violation(.reservedBits, "on a ping", webSocketFrame(0xc9, [])),
        violation(.badControlFrame, "ping in pieces", webSocketFrame(0x09, [])),
        violation(.badControlFrame, "close in pieces", webSocketFrame(0x08, [])),
        violation(.badControlFrame, "ping of 126", webSocketFrame(0x89, Array(long[0..<126]))),
        violation(.badContinuation, "of nothing", webSocketFrame(0x80, [1])),
        violation(
            .badContinuation, "after the end", webSocketFrame(0x82, [1]) + webSocketFrame(0x00, [1]), after: [.data([1])]),
        violation(
            .badContinuation, "a message in a message", webSocketFrame(0x02, [1]) + webSocketFrame(0x82, [2]),
            after: [.data([1])]),
        violation(.badLength, "125 in 16 bits", webSocketFrame(0x82, Array(long[0..<125]), lengthForm: 16)),
        violation(.badLength, "0 in 16 bits", webSocketFrame(0x82, [], lengthForm: 16)),
        violation(.badLength, "300 in 64 bits", webSocketFrame(0x82, long, lengthForm: 64)),
        violation(.badLength, "65535 in 64 bits", webSocketFrame(0x82, [], lengthForm: 64, length: 65_535)),
        violation(.badLength, "2^63", webSocketFrame(0x82, [], length: 1 << 63)),
        violation(.badLength, "2^64 - 1", masked: true, webSocketFrame(0x82, [], mask: key, length: .max)),
        violation(.frameTooLarge, "2^63 - 1", webSocketFrame(0x82, [], length: 1 << 63 - 1)),
        violation(.badCloseCode, "half a code", webSocketFrame(0x88, [3])),
        violation(.badCloseReason, "not UTF-8", webSocketFrame(0x88, [3, 0xe8, 0xc3, 0x28])),
        violation(.badCloseReason, "cut UTF-8", webSocketFrame(0x88, [3, 0xe8, 0xc3])),
    ]
    + ([3, 4, 5, 6, 7, 11, 12, 13, 14, 15] as [UInt8]).map {
        violation(.reservedOpcode, "\($0)", webSocketFrame(0x80 | $0, []))
    }
    + ([0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535] as [UInt16]).map {
        violation(.badCloseCode, "\($0)", webSocketFrame(0x88, [UInt8($0 >> 8), UInt8($0 & 255)]))
    }

@Suite struct WebSocketDecoderTests {
    @Test(arguments: goodRows)
    func givesTheEvents(row: WebSocketRow) { check(row) }

    @Test(arguments: badRows)
    func refusesWhatBreaksTheProtocol(row: WebSocketRow) { check(row) }

    private func check(_ row: WebSocketRow) {
        for cuts in everyCut(of: row.input.count) {
            var harness = WebSocketHarness(expectsMasked: row.masked)
            harness.feed(row.input, cutAt: cuts)
            #expect(harness.log == row.log, "cut at \(cuts)")
        }
    }

    @Test func everyViolationIsInTheTable() {
        let covered = badRows.compactMap { row in if case .failed(let error) = row.log.last { error } else { nil } }
        #expect(Set(covered) == Set(WebSocketError.allCases))
    }

    @Test func everyCloseCode() {
        for code in 0...UInt16.max {
            let isGood = (1000...1003).contains(code) || (1007...1014).contains(code) || (3000...4999).contains(code)
            if WebSocketEncoder.mayBeSent(closeCode: code) != isGood { Issue.record("code \(code)") }
        }
    }

    @Test func codesOfTheErrors() {
        #expect(Set(WebSocketError.allCases.filter { $0.code != 1002 }) == [.textMessage, .badCloseReason, .frameTooLarge])
        #expect(WebSocketError.textMessage.code == 1003)
        #expect(WebSocketError.badCloseReason.code == 1007)
        #expect(WebSocketError.frameTooLarge.code == 1009)
    }

    @Test func aFrameMayBeAsLargeAsTheLimit() {
        var limits = WebSocketLimits()
        limits.frameBytesMax = 70_000
        var harness = WebSocketHarness(expectsMasked: false, limits: limits)
        let payload = [UInt8](repeating: 3, count: 70_000)
        harness.feed(webSocketFrame(0x82, payload))
        #expect(harness.log == [.data(payload)])
        harness.feed(webSocketFrame(0x82, payload + [1]))
        #expect(harness.log.last == .failed(.frameTooLarge))
    }

    @Test(arguments: [true, false])
    func bothEnds(masked: Bool) {
        for seed in 0..<10 as Range<UInt64> {
            var random = SeededGenerator(seed: seed)
            var wire = ByteBuffer()
            var expected: [WebSocketLogEntry] = []
            for _ in 0..<30 {
                let kind = Int.random(in: 0..<10, using: &random)
                let most = kind < 8 ? [10, 130, 2_000, 70_000][Int.random(in: 0..<4, using: &random)] : 125
                let step = Int.random(in: 1...255, using: &random)
                let payload = (0..<Int.random(in: 0...most, using: &random)).map { UInt8(truncatingIfNeeded: $0 &* step) }
                let mask = masked ? UInt32.random(in: 0...UInt32.max, using: &random) : nil
                WebSocketEncoder.write(
                    kind < 8 ? .binary : kind == 8 ? .ping : .pong, payload: payload.span, maskKey: mask, into: &wire)
                if kind >= 8 {
                    expected.append(kind == 8 ? .ping(payload) : .pong(payload))
                } else if case .data(let before) = expected.last {
                    expected[expected.count - 1] = .data(before + payload)
                } else if !payload.isEmpty {
                    expected.append(.data(payload))
                }
            }
            WebSocketEncoder.writeClose(1001, reason: "bye", maskKey: masked ? 0x0102_0304 : nil, into: &wire)
            expected.append(.close(1001, Array("bye".utf8)))
            let input = bytes(of: wire)
            var harness = WebSocketHarness(expectsMasked: masked)
            var start = 0
            while start < input.count {
                let end = min(input.count, start + Int.random(in: 1...5_000, using: &random))
                harness.feed(Array(input[start..<end]))
                start = end
            }
            #expect(harness.log == expected, "seed \(seed)")
        }
    }
}

@Suite struct WebSocketEncoderTests {
    private func header(_ opcode: WebSocketOpcode, _ length: Int, _ maskKey: UInt32? = nil) -> [UInt8] {
        var buffer = ByteBuffer()
        WebSocketEncoder.writeHeader(opcode, length: length, maskKey: maskKey, into: &buffer)
        return bytes(of: buffer)
    }

    @Test func headersByteForByte() {
        #expect(header(.binary, 0) == [0x82, 0])
        #expect(header(.binary, 125) == [0x82, 125])
        #expect(header(.binary, 126) == [0x82, 126, 0, 126])
        #expect(header(.binary, 65_535) == [0x82, 126, 0xff, 0xff])
        #expect(header(.binary, 65_536) == [0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0])
        #expect(header(.binary, 0x0102_0304_0506) == [0x82, 127, 0, 0, 1, 2, 3, 4, 5, 6])
        #expect(header(.ping, 5, 0x3d21_fa37) == [0x89, 0x85, 0x37, 0xfa, 0x21, 0x3d])
        #expect(header(.binary, 65_536, 0x0403_0201).count == WebSocketEncoder.headerBytesMax)
    }

    @Test func framesByteForByte() {
        var buffer = ByteBuffer()
        WebSocketEncoder.write(.ping, payload: "Hello".utf8Span.span, maskKey: 0x3d21_fa37, into: &buffer)
        #expect(bytes(of: buffer) == [0x89, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58])
        buffer.removeAll()
        WebSocketEncoder.writeClose(1002, reason: "no", maskKey: nil, into: &buffer)
        WebSocketEncoder.writeClose(nil, maskKey: nil, into: &buffer)
        #expect(bytes(of: buffer) == [0x88, 4, 0x03, 0xea, 0x6e, 0x6f, 0x88, 0])
    }

    @Test func callersMistakesTrap() async {
        await #expect(processExitsWith: .failure) {
            var buffer = ByteBuffer()
            WebSocketEncoder.writeHeader(.ping, length: 126, maskKey: nil, into: &buffer)
        }
        await #expect(processExitsWith: .failure) {
            var buffer = ByteBuffer()
            WebSocketEncoder.writeClose(1006, maskKey: nil, into: &buffer)
        }
    }
}
