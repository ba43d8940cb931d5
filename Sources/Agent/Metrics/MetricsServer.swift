// The agent's own port: `GET /metrics`, for Prometheus.

internal import Memory
internal import Reactor
internal import Transport
internal import Wire

/// Serves the metrics of all listeners.
final class MetricsServer: ListenerDelegate {
    private let context: HTTPContext
    private let metrics: [EndpointMetrics]
    private var listeners: [Listener] = []
    private var resume: CallbackTimer?

    init(loop: Loop, metrics: [EndpointMetrics]) {
        context = HTTPContext(loop, settings: HTTPSettings())
        self.metrics = metrics
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
        MetricsConnection(context, channel: stream, metrics: metrics).start()
    }

    override func acceptFailed(_ listener: Listener, error: SystemError) {
        resume?.schedule(after: .milliseconds(200))
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
    private let metrics: [EndpointMetrics]

    init(_ context: HTTPContext, channel: Channel, metrics: [EndpointMetrics]) {
        self.metrics = metrics
        super.init(context, channel: channel, clientHost: [])
    }

    override func requestArrived() {
        guard isForMetrics else {
            respondError(status: 404, "not found")
            return
        }
        guard head.method == .get || head.method == .head else {
            respondError(status: 405, "method not allowed")
            return
        }
        var text = ByteBuffer()
        AgentMetricsText.write(metrics, into: &text)
        respond(status: 200, contentType: "text/plain; version=0.0.4; charset=utf-8", body: text.span)
    }

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
