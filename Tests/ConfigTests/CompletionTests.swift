// What a shell is offered: the same commands and flags as help has, values that are words, and files where a path is asked for.
// `script/check-completions` has real shells ask.
import Config
import Testing

@Suite struct CompletionTests {
    private func words(_ line: String, of root: CommandSpec = Commands.piko) -> String {
        let completion = Completion(of: line.split(separator: " ", omittingEmptySubsequences: false).map { String($0) }, in: root)
        if completion.isPath { return completion.candidates.isEmpty ? "a path" : "both" }
        return completion.candidates.map(\.word).joined(separator: " ")
    }

    /// A line, whose last word is typed, and what is offered.
    static let rows: [(String, String)] = [
        ("", "server agent forward bench test completion man"), ("s", "server"), ("x", ""), ("help ser", "server"),
        ("help server sta", "status"), ("server sta", "status"),
        ("server status ", "node workers upstream cluster gossip"), ("server status cluster n", "nodes node"),
        ("completion ", "bash zsh fish"), ("completion z", "zsh"), ("completion zsh ", ""), ("man piko-agent", "piko-agent piko-agent.yaml"),
        ("server --log.lev", "--log.level"), ("server --log.level ", "debug info warn error"), ("server --log.level=", "--log.level=debug --log.level=info --log.level=warn --log.level=error"),
        ("server --log.level=w", "--log.level=warn"), ("server --log.level w", "warn"), ("server --log.level warn --log.l", ""),
        ("server --log.subsystems a --log.s", "--log.subsystems"), ("server --io-backend ", "auto io_uring epoll"),
        ("server --config.path ", "a path"), ("server --config.path=", "a path"), ("server --config.path=/et", "a path"),
        ("server --upstream.auth.hmac-secret-key-file ", "a path"), ("server upgrade --binary ", "a path"),
        ("server info --server.control-socket ", "a path"), ("agent start --connect.token-file ", "a path"),
        ("agent start --connect.proxy-url ", "none"), ("agent start --connect.url ", ""), ("server --proxy.timeout ", ""),
        ("server --proxy.access-log.disable ", "check diagnose info workers reload upgrade drain status"),
        ("server --proxy.access-log.disable=", "--proxy.access-log.disable=true --proxy.access-log.disable=false"),
        ("server drain --o", "--off"), ("server status cluster nodes --status ", "active draining unreachable left"),
        ("server status workers --output ", "yaml json table"), ("agent --config.path f ", "start http tcp diagnose"),
        ("agent --config.path ", "a path"), ("agent -", "--help --version"), ("agent http e ", ""), ("agent http e 3000 ", ""),
        ("forward ", "start tcp"), ("forward 3000 ", ""), ("forward 3000 t", ""), ("forward -- s", "start"), ("agent http -- --", ""),
        ("server --nothing-like-it=", ""), ("server --nothing-like-it che", "check"), ("server - ", ""), ("server che", "check"),
    ]

    @Test(arguments: rows.indices)
    func offers(row: Int) { #expect(words(Self.rows[row].0) == Self.rows[row].1, "\(Self.rows[row].0)") }

    @Test func theAgentAloneHasItsOwnPart() {
        #expect(words("", of: Commands.agentProgram) == "agent forward bench completion")
        #expect(words("agent http e 1 --acc", of: Commands.agentProgram).hasPrefix("--access-log.level --access-log.disable"))
        #expect(Completion.answer(["complete-words", "b"], in: Commands.agentProgram) == "words\nbench\tMeasure a server\n")
    }

    @Test func answers() {
        #expect(Completion.answer(["server", "check"], in: Commands.piko) == nil)
        #expect(Completion.answer(["complete-words", "server", "--config.path", ""], in: Commands.piko) == "files\n")
        #expect(Completion.answer(["complete-words", "xyz"], in: Commands.piko) == "words\n")
        #expect(
            Completion.answer(["complete-words", "agent", "h"], in: Commands.piko) == "words\nhttp\tListen on one endpoint for an HTTP service\n")
        // A description is one sentence, and short.
        #expect(
            Completion(of: ["server", "--proxy.http.idle"], in: Commands.piko).candidates
                == [.init("--proxy.http.idle-timeout", "How long a connection may wait for its next request")])
    }

    /// Each command is offered where it stands, with exactly its flags; each word that is a value is one that the parser takes.
    @Test func nothingIsLeftOut() throws {
        var commands: [(path: [String], spec: CommandSpec)] = [([], Commands.piko)]
        while let (path, spec) = commands.popLast() {
            let offered = Completion(of: path + [""], in: Commands.piko)
            #expect(offered.candidates.map(\.word) == spec.subcommands.map(\.name) + (spec.arguments.first?.values ?? []), "\(path)")
            let flags = Completion(of: path + ["--"], in: Commands.piko)
            #expect(flags.candidates.map(\.word) == spec.flags.map { "--\($0.name)" } + ["--help", "--version"], "\(path)")
            for candidate in offered.candidates + flags.candidates {
                #expect(candidate.description.count <= 95 && !candidate.description.contains { $0 == "\t" || $0 == "\n" }, "\(candidate)")
                #expect(!candidate.description.hasSuffix(".") || candidate.description.hasSuffix(" ..."), "\(candidate)")
            }
            for flag in spec.flags {
                let values = Completion(of: path + ["--\(flag.name)="], in: Commands.piko)
                for value in values.candidates {
                    #expect(throws: Never.self, "\(value.word)") {
                        try CommandLineParser(Commands.piko).parse(path + [value.word] + spec.arguments.map { $0.values.first ?? "a" })
                    }
                }
                #expect(values.isPath == ["FILE", "PATH"].contains(flag.placeholder), "\(flag.name)")
            }
            for subcommand in spec.subcommands { commands.append((path + [subcommand.name], subcommand)) }
        }
    }

    @Test(arguments: CompletionShell.allCases)
    func scripts(shell: CompletionShell) {
        let script = shell.script(for: "piko-agent")
        #expect(script.contains("piko-agent") && script.contains("complete-words"))
        for mark in ["@PROG", "@NAME", "@WORD"] { #expect(!script.contains(mark)) }
        // In zsh the function is called as its file is; elsewhere a name can't have a dash.
        #expect(script.contains("_piko_agent") == (shell != .zsh) && script.contains("_piko-agent") == (shell == .zsh))
        #expect(script.hasSuffix("\n") && !script.hasSuffix("\n\n"))
    }
}
