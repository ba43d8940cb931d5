// The data connections of one listener: opens them as `DataPoolMachine` says, with the credential that the session's 101
// brought, and lets them serve. docs/protocol-direct.md specifies what goes over the wire.

internal import Base
internal import Reactor
internal import Telemetry
internal import Transport
internal import Wire

/// A listener's data connections.
final class DataPool {
    let service: TunnelService
    private let endpoint: String
    private let loop: Loop
    /// The server of the session that stands; nil before the first.
    private var connector: ServerConnector?
    private let logger: Logger
    private var machine: DataPoolMachine
    private var credential: String?
    /// Counts the sessions; a connection that was asked for in an earlier one brings nothing for this one.
    private var session = 0
    private var attempts: [ObjectIdentifier: ConnectAttempt] = [:]
    private var connections: [ObjectIdentifier: DataConnection] = [:]
    private var timer: CallbackTimer?
    private var settle: CallbackTimer?
    private var lastWarning: Instant?
    /// Whether the listener takes no new streams.
    private(set) var isStopping = false
    /// Whether the server must have heard of that.
    private(set) var hasSettled = false
    /// Called when nothing is left after `stop`.
    var emptied: () -> Void = {}

    init(endpoint: String, loop: Loop, service: TunnelService, logger: Logger) {
        self.endpoint = endpoint
        self.loop = loop
        self.service = service
        self.logger = logger
        machine = DataPoolMachine(seed: Random.number())
        timer = CallbackTimer(loop) { [unowned self] in self.send(.tick) }
    }

    /// Whether nothing is open.
    var isEmpty: Bool { machine.isEmpty }

    /// A session began: what its server grants.
    func granted(_ limits: DirectPoolLimits?, credential: String?, by connector: ServerConnector) {
        self.connector = connector
        self.credential = credential
        session += 1
        send(.granted(credential == nil ? nil : limits))
    }

    /// A stream or an exchange came through the session: no data connection was at hand.
    func missed() { send(.missed) }

    /// A stream, of whatever way, carries bytes until its end.
    func consumed() { send(.consumed) }

    // MARK: From the connections

    func taken() { send(.taken) }

    func released() { send(.released) }

    func ended(_ connection: DataConnection, wasIdle: Bool) {
        connections[ObjectIdentifier(connection)] = nil
        send(.closed(wasIdle: wasIdle))
        tellIfEmpty()
    }

    func preambleRefused() {
        logger.error(.client, "data connection: the server sent what is no preamble") { $0.field("endpoint-id", endpoint) }
    }

    // MARK: Opening

    private func send(_ event: DataPoolMachine.Event) {
        for _ in 0..<machine.handle(event, now: loop.now) { open() }
        let deadline = machine.nextDeadline
        if deadline == .never { timer?.cancel() } else { timer?.schedule(at: deadline) }
    }

    private func open() {
        guard let credential, let connector else { preconditionFailure("granted without a credential") }
        var target = ConnectTarget("/piko/v1/data/\(endpoint)")
        target.fields = ["x-piko-credential: \(credential)"]
        target.raw = Direct.dataProtocol
        target.offersWebSocket = false
        target.showsToken = false
        var key: ObjectIdentifier?
        let session = session
        let attempt = connector.connect(target) { [unowned self] result in
            if let key { self.attempts[key] = nil }
            self.opened(result, of: session)
        }
        key = ObjectIdentifier(attempt)
        attempts[ObjectIdentifier(attempt)] = attempt
    }

    private func opened(_ result: Result<ServerConnection, ConnectError>, of session: Int) {
        switch result {
        case .success(let connection):
            guard case .raw(let stream, let leftover) = connection.upgraded.carrier else {
                preconditionFailure("no WebSocket was offered")
            }
            // The newest is good for the longest; one of a session that another has followed is of no use.
            if session == self.session, let fresh = connection.upgraded.credential { credential = fresh }
            let data = DataConnection(stream, leftover: leftover, peerHost: connection.peer?.host ?? "", pool: self)
            connections[ObjectIdentifier(data)] = data
            send(.opened)
            data.start()
        case .failure(let error):
            if session == self.session {
                warn(error)
                send(.openFailed)
            } else {
                send(.openOutdated)
            }
            tellIfEmpty()
        }
    }

    /// Streams go through the session meanwhile, so once a minute is enough.
    private func warn(_ error: ConnectError) {
        if let lastWarning, loop.now - lastWarning < .seconds(60) { return }
        lastWarning = loop.now
        logger.warn(.client, "data connection failed; streams go through the session") {
            $0.field("endpoint-id", endpoint)
            if let connector { $0.field("addr", connector.target) }
            $0.field("err", error.description)
        }
    }

    // MARK: The end

    /// Takes no new streams, and ends when what runs is done; `emptied` is called then. Streams that are on their way when
    /// the server hears of it are still served, for `TunnelSession.settleTime`.
    func stop() {
        guard !isStopping else { return }
        isStopping = true
        send(.stop)
        cancelAttempts()
        settle = CallbackTimer(loop) { [unowned self] in
            self.hasSettled = true
            for connection in Array(self.connections.values) { connection.finishSoon() }
        }
        settle?.schedule(after: TunnelSession.settleTime)
        tellIfEmpty()
    }

    /// Ends at once.
    func abandon() {
        isStopping = true
        settle?.cancel()
        send(.stop)
        cancelAttempts()
        for connection in Array(connections.values) { connection.abort() }
    }

    private func cancelAttempts() {
        let cancelled = attempts
        attempts = [:]
        for attempt in cancelled.values {
            attempt.cancel()
            send(.openFailed)
        }
    }

    private func tellIfEmpty() {
        if isStopping, machine.isEmpty { emptied() }
    }
}
