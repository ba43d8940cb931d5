// Host and port as they stand in Host fields and in targets (RFC 9110 section 7.2, RFC 3986 section 3.2.2).
//
// Narrower than the grammar on purpose. A name is letters, digits and `-._~`; sub-delimiters, percent-encoding and `@` are
// refused, because two parsers seldom agree on what they mean there. So every part of the gateway that looks at a host
// (check, routing, log, forwarding) sees the same one.

/// The parts of a valid host.
struct HostName {
    /// What kind of name it is.
    enum Kind { case name, address4, address6 }

    /// The longest host that we take: what DNS allows, with room for a port.
    static let bytesMax = 255 + 6

    let kind: Kind
    /// The host without its port, brackets included.
    let host: Range<Int>
    let hasPort: Bool

    /// Parses `bytes[range]`; nil when it is not a valid host. An empty range is not one.
    init?(_ bytes: Span<UInt8>, _ range: Range<Int>) {
        guard !range.isEmpty, range.count <= Self.bytesMax else { return nil }
        var end = range.lowerBound
        if bytes[end] == 0x5b {
            end += 1
            while end < range.upperBound, bytes[end] != 0x5d { end += 1 }
            guard end < range.upperBound, Self.isAddress6(bytes, range.lowerBound + 1..<end) else { return nil }
            end += 1
            kind = .address6
        } else {
            while end < range.upperBound, CharacterClass.isUnreserved(bytes[end]) { end += 1 }
            guard end > range.lowerBound, end - range.lowerBound <= 255 else { return nil }
            kind = Self.isAddress4(bytes, range.lowerBound..<end) ? .address4 : .name
        }
        host = range.lowerBound..<end
        hasPort = end < range.upperBound
        if hasPort {
            guard bytes[end] == 0x3a, Self.isPort(bytes, end + 1..<range.upperBound) else { return nil }
        }
    }

    /// One to five digits, at most 65535.
    private static func isPort(_ bytes: Span<UInt8>, _ range: Range<Int>) -> Bool {
        guard (1...5).contains(range.count) else { return false }
        var port = 0
        for index in range {
            guard CharacterClass.isDigit(bytes[index]) else { return false }
            port = port * 10 + Int(bytes[index] - 0x30)
        }
        return port <= 65535
    }

    /// Four decimal numbers from 0 to 255, without leading zeros.
    static func isAddress4(_ bytes: Span<UInt8>, _ range: Range<Int>) -> Bool {
        var parts = 0
        var index = range.lowerBound
        while index < range.upperBound {
            let start = index
            var number = 0
            while index < range.upperBound, CharacterClass.isDigit(bytes[index]) {
                number = number * 10 + Int(bytes[index] - 0x30)
                index += 1
                if index - start > 3 { return false }
            }
            guard index > start, number <= 255, index - start == 1 || bytes[start] != 0x30 else { return false }
            parts += 1
            if index == range.upperBound { return parts == 4 }
            guard bytes[index] == 0x2e, parts < 4 else { return false }
            index += 1
        }
        return false
    }

    /// Eight groups of one to four hexadecimal digits, one run of which may be left out as `::`; the last two may be
    /// written as an IPv4 address. No zone.
    static func isAddress6(_ bytes: Span<UInt8>, _ range: Range<Int>) -> Bool {
        var groups = 0
        var elided = false
        var index = range.lowerBound
        if range.count >= 2, bytes[index] == 0x3a {
            guard bytes[index + 1] == 0x3a else { return false }
            elided = true
            index += 2
        }
        while index < range.upperBound {
            let start = index
            while index < range.upperBound, CharacterClass.hexadecimal(bytes[index]) != nil { index += 1 }
            if index < range.upperBound, bytes[index] == 0x2e {
                guard isAddress4(bytes, start..<range.upperBound) else { return false }
                groups += 2
                break
            }
            guard (1...4).contains(index - start) else { return false }
            groups += 1
            if index == range.upperBound { break }
            guard bytes[index] == 0x3a, index + 1 < range.upperBound else { return false }
            index += 1
            if bytes[index] == 0x3a {
                if elided { return false }
                elided = true
                index += 1
            }
        }
        return elided ? groups < 8 : groups == 8
    }
}
