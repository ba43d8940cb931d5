// One listener: offers its endpoint to the server for as long as the agent runs. The shell around `ListenerMachine`, which
// decides; here its actions are performed and its events come from. Beside the session stand its data connections
// (`DataPool`), where the server takes them.

internal import Base
internal import Config
internal import Reactor
internal import Telemetry
internal import Transport
internal import Wire

/// A listener and its sessions.
final class TunnelListener {
    let endpoint: String
    private let loop: Loop
    /// The server that the next attempt goes to.
    private var connector: ServerConnector
    private let service: TunnelService
    private let logger: Logger
    private let retiredSessionsMax: Int
    private let transport: TransportChoice
    /// nil: only the session carries streams.
    private let pool: DataPool?
    private var machine: ListenerMachine
    private var attempt: ConnectAttempt?
    private var current: TunnelSession?
    /// The one before, until the machine has heard of the new one.
    private var previous: TunnelSession?
    /// Sessions that finish their streams, oldest first.
    private var retired: [TunnelSession] = []
    private var timer: CallbackTimer?
    private let finished: () -> Void
    private var hasToldFinished = false
    /// What is counted of its connections.
    var gauge = ConnectionGauge()
    /// Called when `isConnected` or `hasTried` may have changed.
    var changed: () -> Void = {}
    /// The server did not take the session, lost it or sends it away: the one to ask next; nil: the same.
    var nextServer: () -> ServerConnector? = { nil }
    /// How many servers `nextServer` goes through.
    var serverCount = 1
    /// The server of the current session.
    private var sessionServer = ""
    /// Whether the current session's server has been left for another, which the next attempt goes to.
    private var hasMovedOn = false
    /// Servers that have refused since one took a session.
    private var refusals = 0
    /// Whether an attempt to connect has come to an end, good or bad.
    private(set) var hasTried = false

    /// `finished` runs once, when nothing is left after `stop` or `abandon`. The service is its owner's, to be closed then.
    init(
        endpoint: String, loop: Loop, connector: ServerConnector, service: TunnelService, logger: Logger,
        transport: TransportChoice = .auto, limits: ListenerMachine.Limits = .init(), finished: @escaping () -> Void
    ) {
        self.transport = transport
        pool = transport == .mux
            ? nil : DataPool(endpoint: endpoint, loop: loop, service: service, logger: logger)

        self.endpoint = endpoint
        self.loop = loop
        self.connector = connector
        self.service = service
        self.logger = logger
        self.finished = finished
        retiredSessionsMax = limits.retiredSessionsMax
        machine = ListenerMachine(limits: limits, seed: Random.number())
        timer = CallbackTimer(loop) { [unowned self] in self.send(.timerFired) }
        pool?.emptied = { [unowned self] in self.tellIfFinished() }
    }

    /// Whether requests can reach the service now.
    var isConnected: Bool { machine.isConnected }

    /// Connects, and comes back for ever.
    func start() { send(.start) }

    /// Takes nothing new and ends when what runs is done.
    func stop() {
        pool?.stop()
        send(.stop)
    }

    /// Ends at once.
    func abandon() {
        pool?.abandon()
        send(.abandon)
    }

    // MARK: Events

    /// The server opened a stream.
    func serve(_ channel: YamuxChannel, of session: TunnelSession) {
        if session.hasPreambles {
            StreamPreamble(channel, owner: session, service: service).start()
        } else {
            service.serve(IncomingStream(channel, owner: session))
        }
    }

    /// An exchange or a raw stream began on the session: no data connection was at hand.
    func sessionWasUsed() { pool?.missed() }

    /// A stream of the session carries bytes until its end.
    func streamBecameRaw() { pool?.consumed() }

    /// The server wants no more of a session.
    func sessionWentAway(_ session: TunnelSession) {
        guard session === current else { return }
        logger.info(.client, "server asks to connect elsewhere") {
            $0.field("endpoint-id", endpoint)
            $0.field("addr", sessionServer)
        }
        leaveServer()
        send(.peerWentAway)
    }

    /// A session is over.
    func sessionEnded(_ session: TunnelSession, error: ChannelError?) {
        if session === current {
            current = nil
            let action = machine.handle(.lost, now: loop.now)
            logger.warn(.client, "connection to server lost") {
                $0.field("endpoint-id", endpoint)
                $0.field("addr", sessionServer)
                $0.field("err", Self.text(error))
                if case .wait(let backoff) = action { $0.field("backoff", backoff) }
            }
            leaveServer()
            perform(action)
            changed()
        } else if let index = retired.firstIndex(where: { $0 === session }) {
            retired.remove(at: index)
            send(.retiredEnded)
        }
    }

    private func connected(_ connection: ServerConnection) {
        attempt = nil
        guard case .webSocket(let carrier) = connection.upgraded.carrier else {
            preconditionFailure("only WebSocket was offered")
        }
        let isDirect = pool != nil && connection.upgraded.pool != nil && connection.upgraded.credential != nil
        if transport == .direct, !isDirect {
            carrier.close()
            connectFailed(ConnectError(status: 501, description: "the server does not offer the direct transport"))
            return
        }
        previous = current
        current = TunnelSession(
            carrier, peer: connection.peer, hasPreambles: connection.upgraded.sendsPreambles, listener: self, loop: loop)
        logger.info(.client, "connected") {
            $0.field("endpoint-id", endpoint)
            if let proxy = connection.proxy {
                $0.field("addr", connector.target)
                $0.field("proxy", proxy)
            } else {
                $0.field("addr", connection.peer?.description ?? connector.target)
            }
            $0.field("transport", isDirect ? "direct" : "mux")
        }
        gauge.metrics?.tried(succeeded: true)
        sessionServer = connector.target
        hasMovedOn = false
        refusals = 0
        pool?.granted(connection.upgraded.pool, credential: connection.upgraded.credential, by: connector)
        send(.opened)
        hasTried = true
        changed()
    }

    private func connectFailed(_ error: ConnectError) {
        attempt = nil
        gauge.metrics?.tried(succeeded: false)
        let failure: ListenerMachine.ConnectFailure = error.status.map { .refused(status: $0) } ?? .unreachable
        if !failure.isTransient { refusals += 1 }
        // The long wait after a refusal is for when all have refused.
        let waitsLong = failure.isTransient || refusals % serverCount == 0
        let action = machine.handle(.failed(waitsLong ? failure : .unreachable), now: loop.now)
        logger.log(failure.isTransient ? .warn : .error, .client, "connect failed") {
            $0.field("endpoint-id", endpoint)
            $0.field("addr", connector.target)
            $0.field("err", error.description)
            if let hint = Hints.hint(for: error.description) { $0.field("hint", hint) }
            if case .wait(let backoff) = action { $0.field("backoff", backoff) }
        }
        moveOn()
        perform(action)
        hasTried = true
        changed()
    }

    private func moveOn() {
        if let next = nextServer() { connector = next }
    }

    /// The current session's server is of no use any more. Once for a session; an attempt that is under way goes where it goes.
    private func leaveServer() {
        if hasMovedOn || attempt != nil { return }
        hasMovedOn = true
        moveOn()
    }

    // MARK: Actions

    private func send(_ event: ListenerMachine.Event) {
        perform(machine.handle(event, now: loop.now))
    }

    private func perform(_ action: ListenerMachine.Action) {
        switch action {
        case .none:
            break
        case .connect:
            connect()
        case .wait(let duration):
            timer?.schedule(after: duration)
        case .retire(let closingOldest, let next):
            let session = current
            current = nil
            retire(session, closingOldest: closingOldest)
            switch next {
            case .nothing: break
            case .cancelConnect: cancelConnect()
            case .cancelWait: timer?.cancel()
            }
        case .retirePrevious(let closingOldest):
            let session = previous
            previous = nil
            retire(session, closingOldest: closingOldest)
        case .cancelConnect:
            cancelConnect()
        case .cancelWait:
            timer?.cancel()
        case .closeAll:
            closeAll()
        }
        gauge.set(isConnected)
        tellIfFinished()
    }

    private func connect() {
        var target = ConnectTarget("/piko/v1/upstream/\(endpoint)")
        let offers = (pool != nil ? ["\(Direct.transport)"] : []) + (service.needsClients ? ["\(Direct.preambles)"] : [])
        if !offers.isEmpty { target.fields = ["x-piko-transport: \(offers.joined(separator: ", "))"] }
        attempt = connector.connect(target) { [unowned self] result in
            switch result {
            case .success(let connection): self.connected(connection)
            case .failure(let error): self.connectFailed(error)
            }
        }
    }

    private func cancelConnect() {
        attempt?.cancel()
        attempt = nil
    }

    private func retire(_ session: TunnelSession?, closingOldest: Bool) {
        guard let session else { return }
        retired.append(session)
        session.retire()
        // Last, because it comes back here as `sessionEnded`.
        if closingOldest { retired.first?.close() }
    }

    private func closeAll() {
        attempt?.cancel()
        attempt = nil
        timer?.cancel()
        let sessions = retired + (current.map { [$0] } ?? [])
        current = nil
        retired = []
        for session in sessions { session.close() }
    }

    private func tellIfFinished() {
        guard machine.isFinished, pool?.isEmpty ?? true, !hasToldFinished else { return }
        hasToldFinished = true
        finished()
    }

    private static func text(_ error: ChannelError?) -> String {
        switch error {
        case nil: "closed"
        case .system(let code): SystemError(code: code, call: "receive").description
        case .reset: "connection reset"
        case .protocolViolation: "protocol violation"
        case .carrierLost, .truncated: "connection closed by the server"
        }
    }
}
