// What proves to a node that a request comes from another node of its cluster, which has found the endpoint, counted the hop and
// authorised the client:
//
//     x-piko-node: ID; t=1767000000; mac=64 hexadecimal digits
//
// The code is an HMAC-SHA-256 under the cluster's key over a purpose (so that a code made for something else is of no use here),
// the node's identifier, the time, and what decides where the request goes: method, target, endpoint and tenant, a line each. None
// of them can hold a line's end: the parser refuses it in each of these places. This file lays it out; who holds the key makes and
// checks the code.
//
// In a response the field has another meaning: `x-piko-node: declined`, with 502, says that the request was not tried here.

public import Memory

/// A proof, with its code still to be checked.
public struct NodeProof: Equatable, Sendable {
    /// How far the clocks of two nodes may be apart, with the time that the request took.
    public static let secondsMax: UInt64 = 30
    /// The longest field value that is looked at.
    public static let textBytesMax = 1_024
    /// Bytes of the code.
    public static let codeBytes = 32
    /// What a node answers that has no tunnel for a request of another node.
    public static let declined: StaticString = "declined"
    private static let purpose: StaticString = "piko node request 1\n"

    /// The sending node, as it stands in the field.
    public let node: [UInt8]
    /// Seconds since 1970.
    public let time: UInt64
    /// The code.
    public let code: [UInt8]

    /// Reads a field's value; nil when it is anything else.
    public init?(_ text: Span<UInt8>) {
        guard text.count <= Self.textBytesMax else { return nil }
        var parts: [Range<Int>] = []
        var start = 0
        for index in text.indices where text[index] == 0x3b {
            parts.append(CharacterClass.trim(text, start..<index))
            start = index + 1
        }
        parts.append(CharacterClass.trim(text, start..<text.count))
        guard parts.count == 3, !parts[0].isEmpty, let time = Self.parameter(text, parts[1], "t="),
            let code = Self.parameter(text, parts[2], "mac=")
        else { return nil }
        guard let seconds = Self.decimal(text, time), let bytes = Self.hexadecimal(text, code) else { return nil }
        node = [UInt8](copying: text.extracting(parts[0]))
        self.time = seconds
        self.code = bytes
    }

    /// Whether its time is near enough to `now`, in seconds since 1970.
    public func isTimely(_ now: UInt64) -> Bool { now >= time ? now - time <= Self.secondsMax : time - now <= Self.secondsMax }

    /// Appends the bytes that the code is of. `target` as it stands in the request that the other node gets.
    public static func writeSigned(
        node: Span<UInt8>, time: UInt64, method: Span<UInt8>, target: Span<UInt8>, endpoint: Span<UInt8>, tenant: Span<UInt8>,
        into buffer: inout ByteBuffer
    ) {
        buffer.append(purpose)
        buffer.append(node)
        buffer.append("\n")
        buffer.appendDecimal(time)
        buffer.append("\n")
        buffer.append(method)
        buffer.append("\n")
        buffer.append(target)
        buffer.append("\n")
        buffer.append(tenant)
        buffer.append("\n")
        buffer.append(endpoint)
    }

    /// Appends the whole field line.
    public static func writeField(node: Span<UInt8>, time: UInt64, code: Span<UInt8>, into buffer: inout ByteBuffer) {
        buffer.append("x-piko-node: ")
        buffer.append(node)
        buffer.append("; t=")
        buffer.appendDecimal(time)
        buffer.append("; mac=")
        for index in code.indices {
            buffer.append(digit(code[index] >> 4))
            buffer.append(digit(code[index] & 15))
        }
        buffer.append("\r\n")
    }

    /// A node's identifier as it stands in the field: what is no token there is percent-encoded.
    public static func fieldText(ofNode id: String) -> [UInt8] {
        var text: [UInt8] = []
        for byte in id.utf8 {
            if CharacterClass.isToken(byte), byte != 0x25 {
                text.append(byte)
            } else {
                text += [0x25, digit(byte >> 4), digit(byte & 15)]
            }
        }
        return text
    }

    private static func digit(_ value: UInt8) -> UInt8 { value < 10 ? 0x30 + value : 0x61 + value - 10 }

    private static func parameter(_ text: Span<UInt8>, _ part: Range<Int>, _ name: StaticString) -> Range<Int>? {
        let length = name.utf8CodeUnitCount
        guard part.count > length, equalsIgnoringCase(text, part.lowerBound..<part.lowerBound + length, name) else { return nil }
        return part.lowerBound + length..<part.upperBound
    }

    private static func decimal(_ text: Span<UInt8>, _ range: Range<Int>) -> UInt64? {
        guard range.count <= 18 else { return nil }
        var value: UInt64 = 0
        for index in range {
            guard text[index] >= 0x30, text[index] <= 0x39 else { return nil }
            value = value * 10 + UInt64(text[index] - 0x30)
        }
        return value
    }

    private static func hexadecimal(_ text: Span<UInt8>, _ range: Range<Int>) -> [UInt8]? {
        guard range.count == 2 * codeBytes else { return nil }
        var bytes: [UInt8] = []
        for index in stride(from: range.lowerBound, to: range.upperBound, by: 2) {
            guard let high = nibble(text[index]), let low = nibble(text[index + 1]) else { return nil }
            bytes.append(high << 4 | low)
        }
        return bytes
    }

    private static func nibble(_ byte: UInt8) -> UInt8? {
        switch byte {
        case 0x30...0x39: byte - 0x30
        case 0x61...0x66: byte - 0x61 + 10
        default: nil
        }
    }
}
