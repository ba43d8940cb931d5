// From the words of a command line to what they ask for. Nothing is printed and nothing ends here: the program prints the
// text or the failure, and exits with the status that belongs to it.
//
// Exit statuses: 0 done; 1 it could not be done (a configuration that is wrong among them); 2 the command line itself is
// wrong.

internal import Base

/// A command that was understood. Flags' values are not checked yet: the configuration does that.
public struct Invocation: Equatable, Sendable {
    public var command: Command
    /// As many as the command's spec names.
    public var arguments: [String]
    /// In the order of the command line. Names are known ones; a truth flag without a value has "true".
    public var flags: [FlagValue]
    /// The words that selected the command, the program's name first: ["piko", "agent", "http"].
    public var path: [String]

    public init(command: Command, arguments: [String] = [], flags: [FlagValue] = [], path: [String] = []) {
        self.command = command
        self.arguments = arguments
        self.flags = flags
        self.path = path
    }

    /// The flags and arguments as words that give the same again.
    public var words: [String] {
        flags.map { "--\($0.name)=\($0.value)" } + (arguments.isEmpty ? [] : ["--"] + arguments)
    }

    /// The configuration file to read, if one is named.
    public var configPath: String? {
        flags.last { $0.name == CommonFlags.configPath.name }.flatMap { $0.value.isEmpty ? nil : $0.value }
    }

    /// Where an agent keeps a copy of the last configuration that worked, if it does.
    public var lastGoodPath: String? {
        flags.last { $0.name == CommonFlags.lastGoodPath.name }.flatMap { $0.value.isEmpty ? nil : $0.value }
    }

    /// The same, with another file to read.
    public func reading(_ path: String) -> Invocation {
        var other = self
        other.flags.removeAll { $0.name == CommonFlags.configPath.name }
        other.flags.append(FlagValue(name: CommonFlags.configPath.name, value: path))
        return other
    }

    /// The program that `piko server upgrade` is to go over to, if one is named.
    public var binary: String? {
        flags.last { $0.name == CommonFlags.binary }.flatMap { $0.value.isEmpty ? nil : $0.value }
    }

    /// Whether `piko server drain` takes the drain back.
    public var isOff: Bool { flags.last { $0.name == CommonFlags.off }?.value.lowercased() == "true" }

    /// Whether `piko agent diagnose` asks for no tunnel.
    public var isWithoutRegistration: Bool {
        flags.last { $0.name == CommonFlags.noRegister.name }?.value.lowercased() == "true"
    }

    /// How a diagnosis is printed: "table" or "json".
    public func diagnosisOutput() throws(ConfigError) -> String {
        guard let value = flags.last(where: { $0.name == CommonFlags.output.name })?.value else { return "table" }
        guard ["table", "json"].contains(value) else { throw ConfigError("--output: \"\(value)\" is neither table nor json") }
        return value
    }

    /// Whether environment variables are put into the file.
    public var expandsEnvironment: Bool {
        flags.last { $0.name == CommonFlags.expandEnvironment.name }?.value.lowercased() == "true"
    }
}

/// What a command line asks for.
public enum CommandLineOutcome: Equatable, Sendable {
    /// To do something.
    case run(Invocation)
    /// To print this text (help or the version) on standard output and exit with status 0.
    case show(String)
}

/// Why a command line can't be understood; the program prints the description and exits with status 2.
public struct CommandLineError: Error, Equatable, Sendable, CustomStringConvertible {
    public var message: String
    /// The command whose help tells more: "piko server".
    public var helpCommand: String

    public init(message: String, helpCommand: String) {
        self.message = message
        self.helpCommand = helpCommand
    }

    public var description: String { "\(message)\nRun \"\(helpCommand) --help\" for usage." }
}

/// Understands command lines of one tree of commands.
public struct CommandLineParser: Sendable {
    private let root: CommandSpec
    /// The words before the root's own name when the tree is a part of a larger one.
    private let parents: [String]

    /// A parser for the tree. `parents` are the words that stand before the root in help: ["piko"] for `piko server`.
    public init(_ root: CommandSpec, parents: [String] = []) {
        self.root = root
        self.parents = parents
    }

    /// Understands the words after the program's name.
    public func parse(_ arguments: [String]) throws(CommandLineError) -> CommandLineOutcome {
        var words = Words(path: parents + [root.name], command: root, rest: arguments[...])
        if words.rest.first == "help" && !root.subcommands.isEmpty {
            words.rest.removeFirst()
            words.wantsHelp = true
        }
        while let word = words.rest.popFirst() {
            if words.flagsEnded || !word.hasPrefix("-") || word == "-" {
                try words.take(word)
            } else if word == "--" {
                words.flagsEnded = true
            } else {
                if word == "--version" || word == "-v" { return .show("piko version \(BuildInfo.version)\n") }
                if word == "--help" || word == "-h" { words.wantsHelp = true } else { try words.takeFlag(word) }
            }
        }
        if words.wantsHelp { return .show(HelpText.make(words.command, path: words.path)) }
        return .run(try words.invocation())
    }
}

/// A command line while it is read.
private struct Words {
    /// The words that selected `command`.
    var path: [String]
    var command: CommandSpec
    var rest: ArraySlice<String>
    var arguments: [String] = []
    var flags: [FlagValue] = []
    var wantsHelp = false
    var flagsEnded = false

    init(path: [String], command: CommandSpec, rest: ArraySlice<String>) {
        self.path = path
        self.command = command
        self.rest = rest
    }

    func failure(_ message: String) -> CommandLineError {
        CommandLineError(message: message, helpCommand: path.joined(separator: " "))
    }

    /// A word that is not a flag: a subcommand, as long as one can follow, or an argument.
    mutating func take(_ word: String) throws(CommandLineError) {
        if arguments.isEmpty, let subcommand = command.subcommands.first(where: { $0.name == word }) {
            // A flag that came before the subcommand's name must be one of the subcommand's.
            command = subcommand
            path.append(word)
            return
        }
        arguments.append(word)
        if arguments.count > command.arguments.count && !wantsHelp { throw tooManyArguments() }
    }

    private func tooManyArguments() -> CommandLineError {
        let names = command.subcommands.map(\.name)
        if !names.isEmpty && (command.arguments.isEmpty || NearestName.find(arguments[0], among: names) != nil) {
            return failure("unknown command \"\(arguments[0])\"\(NearestName.hint(for: arguments[0], among: names))")
        }
        return failure("unexpected argument \"\(arguments[arguments.count - 1])\"; \(expectation)")
    }

    private var expectation: String {
        let names = command.arguments.map(\.name).joined(separator: " ")
        return "\(path.joined(separator: " ")) takes \(names.isEmpty ? "no arguments" : names)"
    }

    /// `--name`, `--name=value` or `--name value`.
    mutating func takeFlag(_ word: String) throws(CommandLineError) {
        if !word.hasPrefix("--") {
            let hint = NearestName.find(String(word.dropFirst()), among: knownFlags.map(\.name))
            throw failure("unknown flag \"\(word)\"\(hint.map { "; did you mean \"--\($0)\"?" } ?? "")")
        }
        let body = word.dropFirst(2)
        let name = String(body.prefix { $0 != "=" })
        let attached = body.utf8.count > name.utf8.count ? String(body.dropFirst(name.count + 1)) : nil
        guard let flag = knownFlags.first(where: { $0.name == name }) else {
            let hint = NearestName.hint(for: name, among: knownFlags.map(\.name), prefix: "--")
            throw failure("unknown flag \"--\(name)\"\(hint)")
        }
        if flag.isTruth {
            let value = attached ?? "true"
            guard (try? Bool(settingText: value)) != nil else {
                throw failure("--\(name): \"\(value)\" is neither true nor false")
            }
            flags.append(FlagValue(name: name, value: value))
        } else if let value = attached ?? rest.popFirst() {
            if flag.name == CommonFlags.output.name, flag.placeholder == CommonFlags.output.placeholder, !["table", "json"].contains(value) {
                throw failure("--output: \"\(value)\" is neither table nor json")
            }
            flags.append(FlagValue(name: name, value: value))
        } else {
            throw failure("--\(name) needs a value (\(flag.placeholder))")
        }
    }

    /// The flags of the command and, while a subcommand can still follow, of those below it.
    private var knownFlags: [FlagSpec] {
        var flags = command.flags
        var below = arguments.isEmpty ? command.subcommands[...] : []
        while let next = below.popFirst() {
            flags += next.flags
            below += next.subcommands
        }
        return flags
    }

    func invocation() throws(CommandLineError) -> Invocation {
        guard let action = command.command else {
            let names = command.subcommands.map(\.name)
            throw failure("\(path.joined(separator: " ")) needs a command: \(names.joined(separator: ", "))")
        }
        if arguments.count < command.arguments.count {
            if let first = arguments.first, let near = NearestName.find(first, among: command.subcommands.map(\.name)) {
                throw failure("unknown command \"\(first)\"; did you mean \"\(near)\"?")
            }
            let missing = command.arguments[arguments.count].name
            throw failure("\(missing) is missing; \(expectation)")
        }
        for (argument, spec) in zip(arguments, command.arguments) where !spec.values.isEmpty && !spec.values.contains(argument) {
            let hint = NearestName.hint(for: argument, among: spec.values)
            throw failure("\(spec.name): \"\(argument)\" is none of \(spec.values.joined(separator: ", "))\(hint)")
        }
        for flag in flags where !command.flags.contains(where: { $0.name == flag.name }) {
            throw failure("\(path.joined(separator: " ")) has no flag \"--\(flag.name)\"")
        }
        return Invocation(command: action, arguments: arguments, flags: flags, path: path)
    }
}
