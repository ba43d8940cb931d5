// The worker's entry: it gives up what it does not need, makes a loop, and takes the control socket that the supervisor left
// as descriptor 3. Not meant to be started by hand.
//
// The order: what reads files first, then privileges go, then the loop is made, then every system call goes that the loop
// has no need of. The first byte from outside is read after all that.

import Base
import Config
import Control
import Crypto
import Glibc
import Memory
import Reactor
import Telemetry

/// `piko-worker`.
@main
enum WorkerMain {
    /// Where the supervisor puts the control socket.
    static let controlDescriptor: Int32 = 3

    static func main() {
        guard let options = WorkerOptions(Array(CommandLine.arguments.dropFirst())) else {
            var line = ByteBuffer()
            line.append("piko-worker is started by piko-supervisor; see piko server --help\n")
            InheritedOutput.write(descriptor: 2, bytes: line.span)
            exit(2)
        }
        System.raiseDescriptorLimit()
        signal(SIGPIPE, SIG_IGN)
        // A terminal's ^C and a service manager's SIGTERM often go to the whole group. When a worker ends is up to its
        // supervisor, which drains it first.
        for number in [SIGINT, SIGTERM, SIGHUP, SIGUSR2] { signal(number, SIG_IGN) }
        do {
            // Without a filter, whoever asks the Swift runtime for its own report of crashes (SWIFT_BACKTRACE) gets it: it
            // needs a second process.
            let ownReport = options.isFiltered || ProgramEnvironment.variables["SWIFT_BACKTRACE"] == nil
            try StackReport.install(json: !ProgramEnvironment.isTerminal(2), crashes: ownReport)
            // Libraries that read files do so now.
            MessageAuthentication.prepare()
            TLSContext.prepare()
            VerificationKey.prepare()
            try Confinement.dropPrivileges(options.user)
            let loop = try Loop(backend: options.backend, limits: LoopLimits())
            if options.isFiltered, try !Confinement.filterSystemCalls() {
                makeLog().info(.server, "no filter of system calls in this build")
            }
            let control = try ControlClient(loop, descriptor: OwnedDescriptor(controlDescriptor))
            loop.run()
            control.worker?.telemetry.flushLog()
            if let failure = control.failure { fail(failure) }
        } catch {
            fail("\(error)")
        }
    }

    /// Ends with a line in the log. There may be no configuration that says how it should look.
    private static func fail(_ reason: String) -> Never {
        makeLog().error(.server, "worker cannot go on") {
            $0.field("pid", Int(System.processIdentifier))
            $0.field("err", reason)
        }
        exit(1)
    }

    private static func makeLog() -> Logger {
        let settings = LogSettings(format: StandardErrorSink.isTerminal ? .human : .json)
        return Logger(settings: settings, clock: { SystemClock.unixNanoseconds }, sink: StandardErrorSink())
    }
}

/// What the supervisor's command line says.
struct WorkerOptions: Equatable {
    var backend = BackendChoice.auto
    /// Who to become; nil: nobody else.
    var user: UserIdentity?
    var isFiltered = true

    /// Nil for anything that a supervisor of this version does not write.
    init?(_ words: [String]) {
        guard words.count.isMultiple(of: 2) else { return nil }
        for index in stride(from: 0, to: words.count, by: 2) {
            let value = words[index + 1]
            switch words[index] {
            case "--io-backend":
                guard let choice = BackendChoice(rawValue: value) else { return nil }
                backend = choice
            case "--user":
                guard let identity = UserIdentity(text: value) else { return nil }
                user = identity
            case "--seccomp":
                guard let wanted = Bool(value) else { return nil }
                isFiltered = wanted
            default: return nil
            }
        }
        if words.first != "--io-backend" { return nil }
    }
}
