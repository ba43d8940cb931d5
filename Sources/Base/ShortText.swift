// A short text in place: what is written into logs many thousand times a second (durations, addresses) is made without the heap and
// without String.

/// A text of at most `ShortText.bytesMax` bytes.
public struct ShortText: Sendable {
    /// Enough for the longest duration and the longest IP address.
    public static let bytesMax = 40

    private var bytes = InlineArray<40, UInt8>(repeating: 0)
    private var count = 0

    init() {}

    /// The bytes.
    public var span: Span<UInt8> {
        @_lifetime(borrow self)
        get { bytes.span.extracting(0..<count) }
    }

    mutating func append(_ byte: UInt8) {
        bytes[count] = byte
        count += 1
    }

    /// A literal, which is short enough for its String to be in place as well.
    mutating func append(_ text: String) {
        for byte in text.utf8 { append(byte) }
    }

    /// A number in decimal, with zeros in front up to `digits`.
    mutating func appendDecimal(_ number: UInt64, digits: Int = 1) {
        var length = 1
        var rest = number / 10
        while rest > 0 {
            length += 1
            rest /= 10
        }
        length = max(length, digits)
        rest = number
        for place in stride(from: count + length - 1, through: count, by: -1) {
            bytes[place] = UInt8(truncatingIfNeeded: 48 + rest % 10)
            rest /= 10
        }
        count += length
    }

    /// The same as a String.
    public var string: String {
        var copy: [UInt8] = []
        copy.reserveCapacity(count)
        for index in 0..<count { copy.append(bytes[index]) }
        return String(decoding: copy, as: UTF8.self)
    }
}
