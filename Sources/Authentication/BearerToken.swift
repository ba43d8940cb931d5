// Where a request carries its token: the value of an authorization field (RFC 6750 section 2.1), taken apart.

/// The `Bearer TOKEN` of an authorization field.
public enum BearerToken {
    /// The place of the token in the field's value. The scheme's letters may be of either case (RFC 9110 section 11.1).
    public static func token(in value: Span<UInt8>) throws(AuthenticationError) -> Range<Int> {
        guard value.count > 0 else { throw .missingAuthorization }
        var end = 0
        while end < value.count, value[end] != 0x20 { end += 1 }
        guard end < value.count else { throw .invalidAuthorization }
        guard isBearer(value.extracting(0..<end)) else { throw .unsupportedType }
        var start = end
        while start < value.count, value[start] == 0x20 { start += 1 }
        var last = value.count
        while last > start, value[last - 1] == 0x20 { last -= 1 }
        guard start < last else { throw .invalidAuthorization }
        for index in start..<last where value[index] == 0x20 || value[index] == 0x2c { throw .invalidAuthorization }
        return start..<last
    }

    private static func isBearer(_ scheme: Span<UInt8>) -> Bool {
        guard scheme.count == 6 else { return false }
        for (index, letter) in [UInt8]("bearer".utf8).enumerated() where scheme[index] | 0x20 != letter { return false }
        return true
    }
}
