// The entry of piko-supervisor, which is what `piko server` becomes: command line and configuration, then the node.

import Base
import Config
import Glibc
import Reactor
import Telemetry

/// `piko-supervisor`.
@main
enum SupervisorMain {
    /// Most bytes of a configuration file.
    static let configBytesMax = 4_194_304

    static func main() {
        do {
            let parser = CommandLineParser(Commands.supervisor, parents: Commands.parents)
            switch try parser.parse(Array(CommandLine.arguments.dropFirst())) {
            case .show(let text): say(text, on: 1)
            case .run(let invocation): exit(run(try configuration(invocation)))
            }
        } catch {
            say("\(error)\n", on: 2)
            exit(error is CommandLineError ? 2 : 1)
        }
    }

    private static func configuration(_ invocation: Invocation) throws -> ServerConfig {
        var file: ConfigFile?
        if let path = invocation.configPath {
            do throws(SystemError) {
                file = ConfigFile(name: path, bytes: try FileContents.read(path, bytesMax: configBytesMax))
            } catch {
                throw ConfigError("cannot read \(path): \(SystemError.text(of: error.code))")
            }
        }
        return try ServerConfig(invocation, file: file, environment: ProgramEnvironment.variables)
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
