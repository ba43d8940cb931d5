// What could follow on a command line that a person is typing: commands, flags, their values, or a file. The words are read
// as the parser reads them, with the difference that nothing is refused: of what is not understood nothing is known.
//
// A shell asks by running the program that stands on the line, with `complete-words` and the words behind the program's name,
// the last one being the one that is typed. That is not for people, so it is in no help.

/// What a shell may offer for the last word.
public struct Completion: Equatable, Sendable {
    /// A whole word, and what it stands for.
    public struct Candidate: Equatable, Sendable {
        public var word: String
        /// A line for people; may be empty.
        public var description: String

        public init(_ word: String, _ description: String = "") {
            self.word = word
            self.description = description
        }
    }

    /// The words that begin as the last one does, in the order of help.
    public var candidates: [Candidate] = []
    /// Whether it is a path: the shell knows the files.
    public var isPath = false

    /// What could stand in place of the last of the words that follow the program's name.
    public init(of words: [String], in root: CommandSpec) {
        var line = CompletedLine(root)
        line.read(words.dropLast())
        self = line.completion(of: words.last ?? "")
    }

    private init() {}

    fileprivate static let path: Completion = {
        var completion = Completion()
        completion.isPath = true
        return completion
    }()

    fileprivate init(_ candidates: [Candidate], beginningWith prefix: String) {
        self.candidates = candidates.filter { $0.word.hasPrefix(prefix) }
    }

    /// What the program prints: "files" or "words", then each candidate on a line of its own, with its description behind a tab.
    public var text: String {
        let lines = [isPath ? "files" : "words"] + candidates.map { $0.description.isEmpty ? $0.word : "\($0.word)\t\($0.description)" }
        return lines.joined(separator: "\n") + "\n"
    }

    /// The word that asks for this.
    static let request = "complete-words"

    /// What to print if the words of a command line ask for a completion; nil if they don't.
    public static func answer(_ words: [String], in root: CommandSpec) -> String? {
        guard words.first == request else { return nil }
        return Completion(of: Array(words.dropFirst()), in: root).text
    }
}

/// A command line up to the word that is typed.
private struct CompletedLine {
    private var command: CommandSpec
    private var argumentCount = 0
    private var used: Set<String> = []
    private var flagsEnded = false
    /// The flag whose value comes next.
    private var open: FlagSpec?

    init(_ root: CommandSpec) { command = root }

    mutating func read(_ words: ArraySlice<String>) {
        var words = words
        if words.first == "help" && !command.subcommands.isEmpty { words.removeFirst() }
        for word in words {
            if open != nil {
                open = nil
            } else if flagsEnded || !word.hasPrefix("-") || word == "-" {
                take(word)
            } else if word == "--" {
                flagsEnded = true
            } else {
                takeFlag(word)
            }
        }
    }

    private mutating func take(_ word: String) {
        if argumentCount == 0, let subcommand = command.subcommands.first(where: { $0.name == word }) {
            command = subcommand
        } else {
            argumentCount += 1
        }
    }

    private mutating func takeFlag(_ word: String) {
        let name = String(word.drop { $0 == "-" }.prefix { $0 != "=" })
        used.insert(name)
        guard !word.contains("="), let flag = flag(name), !flag.isTruth else { return }
        open = flag
    }

    /// A flag of the command or, since it may come before their names, of those below it.
    private func flag(_ name: String) -> FlagSpec? {
        var commands = [command]
        while let next = commands.popLast() {
            if let flag = next.flags.first(where: { $0.name == name }) { return flag }
            if argumentCount == 0 { commands += next.subcommands }
        }
        return nil
    }

    func completion(of word: String) -> Completion {
        if let open { return Self.values(of: open, beginningWith: word) }
        if !flagsEnded && word.hasPrefix("-") {
            guard word.hasPrefix("--"), let equals = word.firstIndex(of: "=") else { return flags(beginningWith: word) }
            let start = word[...equals]
            guard let flag = flag(String(start.dropFirst(2).dropLast())) else { return Completion([], beginningWith: "") }
            var values = Self.values(of: flag, beginningWith: String(word[word.index(after: equals)...]))
            for index in values.candidates.indices { values.candidates[index].word = start + values.candidates[index].word }
            return values
        }
        let subcommands = argumentCount == 0 ? command.subcommands.map { Completion.Candidate($0.name, Self.line($0.summary)) } : []
        let values = argumentCount < command.arguments.count ? command.arguments[argumentCount].values : []
        return Completion(subcommands + values.map { Completion.Candidate($0) }, beginningWith: word)
    }

    private func flags(beginningWith prefix: String) -> Completion {
        let flags = command.flags.filter { $0.isList || !used.contains($0.name) }
        return Completion(
            flags.map { Completion.Candidate("--\($0.name)", Self.line($0.help)) } + [
                Completion.Candidate("--help", "Show help"), Completion.Candidate("--version", "Show the version"),
            ], beginningWith: prefix)
    }

    /// The placeholder says what a value is: words to choose from, a path, or something else.
    private static func values(of flag: FlagSpec, beginningWith prefix: String) -> Completion {
        if flag.isTruth { return Completion([Completion.Candidate("true"), Completion.Candidate("false")], beginningWith: prefix) }
        if flag.placeholder == "FILE" || flag.placeholder == "PATH" { return .path }
        let words = flag.placeholder.contains("|") ? flag.placeholder.split(separator: "|").map { String($0) } : []
        return Completion(
            words.filter { !$0.contains(where: \.isUppercase) }.map { Completion.Candidate($0) }, beginningWith: prefix)
    }

    private static let descriptionMax = 90

    /// The first sentence of a text, without its full stop; whole words of it, if it is long.
    private static func line(_ text: String) -> String {
        var line = ""
        for word in text.split(whereSeparator: { $0 == " " || $0 == "\n" || $0 == "\u{A0}" }) {
            let isLast = word.hasSuffix(".") || word.hasSuffix(":")
            let next = line.isEmpty ? String(word) : line + " " + word
            if next.count > descriptionMax { return line + " ..." }
            line = next
            if isLast { return String(line.dropLast()) }
        }
        return line
    }
}
