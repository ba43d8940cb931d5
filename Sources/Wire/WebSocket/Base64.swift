// Base64 (RFC 4648 section 4): encoding, decoding, and the check that a text is the canonical encoding of so many bytes, which
// is all that the WebSocket handshake asks.

import Memory

/// Base64 with padding.
enum Base64 {
    /// Appends the encoding of `bytes`.
    static func encode(_ bytes: Span<UInt8>, into buffer: inout ByteBuffer) {
        var index = 0
        while index < bytes.count {
            let length = min(3, bytes.count - index)
            var group = UInt32(bytes[index]) << 16
            if length > 1 { group |= UInt32(bytes[index + 1]) << 8 }
            if length > 2 { group |= UInt32(bytes[index + 2]) }
            buffer.append(character(group >> 18))
            buffer.append(character(group >> 12))
            buffer.append(length > 1 ? character(group >> 6) : UInt8(ascii: "="))
            buffer.append(length > 2 ? character(group) : UInt8(ascii: "="))
            index += 3
        }
    }

    /// Whether `text` is the one encoding of some `count` bytes: right length and padding, and no bits set beyond the bytes.
    static func isEncoding(_ text: Span<UInt8>, ofByteCount count: Int) -> Bool {
        guard text.count == (count + 2) / 3 * 4 else { return false }
        let padding = (3 - count % 3) % 3
        let digits = text.count - padding
        for index in 0..<digits where value(text[index]) == nil { return false }
        for index in digits..<text.count where text[index] != UInt8(ascii: "=") { return false }
        guard padding > 0, let last = value(text[digits - 1]) else { return true }
        return last & (padding == 2 ? 0b1111 : 0b11) == 0
    }

    /// Appends the bytes that `text` encodes; false, with nothing of use appended, when it is not the canonical encoding of
    /// anything.
    static func decode(_ text: Span<UInt8>, into buffer: inout ByteBuffer) -> Bool {
        guard text.count % 4 == 0 else { return false }
        var padding = 0
        while padding < 2, padding < text.count, text[text.count - 1 - padding] == UInt8(ascii: "=") { padding += 1 }
        let count = text.count / 4 * 3 - padding
        guard isEncoding(text, ofByteCount: count) else { return false }
        for start in stride(from: 0, to: text.count, by: 4) {
            var group: UInt32 = 0
            for index in start..<start + 4 { group = group << 6 | UInt32(value(text[index]) ?? 0) }
            let length = min(3, count - start / 4 * 3)
            for index in 0..<length { buffer.append(UInt8(truncatingIfNeeded: group >> UInt32(16 - 8 * index))) }
        }
        return true
    }

    private static func character(_ sextet: UInt32) -> UInt8 {
        let value = UInt8(sextet & 63)
        return switch value {
        case 0..<26: UInt8(ascii: "A") + value
        case 26..<52: UInt8(ascii: "a") + value - 26
        case 52..<62: UInt8(ascii: "0") + value - 52
        case 62: UInt8(ascii: "+")
        default: UInt8(ascii: "/")
        }
    }

    private static func value(_ character: UInt8) -> UInt8? {
        switch character {
        case UInt8(ascii: "A")...UInt8(ascii: "Z"): character - UInt8(ascii: "A")
        case UInt8(ascii: "a")...UInt8(ascii: "z"): character - UInt8(ascii: "a") + 26
        case UInt8(ascii: "0")...UInt8(ascii: "9"): character - UInt8(ascii: "0") + 52
        case UInt8(ascii: "+"): 62
        case UInt8(ascii: "/"): 63
        default: nil
        }
    }
}
