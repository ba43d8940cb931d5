// The text before it is read: only printable UTF-8, one kind of line end, a zero byte as the end mark. With this done
// first, no later step meets a byte that it must distrust.

/// Checks and normalises a text.
enum YAMLText {
    /// A copy of the text with "\n" for "\r\n", without a byte order mark, and with a zero byte at its end. Refuses what is
    /// not UTF-8, control characters, and the line ends that readers of YAML disagree about.
    static func prepare(_ text: Span<UInt8>, limits: YAMLLimits) throws(YAMLError) -> [UInt8] {
        if text.count > limits.textBytesMax {
            throw YAMLError("the text is longer than \(limits.textBytesMax) bytes", at: TextPosition(line: 1, column: 1))
        }
        var bytes: [UInt8] = []
        bytes.reserveCapacity(text.count + 1)
        var line = 1
        var column = 1
        var index = 0
        if text.count >= 3 && text[0] == 0xEF && text[1] == 0xBB && text[2] == 0xBF { index = 3 }
        while index < text.count {
            let first = text[index]
            if first == UInt8(ascii: "\r") && index + 1 < text.count && text[index + 1] == UInt8(ascii: "\n") {
                index += 1
                continue
            }
            guard let length = characterLength(text, at: index) else {
                throw YAMLError("the text is not UTF-8", at: TextPosition(line: line, column: column))
            }
            if let refusal = refusal(text, at: index, length: length) {
                throw YAMLError(refusal, at: TextPosition(line: line, column: column))
            }
            for offset in 0..<length { bytes.append(text[index + offset]) }
            index += length
            column += 1
            if first == UInt8(ascii: "\n") {
                line += 1
                column = 1
            }
        }
        bytes.append(0)
        return bytes
    }

    /// The number of bytes of the UTF-8 character at `index`, or nil when there is none (RFC 3629, section 4).
    private static func characterLength(_ text: Span<UInt8>, at index: Int) -> Int? {
        let first = text[index]
        let length: Int
        var secondMinimum: UInt8 = 0x80
        var secondMaximum: UInt8 = 0xBF
        switch first {
        case 0x00...0x7F: return 1
        case 0xC2...0xDF: length = 2
        case 0xE0:
            length = 3
            secondMinimum = 0xA0
        case 0xED:
            length = 3
            secondMaximum = 0x9F
        case 0xE1...0xEF: length = 3
        case 0xF0:
            length = 4
            secondMinimum = 0x90
        case 0xF1...0xF3: length = 4
        case 0xF4:
            length = 4
            secondMaximum = 0x8F
        default: return nil
        }
        if index + length > text.count { return nil }
        let second = text[index + 1]
        if second < secondMinimum || second > secondMaximum { return nil }
        for offset in 1..<length where text[index + offset] & 0xC0 != 0x80 { return nil }
        return length
    }

    /// Why the character at `index` may not be in a text, or nil when it may.
    private static func refusal(_ text: Span<UInt8>, at index: Int, length: Int) -> String? {
        let first = text[index]
        if length == 1 {
            if first == UInt8(ascii: "\r") { return "a carriage return must be followed by a line feed" }
            let isAllowed = first == UInt8(ascii: "\n") || first == UInt8(ascii: "\t") || (first >= 0x20 && first != 0x7F)
            return isAllowed ? nil : "control characters are not allowed; in double quotes write an escape such as \\x1B"
        }
        let second = text[index + 1]
        if length == 2 { return first == 0xC2 && second < 0xA0 ? "control characters are not allowed" : nil }
        if length == 4 { return nil }
        let third = text[index + 2]
        switch (first, second, third) {
        case (0xE2, 0x80, 0xA8), (0xE2, 0x80, 0xA9): return "line and paragraph separators are not allowed; use line feeds"
        case (0xEF, 0xBB, 0xBF): return "a byte order mark is allowed at the start only"
        case (0xEF, 0xBF, 0xBE), (0xEF, 0xBF, 0xBF): return "U+FFFE and U+FFFF are not characters"
        default: return nil
        }
    }
}
