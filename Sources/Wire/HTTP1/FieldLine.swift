// One field line (RFC 9112 section 5, RFC 9110 section 5.5), of a head or of a trailer section.
//
// What is refused here: folded lines, white space before the colon, empty names, control characters and lone CRs in
// values, and a name that a service which maps `_` to `-` would take for a header that we act on.

import Memory

/// The parts of a field line.
struct FieldLine {
    let name: Range<Int>
    /// Without white space at its ends.
    let value: Range<Int>
    let known: KnownHeader

    /// Parses `bytes[line]`, which is a line without its CRLF and is not empty.
    init(_ bytes: Span<UInt8>, _ line: Range<Int>) throws(HTTPError) {
        var index = line.lowerBound
        var underscores = false
        while index < line.upperBound {
            let byte = bytes[index]
            guard CharacterClass.isToken(byte) else { break }
            if byte == 0x5f { underscores = true }
            index += 1
        }
        guard index < line.upperBound, bytes[index] == 0x3a, index > line.lowerBound else {
            throw Self.nameError(bytes, line, at: index)
        }
        name = line.lowerBound..<index
        let rest = index + 1..<line.upperBound
        guard firstControl(in: bytes, range: rest) == rest.upperBound else {
            throw .malformed("control character in a field value")
        }
        value = CharacterClass.trim(bytes, rest)
        if underscores {
            guard !KnownHeader(bytes, name, foldingUnderscores: true).isSensitiveToUnderscore else {
                throw .malformed("field name with underscores in place of dashes")
            }
            known = .other
        } else {
            known = KnownHeader(bytes, name)
        }
    }

    private static func nameError(_ bytes: Span<UInt8>, _ line: Range<Int>, at index: Int) -> HTTPError {
        if index == line.upperBound { return .malformed("field line without a colon") }
        if CharacterClass.isSpace(bytes[index]) {
            return index == line.lowerBound
                ? .malformed("folded field line") : .malformed("white space before the colon of a field")
        }
        return .malformed(bytes[index] == 0x3a ? "empty field name" : "invalid character in a field name")
    }
}

/// A walk over the elements of a comma-separated list; empty elements are passed by (RFC 9110 section 5.6.1.2).
struct ListElements {
    private var position: Int
    private let end: Int

    init(_ range: Range<Int>) {
        position = range.lowerBound
        end = range.upperBound
    }

    /// The next element, trimmed and not empty; nil after the last.
    mutating func next(_ bytes: Span<UInt8>) -> Range<Int>? {
        while position < end {
            let comma = firstIndex(of: 0x2c, in: bytes, range: position..<end)
            let element = CharacterClass.trim(bytes, position..<comma)
            position = min(comma + 1, end)
            if !element.isEmpty { return element }
        }
        return nil
    }
}
