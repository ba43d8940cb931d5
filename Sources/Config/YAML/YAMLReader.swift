// Reads the part of YAML that configuration files use: block maps and lists, flow maps and lists, plain, quoted and block
// scalars, comments, one `---` at the start. Everything else (anchors, aliases, tags, merge keys, several documents,
// directives, complex keys, tabs as indentation, scalars over several lines that are not block scalars, duplicate
// keys) is refused with its place and, where there is one, the way to write it instead.
//
// Why our own: no library may be linked, and a full YAML reader is a large piece of surprising behaviour at the front of
// a program. What is accepted here means the same to every YAML 1.1 and 1.2 reader; a test compares with one of them.
//
// Invariants: `bytes` is checked UTF-8 with only printable characters, line ends are "\n", and a zero byte stands at
// the end (and nowhere else), so that looking one byte ahead never needs a bounds check. After `nextContent` the
// cursor is at the first byte of a line's content, or at the end. Every loop moves the cursor forward; recursion is
// bounded by `limits.depthMax`.

/// The subset of YAML that configuration files use.
public enum YAML {
    /// The value that the text holds; an empty text holds null.
    public static func read(_ text: Span<UInt8>, limits: YAMLLimits = YAMLLimits()) throws(YAMLError) -> YAMLNode {
        let bytes = try YAMLText.prepare(text, limits: limits)
        var reader = YAMLReader(bytes: bytes, limits: limits)
        return try reader.document()
    }
}

/// The cursor over one text. Block collections are read here, the other forms in extensions beside this file.
struct YAMLReader {
    let bytes: [UInt8]
    let limits: YAMLLimits
    var at = 0
    var line = 1
    var lineStart = 0
    private var depth = 0
    private var nodeCount = 0
    /// The byte whose character column was counted last, and that column: a long line is counted once, not once a value.
    private var countedIndex = 0
    private var countedCharacters = 0

    init(bytes: [UInt8], limits: YAMLLimits) {
        self.bytes = bytes
        self.limits = limits
    }

    // MARK: The cursor

    var byte: UInt8 { bytes[at] }
    var isAtEnd: Bool { bytes[at] == 0 }
    /// The number of bytes before the cursor on its line. Where it decides on structure these are all spaces and dashes.
    var column: Int { at - lineStart }

    /// The place of the cursor, for a value that starts there.
    mutating func position() -> TextPosition {
        if countedIndex < lineStart || countedIndex > at {
            countedIndex = lineStart
            countedCharacters = 0
        }
        countedCharacters += characters(countedIndex..<at)
        countedIndex = at
        return TextPosition(line: line, column: countedCharacters + 1)
    }

    /// The place of a byte of the cursor's line, for a failure.
    func position(of index: Int) -> TextPosition {
        TextPosition(line: line, column: characters(lineStart..<index) + 1)
    }

    private func characters(_ range: Range<Int>) -> Int {
        bytes[range].reduce(0) { $0 + ($1 & 0xC0 == 0x80 ? 0 : 1) }
    }

    func failure(_ message: String) -> YAMLError { YAMLError(message, at: position(of: at)) }

    /// Whether the byte ends a token: a space, a line's end or the text's end.
    func isBlank(_ index: Int) -> Bool {
        let byte = bytes[index]
        return byte == UInt8(ascii: " ") || byte == UInt8(ascii: "\n") || byte == 0
    }

    /// Whether the cursor is at the "-" that starts a list's item.
    var isAtListMark: Bool { byte == UInt8(ascii: "-") && isBlank(at + 1) }

    mutating func skipSpaces() {
        while byte == UInt8(ascii: " ") { at += 1 }
    }

    /// Moves past the line's end. The cursor is at it.
    mutating func passLineEnd() {
        at += 1
        line += 1
        lineStart = at
    }

    mutating func skipToLineEnd() {
        while byte != UInt8(ascii: "\n") && byte != 0 { at += 1 }
    }

    /// Whether nothing but spaces and a comment is left on the line. The cursor is behind a run of spaces.
    var isLineOver: Bool {
        if byte == UInt8(ascii: "\n") || byte == 0 { return true }
        return byte == UInt8(ascii: "#") && (at == lineStart || bytes[at - 1] == UInt8(ascii: " "))
    }

    /// Ends the line after a value and moves to the next content.
    mutating func endLine() throws(YAMLError) {
        skipSpaces()
        guard isLineOver else { throw trailingFailure() }
        skipToLineEnd()
        if byte == UInt8(ascii: "\n") { passLineEnd() }
        try nextContent()
    }

    private func trailingFailure() -> YAMLError {
        switch byte {
        case UInt8(ascii: "\t"): failure("a tab is not allowed here; use spaces")
        case UInt8(ascii: ":"): failure("a \":\" is not allowed here; put the text before it in quotes, or start a new line")
        case UInt8(ascii: "#"): failure("a comment needs a space before its \"#\"")
        default: failure("the value has ended, but the line goes on; put the whole value in quotes")
        }
    }

    /// Moves over blank lines and comments to the first byte of the next line with content. The cursor is at the
    /// start of a line.
    mutating func nextContent() throws(YAMLError) {
        while true {
            skipSpaces()
            switch byte {
            case 0: return
            case UInt8(ascii: "\n"): passLineEnd()
            case UInt8(ascii: "#"): skipToLineEnd()
            case UInt8(ascii: "\t"): throw failure("a tab is not allowed as indentation; use spaces")
            default:
                try refuseMarker()
                return
            }
        }
    }

    /// Whether the cursor is at `---` or `...` at the start of a line.
    private func isAtMarker(_ character: UInt8) -> Bool {
        column == 0 && byte == character && bytes[at + 1] == character && bytes[at + 2] == character
            && (isBlank(at + 3) || bytes[at + 3] == UInt8(ascii: "\t"))
    }

    func refuseMarker() throws(YAMLError) {
        if isAtMarker(UInt8(ascii: "-")) { throw failure("a second document (\"---\") is not allowed; a file holds one") }
        if isAtMarker(UInt8(ascii: ".")) { throw failure("the end mark \"...\" is not allowed; a file just ends") }
    }

    // MARK: Nodes

    /// Counts a value and a level of nesting; each call is paired with `leave`.
    mutating func enter() throws(YAMLError) {
        depth += 1
        if depth > limits.depthMax { throw failure("maps and lists are nested more than \(limits.depthMax) deep") }
        try count()
    }

    mutating func leave() { depth -= 1 }

    /// Counts a value.
    mutating func count() throws(YAMLError) {
        nodeCount += 1
        if nodeCount > limits.nodesMax { throw failure("the text holds more than \(limits.nodesMax) values") }
    }

    /// The whole text.
    mutating func document() throws(YAMLError) -> YAMLNode {
        while true {
            skipSpaces()
            if byte == UInt8(ascii: "#") { skipToLineEnd() }
            guard byte == UInt8(ascii: "\n") else { break }
            passLineEnd()
        }
        if isAtMarker(UInt8(ascii: "-")) {
            at += 3
            skipSpaces()
            guard isLineOver else { throw failure("nothing may follow \"---\" on its line") }
            try endLine()
        } else {
            try nextContent()
        }
        if isAtEnd { return YAMLNode(.scalar(text: "", isQuoted: false), at: position()) }
        if byte == UInt8(ascii: "%") { throw failure("directives (\"%\") are not supported; remove the line") }
        let root = try block(parentIndent: -1)
        guard isAtEnd else { throw failure("this line is indented less than the first one") }
        return root
    }

    /// The value whose first byte is at the cursor, at the start of a line or behind "- ". `parentIndent` is the column
    /// of the collection that holds it, or -1.
    private mutating func block(parentIndent: Int) throws(YAMLError) -> YAMLNode {
        if isAtListMark { return try list(isMapValue: false) }
        if byte == UInt8(ascii: "?") && isBlank(at + 1) {
            throw failure("complex keys (\"? \") are not supported; write \"key: value\"")
        }
        if try isAtKey() { return try map() }
        if parentIndent < 0 && byte != UInt8(ascii: "[") && byte != UInt8(ascii: "{") {
            throw failure("expected \"key: value\" (with a space after the colon)")
        }
        return try value(parentIndent: parentIndent)
    }

    /// A block map; the cursor is at its first key, whose column is the map's.
    private mutating func map() throws(YAMLError) -> YAMLNode {
        try enter()
        let indent = column
        let start = position()
        var entries: [YAMLEntry] = []
        var names: Set<String> = []
        while true {
            let place = position()
            let name = try key()
            guard names.insert(name).inserted else { throw YAMLError("the key \"\(name)\" comes twice", at: place) }
            let value = try mapValue(indent: indent)
            entries.append(YAMLEntry(key: name, at: place, value: value))
            if isAtEnd || column < indent { break }
            if column > indent { throw indentationFailure(after: value) }
            if isAtListMark { throw failure("expected \"key: value\", not a list's item") }
        }
        leave()
        return YAMLNode(.map(entries), at: start)
    }

    /// What follows a key's colon.
    private mutating func mapValue(indent: Int) throws(YAMLError) -> YAMLNode {
        skipSpaces()
        guard isLineOver else {
            if isAtListMark { throw failure("a list starts on a line of its own") }
            return try value(parentIndent: indent)
        }
        let missing = YAMLNode(.scalar(text: "", isQuoted: false), at: position())
        try endLine()
        if !isAtEnd && column > indent { return try block(parentIndent: indent) }
        // A list may stand in the same column as the key that it belongs to.
        if !isAtEnd && column == indent && isAtListMark { return try list(isMapValue: true) }
        try count()
        return missing
    }

    /// A block list; the cursor is at its first "-", whose column is the list's. One that `isMapValue` may be
    /// followed by the map's next key in the same column.
    private mutating func list(isMapValue: Bool) throws(YAMLError) -> YAMLNode {
        try enter()
        let indent = column
        let start = position()
        var items: [YAMLNode] = []
        while true {
            at += 1
            skipSpaces()
            let item = try listItem(indent: indent)
            items.append(item)
            if isAtEnd || column < indent { break }
            if column > indent { throw indentationFailure(after: item) }
            if !isAtListMark {
                if isMapValue { break }
                throw failure("expected \"- \" and the list's next item")
            }
        }
        leave()
        return YAMLNode(.list(items), at: start)
    }

    /// What follows an item's "-".
    private mutating func listItem(indent: Int) throws(YAMLError) -> YAMLNode {
        guard isLineOver else { return try block(parentIndent: indent) }
        let missing = YAMLNode(.scalar(text: "", isQuoted: false), at: position())
        try endLine()
        if !isAtEnd && column > indent { return try block(parentIndent: indent) }
        try count()
        return missing
    }

    private func indentationFailure(after value: YAMLNode) -> YAMLError {
        if case .scalar = value.content {
            return failure("unexpected indentation: a value ends with its line; for longer text use \"|\"")
        }
        return failure("this line is indented like no line above it")
    }

    /// A value that is not a block map or list: the rest of the line, or a flow collection or block scalar that starts
    /// there.
    private mutating func value(parentIndent: Int) throws(YAMLError) -> YAMLNode {
        let start = position()
        let content: YAMLNode.Content
        switch byte {
        case UInt8(ascii: "["), UInt8(ascii: "{"):
            let node = try flow()
            try endLine()
            return node
        case UInt8(ascii: "|"), UInt8(ascii: ">"):
            try count()
            content = .scalar(text: try blockScalar(parentIndent: parentIndent), isQuoted: true)
            try nextContent()
        case UInt8(ascii: "\""), UInt8(ascii: "'"):
            try count()
            content = .scalar(text: try quoted(), isQuoted: true)
            try endLine()
        default:
            try count()
            content = .scalar(text: try plain(inFlow: false), isQuoted: false)
            try endLine()
        }
        return YAMLNode(content, at: start)
    }
}
