// The language of manual pages, man(7): as little of it as pages need. Text is escaped here and nowhere else, and comes out in lines
// that are short enough for every reader of the source.

/// Writes a manual page.
struct ManualText {
    private(set) var text: String

    /// The head: `name` in section `section`.
    init(name: String, section: Int, date: String, version: String) {
        text = ".\\\" Made by: piko man \(name)\n"
        text += ".TH \(Self.escape(Self.capitals(name))) \(section) \(date) \"\(Self.escape(version))\" Piko\n"
        // No hyphenation and a ragged margin: names of keys stay whole.
        text += ".nh\n.ad l\n"
    }

    mutating func section(_ title: String) { text += ".SH \(Self.escape(title))\n" }

    mutating func subsection(_ title: String) { text += ".SS \(Self.escape(title))\n" }

    /// Paragraphs, separated by empty lines.
    mutating func paragraphs(_ words: String) {
        for paragraph in words.split(separator: "\n\n") {
            text += ".PP\n"
            lines(String(paragraph))
        }
    }

    /// Text right under a heading.
    mutating func lead(_ words: String) {
        var paragraphs = words.split(separator: "\n\n")[...]
        if let first = paragraphs.popFirst() { lines(String(first)) }
        for paragraph in paragraphs { self.paragraphs(String(paragraph)) }
    }

    mutating func lineBreak() { text += ".br\n" }

    /// A name in bold, what follows it in italics, and the text of both, indented.
    mutating func item(_ name: String, _ value: String = "", _ words: String) {
        text += ".TP\n\\fB\(Self.escape(name))\\fR\(value.isEmpty ? "" : " \\fI\(Self.escape(value))\\fR")\n"
        lines(words.isEmpty ? "See above." : words)
    }

    /// A line to type, or lines of a file, as they are.
    mutating func literal(_ words: String) {
        text += ".RS 4\n.EX\n"
        for line in words.split(separator: "\n", omittingEmptySubsequences: false) { text += Self.protect(Self.escape(String(line))) + "\n" }
        text += ".EE\n.RE\n"
    }

    mutating func lines(_ words: String) {
        var line = ""
        for word in words.split(whereSeparator: { $0 == " " || $0 == "\n" }) {
            let word = Self.escape(String(word))
            if !line.isEmpty && line.count + 1 + word.count > 78 {
                text += Self.protect(line) + "\n"
                line = ""
            }
            line += (line.isEmpty ? "" : " ") + word
        }
        text += Self.protect(line) + "\n"
    }

    /// A line of text that begins as a request would.
    private static func protect(_ line: String) -> String { line.hasPrefix(".") || line.hasPrefix("'") ? "\\&" + line : line }

    /// Every character as itself: readers would make typographic ones of some. What is not ASCII is named by its number.
    static func escape(_ text: String) -> String {
        var escaped = ""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\\": escaped += "\\e"
            case "-": escaped += "\\-"
            case "'": escaped += "\\(aq"
            case "\"": escaped += "\\(dq"
            case "`": escaped += "\\(ga"
            case "^": escaped += "\\(ha"
            case "~": escaped += "\\(ti"
            case "\u{A0}": escaped += "\\ "
            default:
                if scalar.isASCII {
                    escaped.unicodeScalars.append(scalar)
                } else {
                    let number = String(scalar.value, radix: 16, uppercase: true)
                    escaped += "\\[u\(String(repeating: "0", count: max(0, 4 - number.count)))\(number)]"
                }
            }
        }
        return escaped
    }

    private static func capitals(_ text: String) -> String { text.uppercased() }
}
