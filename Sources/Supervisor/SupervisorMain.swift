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
        do {
            let parser = CommandLineParser(Commands.supervisor, parents: Commands.parents)
            switch try parser.parse(Array(CommandLine.arguments.dropFirst())) {
            case .show(let text): say(text, on: 1)
            case .run(let invocation):
                exit(run(try ServerConfig(invocation, environment: ProgramEnvironment.variables, read: FileContents.read)))
            }
        } catch {
            say("\(error)\n", on: 2)
            exit(error is CommandLineError ? 2 : 1)
        }
    }

    private static func run(_ config: ServerConfig) -> Int32 {
        let settings = LogSettings(
            level: config.log.level, subsystems: config.log.subsystems,
            format: ProgramEnvironment.isTerminal(2) ? .human : .json)
        let log = Logger(settings: settings, clock: { SystemClock.unixNanoseconds }, sink: StandardErrorSink())
        do throws(StartError) {
            return try NodeStart.run(config, log: log)
        } catch {
            log.error(.main, "cannot start") { $0.field("err", error.description) }
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
