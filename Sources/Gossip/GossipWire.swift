// The smallest parts of gossip on the wire: numbers and texts. docs/cluster.md is the specification.
//
// Numbers of fixed width are little-endian. A varint has seven bits a byte, the lowest first, and no more bytes than it needs,
// so that there is one way only to write a number. A text is its length in bytes as a varint, and UTF-8.

/// Why bytes are no message.
enum GossipWireError: Error, Equatable {
    /// They end too early.
    case truncated
    /// A number is longer than it must be, or out of its range; a part twice or of no known kind.
    case invalidValue
    /// Something is over its limit.
    case oversized
    /// Text that is not UTF-8.
    case invalidText
}

/// Writes numbers and texts.
struct GossipWriter {
    var bytes: [UInt8]

    init() { bytes = [] }

    /// For so many bytes without taking more memory on the way.
    init(capacity: Int) {
        bytes = []
        bytes.reserveCapacity(capacity)
    }

    var count: Int { bytes.count }

    mutating func write(byte: UInt8) { bytes.append(byte) }

    mutating func write(_ number: UInt32) {
        for shift in stride(from: UInt32(0), to: 32, by: 8) { bytes.append(UInt8(truncatingIfNeeded: number >> shift)) }
    }

    mutating func write(_ number: UInt64) {
        for shift in stride(from: UInt64(0), to: 64, by: 8) { bytes.append(UInt8(truncatingIfNeeded: number >> shift)) }
    }

    mutating func write(varint number: UInt64) {
        var rest = number
        while rest >= 0x80 {
            bytes.append(UInt8(truncatingIfNeeded: rest) | 0x80)
            rest >>= 7
        }
        bytes.append(UInt8(truncatingIfNeeded: rest))
    }

    mutating func write(varint number: Int) { write(varint: UInt64(number)) }

    mutating func write(text: String) {
        write(varint: UInt64(text.utf8.count))
        bytes.append(contentsOf: text.utf8)
    }

    /// Takes back what was written after the first `count` bytes.
    mutating func truncate(to count: Int) { bytes.removeSubrange(count...) }

    /// The bytes of a varint.
    static func bytes(ofVarint number: UInt64) -> Int { max(1, (70 - number.leadingZeroBitCount) / 7) }
}

/// Reads numbers and texts.
struct GossipReader {
    private let bytes: [UInt8]
    private(set) var offset: Int
    private let end: Int

    init(_ bytes: [UInt8], _ range: Range<Int>) {
        self.bytes = bytes
        offset = range.lowerBound
        end = range.upperBound
    }

    init(_ bytes: [UInt8]) { self.init(bytes, 0..<bytes.count) }

    var isAtEnd: Bool { offset == end }

    mutating func byte() throws(GossipWireError) -> UInt8 {
        guard offset < end else { throw .truncated }
        defer { offset += 1 }
        return bytes[offset]
    }

    mutating func number32() throws(GossipWireError) -> UInt32 {
        guard end - offset >= 4 else { throw .truncated }
        var number: UInt32 = 0
        for index in 0..<4 { number |= UInt32(bytes[offset + index]) << (8 * UInt32(index)) }
        offset += 4
        return number
    }

    mutating func number64() throws(GossipWireError) -> UInt64 {
        guard end - offset >= 8 else { throw .truncated }
        var number: UInt64 = 0
        for index in 0..<8 { number |= UInt64(bytes[offset + index]) << (8 * UInt64(index)) }
        offset += 8
        return number
    }

    mutating func varint() throws(GossipWireError) -> UInt64 {
        var number: UInt64 = 0
        var shift: UInt64 = 0
        while true {
            let byte = try byte()
            if shift == 63, byte > 1 { throw .invalidValue }
            number |= UInt64(byte & 0x7F) << shift
            if byte < 0x80 {
                if byte == 0, shift > 0 { throw .invalidValue }
                return number
            }
            if shift == 63 { throw .invalidValue }
            shift += 7
        }
    }

    /// A varint of at most `most`.
    mutating func varint(most: UInt64) throws(GossipWireError) -> UInt64 {
        let number = try varint()
        guard number <= most else { throw .oversized }
        return number
    }

    /// A text of at most so many bytes.
    mutating func text(bytesMax: Int) throws(GossipWireError) -> String {
        let length = Int(try varint(most: UInt64(bytesMax)))
        guard end - offset >= length else { throw .truncated }
        guard let text = String(validating: bytes[offset..<offset + length], as: UTF8.self) else { throw .invalidText }
        offset += length
        return text
    }
}
