// The agent's own port: `GET /metrics`, for Prometheus.

internal import Memory
internal import Reactor
internal import Transport
internal import Wire

/// Serves the metrics of all listeners.
final class MetricsServer: ListenerDelegate {
    private let context: HTTPContext
    fileprivate let registry: MetricsRegistry
    private var listeners: [Listener] = []
    fileprivate var connections: [ObjectIdentifier: MetricsConnection] = [:]
    fileprivate private(set) var isReleased = false
    private var resume: CallbackTimer?

    init(loop: Loop, registry: MetricsRegistry) {
        context = HTTPContext(loop, settings: HTTPSettings())
        self.registry = registry
        super.init()
        resume = CallbackTimer(loop) { [unowned self] in
            for listener in self.listeners { listener.resume() }
        }
    }

    /// Starts to accept on a listening socket.
    func add(_ descriptor: consuming OwnedDescriptor) throws(SystemError) {
        listeners.append(try Listener(context.loop, adopting: descriptor, delegate: self))
    }

    override func accepted(_ listener: Listener, descriptor: consuming OwnedDescriptor) {
        guard let stream = try? Stream(context.loop, adopting: descriptor) else { return }
        let connection = MetricsConnection(context, channel: stream, server: self)
        connections[ObjectIdentifier(connection)] = connection
        connection.start()
    }

    override func acceptFailed(_ listener: Listener, error: SystemError) {
        resume?.schedule(after: .milliseconds(200))
    }

    /// The listening sockets.
    var descriptors: [Int32] { listeners.map(\.descriptor) }

    /// Leaves the address to another server. Connections that came to this one and were not answered yet are answered once.
    func release() {
        isReleased = true
        for listener in listeners { listener.detach() }
        listeners = []
        for connection in Array(connections.values) where connection.hasServed { connection.finishSoon() }
        resume?.cancel()
    }

    /// Stops listening.
    func close() {
        for listener in listeners { listener.close() }
        listeners = []
        resume?.cancel()
    }
}

/// One connection to the metrics port.
private final class MetricsConnection: HTTPConnection {
    private let server: MetricsServer
    /// Whether a request came: the next one may go elsewhere.
    private(set) var hasServed = false

    init(_ context: HTTPContext, channel: Channel, server: MetricsServer) {
        self.server = server
        super.init(context, channel: channel, clientHost: [])
    }

    override func requestArrived() {
        hasServed = true
        if server.isReleased { finishSoon() }
        guard isForMetrics else {
            respondError(status: 404, "not found")
            return
        }
        guard head.method == .get || head.method == .head else {
            respondError(status: 405, "method not allowed")
            return
        }
        var text = ByteBuffer()
        AgentMetricsText.write(server.registry.endpoints, into: &text)
        AgentMetricsText.write(server.registry.connections, into: &text)
        respond(status: 200, contentType: "text/plain; version=0.0.4; charset=utf-8", body: text.span)
    }

    override func connectionClosed() { server.connections[ObjectIdentifier(self)] = nil }

    private var isForMetrics: Bool {
        withHeadBytes { bytes in
            let target = bytes.extracting(head.originTarget)
            let path: StaticString = "/metrics"
            guard target.count >= path.utf8CodeUnitCount else { return false }
            if target.count > path.utf8CodeUnitCount, target[path.utf8CodeUnitCount] != UInt8(ascii: "?") { return false }
            return equals(target, 0..<path.utf8CodeUnitCount, path)
        }
    }
}
