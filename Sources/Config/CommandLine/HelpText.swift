// The help of one command, laid out for a terminal of at most 96 columns.

/// Lays out help.
enum HelpText {
    static let columnsMax = 96

    /// The help of the command that the words `path` select.
    static func make(_ command: CommandSpec, path: [String]) -> String {
        let name = path.joined(separator: " ")
        var lines: [String] = []
        for paragraph in command.details.split(separator: "\n\n") {
            lines += wrap(String(paragraph), indent: 0) + [""]
        }
        lines += usage(command, name: name)
        if !command.subcommands.isEmpty {
            lines += ["", "Commands:"] + columns(command.subcommands.map { ($0.name, $0.summary) })
        }
        if !command.arguments.isEmpty {
            lines += ["", "Arguments:"] + columns(command.arguments.map { ($0.name, $0.help) })
        }
        if !command.examples.isEmpty {
            lines += ["", "Examples:"]
            for example in command.examples {
                lines += wrap("# " + example.help, indent: 2) + ["  " + example.line]
            }
        }
        lines += ["", "Flags:"]
        for flag in command.flags { lines += self.flag(flag) }
        lines += ["  -h, --help", "      Show this help.", "  -v, --version", "      Show the version."]
        if !command.subcommands.isEmpty {
            lines += ["", "Run \"\(name) COMMAND --help\" for more about a command."]
        }
        return lines.joined(separator: "\n") + "\n"
    }

    private static func usage(_ command: CommandSpec, name: String) -> [String] {
        var lines = ["Usage:"]
        if command.command != nil {
            lines.append(([("  " + name)] + command.arguments.map(\.name) + ["[flags]"]).joined(separator: " "))
        }
        if !command.subcommands.isEmpty { lines.append("  \(name) COMMAND") }
        return lines
    }

    private static func flag(_ flag: FlagSpec) -> [String] {
        let value = flag.isTruth ? "" : " " + flag.placeholder
        let repeats = flag.isList ? " Comma-separated, or given several times." : ""
        let fallback = flag.defaultText.isEmpty ? "" : " (default\u{A0}\(flag.defaultText))"
        return ["  --\(flag.name)\(value)"] + wrap(flag.help + repeats + fallback, indent: 6)
    }

    /// Names in a column of their own, the text beside them.
    private static func columns(_ rows: [(String, String)]) -> [String] {
        let width = rows.reduce(0) { max($0, $1.0.count) }
        return rows.flatMap { row in
            let name = row.0 + String(repeating: " ", count: width - row.0.count)
            var lines = wrap(row.1, indent: width + 4)
            lines[0] = "  \(name)  " + lines[0].dropFirst(width + 4)
            return lines
        }
    }

    /// The text's words in lines that start with `indent` spaces; at least one line. A no-break space joins two words.
    static func wrap(_ text: String, indent: Int) -> [String] {
        let margin = String(repeating: " ", count: indent)
        var lines: [String] = []
        var line = margin
        for word in text.split(whereSeparator: { $0 == " " || $0 == "\n" }) {
            if line.count > indent && line.count + 1 + word.count > columnsMax {
                lines.append(line)
                line = margin
            }
            line += (line.count > indent ? " " : "") + String(word.map { $0 == "\u{A0}" ? " " : $0 })
        }
        return lines + [line]
    }
}
