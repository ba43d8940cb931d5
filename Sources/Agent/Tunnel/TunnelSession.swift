// One session of a listener: the yamux session over a WebSocket, the connections that it carries, and its retirement.
//
// Retirement: go-away is said, with a ping behind it. Until the server has answered that, and for `settleTime` at least, nothing
// is cut, because streams and requests that the server sent before it heard the go-away are still on their way. Then connections
// that idle are closed, and with the last stream the session.

internal import Base
internal import Reactor
internal import Transport
internal import Wire

/// A session and its connections.
final class TunnelSession: MuxSessionDelegate, StreamOwner {
    /// How long requests on other connections than the session may be on their way when go-away was said.
    static let settleTime = Duration.milliseconds(500)

    /// The server's address as text, for X-Forwarded-For.
    let peerHost: String
    /// Whether every stream begins with who its client is.
    let hasPreambles: Bool
    private let listener: TunnelListener
    private let loop: Loop
    private var mux: MuxSession?
    private var connections: [ObjectIdentifier: any DrainableConnection] = [:]
    private var settle: CallbackTimer?
    private var isHeard = false
    private var isTimeOver = false
    private var hasSettled = false
    private(set) var isRetired = false

    /// Starts the session over the connection; its events go to `listener`.
    init(_ carrier: WebSocketChannel, peer: SocketAddress?, hasPreambles: Bool, listener: TunnelListener, loop: Loop) {
        self.listener = listener
        self.hasPreambles = hasPreambles
        self.loop = loop
        peerHost = peer?.host ?? ""
        super.init()
        mux = MuxSession(loop, carrier: carrier, role: .client, delegate: self)
    }

    /// Takes no new streams and ends with the last one.
    func retire() {
        guard !isRetired, let mux else { return }
        isRetired = true
        settle = CallbackTimer(loop) { [unowned self] in
            isTimeOver = true
            settleIfHeard()
        }
        settle?.schedule(after: Self.settleTime)
        mux.goAway(acceptingLate: true)
    }

    /// Ends at once; streams that run are cut.
    func close() {
        mux?.close()
    }

    /// A connection to be told when the session retires.
    func add(_ connection: any DrainableConnection) {
        connections[ObjectIdentifier(connection)] = connection
    }

    func remove(_ connection: any DrainableConnection) {
        connections[ObjectIdentifier(connection)] = nil
    }

    func exchangeBegan() {
        if !isRetired { listener.sessionWasUsed() }
    }

    func exchangeEnded() {}

    func becameRaw() {
        if !isRetired { listener.streamBecameRaw() }
    }

    private func settleIfHeard() {
        guard isTimeOver, isHeard, !hasSettled else { return }
        hasSettled = true
        mux?.refuseLateStreams()
        for connection in Array(connections.values) { connection.finishSoon() }
        closeIfDone()
    }

    private func closeIfDone() {
        if isRetired, hasSettled, let mux, !mux.isOver, mux.streamCount == 0 { mux.close() }
    }

    // MARK: From the session

    override func session(_ session: MuxSession, accepted channel: YamuxChannel) {
        listener.serve(channel, of: self)
    }

    override func sessionWentAway(_ session: MuxSession) {
        listener.sessionWentAway(self)
    }

    override func sessionHeardGoAway(_ session: MuxSession) {
        guard isRetired else { return }
        isHeard = true
        settleIfHeard()
    }

    override func sessionIdle(_ session: MuxSession) {
        closeIfDone()
    }

    override func sessionEnded(_ session: MuxSession, error: ChannelError?) {
        settle?.cancel()
        settle = nil
        mux = nil
        connections = [:]
        listener.sessionEnded(self, error: error)
    }
}
