// The character sets of RFC 9110 section 5.6, as bit masks: two words and a shift a byte, no table in memory.

/// Sets of characters that the grammar names.
enum CharacterClass {
    /// ALPHA, DIGIT and ``!#$%&'*+-.^_`|~``: what names of methods, fields and codings are made of.
    @inline(__always)
    static func isToken(_ byte: UInt8) -> Bool { contains(0x03ff_6cfa_0000_0000, 0x57ff_ffff_c7ff_fffe, byte) }

    /// ALPHA, DIGIT and `-._~`: the unreserved characters of RFC 3986, the only ones we take in a host name.
    @inline(__always)
    static func isUnreserved(_ byte: UInt8) -> Bool { contains(0x03ff_6000_0000_0000, 0x47ff_fffe_87ff_fffe, byte) }

    @inline(__always)
    static func isDigit(_ byte: UInt8) -> Bool { byte >= 0x30 && byte <= 0x39 }

    /// SP or HTAB: optional white space.
    @inline(__always)
    static func isSpace(_ byte: UInt8) -> Bool { byte == 0x20 || byte == 0x09 }

    /// The value of a hexadecimal digit of either case, or nil.
    @inline(__always)
    static func hexadecimal(_ byte: UInt8) -> UInt8? {
        switch byte {
        case 0x30...0x39: byte - 0x30
        case 0x41...0x46: byte - 0x37
        case 0x61...0x66: byte - 0x57
        default: nil
        }
    }

    /// Whether `bytes[range]` is one token: not empty, and of token characters only.
    static func isToken(_ bytes: Span<UInt8>, _ range: Range<Int>) -> Bool {
        if range.isEmpty { return false }
        for index in range where !isToken(bytes[index]) { return false }
        return true
    }

    /// `range` without white space at its ends.
    static func trim(_ bytes: Span<UInt8>, _ range: Range<Int>) -> Range<Int> {
        var start = range.lowerBound
        var end = range.upperBound
        while start < end && isSpace(bytes[start]) { start += 1 }
        while end > start && isSpace(bytes[end - 1]) { end -= 1 }
        return start..<end
    }

    @inline(__always)
    private static func contains(_ low: UInt64, _ high: UInt64, _ byte: UInt8) -> Bool {
        byte < 0x80 && ((byte < 0x40 ? low : high) &>> UInt64(byte & 0x3f)) & 1 != 0
    }
}
