// Searching and comparing bytes, eight at a time where that pays. Parsers live on these few loops; they are here because
// wide loads need unsafe reads, and Memory is where those are kept and audited.

/// The index of the first `byte` in `range`, or `range.upperBound` when there is none. Traps when `range` is out of bounds.
public func firstIndex(of byte: UInt8, in bytes: Span<UInt8>, range: Range<Int>) -> Int {
    precondition(range.lowerBound >= 0 && range.upperBound <= bytes.count, "firstIndex out of range")
    let pattern = UInt64(byte) &* 0x0101_0101_0101_0101
    return unsafe bytes.withUnsafeBytes { raw in
        var index = range.lowerBound
        while index + 8 <= range.upperBound {
            let word = unsafe UInt64(littleEndian: raw.loadUnaligned(fromByteOffset: index, as: UInt64.self)) ^ pattern
            let zeros = zeroBytes(word)
            if zeros != 0 { return index + zeros.trailingZeroBitCount / 8 }
            index += 8
        }
        while index < range.upperBound {
            if unsafe raw[index] == byte { return index }
            index += 1
        }
        return range.upperBound
    }
}

/// The index of the first ASCII control character other than horizontal tab in `range`, or `range.upperBound` when there
/// is none. Traps when `range` is out of bounds.
public func firstControl(in bytes: Span<UInt8>, range: Range<Int>) -> Int {
    precondition(range.lowerBound >= 0 && range.upperBound <= bytes.count, "firstControl out of range")
    return unsafe bytes.withUnsafeBytes { raw in
        var index = range.lowerBound
        while index < range.upperBound {
            if index + 8 <= range.upperBound {
                let word = unsafe raw.loadUnaligned(fromByteOffset: index, as: UInt64.self)
                let low = (word &- 0x2020_2020_2020_2020) & ~word & 0x8080_8080_8080_8080
                if low | zeroBytes(word ^ 0x7f7f_7f7f_7f7f_7f7f) == 0 {
                    index += 8
                    continue
                }
            }
            // A control is near, or less than a word is left: byte by byte up to the next word.
            let end = min(index + 8, range.upperBound)
            while index < end {
                let byte = unsafe raw[index]
                if (byte < 0x20 && byte != 0x09) || byte == 0x7f { return index }
                index += 1
            }
        }
        return range.upperBound
    }
}

/// Whether `bytes[range]` is the ASCII text of `literal`, which must be lower case, in any case of letters; with
/// `foldingUnderscores`, `_` in the bytes counts as `-`. Traps when `range` is out of bounds.
@inlinable
public func equalsIgnoringCase(
    _ bytes: Span<UInt8>, _ range: Range<Int>, _ literal: StaticString, foldingUnderscores: Bool = false
) -> Bool {
    precondition(range.lowerBound >= 0 && range.upperBound <= bytes.count, "equalsIgnoringCase out of range")
    guard range.count == literal.utf8CodeUnitCount else { return false }
    let text = unsafe literal.utf8Start
    for offset in 0..<range.count {
        var byte = bytes[range.lowerBound + offset]
        if byte >= 0x41 && byte <= 0x5a { byte |= 0x20 }
        if byte == 0x5f && foldingUnderscores { byte = 0x2d }
        if unsafe byte != text[offset] { return false }
    }
    return true
}

/// Whether `bytes[range]` is exactly the text of `literal`. Traps when `range` is out of bounds.
@inlinable
public func equals(_ bytes: Span<UInt8>, _ range: Range<Int>, _ literal: StaticString) -> Bool {
    precondition(range.lowerBound >= 0 && range.upperBound <= bytes.count, "equals out of range")
    guard range.count == literal.utf8CodeUnitCount else { return false }
    let text = unsafe literal.utf8Start
    for offset in 0..<range.count where unsafe bytes[range.lowerBound + offset] != text[offset] { return false }
    return true
}

/// Whether two ranges of `bytes` hold the same ASCII text, in any case of letters. Traps when one is out of bounds.
public func equalIgnoringCase(_ bytes: Span<UInt8>, _ left: Range<Int>, _ right: Range<Int>) -> Bool {
    guard left.count == right.count else { return false }
    for offset in 0..<left.count {
        var one = bytes[left.lowerBound + offset]
        var other = bytes[right.lowerBound + offset]
        if one == other { continue }
        if one >= 0x41 && one <= 0x5a { one |= 0x20 }
        if other >= 0x41 && other <= 0x5a { other |= 0x20 }
        if one != other { return false }
    }
    return true
}

/// A set high bit in each zero byte of `word`; exact for the lowest one, and zero when there is none.
private func zeroBytes(_ word: UInt64) -> UInt64 {
    (word &- 0x0101_0101_0101_0101) & ~word & 0x8080_8080_8080_8080
}
