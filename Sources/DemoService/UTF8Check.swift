// Whether bytes that come in pieces are UTF-8 (RFC 3629): no overlong form, no surrogate, nothing above U+10FFFF. Wrong
// bytes are noticed at the first one that can't be right.

/// An incremental check of UTF-8.
struct UTF8Check {
    /// Continuation bytes that are still to come.
    private var missing = 0
    /// Bounds of the next continuation byte; narrower than 80 … BF only for the first one after some lead bytes.
    private var lowest: UInt8 = 0x80
    private var highest: UInt8 = 0xBF

    /// Whether no character is cut in the middle.
    var isComplete: Bool { missing == 0 }

    /// Takes the next piece; false at the first byte that is wrong.
    mutating func accept(_ bytes: Span<UInt8>, _ range: Range<Int>) -> Bool {
        for index in range where !accept(bytes[index]) { return false }
        return true
    }

    private mutating func accept(_ byte: UInt8) -> Bool {
        if missing > 0 {
            guard byte >= lowest, byte <= highest else { return false }
            missing -= 1
            lowest = 0x80
            highest = 0xBF
            return true
        }
        switch byte {
        case 0x00...0x7F:
            break
        case 0xC2...0xDF:
            missing = 1
        case 0xE0...0xEF:
            missing = 2
            if byte == 0xE0 { lowest = 0xA0 }
            if byte == 0xED { highest = 0x9F }
        case 0xF0...0xF4:
            missing = 3
            if byte == 0xF0 { lowest = 0x90 }
            if byte == 0xF4 { highest = 0x8F }
        default:
            return false
        }
        return true
    }
}
