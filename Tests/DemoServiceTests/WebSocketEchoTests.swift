// Frames that the echoing WebSocket takes and refuses, each row whole and in pieces of several sizes.
import Memory
import Testing

@testable import DemoService

/// One frame as a client sends it.
private func frame(_ first: UInt8, _ payload: [UInt8], key: [UInt8] = [0x11, 0x22, 0x33, 0x44]) -> [UInt8] {
    var bytes: [UInt8] = [first]
    switch payload.count {
    case ..<126: bytes.append(0x80 | UInt8(payload.count))
    case ..<65_536: bytes += [0x80 | 126, UInt8(payload.count >> 8), UInt8(payload.count & 0xFF)]
    default:
        bytes.append(0x80 | 127)
        for shift in stride(from: 56, through: 0, by: -8) { bytes.append(UInt8(truncatingIfNeeded: payload.count >> shift)) }
    }
    bytes += key
    for (index, byte) in payload.enumerated() { bytes.append(byte ^ key[index % 4]) }
    return bytes
}

/// What a server sent: whole messages and control frames, fragments put together.
private enum Received: Equatable {
    case message(opcode: UInt8, [UInt8])
    case control(opcode: UInt8, [UInt8])
}

private func parse(_ bytes: [UInt8]) -> [Received] {
    var found: [Received] = []
    var index = 0
    var opcode: UInt8 = 0
    var message: [UInt8] = []
    while index < bytes.count {
        let first = bytes[index]
        var length = Int(bytes[index + 1])
        index += 2
        if length == 126 {
            length = Int(bytes[index]) << 8 | Int(bytes[index + 1])
            index += 2
        } else if length == 127 {
            length = bytes[index..<index + 8].reduce(0) { $0 << 8 | Int($1) }
            index += 8
        }
        let payload = Array(bytes[index..<index + length])
        index += length
        if first & 0x08 != 0 {
            found.append(.control(opcode: first & 0x0F, payload))
            continue
        }
        if first & 0x0F != 0 { opcode = first & 0x0F }
        message += payload
        if first & 0x80 != 0 {
            found.append(.message(opcode: opcode, message))
            message = []
        }
    }
    return found
}

/// Runs the bytes through an echo in pieces of `size`.
private func echo(_ bytes: [UInt8], size: Int) -> (received: [Received], isOpen: Bool) {
    var echo = WebSocketEcho()
    var output = ByteBuffer()
    var isOpen = true
    var start = 0
    while start < bytes.count && isOpen {
        var piece = Array(bytes[start..<min(start + size, bytes.count)])
        start += size
        var span = piece.mutableSpan
        isOpen = echo.receive(&span, into: &output)
    }
    let sent = (0..<output.count).map { output.span[$0] }
    return (parse(sent), isOpen)
}

@Suite struct WebSocketEchoTests {
    fileprivate struct Row: Sendable, CustomTestStringConvertible {
        var name: String
        var bytes: [UInt8]
        var expected: [Received]
        var isOpen = true
        var testDescription: String { name }
    }

    private static func close(_ code: UInt16) -> Received {
        .control(opcode: 8, [UInt8(code >> 8), UInt8(code & 0xFF)])
    }

    fileprivate static let rows: [Row] = [
        Row(name: "binary", bytes: frame(0x82, [1, 2, 3, 4, 5]), expected: [.message(opcode: 2, [1, 2, 3, 4, 5])]),
        Row(name: "empty text", bytes: frame(0x81, []), expected: [.message(opcode: 1, [])]),
        Row(name: "text", bytes: frame(0x81, Array("héé€😀".utf8)), expected: [.message(opcode: 1, Array("héé€😀".utf8))]),
        Row(
            name: "fragments with a ping between", bytes: frame(0x01, Array("ab".utf8)) + frame(0x89, [9]) + frame(0x80, Array("cd".utf8)),
            expected: [.control(opcode: 10, [9]), .message(opcode: 1, Array("abcd".utf8))]),
        Row(
            name: "character cut by a fragment", bytes: frame(0x01, [0xE2, 0x82]) + frame(0x80, [0xAC]),
            expected: [.message(opcode: 1, [0xE2, 0x82, 0xAC])]),
        Row(
            name: "126 bytes", bytes: frame(0x82, Array(repeating: 7, count: 126)),
            expected: [.message(opcode: 2, Array(repeating: 7, count: 126))]),
        Row(
            name: "65,536 bytes", bytes: frame(0x82, Array(repeating: 8, count: 65_536)),
            expected: [.message(opcode: 2, Array(repeating: 8, count: 65_536))]),
        Row(name: "pong is no matter", bytes: frame(0x8A, [1]) + frame(0x82, [2]), expected: [.message(opcode: 2, [2])]),
        Row(name: "close", bytes: frame(0x88, [3, 0xE8, 0x62]), expected: [.control(opcode: 8, [3, 0xE8, 0x62])], isOpen: false),
        Row(name: "close without code", bytes: frame(0x88, []), expected: [.control(opcode: 8, [])], isOpen: false),
        Row(name: "nothing after close", bytes: frame(0x88, []) + frame(0x82, [1]), expected: [.control(opcode: 8, [])], isOpen: false),
        Row(name: "close of one byte", bytes: frame(0x88, [3]), expected: [close(1002)], isOpen: false),
        Row(name: "close with a reserved code", bytes: frame(0x88, [0x03, 0xED]), expected: [close(1002)], isOpen: false),
        Row(name: "close with bad text", bytes: frame(0x88, [3, 0xE8, 0xFF]), expected: [close(1007)], isOpen: false),
        Row(name: "unmasked", bytes: [0x82, 0x00, 0, 0, 0, 0], expected: [close(1002)], isOpen: false),
        Row(name: "reserved bit", bytes: frame(0xC2, [1]), expected: [close(1002)], isOpen: false),
        Row(name: "unknown opcode", bytes: frame(0x83, [1]), expected: [close(1002)], isOpen: false),
        Row(name: "unknown control opcode", bytes: frame(0x8B, [1]), expected: [close(1002)], isOpen: false),
        Row(name: "fragmented ping", bytes: frame(0x09, [1]), expected: [close(1002)], isOpen: false),
        Row(name: "ping of 126 bytes", bytes: frame(0x89, Array(repeating: 0, count: 126)), expected: [close(1002)], isOpen: false),
        Row(name: "continuation of nothing", bytes: frame(0x80, [1]), expected: [close(1002)], isOpen: false),
        Row(name: "bad text", bytes: frame(0x81, [0xC0, 0x80]), expected: [close(1007)], isOpen: false),
        Row(name: "text that ends in a character", bytes: frame(0x81, [0xE2, 0x82]), expected: [close(1007)], isOpen: false),
        Row(
            name: "length not in its shortest form", bytes: [0x82, 0x80 | 126, 0, 5, 0, 0, 0, 0, 1, 2, 3, 4, 5],
            expected: [close(1002)], isOpen: false),
    ]

    @Test(arguments: rows)
    fileprivate func row(_ row: Row) {
        for size in [row.bytes.count, 1, 2, 3, 7, 4_096] {
            let result = echo(row.bytes, size: size)
            // A message that broke may have gone back in part; what counts is how it ended.
            if row.isOpen {
                #expect(result.received == row.expected, "pieces of \(size)")
            } else {
                #expect(result.received.last == row.expected.last, "pieces of \(size)")
            }
            #expect(result.isOpen == row.isOpen)
        }
    }

    @Test func newMessageInsideAnotherIsRefused() {
        let result = echo(frame(0x01, [0x61]) + frame(0x81, [0x62]), size: 1_000)
        #expect(result.received.last == .control(opcode: 8, [0x03, 0xEA]))
    }

    @Test(arguments: ["", "plain", "grüße", "\u{10FFFF}", "\u{D7FF}\u{E000}"])
    func goodText(text: String) {
        var check = UTF8Check()
        let bytes = Array(text.utf8)
        let accepted = check.accept(bytes.span, 0..<bytes.count)
        #expect(accepted && check.isComplete)
    }

    @Test(
        arguments: [
            [0x80], [0xC1, 0x80], [0xE0, 0x9F, 0x80], [0xED, 0xA0, 0x80], [0xF0, 0x8F, 0x80, 0x80], [0xF4, 0x90, 0x80, 0x80], [0xF5],
            [0xC2, 0x41],
        ] as [[UInt8]])
    func badText(bytes: [UInt8]) {
        var check = UTF8Check()
        let accepted = check.accept(bytes.span, 0..<bytes.count)
        #expect(!accepted)
    }
}
