// Manual pages, made of the same tables as help, the parser and the documentation of keys: one for each group of commands (section 1),
// one for each configuration file (section 5), and one for all of it.

/// The pages.
public enum ManualPage {
    /// Groups of commands with a page of their own; the others are on the page of `piko`.
    private static let groups = [Commands.server, Commands.agent, Commands.forward, Commands.bench, Commands.test]
    private static let files = [ManualFile.server, ManualFile.agent, ManualFile.forward]

    /// The names of all pages.
    public static let names = ["piko"] + groups.map { "piko-\($0.name)" } + files.map(\.name)

    /// The section that a page belongs to.
    public static func section(of name: String) -> Int { name.hasSuffix(".yaml") ? 5 : 1 }

    /// A page, nil if there is none of that name. `date` stands in its foot.
    public static func make(_ name: String, date: String, version: String) -> String? {
        var page = ManualText(name: name, section: section(of: name), date: date, version: "piko \(version)")
        if name == "piko" {
            writeOverview(&page)
        } else if let group = groups.first(where: { "piko-\($0.name)" == name }) {
            writeGroup(group, &page)
        } else if let file = files.first(where: { $0.name == name }) {
            file.write(&page)
        } else {
            return nil
        }
        return page.text
    }

    // MARK: piko(1)

    private static func writeOverview(_ page: inout ManualText) {
        let root = Commands.piko
        head("piko", root.summary, &page)
        page.section("SYNOPSIS")
        page.lead("piko COMMAND [flags]")
        page.section("DESCRIPTION")
        page.lead(root.details)
        page.section("COMMANDS")
        page.lead("piko COMMAND --help lists the flags of each. The pages under SEE ALSO have the same.")
        for (path, command) in tree(["piko"], root).dropFirst() {
            page.item((path + command.arguments.map(\.name)).joined(separator: " "), "", command.summary)
        }
        for command in root.subcommands where !groups.contains(where: { $0.name == command.name }) {
            writeCommand(command, path: ["piko", command.name], given: nil, &page)
        }
        page.section("FLAGS OF ALL COMMANDS")
        writeCommonFlags(&page)
        writeExamples(root, title: "EXAMPLES", &page)
        page.section("ENVIRONMENT")
        page.item("HTTPS_PROXY, HTTP_PROXY, NO_PROXY", "", "The proxy on the way to the server, for piko agent and piko forward.")
        page.item("PIKO_TOKEN", "", "The token for piko server status, where --server.token names none.")
        page.item("XDG_RUNTIME_DIR", "", "Where a server's control socket is, if it is set: piko/server.sock in it.")
        page.section("FILES")
        page.item("/run/piko/server.sock", "", "The control socket of a server of the system.")
        page.item("/etc/piko/server.yaml, /etc/piko/agent.yaml", "", "What the services of Debian's packages read.")
        tail(except: "piko", &page)
    }

    // MARK: A group of commands

    private static func writeGroup(_ group: CommandSpec, _ page: inout ManualText) {
        let name = "piko-\(group.name)"
        head(name, group.summary, &page)
        page.section("SYNOPSIS")
        for (index, (path, command)) in tree(["piko", group.name], group).filter({ $0.1.command != nil }).enumerated() {
            let line = (path + command.arguments.map(\.name) + ["[flags]"]).joined(separator: " ")
            if index > 0 { page.lineBreak() }
            page.lead(line)
        }
        page.section("DESCRIPTION")
        page.lead(group.details)
        if group.name != "server" && group.name != "test" {
            page.paragraphs(
                "Where the program piko-agent stands alone, as on an edge device, the same commands are called piko-agent \(group.name).")
        }
        if !group.arguments.isEmpty {
            page.section("ARGUMENTS")
            for argument in group.arguments { page.item(argument.name, "", argument.help) }
        }
        let shared = group.command == nil ? commonFlags(of: group) : group.flags
        if !group.subcommands.isEmpty {
            page.section("COMMANDS")
            for (path, command) in tree(["piko", group.name], group).dropFirst() {
                writeCommand(command, path: path, given: Given(shared, near: sharedNear(path, group)), &page)
            }
        }
        page.section("OPTIONS")
        if group.command == nil {
            page.lead("All commands take these flags, unless their own section has a list of its own.")
        } else {
            page.lead("The flags of piko \(group.name), and of the commands above that say so.")
        }
        writeCommonFlags(&page)
        writeFlags(shared, &page)
        writeExamples(group, title: "EXAMPLES", &page)
        tail(except: name, &page)
    }

    /// Flags that have been written above a command, or will be under OPTIONS.
    private struct Given {
        var options: [FlagSpec]
        var near: [FlagSpec]

        init(_ options: [FlagSpec], near: [FlagSpec]) {
            self.options = options
            self.near = near
        }
    }

    private static func writeCommand(_ command: CommandSpec, path: [String], given: Given?, _ page: inout ManualText) {
        page.subsection((path + command.arguments.map(\.name)).joined(separator: " "))
        page.lead(command.details)
        for argument in command.arguments { page.item(argument.name, "", argument.help) }
        if command.command != nil {
            var flags = command.flags
            if let given {
                if !given.options.isEmpty && contains(flags, given.options) {
                    flags.removeAll { given.options.contains($0) }
                    page.paragraphs("Takes the flags under OPTIONS\(flags.isEmpty ? "." : ", and:")")
                } else if !given.near.isEmpty && contains(flags, given.near) {
                    flags.removeAll { given.near.contains($0) }
                    page.paragraphs("Takes the flags of the commands of its group, above\(flags.isEmpty ? "." : ", and:")")
                }
            }
            writeFlags(flags, &page)
        } else if let given, path.count == 3, !given.near.isEmpty, !contains(given.options, given.near) {
            // The first of the commands above the others lists them.
            page.paragraphs("All commands of this group take:")
            writeFlags(given.near, &page)
        }
        for example in command.examples {
            page.paragraphs(example.help)
            page.literal(example.line)
        }
    }

    /// The flags that all commands have below the one that the third word selects, if that is a group: `piko server status`.
    private static func sharedNear(_ path: [String], _ group: CommandSpec) -> [FlagSpec] {
        guard let parent = group.subcommands.first(where: { $0.name == path[2] }), parent.command == nil else { return [] }
        return commonFlags(of: parent)
    }

    /// The flags that all commands below a group have.
    static func commonFlags(of group: CommandSpec) -> [FlagSpec] {
        let commands = tree([], group).map(\.1).filter { $0.command != nil }
        guard let first = commands.first else { return [] }
        return first.flags.filter { flag in commands.allSatisfy { $0.flags.contains(flag) } }
    }

    private static func contains(_ flags: [FlagSpec], _ others: [FlagSpec]) -> Bool { others.allSatisfy(flags.contains) }

    /// A command and all below it, with the words that select them, in the order of help.
    static func tree(_ path: [String], _ command: CommandSpec) -> [([String], CommandSpec)] {
        [(path, command)] + command.subcommands.flatMap { tree(path + [$0.name], $0) }
    }

    // MARK: Parts

    static func head(_ name: String, _ summary: String, _ page: inout ManualText) {
        page.section("NAME")
        let line = summary.hasSuffix(".") ? String(summary.dropLast()) : summary
        page.lead("\(name) - \(line.prefix(1).lowercased() + line.dropFirst())")
    }

    private static func writeFlags(_ flags: [FlagSpec], _ page: inout ManualText) {
        for flag in flags {
            let repeats = flag.isList ? " Comma-separated, or given several times." : ""
            let fallback = flag.defaultText.isEmpty ? "" : " The default is\u{A0}\(flag.defaultText)."
            page.item("--\(flag.name)", flag.isTruth ? "" : flag.placeholder, flag.help + repeats + fallback)
        }
    }

    private static func writeCommonFlags(_ page: inout ManualText) {
        page.item("-h, --help", "", "Show help.")
        page.item("-v, --version", "", "Show the version.")
    }

    private static func writeExamples(_ command: CommandSpec, title: String, _ page: inout ManualText) {
        guard !command.examples.isEmpty else { return }
        page.section(title)
        for (index, example) in command.examples.enumerated() {
            if index == 0 { page.lead(example.help) } else { page.paragraphs(example.help) }
            page.literal(example.line)
        }
    }

    private static func tail(except name: String, _ page: inout ManualText) {
        page.section("EXIT STATUS")
        page.item("0", "", "Done; of a program that runs: ended by a signal.")
        page.item("1", "", "It could not be done, or the configuration is wrong.")
        page.item("2", "", "The command line is wrong.")
        seeAlso(except: name, &page)
    }

    static func seeAlso(except name: String, _ page: inout ManualText) {
        page.section("SEE ALSO")
        page.lead(names.filter { $0 != name }.map { "\($0)(\(section(of: $0)))" }.joined(separator: ", "))
    }
}
