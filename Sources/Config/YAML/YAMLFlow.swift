// Flow collections: [a, b] and {key: value}, over one line or several. JSON's objects and arrays are among them.

extension YAMLReader {
    /// Reads a flow collection. The cursor is at its bracket and is left behind the closing one.
    mutating func flow() throws(YAMLError) -> YAMLNode {
        try enter()
        let start = position()
        let content: YAMLNode.Content = byte == UInt8(ascii: "[") ? .list(try flowList()) : .map(try flowMap())
        leave()
        return YAMLNode(content, at: start)
    }

    private mutating func flowList() throws(YAMLError) -> [YAMLNode] {
        at += 1
        var items: [YAMLNode] = []
        while true {
            try skipFlowSpace()
            if byte == UInt8(ascii: "]") { break }
            items.append(try flowValue())
            try skipFlowSpace()
            if byte == UInt8(ascii: "]") { break }
            guard byte == UInt8(ascii: ",") else { throw flowFailure(closing: "]") }
            at += 1
        }
        at += 1
        return items
    }

    private mutating func flowMap() throws(YAMLError) -> [YAMLEntry] {
        at += 1
        var entries: [YAMLEntry] = []
        var names: Set<String> = []
        while true {
            try skipFlowSpace()
            if byte == UInt8(ascii: "}") { break }
            if isAtEnd { throw flowFailure(closing: "}") }
            let place = position()
            let name = try keyText(inFlow: true)
            guard names.insert(name).inserted else { throw YAMLError("the key \"\(name)\" comes twice", at: place) }
            skipSpaces()
            guard byte == UInt8(ascii: ":") else {
                throw failure("expected \"key: value\" (with a space after the colon)")
            }
            at += 1
            try skipFlowSpace()
            if byte == UInt8(ascii: ",") || byte == UInt8(ascii: "}") {
                throw failure("the value of \"\(name)\" is missing; write null, or remove the key")
            }
            entries.append(YAMLEntry(key: name, at: place, value: try flowValue()))
            try skipFlowSpace()
            if byte == UInt8(ascii: "}") { break }
            guard byte == UInt8(ascii: ",") else { throw flowFailure(closing: "}") }
            at += 1
        }
        at += 1
        return entries
    }

    private mutating func flowValue() throws(YAMLError) -> YAMLNode {
        let start = position()
        switch byte {
        case UInt8(ascii: "["), UInt8(ascii: "{"):
            return try flow()
        case UInt8(ascii: "\""), UInt8(ascii: "'"):
            try count()
            return YAMLNode(.scalar(text: try quoted(), isQuoted: true), at: start)
        case 0:
            throw failure("the text ends within brackets")
        default:
            try count()
            return YAMLNode(.scalar(text: try plain(inFlow: true), isQuoted: false), at: start)
        }
    }

    /// Skips spaces, line ends and comments between the parts of a flow collection.
    private mutating func skipFlowSpace() throws(YAMLError) {
        while true {
            skipSpaces()
            if byte == UInt8(ascii: "\t") { throw failure("a tab is not allowed here; use spaces") }
            if byte == UInt8(ascii: "#") && isLineOver { skipToLineEnd() }
            guard byte == UInt8(ascii: "\n") else { break }
            passLineEnd()
        }
        try refuseMarker()
    }

    private func flowFailure(closing bracket: Character) -> YAMLError {
        if isAtEnd { return failure("the text ends within brackets") }
        return failure("expected \",\" or \"\(bracket)\"; a text with spaces at a line's end, \":\" or brackets needs quotes")
    }
}
