// The process that is to take this one's place: started from the binary that is there now, with the arguments and the
// environment of this one, and heard over a socket until it is ready or has failed.
//
// A new process that failed may serve requests already, through tunnels of its own: it is asked to finish them and is killed
// after the grace period. One that never said a word is killed at once.

internal import Base
internal import Glibc
internal import Memory
internal import Reactor
internal import Telemetry

/// How this process was started.
struct ProgramStart {
    /// Set by `piko` when it becomes the agent: the path of `piko` itself, which finds the agent that is installed then.
    static let frontVariable = "PIKO_STARTED_AS"

    var path: String
    var arguments: [String]
    /// `NAME=value` strings.
    var environment: [String]

    /// What the process finds at its start. The variables that are meant for it alone are gone from its environment afterwards.
    static func take() -> ProgramStart? {
        let front = ProgramEnvironment.variables[frontVariable]
        ProgramEnvironment.remove([frontVariable])
        guard let path = front ?? ProgramEnvironment.startedPath else { return nil }
        // `piko` takes the same words as this program.
        let arguments = (front == nil ? CommandLine.arguments.prefix(1) : ["piko"]) + CommandLine.arguments.dropFirst()
        return ProgramStart(path: path, arguments: Array(arguments), environment: ProgramEnvironment.strings)
    }
}

/// A new process in the making.
final class Successor: MessageDelegate {
    struct Limits {
        /// From the start to "ready".
        var readyMax: Duration
        /// From "give up" to its end.
        var graceMax: Duration
    }

    private enum State {
        case starting
        /// It was given up, or took over.
        case decided
    }

    private let loop: Loop
    private let logger: Logger
    private let limits: Limits
    private let decided: (Result<Void, ProgramError>) -> Void
    private var state = State.starting
    private var hasSpoken = false
    private var wasGivenUp = false
    private var socket: MessageSocket?
    private var child: ChildProcess?
    private var timer: CallbackTimer?
    /// Called when the process has ended.
    var ended: (ExitStatus) -> Void = { _ in }

    /// Starts it. `decided` is called once, later: ready, or why not.
    init(
        _ start: ProgramStart, _ note: HandoverNote, variables: [String], metrics: [Int32], loop: Loop, logger: Logger,
        limits: Limits, decided: @escaping (Result<Void, ProgramError>) -> Void
    ) throws(SystemError) {
        self.loop = loop
        self.logger = logger
        self.limits = limits
        self.decided = decided
        super.init()
        var pair = try MessageSocket.pair()
        let theirs = pair.takeSecond()
        let socket = try MessageSocket(loop, adopting: pair.takeFirst())
        var description = ProcessDescription(
            path: start.path, arguments: start.arguments,
            environment: start.environment + variables + ["\(HandoverNote.variable)=\(note.text)"])
        description.descriptors = [theirs.raw] + metrics
        do {
            child = try ChildProcess.spawn(loop, description) { [unowned self] status in self.exited(status) }
        } catch {
            socket.close()
            throw error
        }
        socket.delegate = self
        self.socket = socket
        timer = CallbackTimer(loop) { [unowned self] in self.timeIsOver() }
        timer?.schedule(after: limits.readyMax)
    }

    /// Its number.
    var pid: Int32 { child?.pid ?? -1 }

    /// It is on its own from now on.
    func takeOver() { send(.takeOver) }

    /// Tells it to read its configuration again.
    func reload() { child?.signal(SIGHUP) }

    /// It is not wanted any more: its end follows.
    func giveUp() {
        if wasGivenUp { return }
        wasGivenUp = true
        state = .decided
        guard hasSpoken else {
            child?.signal(SIGKILL)
            return
        }
        send(.giveUp)
        timer = CallbackTimer(loop) { [unowned self] in self.child?.signal(SIGKILL) }
        timer?.schedule(after: limits.graceMax)
    }

    private func send(_ message: HandoverMessage) {
        // One that is gone needs no message.
        _ = try? socket?.send(Array(message.text.utf8).span)
    }

    private func timeIsOver() {
        guard case .starting = state else { return }
        let reason = hasSpoken ? "its listeners were not connected" : "it said nothing"
        fail("the new process was not ready within \(GoDuration.format(limits.readyMax)): \(reason)")
        giveUp()
    }

    private func fail(_ reason: String) {
        guard case .starting = state else { return }
        state = .decided
        timer?.cancel()
        decided(.failure(ProgramError(reason)))
    }

    private func exited(_ status: ExitStatus) {
        timer?.cancel()
        socket?.close()
        fail("the new process ended with \(status) before it was ready")
        ended(status)
    }

    // MARK: From the process

    override func message(_ socket: MessageSocket, bytes: Span<UInt8>, descriptors: inout DescriptorList) {
        let text = String(decoding: [UInt8](copying: bytes), as: UTF8.self)
        switch HandoverMessage(text) {
        case .started(let version):
            hasSpoken = true
            logger.info(.main, "new process started") {
                $0.field("pid", Int(pid))
                $0.field("version", version)
            }
        case .ready:
            guard case .starting = state else { return }
            state = .decided
            timer?.cancel()
            decided(.success(()))
        case .failed(let reason):
            fail(reason)
        case .takeOver, .giveUp, nil:
            break
        }
    }
}
