// JSON (RFC 8259), read into values and written from them, for the small documents of control sockets and status pages.
//
// Bounded: the caller gives whole documents of at most `JSONValue.bytesMax`, nested at most `JSONValue.depthMax` deep.
// Strict: one value and nothing after it, no duplicate keys, text must be UTF-8, surrogates must come in pairs.

internal import Base
public import Memory

/// A JSON value. Objects keep the order of their members.
public enum JSONValue: Equatable, Sendable {
    case null
    case bool(Bool)
    /// A number without fraction and exponent that fits.
    case integer(Int64)
    case number(Double)
    case string(String)
    case array([JSONValue])
    case object([JSONMember])

    /// The largest document that is read.
    public static let bytesMax = 1_048_576
    /// The deepest nesting that is read.
    public static let depthMax = 32

    /// The member of an object; nil when there is none, or no object.
    public subscript(_ name: String) -> JSONValue? {
        guard case .object(let members) = self else { return nil }
        return members.first { $0.name == name }?.value
    }

    /// The text of a string.
    public var string: String? {
        if case .string(let text) = self { text } else { nil }
    }

    /// The value of an integer.
    public var integer: Int64? {
        if case .integer(let number) = self { number } else { nil }
    }

    /// The elements of an array.
    public var array: [JSONValue]? {
        if case .array(let elements) = self { elements } else { nil }
    }

    /// Reads one document.
    public static func parse(_ bytes: Span<UInt8>) throws(JSONError) -> JSONValue {
        guard bytes.count <= bytesMax else { throw JSONError(offset: bytesMax, reason: "document too large") }
        var parser = JSONParser()
        return try parser.document(bytes)
    }

    /// Appends the value as text on one line.
    public func write(into text: inout ByteBuffer) {
        switch self {
        case .null: text.append("null" as StaticString)
        case .bool(let value): text.append(value ? "true" as StaticString : "false" as StaticString)
        case .integer(let value):
            if value < 0 { text.append("-" as StaticString) }
            text.appendDecimal(value.magnitude)
        case .number(let value): text.append(value.isFinite ? "\(value)" : "null")
        case .string(let value): JSONValue.write(value, into: &text)
        case .array(let elements):
            text.append("[" as StaticString)
            for (index, element) in elements.enumerated() {
                if index > 0 { text.append("," as StaticString) }
                element.write(into: &text)
            }
            text.append("]" as StaticString)
        case .object(let members):
            text.append("{" as StaticString)
            for (index, member) in members.enumerated() {
                if index > 0 { text.append("," as StaticString) }
                JSONValue.write(member.name, into: &text)
                text.append(":" as StaticString)
                member.value.write(into: &text)
            }
            text.append("}" as StaticString)
        }
    }

    /// Appends a JSON string with its quotes.
    public static func write(_ string: String, into text: inout ByteBuffer) {
        text.append("\"" as StaticString)
        _ = TextEscape.append(string.utf8Span.span, max: .max / 2, into: &text)
        text.append("\"" as StaticString)
    }
}

/// A name and its value in an object.
public struct JSONMember: Equatable, Sendable {
    public var name: String
    public var value: JSONValue

    public init(_ name: String, _ value: JSONValue) {
        self.name = name
        self.value = value
    }
}

/// Why a text is no JSON, and where.
public struct JSONError: Error, Equatable {
    public var offset: Int
    public var reason: StaticString

    public static func == (left: JSONError, right: JSONError) -> Bool {
        left.offset == right.offset && "\(left.reason)" == "\(right.reason)"
    }
}

private struct JSONParser {
    private var offset = 0
    private var depth = 0

    mutating func document(_ bytes: Span<UInt8>) throws(JSONError) -> JSONValue {
        let value = try value(bytes)
        skipSpace(bytes)
        guard offset == bytes.count else { throw error("text after the value") }
        return value
    }

    private func error(_ reason: StaticString) -> JSONError { JSONError(offset: offset, reason: reason) }

    private mutating func skipSpace(_ bytes: Span<UInt8>) {
        while offset < bytes.count, [0x20, 0x09, 0x0a, 0x0d].contains(bytes[offset]) { offset += 1 }
    }

    private mutating func value(_ bytes: Span<UInt8>) throws(JSONError) -> JSONValue {
        skipSpace(bytes)
        guard offset < bytes.count else { throw error("a value is missing") }
        switch bytes[offset] {
        case UInt8(ascii: "{"): return try object(bytes)
        case UInt8(ascii: "["): return try array(bytes)
        case UInt8(ascii: "\""): return .string(try string(bytes))
        case UInt8(ascii: "t"): return try word("true", .bool(true), bytes)
        case UInt8(ascii: "f"): return try word("false", .bool(false), bytes)
        case UInt8(ascii: "n"): return try word("null", .null, bytes)
        default: return try number(bytes)
        }
    }

    private mutating func word(_ text: String, _ value: JSONValue, _ bytes: Span<UInt8>) throws(JSONError) -> JSONValue {
        for byte in text.utf8 {
            guard offset < bytes.count, bytes[offset] == byte else { throw error("unknown word") }
            offset += 1
        }
        return value
    }

    private mutating func descend() throws(JSONError) {
        depth += 1
        guard depth <= JSONValue.depthMax else { throw error("nested too deep") }
        offset += 1
    }

    /// Takes a byte, after space, when it is there.
    private mutating func take(_ byte: UInt8, _ bytes: Span<UInt8>) -> Bool {
        skipSpace(bytes)
        guard offset < bytes.count, bytes[offset] == byte else { return false }
        offset += 1
        return true
    }

    private mutating func array(_ bytes: Span<UInt8>) throws(JSONError) -> JSONValue {
        try descend()
        var elements: [JSONValue] = []
        if !take(UInt8(ascii: "]"), bytes) {
            repeat { elements.append(try value(bytes)) } while take(UInt8(ascii: ","), bytes)
            guard take(UInt8(ascii: "]"), bytes) else { throw error("the end of an array is missing") }
        }
        depth -= 1
        return .array(elements)
    }

    private mutating func object(_ bytes: Span<UInt8>) throws(JSONError) -> JSONValue {
        try descend()
        var members: [JSONMember] = []
        var names: Set<ExactName> = []
        if !take(UInt8(ascii: "}"), bytes) {
            repeat {
                skipSpace(bytes)
                guard offset < bytes.count, bytes[offset] == UInt8(ascii: "\"") else { throw error("a name is missing") }
                let name = try string(bytes)
                guard names.insert(ExactName(name)).inserted else { throw error("duplicate name") }
                guard take(UInt8(ascii: ":"), bytes) else { throw error("a colon is missing") }
                members.append(JSONMember(name, try value(bytes)))
            } while take(UInt8(ascii: ","), bytes)
            guard take(UInt8(ascii: "}"), bytes) else { throw error("the end of an object is missing") }
        }
        depth -= 1
        return .object(members)
    }

    private mutating func number(_ bytes: Span<UInt8>) throws(JSONError) -> JSONValue {
        let start = offset
        if offset < bytes.count, bytes[offset] == UInt8(ascii: "-") { offset += 1 }
        let whole = offset
        guard digits(bytes) > 0 else { throw error("unknown value") }
        guard offset - whole == 1 || bytes[whole] != UInt8(ascii: "0") else { throw error("a number begins with zero") }
        var isInteger = true
        if offset < bytes.count, bytes[offset] == UInt8(ascii: ".") {
            isInteger = false
            offset += 1
            guard digits(bytes) > 0 else { throw error("digits are missing") }
        }
        if offset < bytes.count, bytes[offset] | 0x20 == UInt8(ascii: "e") {
            isInteger = false
            offset += 1
            if offset < bytes.count, bytes[offset] == UInt8(ascii: "+") || bytes[offset] == UInt8(ascii: "-") { offset += 1 }
            guard digits(bytes) > 0 else { throw error("digits are missing") }
        }
        guard offset - start <= 64 else { throw error("number too long") }
        var text = ""
        for index in start..<offset { text.unicodeScalars.append(Unicode.Scalar(bytes[index])) }
        if isInteger, let value = Int64(text) { return .integer(value) }
        guard let value = Double(text), value.isFinite else { throw error("number too large") }
        return .number(value)
    }

    private mutating func digits(_ bytes: Span<UInt8>) -> Int {
        let start = offset
        while offset < bytes.count, bytes[offset] >= 48, bytes[offset] <= 57 { offset += 1 }
        return offset - start
    }

    private mutating func string(_ bytes: Span<UInt8>) throws(JSONError) -> String {
        offset += 1
        var result: [UInt8] = []
        while true {
            guard offset < bytes.count else { throw error("the end of a string is missing") }
            let byte = bytes[offset]
            if byte == UInt8(ascii: "\"") { break }
            guard byte >= 0x20 else { throw error("a control character in a string") }
            if byte == UInt8(ascii: "\\") {
                let scalar = try escape(bytes)
                result.append(contentsOf: String(scalar).utf8)
                continue
            }
            let length = byte < 0x80 ? 1 : TextEscape.sequenceLength(bytes, at: offset)
            guard length > 0 else { throw error("text that is not UTF-8") }
            for index in offset..<(offset + length) { result.append(bytes[index]) }
            offset += length
        }
        offset += 1
        return String(decoding: result, as: UTF8.self)
    }

    private mutating func escape(_ bytes: Span<UInt8>) throws(JSONError) -> Unicode.Scalar {
        guard offset + 1 < bytes.count else { throw error("the end of a string is missing") }
        let kind = bytes[offset + 1]
        offset += 2
        switch kind {
        case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): return Unicode.Scalar(kind)
        case UInt8(ascii: "b"): return "\u{8}"
        case UInt8(ascii: "f"): return "\u{c}"
        case UInt8(ascii: "n"): return "\n"
        case UInt8(ascii: "r"): return "\r"
        case UInt8(ascii: "t"): return "\t"
        case UInt8(ascii: "u"): break
        default: throw error("unknown escape")
        }
        let first = try hexadecimal(bytes)
        if let scalar = Unicode.Scalar(first) { return scalar }
        guard first < 0xdc00, offset + 1 < bytes.count, bytes[offset] == UInt8(ascii: "\\"),
            bytes[offset + 1] == UInt8(ascii: "u")
        else { throw error("half of a surrogate pair") }
        offset += 2
        let second = try hexadecimal(bytes)
        guard second >= 0xdc00, second < 0xe000,
            let scalar = Unicode.Scalar(0x10000 + (first - 0xd800) << 10 + (second - 0xdc00))
        else { throw error("half of a surrogate pair") }
        return scalar
    }

    private mutating func hexadecimal(_ bytes: Span<UInt8>) throws(JSONError) -> UInt32 {
        guard offset + 4 <= bytes.count else { throw error("digits are missing") }
        var value: UInt32 = 0
        for index in offset..<(offset + 4) {
            guard let digit = Character(Unicode.Scalar(bytes[index])).hexDigitValue, bytes[index] < 0x80 else {
                throw error("digits are missing")
            }
            value = value << 4 | UInt32(digit)
        }
        offset += 4
        return value
    }
}
