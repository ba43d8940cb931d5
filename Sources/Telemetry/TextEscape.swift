// Escaping of text that strangers chose, for JSON and for terminals: quotes, the backslash, every control character (C0,
// DEL and C1, which terminals act on) and the line separators of Unicode are escaped, and what is not UTF-8 becomes
// U+FFFD, one for each byte that begins nothing valid. The result is valid JSON string content and a single line.

import Memory

enum TextEscape {
    /// Appends `bytes` escaped, as long as the result stays within `max` bytes; a character is never cut apart. Returns how
    /// many of the bytes were taken: fewer than there are means that there was no room.
    static func append(_ bytes: Span<UInt8>, max: Int, into buffer: inout ByteBuffer) -> Int {
        let limit = buffer.count + max
        var index = 0
        while index < bytes.count {
            let run = plainRun(bytes, from: index, max: limit - buffer.count)
            if run > 0 {
                buffer.append(bytes.extracting(index..<(index + run)))
                index += run
                continue
            }
            let byte = bytes[index]
            if byte < 0x80 {
                guard buffer.count + escapedLength(byte) <= limit else { return index }
                appendEscaped(byte, into: &buffer)
                index += 1
                continue
            }
            let length = sequenceLength(bytes, at: index)
            if length == 0 {
                guard buffer.count + 3 <= limit else { return index }
                buffer.append("\u{FFFD}" as StaticString)
                index += 1
            } else if let scalar = escapedScalar(bytes, at: index, length: length) {
                guard buffer.count + 6 <= limit else { return index }
                appendUnicodeEscape(scalar, into: &buffer)
                index += length
            } else {
                guard buffer.count + length <= limit else { return index }
                buffer.append(bytes.extracting(index..<(index + length)))
                index += length
            }
        }
        return index
    }

    /// How many bytes from `start` are printable ASCII that needs no escape, at most `max`.
    private static func plainRun(_ bytes: Span<UInt8>, from start: Int, max: Int) -> Int {
        let end = min(bytes.count, start + Swift.max(0, max))
        var index = start
        while index < end {
            let byte = bytes[index]
            if byte < 0x20 || byte >= 0x7f || byte == 0x22 || byte == 0x5c { break }
            index += 1
        }
        return index - start
    }

    private static func escapedLength(_ byte: UInt8) -> Int {
        switch byte {
        case 0x22, 0x5c, 0x0a, 0x0d, 0x09: 2
        case 0x20..<0x7f: 1
        default: 6
        }
    }

    private static func appendEscaped(_ byte: UInt8, into buffer: inout ByteBuffer) {
        if !appendShort(byte, into: &buffer) { appendUnicodeEscape(UInt32(byte), into: &buffer) }
    }

    /// Appends a byte that is printable, or has an escape of two characters, as JSON and Apache's logs both have them; false when it is
    /// neither.
    static func appendShort(_ byte: UInt8, into buffer: inout ByteBuffer) -> Bool {
        switch byte {
        case 0x22: buffer.append("\\\"" as StaticString)
        case 0x5c: buffer.append("\\\\" as StaticString)
        case 0x0a: buffer.append("\\n" as StaticString)
        case 0x0d: buffer.append("\\r" as StaticString)
        case 0x09: buffer.append("\\t" as StaticString)
        case 0x20..<0x7f: buffer.append(byte)
        default: return false
        }
        return true
    }

    private static func appendUnicodeEscape(_ scalar: UInt32, into buffer: inout ByteBuffer) {
        buffer.append("\\u" as StaticString)
        for shift: UInt32 in [12, 8, 4, 0] {
            let digit = UInt8(truncatingIfNeeded: (scalar >> shift) & 15)
            buffer.append(digit < 10 ? 48 + digit : 87 + digit)
        }
    }

    /// The scalar of a valid sequence, when it must not appear as it is: C1 controls, and U+2028, U+2029.
    private static func escapedScalar(_ bytes: Span<UInt8>, at index: Int, length: Int) -> UInt32? {
        if length == 2, bytes[index] == 0xc2, bytes[index + 1] < 0xa0 { return UInt32(bytes[index + 1]) }
        if length == 3, bytes[index] == 0xe2, bytes[index + 1] == 0x80 {
            let last = bytes[index + 2]
            if last == 0xa8 || last == 0xa9 { return 0x2000 + UInt32(last & 0x3f) }
        }
        return nil
    }

    /// The length of the valid UTF-8 sequence (2 to 4 bytes) at `index`; 0 when there is none (Unicode, table 3-7).
    static func sequenceLength(_ bytes: Span<UInt8>, at index: Int) -> Int {
        let first = bytes[index]
        let length: Int
        var low: UInt8 = 0x80
        var high: UInt8 = 0xbf
        switch first {
        case 0xc2...0xdf: length = 2
        case 0xe0...0xef:
            length = 3
            if first == 0xe0 { low = 0xa0 }
            if first == 0xed { high = 0x9f }
        case 0xf0...0xf4:
            length = 4
            if first == 0xf0 { low = 0x90 }
            if first == 0xf4 { high = 0x8f }
        default: return 0
        }
        guard bytes.count - index >= length else { return 0 }
        guard bytes[index + 1] >= low, bytes[index + 1] <= high else { return 0 }
        for rest in 2..<4 where rest < length {
            guard bytes[index + rest] & 0xc0 == 0x80 else { return 0 }
        }
        return length
    }
}
