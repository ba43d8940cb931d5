// The entry of piko-supervisor, which is what `piko server` becomes: command line and configuration, then the node.

import Base
import Config
import Glibc
import Reactor
import Telemetry

/// `piko-supervisor`.
@main
enum SupervisorMain {
    static func main() {
        Confinement.hideMemory()
        if let takeOver = TakeOver() { exit(run(takeOver)) }
        do {
            let parser = CommandLineParser(Commands.supervisor, parents: Commands.parents)
            switch try parser.parse(Array(CommandLine.arguments.dropFirst())) {
            case .show(let text): say(text, on: 1)
            case .run(let invocation):
                let config = try ServerConfig(invocation, environment: ProgramEnvironment.variables, read: FileContents.read)
                let setup = try GenerationSetup(reading: config)
                let log = makeLog(config)
                exit(report(log) { () throws(StartError) in try NodeStart.run(invocation, setup, log: log) })
            }
        } catch {
            say(error is CommandLineError ? "\(error)\n" : Hints.lines("\(error)"), on: 2)
            exit(error is CommandLineError ? 2 : 1)
        }
    }

    private static func makeLog(_ config: ServerConfig) -> Logger {
        let settings = LogSettings(
            level: config.log.level, subsystems: config.log.subsystems,
            format: ProgramEnvironment.isTerminal(2) ? .human : .json)
        return Logger(settings: settings, clock: { SystemClock.unixNanoseconds }, sink: StandardErrorSink())
    }

    private static func report(_ log: Logger, _ run: () throws(StartError) -> Int32) -> Int32 {
        do throws(StartError) {
            return try run()
        } catch {
            log.error(.main, "cannot start") {
                $0.field("err", error.description)
                if let hint = Hints.hint(for: error.description) { $0.field("hint", hint) }
            }
            return 1
        }
    }

    // MARK: Upgrades

    private static func run(_ takeOver: TakeOver) -> Int32 {
        let words = Array(CommandLine.arguments.dropFirst())
        func invocation() throws -> Invocation {
            guard case .run(let invocation) = try CommandLineParser(Commands.supervisor, parents: Commands.parents).parse(words)
            else { throw StateError("the command line asks for help") }
            return invocation
        }
        if takeOver.mode == .rehearse { return takeOver.rehearse(invocation) }
        do {
            // Should it go back, the program before is to know what this one was told.
            let variables = ProgramEnvironment.variables
            let services = ServiceSettings(variables, pid: System.processIdentifier)
            let startedAs = variables[NodeStart.startedVariable]
            let state = try takeOver.state()
            let log = makeLog(state.setup.config)
            do {
                return try NodeStart.run(try invocation(), taking: state, takeOver, log: log)
            } catch {
                log.error(.main, "cannot take over") { $0.field("err", "\(error)") }
                if takeOver.mode == .back { return 1 }
                // Nothing was begun yet: what was left to this program is as it was.
                Node.execute(
                    state.supervisorProgram, .back, "\(error)", state, arguments: words,
                    environment: Node.inherited(services, startedAs: startedAs))
            }
        } catch {
            say("piko-supervisor: cannot take over: \(error)\n", on: 2)
            return 1
        }
    }

    private static func say(_ text: String, on descriptor: Int32) {
        InheritedOutput.write(descriptor: descriptor, bytes: text.utf8Span.span)
    }
}

/// Lines to stderr, which is shared with the workers and never waited for.
final class StandardErrorSink: LogSink {
    override func write(_ line: Span<UInt8>) -> Bool { InheritedOutput.writeReady(descriptor: 2, bytes: line) }
}
