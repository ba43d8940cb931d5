// XOR of bytes with a repeating four-byte key, as RFC 6455 section 5.3 masks payloads, eight bytes at a time.

/// Applies the WebSocket mask to `bytes[range]` in place. `key` is the masking key as four bytes in wire order, first byte
/// in the lowest bits; `offset` is the position of `range`'s first byte in the payload, so that a payload may be
/// unmasked in pieces.
public func applyMask(_ bytes: inout MutableSpan<UInt8>, range: Range<Int>, key: UInt32, offset: Int) {
    precondition(range.lowerBound >= 0 && range.upperBound <= bytes.count, "applyMask out of range")
    let shift = UInt32(truncatingIfNeeded: (offset & 3) * 8)
    let rotated = shift == 0 ? key : (key >> shift) | (key << (32 - shift))
    let wide = UInt64(rotated) | UInt64(rotated) << 32
    unsafe bytes.withUnsafeMutableBytes { raw in
        var index = range.lowerBound
        while index + 8 <= range.upperBound {
            let word = unsafe raw.loadUnaligned(fromByteOffset: index, as: UInt64.self)
            unsafe raw.storeBytes(of: (UInt64(littleEndian: word) ^ wide).littleEndian, toByteOffset: index, as: UInt64.self)
            index += 8
        }
        var rest = wide
        while index < range.upperBound {
            unsafe raw[index] ^= UInt8(truncatingIfNeeded: rest)
            rest >>= 8
            index += 1
        }
    }
}
