// What `agent` and `forward` have in common: the loop, the log, the resolver, the signals, and how a process ends.

internal import Base
internal import Config
internal import Crypto
internal import Glibc
internal import Reactor
internal import Telemetry
internal import Transport

/// Why a program can't start.
struct ProgramError: Error, Equatable, CustomStringConvertible {
    var description: String

    init(_ description: String) {
        self.description = description
    }
}

/// The surroundings of a running program.
final class ProgramContext {
    let loop: Loop
    let logger: Logger
    let resolver: Resolver
    /// Of all connections with TLS.
    let secure: TLSEngine
    /// The exit status once the loop has stopped.
    private var status: Int32 = 0
    private var lingerMax = Duration.zero
    private var signals: SignalSource?

    init(backend: IOBackend, log: LogConfig, sink: LogSink = StandardErrorSink()) throws(ProgramError) {
        let settings = LogSettings(
            level: log.level, subsystems: log.subsystems, format: ProgramEnvironment.isTerminal(2) ? .human : .json)
        logger = Logger(settings: settings, clock: { SystemClock.unixNanoseconds }, sink: sink)
        let choice: BackendChoice
        switch backend {
        case .auto: choice = .auto
        case .ioUring: choice = .ioUring
        case .epoll: choice = .epoll
        }
        do {
            loop = try Loop(backend: choice)
        } catch {
            throw ProgramError("\(error)")
        }
        resolver = Resolver(loop)
        secure = TLSEngine(loop)
    }

    /// TLS towards the host, with those settings; nil: none.
    func target(_ context: TLSContext?, host: String) -> TLSTarget? {
        context.map { TLSTarget(engine: secure, context: $0, name: host) }
    }

    /// Says which proxy is on the way, and who named it: the environment may do so without anybody's thinking of it. A file that
    /// can't be read is told of by the connection that needs it.
    func announce(_ routes: [ProxyRoute]) {
        var announced: Set<String> = []
        for route in routes {
            guard let proxy = try? route.proxy(), announced.insert(proxy.proxy.authority).inserted else { continue }
            logger.info(.main, "connecting through a proxy") {
                $0.field("proxy", proxy.proxy.authority)
                $0.field("from", proxy.source)
            }
        }
    }

    /// Calls `handler` for each of the signals, by default those that end a program.
    func watchSignals(_ numbers: [Int32] = [SIGTERM, SIGINT], _ handler: @escaping (Int32) -> Void) throws(ProgramError) {
        let logger = logger
        do {
            signals = try SignalSource(loop, signals: numbers) { number in
                logger.info(.main, "received signal") { $0.field("signal", Self.name(number)) }
                handler(number)
            }
        } catch {
            throw ProgramError("\(error)")
        }
    }

    private static func name(_ signal: Int32) -> String {
        switch signal {
        case SIGTERM: "terminated"
        case SIGINT: "interrupt"
        case SIGHUP: "hangup"
        case SIGUSR2: "user defined signal 2"
        default: "\(signal)"
        }
    }

    /// Runs until `end`, and sends what is queued then; the exit status.
    func run() -> Int32 {
        logger.info(.main, "started") {
            $0.field("version", BuildInfo.version)
            $0.field("io_backend", loop.backendDescription)
        }
        loop.run()
        sendRest()
        return status
    }

    /// Lets `run` return with this status, once the connections that were closed in good order have sent what was queued
    /// and seen their peers' end, but after `lingerMax` at the latest.
    func end(_ status: Int32, lingerMax: Duration) {
        self.status = status
        self.lingerMax = lingerMax
        loop.stop()
    }

    private func sendRest() {
        let deadline = SystemClock.now + lingerMax
        while loop.counters.handlesLingering > 0 || secure.counters.closing > 0, SystemClock.now < deadline {
            loop.runTurn(until: min(deadline, SystemClock.now + .milliseconds(10)))
        }
    }
}
