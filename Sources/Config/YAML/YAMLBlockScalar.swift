// Block scalars: literal ("|") and folded (">") text over several lines, for keys and certificates.
//
// YAML's own rules for folding are ambiguous about lines that start with spaces; this follows the common readers: a line
// break between two lines that both start with a character other than space or tab folds, every other stays.

extension YAMLReader {
    /// How the line ends at the end of a block scalar are treated.
    private enum Chomping { case strip, clip, keep }

    /// Reads a block scalar. The cursor is at its "|" or ">" and is left at the start of the line after it.
    /// `parentIndent` is the column of the map or list that holds it.
    mutating func blockScalar(parentIndent: Int) throws(YAMLError) -> String {
        let isFolded = byte == UInt8(ascii: ">")
        at += 1
        let (chomping, increment) = try blockScalarHeader()
        var breaks = 0
        let indent: Int
        if increment > 0 {
            indent = parentIndent + increment
            breaks = skipBreaks(indent: indent)
        } else {
            (indent, breaks) = try detectIndent(minimum: parentIndent + 1)
        }
        var text: [UInt8] = []
        var lineBreaks = 0
        while column == indent && !isAtEnd {
            for _ in 0..<breaks { text.append(UInt8(ascii: "\n")) }
            let startsWithText = byte != UInt8(ascii: " ") && byte != UInt8(ascii: "\t")
            let start = at
            skipToLineEnd()
            text.append(contentsOf: bytes[start..<at])
            lineBreaks = isAtEnd ? 0 : 1
            if !isAtEnd { passLineEnd() }
            breaks = skipBreaks(indent: indent)
            guard column == indent && !isAtEnd else { break }
            if isFolded && startsWithText && byte != UInt8(ascii: " ") && byte != UInt8(ascii: "\t") {
                if breaks == 0 { text.append(UInt8(ascii: " ")) }
            } else {
                text.append(UInt8(ascii: "\n"))
            }
        }
        if !isAtEnd { at = lineStart }
        switch chomping {
        case .strip: break
        case .clip: for _ in 0..<lineBreaks { text.append(UInt8(ascii: "\n")) }
        case .keep: for _ in 0..<(lineBreaks + breaks) { text.append(UInt8(ascii: "\n")) }
        }
        return String(decoding: text, as: UTF8.self)
    }

    /// Reads what follows "|" or ">" on its line: "+" or "-", and an indentation from 1 to 9 (0 means to detect it).
    private mutating func blockScalarHeader() throws(YAMLError) -> (Chomping, Int) {
        var chomping: Chomping?
        var increment: Int?
        header: while true {
            switch byte {
            case UInt8(ascii: "+") where chomping == nil: chomping = .keep
            case UInt8(ascii: "-") where chomping == nil: chomping = .strip
            case UInt8(ascii: "1")...UInt8(ascii: "9") where increment == nil: increment = Int(byte - UInt8(ascii: "0"))
            default: break header
            }
            at += 1
        }
        skipSpaces()
        guard isLineOver else { throw failure("expected the line's end after \"|\" or \">\" (\"+\", \"-\" and 1 to 9 may follow it)") }
        skipToLineEnd()
        if !isAtEnd { passLineEnd() }
        return (chomping ?? .clip, increment ?? 0)
    }

    /// Skips blank lines, and up to `indent` spaces of the line after them. Returns how many lines.
    private mutating func skipBreaks(indent: Int) -> Int {
        var breaks = 0
        while true {
            while column < indent && byte == UInt8(ascii: " ") { at += 1 }
            guard byte == UInt8(ascii: "\n") else { return breaks }
            passLineEnd()
            breaks += 1
        }
    }

    /// Finds the indentation of the first line with text, and leaves the cursor behind it. Without such a line the
    /// cursor is left where its column is not the indentation.
    private mutating func detectIndent(minimum: Int) throws(YAMLError) -> (indent: Int, breaks: Int) {
        var breaks = 0
        var widest = 0
        while true {
            skipSpaces()
            guard byte == UInt8(ascii: "\n") else { break }
            widest = max(widest, column)
            passLineEnd()
            breaks += 1
        }
        if isAtEnd || column < minimum { return (Int.max, breaks) }
        if widest > column { throw failure("a blank line above has more spaces than the text's first line; remove them") }
        return (column, breaks)
    }
}
