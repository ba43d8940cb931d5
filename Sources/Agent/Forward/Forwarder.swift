// `piko forward`: a local TCP port whose connections come out at an endpoint's TCP service.
//
// A local connection is not read until the server has answered 101: its bytes wait in the kernel, and when the server
// refuses, the local connection is reset, so that the client sees a failure and not an empty answer.

internal import Base
internal import Config
internal import Reactor
internal import Telemetry
internal import Transport
internal import Wire

/// One local port and the endpoint that it leads to.
final class Forwarder: ListenerDelegate {
    fileprivate let endpoint: String
    fileprivate let loop: Loop
    fileprivate let connector: ServerConnector
    fileprivate let logger: Logger
    fileprivate let transport: TransportChoice
    private var listener: Listener?
    private var resume: CallbackTimer?
    /// Connections that are open, to be closed at the end.
    private var connections: [ObjectIdentifier: ForwardedConnection] = [:]
    /// The address that is listened on, with the port that the kernel chose for 0.
    let address: SocketAddress

    init(
        _ descriptor: consuming OwnedDescriptor, address: SocketAddress, endpoint: String, loop: Loop, connector: ServerConnector,
        logger: Logger, transport: TransportChoice = .auto
    ) throws(SystemError) {
        self.transport = transport
        self.address = SocketAddress.name(of: descriptor.raw) ?? address
        self.endpoint = endpoint
        self.loop = loop
        self.connector = connector
        self.logger = logger
        super.init()
        listener = try Listener(loop, adopting: descriptor, delegate: self)
        resume = CallbackTimer(loop) { [unowned self] in self.listener?.resume() }
    }

    override func accepted(_ listener: Listener, descriptor: consuming OwnedDescriptor) {
        guard let stream = try? Stream(loop, adopting: descriptor) else { return }
        let connection = ForwardedConnection(self, stream: stream)
        connections[ObjectIdentifier(connection)] = connection
        connection.start()
    }

    /// Out of descriptors: wait until some are free again.
    override func acceptFailed(_ listener: Listener, error: SystemError) {
        logger.error(.forwarder, "accept failed") { $0.field("err", error.description) }
        resume?.schedule(after: .milliseconds(200))
    }

    fileprivate func remove(_ connection: ForwardedConnection) {
        connections[ObjectIdentifier(connection)] = nil
    }

    /// Stops listening and ends all connections; what is queued is still sent.
    func close() {
        listener?.close()
        listener = nil
        resume?.cancel()
        for connection in Array(connections.values) { connection.close() }
    }
}

/// One local connection.
private final class ForwardedConnection: ChannelDelegate {
    private enum State {
        /// The server was asked and has not answered.
        case connecting(ConnectAttempt)
        case relaying(Channel)
        case over
    }

    private let forwarder: Forwarder
    private let stream: Stream
    private let started: Instant
    private var state = State.over

    init(_ forwarder: Forwarder, stream: Stream) {
        self.forwarder = forwarder
        self.stream = stream
        started = forwarder.loop.now
    }

    func start() {
        stream.delegate = self
        stream.setNoDelay()
        stream.limitUnsent()
        stream.setKeepAlive(idle: .seconds(30), interval: .seconds(30), count: 3, userTimeout: .zero)
        var target = ConnectTarget("/_piko/v1/tcp/\(forwarder.endpoint)")
        if forwarder.transport != .mux { target.raw = Direct.rawProtocol }
        target.offersWebSocket = forwarder.transport != .direct
        state = .connecting(
            forwarder.connector.connect(target) { [self] result in
                switch result {
                case .success(let connection): joined(connection.upgraded)
                case .failure(let error): refused(error)
                }
            })
    }

    private func joined(_ upgraded: Upgraded) {
        switch upgraded.carrier {
        case .webSocket(let channel): join(channel, early: 0)
        case .raw(let channel, let leftover):
            stream.write(leftover.span)
            join(channel, early: leftover.count)
        }
    }

    private func join(_ channel: Channel, early: Int) {
        state = .relaying(channel)
        forwarder.logger.debug(.forwarder, "connection opened") { $0.field("endpoint-id", forwarder.endpoint) }
        Relay(stream, channel) { [self] outcome in
            over()
            forwarder.logger.debug(.forwarder, "connection closed") {
                $0.field("endpoint-id", forwarder.endpoint)
                $0.field("duration", forwarder.loop.now - started)
                $0.field("sent_bytes", outcome.leftBytes)
                $0.field("received_bytes", outcome.rightBytes + UInt64(early))
            }
        }.start()
    }

    private func refused(_ error: ConnectError) {
        over()
        forwarder.logger.error(.forwarder, "connect failed") {
            $0.field("endpoint-id", forwarder.endpoint)
            $0.field("addr", forwarder.connector.target)
            if let status = error.status { $0.field("status", status) }
            $0.field("err", error.description)
            if let hint = Hints.hint(for: error.description) { $0.field("hint", hint) }
        }
        stream.abort()
    }

    /// The local client left before the server answered.
    override func channelFailed(_ channel: Channel, error: ChannelError) {
        if case .connecting(let attempt) = state { attempt.cancel() }
        over()
    }

    /// Ends both sides in good order.
    func close() {
        switch state {
        case .connecting(let attempt):
            attempt.cancel()
            stream.abort()
        case .relaying(let channel):
            stream.close()
            channel.close()
        case .over:
            break
        }
        over()
    }

    private func over() {
        state = .over
        forwarder.remove(self)
    }
}
