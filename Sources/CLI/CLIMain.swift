// `piko`: the front of all programs. It understands the whole command line, shows help, executes the program that does
// the work in its own place, and has the commands that ask a running server.
//
// Exit statuses: 0 done, 1 it could not be done, 2 the command line is wrong.
internal import Config
internal import Glibc
internal import Reactor
internal import Telemetry

@main
enum CLIMain {
    static func main() {
        exit(run(Array(CommandLine.arguments.dropFirst())))
    }

    /// Does what the words say and returns the exit status. Does not return when another program takes over.
    static func run(_ words: [String]) -> Int32 {
        if let status = KeySetFetchCommand.run(words) { return status }
        if let answer = Completion.answer(words, in: Commands.piko) { return Output.print(answer) ? 0 : 1 }
        do throws(CommandLineError) {
            switch try CommandLineParser(Commands.piko).parse(words) {
            case .show(let text):
                return Output.print(text) ? 0 : 1
            case .run(let invocation):
                return run(invocation)
            }
        } catch {
            Output.complain("piko: \(error.description)\n")
            return 2
        }
    }

    private static func run(_ invocation: Invocation) -> Int32 {
        do throws(CommandFailure) {
            let text: String
            switch invocation.command {
            case .serverRun:
                text = try become("piko-supervisor", words: invocation.words)
            case .agentStart, .agentHTTP, .agentTCP, .agentDiagnose, .agentDiagnoseHTTP, .agentDiagnoseTCP, .forwardStart, .forwardTCP, .benchHTTP:
                text = try become("piko-agent", words: invocation.path.dropFirst() + invocation.words)
            case .serverCheck:
                text = try ServerCheck.run(invocation)
            case .serverDiagnose:
                let (found, status) = try ServerDiagnosis.run(invocation)
                return Output.print(found) ? status : 1
            case .serverStatusUpstreamEndpoints, .serverStatusClusterNodes, .serverStatusClusterNode, .serverStatusGossipNodes,
                .serverStatusGossipNode, .serverStatusNode, .serverStatusWorkers, .serverStatusUpstreamTunnels,
                .serverStatusUpstreamTraffic, .serverStatusClusterSummary:
                text = try StatusCommand.run(invocation)
            case .testCluster:
                text = try TestCluster.run(invocation)
            case .completion:
                // The parser took nothing but the names of shells.
                text = CompletionShell(rawValue: invocation.arguments[0])?.script(for: "piko") ?? ""
            case .manual:
                text = try ManualCommand.run(invocation)
            case .serverInfo:
                text = try ControlCommand.run("info", invocation)
            case .serverWorkers:
                text = try ControlCommand.run("workers", invocation)
            case .serverReload:
                text = try ControlCommand.run("reload", invocation, within: ControlCommand.changeTimeMax)
            case .serverUpgrade:
                // A relative path is the caller's, not the server's.
                let binary = try invocation.binary.map { path throws(CommandFailure) in try ControlCommand.absolutePath(path) }
                text = try ControlCommand.run(
                    "upgrade", invocation, binary.map { [JSONMember("binary", .string($0))] } ?? [],
                    within: ControlCommand.changeTimeMax)
            case .serverDrain:
                text = try ControlCommand.run("drain", invocation, [JSONMember("off", .bool(invocation.isOff))])
            }
            return Output.print(text) ? 0 : 1
        } catch {
            Output.complain("\(error.message)\n")
            return 1
        }
    }

    /// Executes a program that stands beside this one. Returns only by throwing.
    private static func become(_ program: String, words: [String]) throws(CommandFailure) -> String {
        guard let path = ProgramEnvironment.siblingPath(program) else {
            throw CommandFailure("piko: can't find out where it runs from (is /proc mounted?), so it can't find \(program)")
        }
        do throws(SystemError) {
            try FileContents.checkExecutable(path)
        } catch {
            throw CommandFailure(
                "piko: \(program) is not here (\(error)); it must stand beside piko\(program == "piko-agent" ? ". On Debian: apt install piko-agent" : "")")
        }
        // The agent starts itself anew, for an upgrade, by the way that it was started.
        if let own = ProgramEnvironment.startedPath { ProgramEnvironment.set("PIKO_STARTED_AS", own) }
        let failure = ProcessReplacement.execute(path, arguments: [program] + words)
        throw CommandFailure("piko: \(failure) (\(program) must stand beside piko)")
    }
}

/// Why a command could not be done: what is printed before the exit status 1.
struct CommandFailure: Error, Equatable {
    var message: String

    init(_ message: String) { self.message = message }
}

/// What people see.
enum Output {
    /// Standard output; false when it can't be written.
    static func print(_ text: String) -> Bool { InheritedOutput.write(descriptor: 1, bytes: text.utf8Span.span) }

    /// Standard error.
    static func complain(_ text: String) { InheritedOutput.write(descriptor: 2, bytes: text.utf8Span.span) }
}
