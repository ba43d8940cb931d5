// The words of the `direct` transport in HTTP heads: what an agent offers, what a server grants. docs/protocol-direct.md
// specifies them.

public import Memory

/// Names and values of the `direct` transport.
public enum Direct {
    /// In `x-piko-transport`, of the session's request and of its 101.
    public static let transport: StaticString = "direct/1"
    /// In `x-piko-transport` too: every stream of the session begins with a preamble, as those of data connections do.
    public static let preambles: StaticString = "preamble/1"
    /// In `Upgrade`, of a data connection.
    public static let dataProtocol: StaticString = "piko-direct/1"
    /// In `Upgrade`, of a raw TCP connection through the proxy port.
    public static let rawProtocol: StaticString = "piko-raw/1"

    /// Whether a field's value, a comma-separated list, has `name` as one of its elements, in any case of letters.
    public static func names(_ bytes: Span<UInt8>, _ value: Range<Int>, _ name: StaticString) -> Bool {
        var elements = ListElements(value)
        while let element = elements.next(bytes) {
            if equalsIgnoringCase(bytes, element, name) { return true }
        }
        return false
    }

    /// Whether any field of this name in the head lists `name`.
    public static func names(_ head: borrowing Head, _ bytes: Span<UInt8>, _ known: KnownHeader, _ name: StaticString) -> Bool {
        for field in head.fields where field.known == known && names(bytes, field.value, name) { return true }
        return false
    }
}

/// How many data connections a server takes from one listener of an agent: `x-piko-pool: connections=1024, idle=64`.
public struct DirectPoolLimits: Equatable, Sendable {
    /// Data connections in all.
    public var connectionsMax: Int
    /// Those that wait for a stream.
    public var idleMax: Int

    public init(connectionsMax: Int, idleMax: Int) {
        self.connectionsMax = connectionsMax
        self.idleMax = idleMax
    }

    /// Appends the field's value.
    public func write(into buffer: inout ByteBuffer) {
        buffer.append("connections=")
        buffer.appendDecimal(UInt64(connectionsMax))
        buffer.append(", idle=")
        buffer.appendDecimal(UInt64(idleMax))
    }

    /// Reads the field's value. Unknown elements are passed over; nil when a known one is missing or no number up to a
    /// million.
    public init?(_ bytes: Span<UInt8>, _ value: Range<Int>) {
        var connections: Int?
        var idle: Int?
        var elements = ListElements(value)
        while let element = elements.next(bytes) {
            let sign = firstIndex(of: 0x3d, in: bytes, range: element)
            guard sign < element.upperBound else { continue }
            let name = element.lowerBound..<sign
            if equalsIgnoringCase(bytes, name, "connections") { connections = Self.number(bytes, sign + 1..<element.upperBound) }
            if equalsIgnoringCase(bytes, name, "idle") { idle = Self.number(bytes, sign + 1..<element.upperBound) }
        }
        guard let connections, let idle else { return nil }
        self.init(connectionsMax: connections, idleMax: idle)
    }

    private static func number(_ bytes: Span<UInt8>, _ range: Range<Int>) -> Int? {
        guard (1...7).contains(range.count) else { return nil }
        var value = 0
        for index in range {
            guard CharacterClass.isDigit(bytes[index]) else { return nil }
            value = value * 10 + Int(bytes[index] - 0x30)
        }
        return value <= 1_000_000 ? value : nil
    }
}
