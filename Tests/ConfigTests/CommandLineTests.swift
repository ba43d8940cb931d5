// Command lines: what they select, what is refused with which hint, and what help looks like.
import Base
import Config
import Testing

private func outcome(_ words: String, of root: CommandSpec = Commands.piko) -> String {
    let parser = CommandLineParser(root, parents: root.name == "piko" ? [] : Commands.parents)
    do throws(CommandLineError) {
        switch try parser.parse(words.split(separator: " ").map { String($0) }) {
        case .show(let text): return text
        case .run(let invocation):
            let flags = invocation.flags.map { "\($0.name)=\($0.value)" }
            return ([String(describing: invocation.command)] + invocation.arguments + flags).joined(separator: " ")
        }
    } catch { return error.description }
}

@Suite struct CommandLineTests {
    static let rows: [(String, String)] = [
        ("server", "serverRun"), ("server check", "serverCheck"), ("server info", "serverInfo"), ("server workers", "serverWorkers"),
        ("server reload", "serverReload"), ("server upgrade --binary /x/piko", "serverUpgrade binary=/x/piko"),
        ("server drain", "serverDrain"), ("server drain --off", "serverDrain off=true"),
        ("server status upstream endpoints", "serverStatusUpstreamEndpoints"), ("agent start", "agentStart"),
        ("agent http e 3000", "agentHTTP e 3000"), ("agent tcp e 3000", "agentTCP e 3000"), ("forward start", "forwardStart"),
        ("forward tcp 3000 e", "forwardTCP 3000 e"), ("forward 3000 e", "forwardTCP 3000 e"), ("forward 3000 tcp", "forwardTCP 3000 tcp"),
        ("server --grace-period 1s", "serverRun grace-period=1s"), ("server --grace-period=1s", "serverRun grace-period=1s"),
        ("server --grace-period=", "serverRun grace-period="), ("server --log.subsystems a=b", "serverRun log.subsystems=a=b"),
        ("server --proxy.access-log.disable", "serverRun proxy.access-log.disable=true"),
        ("server --proxy.access-log.disable=false --config.expand-env", "serverRun proxy.access-log.disable=false config.expand-env=true"),
        ("agent --config.path f http e 1", "agentHTTP e 1 config.path=f"), ("agent http --timeout 1s e 1", "agentHTTP e 1 timeout=1s"),
        ("agent http e -- --x", "agentHTTP e --x"), ("server --proxy.timeout -5s", "serverRun proxy.timeout=-5s"),
        ("agent http e 1 --http-client.max-idle-conns -1", "agentHTTP e 1 http-client.max-idle-conns=-1"),
        ("server --io-backend epoll --server.workers 2", "serverRun io-backend=epoll server.workers=2"),
        ("server status --server.url http://a upstream endpoints", "serverStatusUpstreamEndpoints server.url=http://a"),
        ("completion fish", "completion fish"), ("man piko-server.yaml", "manual piko-server.yaml"),
    ]

    @Test(arguments: rows.indices)
    func selects(row: Int) { #expect(outcome(Self.rows[row].0) == Self.rows[row].1) }

    static let refusals: [(String, String)] = [
        ("", "piko needs a command: server, agent, forward, bench, test, completion, man\nRun \"piko --help\" for usage."),
        ("serve", "unknown command \"serve\"; did you mean \"server\"?\nRun \"piko --help\" for usage."),
        ("sevrer --x", "unknown command \"sevrer\"; did you mean \"server\"?\nRun \"piko --help\" for usage."),
        ("xyz", "unknown command \"xyz\"\nRun \"piko --help\" for usage."),
        ("server chekc", "unknown command \"chekc\"; did you mean \"check\"?\nRun \"piko server --help\" for usage."),
        ("server status", "piko server status needs a command: node, workers, upstream, cluster, gossip\nRun \"piko server status --help\" for usage."),
        ("agent http e", "ADDR is missing; piko agent http takes ENDPOINT ADDR\nRun \"piko agent http --help\" for usage."),
        ("agent http", "ENDPOINT is missing; piko agent http takes ENDPOINT ADDR\nRun \"piko agent http --help\" for usage."),
        ("agent http a b c", "unexpected argument \"c\"; piko agent http takes ENDPOINT ADDR\nRun \"piko agent http --help\" for usage."),
        ("agent start x", "unexpected argument \"x\"; piko agent start takes no arguments\nRun \"piko agent start --help\" for usage."),
        ("forward", "ADDR is missing; piko forward takes ADDR ENDPOINT\nRun \"piko forward --help\" for usage."),
        ("forward 3000", "ENDPOINT is missing; piko forward takes ADDR ENDPOINT\nRun \"piko forward --help\" for usage."),
        ("forward strat", "unknown command \"strat\"; did you mean \"start\"?\nRun \"piko forward --help\" for usage."),
        ("forward tpc 3000 e", "unknown command \"tpc\"; did you mean \"tcp\"?\nRun \"piko forward --help\" for usage."),
        ("forward 1 2 3", "unexpected argument \"3\"; piko forward takes ADDR ENDPOINT\nRun \"piko forward --help\" for usage."),
        (
            "server --proxy.bind-adr :80",
            "unknown flag \"--proxy.bind-adr\"; did you mean \"--proxy.bind-addr\"?\nRun \"piko server --help\" for usage."
        ),
        ("server --nothing-like-it=1", "unknown flag \"--nothing-like-it\"\nRun \"piko server --help\" for usage."),
        ("server -io-backend x", "unknown flag \"-io-backend\"; did you mean \"--io-backend\"?\nRun \"piko server --help\" for usage."),
        ("server -x", "unknown flag \"-x\"\nRun \"piko server --help\" for usage."),
        ("server --grace-period", "--grace-period needs a value (DURATION)\nRun \"piko server --help\" for usage."),
        (
            "server --proxy.access-log.disable=maybe",
            "--proxy.access-log.disable: \"maybe\" is neither true nor false\nRun \"piko server --help\" for usage."
        ),
        ("server --server.url http://a", "piko server has no flag \"--server.url\"\nRun \"piko server --help\" for usage."),
        ("completion powershell", "SHELL: \"powershell\" is none of bash, zsh, fish\nRun \"piko completion --help\" for usage."),
        ("completion", "SHELL is missing; piko completion takes SHELL\nRun \"piko completion --help\" for usage."),
        ("agent tcp e 1 --http-client.max-idle-conns 1", "unknown flag \"--http-client.max-idle-conns\"\nRun \"piko agent tcp --help\" for usage."),
    ]

    @Test(arguments: refusals.indices)
    func refuses(row: Int) { #expect(outcome(Self.refusals[row].0) == Self.refusals[row].1) }

    @Test func versions() {
        #expect(outcome("--version") == "piko version \(BuildInfo.version)\n")
        #expect(outcome("server -v") == "piko version \(BuildInfo.version)\n")
        #expect(outcome("-v", of: Commands.supervisor) == "piko version \(BuildInfo.version)\n")
    }

    @Test func partsOfTheTreeSpeakTheSameWords() {
        #expect(outcome("--grace-period 1s", of: Commands.supervisor) == "serverRun grace-period=1s")
        #expect(outcome("x", of: Commands.supervisor) == "unexpected argument \"x\"; piko server takes no arguments\nRun \"piko server --help\" for usage.")
        #expect(outcome("agent http e 1", of: Commands.agentProgram) == "agentHTTP e 1")
        #expect(outcome("agent http --help", of: Commands.agentProgram) == outcome("agent http --help"))
        #expect(outcome("forward 1 e", of: Commands.agentProgram) == "forwardTCP 1 e")
        #expect(outcome("completion zsh", of: Commands.agentProgram) == "completion zsh")
        #expect(outcome("agent diagnose tcp e 1", of: Commands.agentProgram) == "agentDiagnoseTCP e 1")
    }

    @Test(arguments: ["server --help", "server -h", "help server", "server --proxy.timeout 1s -h"])
    func helpOfServer(words: String) {
        let help = outcome(words)
        #expect(help.hasPrefix("Runs a Piko server: agents connect"))
        #expect(help.contains("\nUsage:\n  piko server [flags]\n  piko server COMMAND\n"))
        #expect(help.contains("\n  check     Check a configuration and show what would run.\n"))
        #expect(help.contains("\n  --proxy.bind-addr ADDRESS\n      Where clients' requests arrive."))
        #expect(help.contains("(default :8000)\n"))
        #expect(help.contains("\n  --io-backend auto|io_uring|epoll\n"))
        #expect(help.contains("\n  # Read a file, but log more:\n  piko server --config.path server.yaml --log.level debug\n"))
    }

    /// Every command has help that fits a terminal, and every example in it is a command that is understood.
    @Test func everyHelpIsWhole() throws {
        var commands: [(path: [String], spec: CommandSpec)] = [(["piko"], Commands.piko)]
        var count = 0
        while let (path, spec) = commands.popLast() {
            count += 1
            let help = outcome((path.dropFirst() + ["--help"]).joined(separator: " "))
            #expect(help.contains("\nUsage:\n  \(path.joined(separator: " "))"))
            for line in help.split(separator: "\n") where !line.hasPrefix("  piko ") && !line.hasPrefix("  curl ") {
                #expect(line.count <= 96, "\(line)")
            }
            #expect(spec.summary.hasSuffix(".") && spec.details.hasSuffix("."))
            for flag in spec.flags { #expect(flag.help.hasSuffix("."), "\(flag.name)") }
            #expect(Set(spec.flags.map(\.name)).count == spec.flags.count, "\(path)")
            for example in spec.examples where example.line.hasPrefix("piko ") {
                // What the shell does with the output is not the command's.
                let words = example.line.dropFirst(5).prefix { $0 != "|" && $0 != ">" }
                #expect(throws: Never.self, "\(example.line)") { try invocation(String(words)) }
            }
            if spec.command == nil { #expect(!spec.subcommands.isEmpty) }
            for subcommand in spec.subcommands { commands.append((path + [subcommand.name], subcommand)) }
        }
        #expect(count == 39)
    }
}
