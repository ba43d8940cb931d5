// The state of a machine as bytes, for another process of the same node: written and read in the same order, numbers
// little-endian in eight bytes each, byte strings behind their length. No format for strangers: it says only whether it fits.

/// Writes a state.
public struct StateWriter: ~Copyable {
    /// What was written.
    public var bytes = ByteBuffer()

    public init() {}

    public mutating func write(_ number: UInt64) {
        for shift in 0..<8 { bytes.append(UInt8(truncatingIfNeeded: number >> (8 * UInt64(shift)))) }
    }

    public mutating func write(_ number: some BinaryInteger) { write(UInt64(truncatingIfNeeded: number)) }

    public mutating func write(_ truth: Bool) { write(UInt64(truth ? 1 : 0)) }

    public mutating func write(_ string: Span<UInt8>) {
        write(string.count)
        bytes.append(string)
    }
}

/// The state does not fit what reads it.
public struct StateReadError: Error, Equatable {
    public init() {}
}

/// Reads a state. The bytes are given to each call, as a reader can't hold them.
public struct StateReader {
    private var offset = 0

    public init() {}

    public mutating func number(_ bytes: Span<UInt8>) throws(StateReadError) -> UInt64 {
        guard bytes.count - offset >= 8 else { throw StateReadError() }
        var number: UInt64 = 0
        for shift in 0..<8 { number |= UInt64(bytes[offset + shift]) << (8 * UInt64(shift)) }
        offset += 8
        return number
    }

    public mutating func integer<Number: FixedWidthInteger>(_ bytes: Span<UInt8>) throws(StateReadError) -> Number {
        guard let value = Number(exactly: try number(bytes)) else { throw StateReadError() }
        return value
    }

    public mutating func truth(_ bytes: Span<UInt8>) throws(StateReadError) -> Bool {
        let value = try number(bytes)
        guard value <= 1 else { throw StateReadError() }
        return value == 1
    }

    public mutating func string(_ bytes: Span<UInt8>, into buffer: inout ByteBuffer) throws(StateReadError) {
        let length = try number(bytes)
        guard length <= UInt64(bytes.count - offset) else { throw StateReadError() }
        buffer.append(bytes.extracting(offset..<offset + Int(length)))
        offset += Int(length)
    }

    /// Whether everything was read.
    public func isAtEnd(_ bytes: Span<UInt8>) -> Bool { offset == bytes.count }

    /// Throws unless everything was read.
    public func end(_ bytes: Span<UInt8>) throws(StateReadError) {
        guard offset == bytes.count else { throw StateReadError() }
    }
}
