// YAML for people to read: what `piko server check` and the commands that ask a server print. Block style, two spaces a
// level; what is written is of the subset that the reader takes, and means the same to every other reader.

extension YAML {
    /// The value as lines of YAML. A scalar that is marked as quoted is a text, and gets quotes only where it would be
    /// something else without them; one that is not marked is written as it is.
    public static func write(_ node: YAMLNode) -> String {
        var lines: [String] = []
        switch node.content {
        case .map(let entries) where !entries.isEmpty: writeMap(entries, indent: "", into: &lines)
        case .list(let items) where !items.isEmpty: writeList(items, indent: "", into: &lines)
        default: lines.append(inline(node))
        }
        return lines.joined(separator: "\n") + "\n"
    }

    private static func writeMap(_ entries: [YAMLEntry], indent: String, into lines: inout [String]) {
        for entry in entries {
            let key = indent + text(entry.key) + ":"
            switch entry.value.content {
            case .map(let inner) where !inner.isEmpty:
                lines.append(key)
                writeMap(inner, indent: indent + "  ", into: &lines)
            case .list(let items) where !items.isEmpty:
                lines.append(key)
                writeList(items, indent: indent + "  ", into: &lines)
            default:
                lines.append(key + " " + inline(entry.value))
            }
        }
    }

    private static func writeList(_ items: [YAMLNode], indent: String, into lines: inout [String]) {
        for item in items {
            let first = lines.count
            switch item.content {
            case .map(let inner) where !inner.isEmpty: writeMap(inner, indent: indent + "  ", into: &lines)
            case .list(let inner) where !inner.isEmpty: writeList(inner, indent: indent + "  ", into: &lines)
            default: lines.append(indent + "  " + inline(item))
            }
            // The item's mark takes the place of the last two spaces before its first line.
            lines[first] = indent + "- " + lines[first].dropFirst(indent.count + 2)
        }
    }

    private static func inline(_ node: YAMLNode) -> String {
        switch node.content {
        case .scalar(let text, let isQuoted): isQuoted ? self.text(text) : text
        case .list: "[]"
        case .map: "{}"
        }
    }

    /// A text, in double quotes unless it is plainly a text to every reader.
    private static func text(_ text: String) -> String {
        isPlain(text) ? text : quoted(text)
    }

    private static func isPlain(_ text: String) -> Bool {
        guard let first = text.utf8.first, text.utf8.last != UInt8(ascii: ":") else { return false }
        let isPlainStart = isLetterOrDigit(first) || "/_".utf8.contains(first) || (first == UInt8(ascii: ":") && text.utf8.count > 1)
        let hasPlainBytes = text.utf8.allSatisfy { isLetterOrDigit($0) || "-._~/:+@%=$".utf8.contains($0) }
        // What holds only these, and a digit, may be a number, a date or a time to some reader.
        let isNumberLike = text.utf8.allSatisfy { "0123456789abcdefABCDEFxXoO._:+-".utf8.contains($0) }
            && text.utf8.contains { $0 >= 48 && $0 <= 57 }
        let words = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"]
        return isPlainStart && hasPlainBytes && !(isNumberLike && first != UInt8(ascii: ":")) && !words.contains(text.lowercased())
    }

    private static func isLetterOrDigit(_ byte: UInt8) -> Bool {
        (byte >= 48 && byte <= 57) || (byte | 0x20 >= 97 && byte | 0x20 <= 122)
    }

    private static func quoted(_ text: String) -> String {
        var output = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"", "\\": output += "\\" + String(scalar)
            case "\n": output += "\\n"
            case "\t": output += "\\t"
            case "\r": output += "\\r"
            default:
                let value = scalar.value
                let isPrintable = (value >= 0x20 && value < 0x7F) || (value >= 0xA0 && ![0x2028, 0x2029, 0xFEFF, 0xFFFE, 0xFFFF].contains(value))
                if isPrintable {
                    output.unicodeScalars.append(scalar)
                } else {
                    let digits = String(value, radix: 16)
                    output += "\\u" + String(repeating: "0", count: max(0, 4 - digits.count)) + digits
                }
            }
        }
        return output + "\""
    }
}

extension Configuration {
    /// The whole configuration as the YAML of a file that says the same, but for secrets, which are not shown.
    public var yaml: YAMLNode {
        let schema = Self.schema
        let start = TextPosition(line: 1, column: 1)
        var root: [YAMLEntry] = []
        for list in schema.lists {
            let items = (0..<list.count(self)).map { index in
                YAMLNode(.map(Self.entries(list.settings(index), of: self, prefix: "\(list.path).\(index).")), at: start)
            }
            root.append(YAMLEntry(key: list.path, at: start, value: YAMLNode(.list(items), at: start)))
        }
        return YAMLNode(.map(root + Self.entries(schema.settings, of: self, prefix: "")), at: start)
    }

    /// The entries of the map whose keys stand under `prefix`.
    private static func entries(_ settings: [Setting<Self>], of root: Self, prefix: String) -> [YAMLEntry] {
        let start = TextPosition(line: 1, column: 1)
        var names: [String] = []
        for setting in settings where setting.path.hasPrefix(prefix) {
            let name = String(setting.path.dropFirst(prefix.count).prefix { $0 != "." })
            if !names.contains(name) { names.append(name) }
        }
        return names.map { name in
            let content: YAMLNode.Content
            if let setting = settings.first(where: { $0.path == prefix + name }) {
                let isText = setting.form == .list || setting.form == .scalar(mayBeQuoted: true)
                let scalars = setting.texts(root).map {
                    YAMLNode(.scalar(text: setting.isSecret && !$0.isEmpty ? "(hidden)" : $0, isQuoted: isText), at: start)
                }
                content = setting.form == .list ? .list(scalars) : scalars[0].content
            } else {
                content = .map(entries(settings, of: root, prefix: "\(prefix)\(name)."))
            }
            return YAMLEntry(key: name, at: start, value: YAMLNode(content, at: start))
        }
    }
}
