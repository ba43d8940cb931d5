// What a configuration file says, before anyone knows what it should say: a tree of maps, lists and scalars with the
// place of each in the file, so that the schema can point at what it refuses.
//
// Scalars stay text. YAML's own guessing of types ("no" is false, "1:30" is ninety) has no place here: the schema
// knows the type of each key. Whether a scalar was quoted is kept, because only a plain one may be a number, a truth
// value or null.

/// A place in a text, for people: both numbers start at one, columns count characters.
public struct TextPosition: Equatable, Sendable {
    public var line: Int
    public var column: Int

    public init(line: Int, column: Int) {
        self.line = line
        self.column = column
    }
}

/// Why a text is not in the subset of YAML that is read here.
public struct YAMLError: Error, Equatable, Sendable, CustomStringConvertible {
    public var position: TextPosition
    /// What is wrong and, where that is short, what to write instead.
    public var message: String

    public init(_ message: String, at position: TextPosition) {
        self.message = message
        self.position = position
    }

    /// "LINE:COLUMN: MESSAGE".
    public var description: String { "\(position.line):\(position.column): \(message)" }
}

/// A value in a YAML text.
public struct YAMLNode: Equatable, Sendable {
    /// What the value is.
    public enum Content: Equatable, Sendable {
        /// Text; `isQuoted` also for block scalars. A missing value is an empty plain scalar.
        case scalar(text: String, isQuoted: Bool)
        case list([YAMLNode])
        /// In the order of the text. No key comes twice.
        case map([YAMLEntry])
    }

    public var content: Content
    /// Where the value starts; for a missing one, where it should have been.
    public var position: TextPosition

    public init(_ content: Content, at position: TextPosition) {
        self.content = content
        self.position = position
    }

    /// Whether this is null: missing, `~` or `null`, unquoted.
    public var isNull: Bool {
        guard case .scalar(let text, isQuoted: false) = content else { return false }
        return text.isEmpty || text == "~" || text == "null" || text == "Null" || text == "NULL"
    }
}

/// One key of a map and its value.
public struct YAMLEntry: Equatable, Sendable {
    public var key: String
    /// Where the key starts.
    public var position: TextPosition
    public var value: YAMLNode

    public init(key: String, at position: TextPosition, value: YAMLNode) {
        self.key = key
        self.position = position
        self.value = value
    }
}

/// How large a text may be. A configuration that reaches these is a mistake, and the reader's memory and stack are
/// bounded by them.
public struct YAMLLimits: Sendable {
    /// The length of the text.
    public var textBytesMax = 1_048_576
    /// Maps and lists within each other.
    public var depthMax = 32
    /// Values in all.
    public var nodesMax = 65_536
    /// The length of a key.
    public var keyBytesMax = 256

    public init() {}
}
