// Keys and the scalars that end with their line: plain and quoted ones.

extension YAMLReader {
    // MARK: Keys

    /// Whether the cursor is at a key: text, then a colon, then a space or the line's end. The cursor stays.
    mutating func isAtKey() throws(YAMLError) -> Bool {
        let start = at
        defer { at = start }
        switch byte {
        case UInt8(ascii: "\""), UInt8(ascii: "'"):
            _ = try quoted()
        case UInt8(ascii: "["), UInt8(ascii: "{"), UInt8(ascii: "|"), UInt8(ascii: ">"):
            return false
        default:
            if byte == UInt8(ascii: ":") && isBlank(at + 1) { return true }
            _ = try plain(inFlow: false, refusesColon: false)
        }
        skipSpaces()
        return byte == UInt8(ascii: ":") && isBlank(at + 1)
    }

    /// Reads a block map's key and its colon.
    mutating func key() throws(YAMLError) -> String {
        let start = at
        let name = try keyText(inFlow: false)
        skipSpaces()
        guard byte == UInt8(ascii: ":") && isBlank(at + 1) else {
            if byte == UInt8(ascii: "\t") { throw failure("a tab is not allowed here; use spaces") }
            throw YAMLError("expected \"key: value\" (with a space after the colon)", at: position(of: start))
        }
        at += 1
        return name
    }

    /// Reads the text of a key, of either kind of map.
    mutating func keyText(inFlow: Bool) throws(YAMLError) -> String {
        let start = at
        let isQuoted = byte == UInt8(ascii: "\"") || byte == UInt8(ascii: "'")
        if byte == UInt8(ascii: ":") && (inFlow || isBlank(at + 1)) { throw failure("a key is missing before the \":\"") }
        let name = isQuoted ? try quoted() : try plain(inFlow: inFlow, refusesColon: false)
        if name.isEmpty { throw YAMLError("a key must not be empty", at: position(of: start)) }
        if at - start > limits.keyBytesMax {
            throw YAMLError("a key is longer than \(limits.keyBytesMax) bytes", at: position(of: start))
        }
        if !isQuoted && name == "<<" {
            throw YAMLError("merge keys (\"<<\") are not supported; write the keys out", at: position(of: start))
        }
        return name
    }

    // MARK: Plain scalars

    /// Reads a plain scalar up to a comment, a colon that ends a key, the line's end or, in a flow collection, a
    /// character that has a meaning there. The cursor is left behind the text, before spaces.
    mutating func plain(inFlow: Bool, refusesColon: Bool = true) throws(YAMLError) -> String {
        try checkPlainStart(inFlow: inFlow)
        let start = at
        var end = at
        scan: while true {
            switch bytes[at] {
            case 0, UInt8(ascii: "\n"):
                break scan
            case UInt8(ascii: "\t"):
                throw failure("a tab is not allowed here; use spaces, or put the value in quotes")
            case UInt8(ascii: " "):
                skipSpaces()
                if byte == UInt8(ascii: "#") { break scan }
                continue scan
            case UInt8(ascii: ":") where isBlank(at + 1) || (inFlow && Self.isFlowMark(bytes[at + 1])):
                if refusesColon { throw failure("a \": \" is not allowed in a plain value; put the value in quotes") }
                break scan
            case let mark where inFlow && Self.isFlowMark(mark):
                break scan
            default:
                at += 1
                end = at
            }
        }
        at = end
        return String(decoding: bytes[start..<end], as: UTF8.self)
    }

    /// Whether the byte has a meaning of its own in a flow collection.
    static func isFlowMark(_ byte: UInt8) -> Bool {
        switch byte {
        case UInt8(ascii: ","), UInt8(ascii: "["), UInt8(ascii: "]"), UInt8(ascii: "{"), UInt8(ascii: "}"),
            UInt8(ascii: "?"):
            true
        default: false
        }
    }

    /// Refuses what may not start a plain scalar, and says what it would mean in full YAML.
    private func checkPlainStart(inFlow: Bool) throws(YAMLError) {
        switch byte {
        case UInt8(ascii: "&"): throw failure("anchors (\"&\") are not supported; repeat the value, or quote the text")
        case UInt8(ascii: "*"): throw failure("aliases (\"*\") are not supported; repeat the value, or quote the text")
        case UInt8(ascii: "!"): throw failure("tags (\"!\") are not supported; remove it, or quote the text")
        case UInt8(ascii: "%"), UInt8(ascii: "@"), UInt8(ascii: "`"), UInt8(ascii: ","), UInt8(ascii: "]"),
            UInt8(ascii: "}"), UInt8(ascii: "#"), UInt8(ascii: "["), UInt8(ascii: "{"), UInt8(ascii: "|"),
            UInt8(ascii: ">"):
            throw failure("a value can't start with \"\(Character(Unicode.Scalar(byte)))\" here; put it in quotes")
        case UInt8(ascii: "\""), UInt8(ascii: "'"):
            throw failure("a quoted text is not allowed here")
        case UInt8(ascii: "\t"):
            throw failure("a tab is not allowed here; use spaces")
        case UInt8(ascii: "-"):
            if isBlank(at + 1) || (inFlow && Self.isFlowMark(bytes[at + 1])) {
                throw failure("a list's item (\"- \") is not allowed here")
            }
        case UInt8(ascii: "?"), UInt8(ascii: ":"):
            if inFlow || isBlank(at + 1) {
                throw failure("a value can't start with \"\(Character(Unicode.Scalar(byte)))\" here; put it in quotes")
            }
        default: break
        }
    }

    // MARK: Quoted scalars

    /// Reads a quoted scalar. The cursor is at its quote, and is left behind the closing one.
    mutating func quoted() throws(YAMLError) -> String {
        let quote = byte
        let start = at
        var text: [UInt8] = []
        at += 1
        while true {
            switch byte {
            case 0, UInt8(ascii: "\n"):
                throw YAMLError(
                    "the quote is not closed on its line; for text over several lines use \"|\"", at: position(of: start))
            case quote:
                at += 1
                // Only a single quote may be written twice to stand for itself.
                guard quote == UInt8(ascii: "'"), byte == quote else { return String(decoding: text, as: UTF8.self) }
                text.append(quote)
                at += 1
            case UInt8(ascii: "\\") where quote == UInt8(ascii: "\""):
                try escape(into: &text)
            default:
                text.append(byte)
                at += 1
            }
        }
    }

    /// Reads one escape of a double-quoted scalar. The cursor is at its backslash.
    private mutating func escape(into text: inout [UInt8]) throws(YAMLError) {
        let start = at
        let letter = bytes[at + 1]
        var digits = 0
        let scalar: UInt32
        switch letter {
        case UInt8(ascii: "a"): scalar = 0x07
        case UInt8(ascii: "b"): scalar = 0x08
        case UInt8(ascii: "t"), UInt8(ascii: "\t"): scalar = 0x09
        case UInt8(ascii: "n"): scalar = 0x0A
        case UInt8(ascii: "v"): scalar = 0x0B
        case UInt8(ascii: "f"): scalar = 0x0C
        case UInt8(ascii: "r"): scalar = 0x0D
        case UInt8(ascii: "e"): scalar = 0x1B
        case UInt8(ascii: " "), UInt8(ascii: "\""), UInt8(ascii: "/"), UInt8(ascii: "\\"): scalar = UInt32(letter)
        case UInt8(ascii: "N"): scalar = 0x85
        case UInt8(ascii: "_"): scalar = 0xA0
        case UInt8(ascii: "L"): scalar = 0x2028
        case UInt8(ascii: "P"): scalar = 0x2029
        case UInt8(ascii: "x"), UInt8(ascii: "u"), UInt8(ascii: "U"):
            digits = letter == UInt8(ascii: "x") ? 2 : letter == UInt8(ascii: "u") ? 4 : 8
            scalar = try hexadecimal(at: at + 2, digits: digits)
        default:
            throw failure("unknown escape; a backslash itself is written \"\\\\\", or use single quotes")
        }
        guard scalar != 0, let character = Unicode.Scalar(scalar) else {
            throw YAMLError("the escape names no character that is allowed", at: position(of: start))
        }
        text.append(contentsOf: Array(String(Character(character)).utf8))
        at += 2 + digits
    }

    private func hexadecimal(at index: Int, digits: Int) throws(YAMLError) -> UInt32 {
        var number: UInt32 = 0
        for offset in 0..<digits {
            // A digit that is missing is caught before the end mark is passed.
            guard let digit = Character(Unicode.Scalar(bytes[index + offset])).hexDigitValue else {
                throw failure("the escape needs \(digits) hexadecimal digits")
            }
            number = number << 4 | UInt32(digit)
        }
        return number
    }
}
