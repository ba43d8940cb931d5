// IP addresses without a port, as values: for access lists, for lists of trusted proxies, and for what proxies say about their
// clients. Pure: reading and writing one asks no system library, so that configuration and formats can.
//
// An IPv4 address is held mapped into IPv6 (::ffff:a.b.c.d), however it was written, so that a client that comes to a dual-stack
// port is the same client. A zone has no place here: an address with one is refused.

/// An IPv4 or IPv6 address.
public struct IPAddress: Equatable, Hashable, Sendable, CustomStringConvertible {
    /// The sixteen bytes, big-endian.
    public let high: UInt64
    public let low: UInt64

    private static let mappedPrefix: UInt64 = 0x0000_ffff_0000_0000

    public init(high: UInt64, low: UInt64) {
        self.high = high
        self.low = low
    }

    /// From the four bytes of an IPv4 address, as one number.
    public init(ipv4: UInt32) {
        self.init(high: 0, low: Self.mappedPrefix | UInt64(ipv4))
    }

    /// From sixteen bytes that begin at `start`.
    public init(bytes: Span<UInt8>, at start: Int) {
        var high: UInt64 = 0
        var low: UInt64 = 0
        for index in 0..<8 { high = high << 8 | UInt64(bytes[start + index]) }
        for index in 8..<16 { low = low << 8 | UInt64(bytes[start + index]) }
        self.init(high: high, low: low)
    }

    /// Whether it is an IPv4 address.
    public var isIPv4: Bool { high == 0 && low & 0xffff_ffff_0000_0000 == Self.mappedPrefix }

    /// The four bytes of an IPv4 address, as one number.
    public var ipv4: UInt32? { isIPv4 ? UInt32(truncatingIfNeeded: low) : nil }

    /// The sixteen bytes.
    public var bytes: [UInt8] {
        [high, low].flatMap { half in stride(from: 56, through: 0, by: -8).map { UInt8(truncatingIfNeeded: half >> UInt64($0)) } }
    }

    /// The network that stands for one customer of an IPv6 provider: its first 64 bits. An IPv4 address is itself.
    public var source: IPAddress { isIPv4 ? self : IPAddress(high: high, low: 0) }

    // MARK: Text

    /// From text such as `127.0.0.1` or `::1`, without brackets, port, zone or white space; nil when it is no address.
    public init?(text: String) {
        self.init(text: Array(text.utf8).span)
    }

    /// The same, from bytes.
    public init?(text: Span<UInt8>) {
        guard text.count <= 45 else { return nil }
        if let four = Self.parseFour(text) {
            self.init(ipv4: four)
        } else if let (high, low) = Self.parseSix(text) {
            self.init(high: high, low: low)
        } else {
            return nil
        }
    }

    private static func parseFour(_ text: Span<UInt8>) -> UInt32? {
        var address: UInt32 = 0
        var part: UInt32 = 0
        var digits = 0
        var parts = 0
        for index in 0...text.count {
            if index < text.count, text[index] >= 0x30, text[index] <= 0x39 {
                // "010" is eight to some readers and ten to others.
                if digits > 0, part == 0 { return nil }
                part = part * 10 + UInt32(text[index] - 0x30)
                digits += 1
                if part > 255 { return nil }
                continue
            }
            guard index == text.count || text[index] == 0x2e, digits > 0, parts < 4 else { return nil }
            address = address << 8 | part
            parts += 1
            part = 0
            digits = 0
        }
        return parts == 4 ? address : nil
    }

    private static func parseSix(_ text: Span<UInt8>) -> (UInt64, UInt64)? {
        var groups: [UInt16] = []
        /// How many groups stand before `::`.
        var gap: Int?
        var index = 0
        if text.count >= 2, text[0] == 0x3a {
            guard text[1] == 0x3a else { return nil }
            gap = 0
            index = 2
        }
        while index < text.count {
            var end = index
            while end < text.count, text[end] != 0x3a { end += 1 }
            if end == text.count, let four = parseFour(text.extracting(index..<end)) {
                groups.append(UInt16(truncatingIfNeeded: four >> 16))
                groups.append(UInt16(truncatingIfNeeded: four))
                break
            }
            guard end - index <= 4, end > index else { return nil }
            var group: UInt16 = 0
            for position in index..<end {
                guard let digit = hexadecimal(text[position]) else { return nil }
                group = group << 4 | UInt16(digit)
            }
            groups.append(group)
            guard groups.count <= 8 else { return nil }
            if end == text.count { break }
            index = end + 1
            if index == text.count { return nil }
            if text[index] == 0x3a {
                guard gap == nil else { return nil }
                gap = groups.count
                index += 1
            }
        }
        if let gap {
            guard groups.count < 8 else { return nil }
            groups.insert(contentsOf: [UInt16](repeating: 0, count: 8 - groups.count), at: gap)
        }
        guard groups.count == 8 else { return nil }
        let high = groups[..<4].reduce(UInt64(0)) { $0 << 16 | UInt64($1) }
        return (high, groups[4...].reduce(UInt64(0)) { $0 << 16 | UInt64($1) })
    }

    private static func hexadecimal(_ byte: UInt8) -> UInt8? {
        switch byte {
        case 0x30...0x39: byte - 0x30
        case 0x41...0x46: byte - 0x37
        case 0x61...0x66: byte - 0x57
        default: nil
        }
    }

    /// The text of an IPv4 address, without the heap; nil: it is an IPv6 one.
    public var shortText: ShortText? {
        guard let four = ipv4 else { return nil }
        var text = ShortText()
        for shift in stride(from: UInt32(24), through: 0, by: -8) {
            text.appendDecimal(UInt64(four >> shift & 255))
            if shift > 0 { text.append(UInt8(ascii: ".")) }
        }
        return text
    }

    /// The one canonical text (RFC 5952).
    public var description: String {
        if let short = shortText { return short.string }
        let groups = [high, low].flatMap { half in stride(from: 48, through: 0, by: -16).map { UInt16(truncatingIfNeeded: half >> UInt64($0)) } }
        var longest = 0..<0
        var start = 0
        while start < 8 {
            var end = start
            while end < 8, groups[end] == 0 { end += 1 }
            if end - start >= 2, end - start > longest.count { longest = start..<end }
            start = max(end, start + 1)
        }
        func joined(_ range: Range<Int>) -> String { groups[range].map { String($0, radix: 16) }.joined(separator: ":") }
        return longest.isEmpty ? joined(0..<8) : "\(joined(0..<longest.lowerBound))::\(joined(longest.upperBound..<8))"
    }
}
