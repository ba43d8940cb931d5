// An HTTP listener's service: every stream of the tunnel is an HTTP connection whose requests go to the one configured
// address, over connections that are kept and used again.
//
// Whatever a request says about hosts (its target, Host, Forwarded …) goes to the service as text; it never chooses where
// the agent connects to. CONNECT, which would ask for that, is refused.

internal import Base
internal import Memory
internal import Reactor
internal import Telemetry
internal import Transport
internal import Wire

/// How an HTTP listener reaches its service.
struct HTTPServiceSettings {
    /// To connect, and again from the request to the response's head; zero: no limit.
    var timeout: Duration = .seconds(10)
    /// Between the probes of TCP keep-alive; zero: no probes.
    var keepAliveInterval: Duration = .seconds(30)
    /// How long a connection to the service may wait for its next request; zero: without limit.
    var idleTimeout: Duration = .seconds(90)
    /// Connections that wait; beyond, they are closed after their exchange.
    var idleMax = 100
    /// The path of the service's URL, put in front of every request's.
    var pathPrefix = ""
    var accessLog = AccessLogSettings()
}

/// Serves the streams of an HTTP listener.
final class HTTPService: TunnelService {
    let endpoint: String
    private(set) var settings: HTTPServiceSettings
    let metrics: EndpointMetrics
    let logger: Logger
    let pool: UpstreamPool
    fileprivate let context: HTTPContext
    fileprivate let dialer: Dialer
    /// nil: without TLS.
    private var tls: TLSTarget?

    init(
        endpoint: String, loop: Loop, dialer: Dialer, tls: TLSTarget? = nil, settings: HTTPServiceSettings, metrics: EndpointMetrics,
        logger: Logger
    ) {
        self.tls = tls
        self.endpoint = endpoint
        self.settings = settings
        self.metrics = metrics
        self.logger = logger
        self.dialer = dialer
        var http = HTTPSettings()
        http.headLimits = Self.headLimits
        http.responseTimeout = settings.timeout
        http.targetPrefix = Array(settings.pathPrefix.utf8)
        // The server watches its clients and ends the streams of those that stand still; here nothing is timed but the
        // service's answer.
        http.headTimeout = .seconds(60)
        http.idleTimeout = .zero
        http.readTimeout = .zero
        http.writeTimeout = .zero
        context = HTTPContext(loop, settings: http)
        let idleTimeout = settings.idleTimeout == .zero ? Duration.seconds(365 * 86_400) : settings.idleTimeout
        pool = UpstreamPool(loop, idleMax: settings.idleMax, idleTimeout: idleTimeout)
    }

    /// A server has judged the head. This is the most that one can be told to let through (`proxy.http.max_header_bytes` and
    /// `max_headers`), with what it puts to it.
    private static let headLimits = HeadLimits(bytesMax: 16_777_216 + 65_536, fieldsMax: 10_000 + 16)

    override func serve(_ stream: consuming IncomingStream) {
        ServiceConnection(self, stream).start()
    }

    override func change(_ accessLog: AccessLogSettings) { settings.accessLog = accessLog }

    override func use(_ tls: TLSTarget?) { self.tls = tls }

    override func close() { pool.close() }

    /// A new connection to the service.
    fileprivate func dial(completion: @escaping (Result<HTTPUpstream, DialError>) -> Void) -> ChannelDial {
        ChannelDial(
            dialer, tls: tls, timeout: settings.timeout,
            prepare: { [interval = settings.keepAliveInterval] stream in
                stream.setNoDelay()
                stream.limitUnsent()
                if interval > .zero { stream.setKeepAlive(idle: interval, interval: interval, count: 3, userTimeout: .zero) }
            }, completion: { [pool] result in completion(result.map { HTTPUpstream($0, pool: pool) }) })
    }
}

/// A stream of the tunnel, or a data connection, with HTTP in it.
private final class ServiceConnection: HTTPConnection, DrainableConnection {
    private let service: HTTPService
    private let owner: any StreamOwner
    private var dial: ChannelDial?
    private var log: AccessLogRecord
    /// The request at hand was sent over a connection that had served others before.
    private var usedKeptConnection = false

    init(_ service: HTTPService, _ stream: consuming IncomingStream) {
        self.service = service
        owner = stream.owner
        log = AccessLogRecord()
        let channel = stream.channel
        let host = Array(stream.owner.peerHost.utf8)
        var early = ByteBuffer()
        early.append(stream.early.span)
        super.init(service.context, channel: channel, clientHost: host, input: early)
        owner.add(self)
    }

    override func requestArrived() {
        log.isWanted = !service.settings.accessLog.isDisabled
        service.metrics.requestStarted()
        owner.exchangeBegan()
        if head.method == .connect {
            respondError(status: 405, "method not allowed")
            return
        }
        if let kept = service.pool.take() {
            usedKeptConnection = true
            proceed(with: kept)
        } else {
            proceedWithNewConnection()
        }
    }

    private func proceedWithNewConnection() {
        usedKeptConnection = false
        dial = service.dial { [self] result in
            dial = nil
            guard isRouting else {
                if case .success(let upstream) = result { upstream.closeIfIdle() }
                return
            }
            switch result {
            case .success(let upstream):
                proceed(with: upstream)
            case .failure(let error):
                unreachable(error)
            }
        }
    }

    private func unreachable(_ error: DialError) {
        service.logger.warn(.proxyHTTP, "service unreachable") {
            $0.field("endpoint-id", service.endpoint)
            $0.field("addr", service.target)
            $0.field("err", error.description)
        }
        if case .timedOut = error {
            respondError(status: 504, "upstream timeout")
        } else {
            respondError(status: 502, "upstream unreachable", by: .service)
        }
    }

    /// A connection that was kept may have been closed by the service just when the request went out: worth one more, on a
    /// new connection.
    override func upstreamBroke(repeatable: Bool) -> Bool {
        guard repeatable, usedKeptConnection else { return false }
        proceedWithNewConnection()
        return true
    }

    override func relayStarted(_ relay: Relay) { owner.becameRaw() }

    override func willRespond(status: Int, head: borrowing Head, bytes: Span<UInt8>) {
        log.noteResponse(head, bytes)
    }

    override func exchangeFinished() {
        let duration = context.loop.now - summary.started
        service.metrics.requestEnded(
            method: head.method, status: summary.status, latency: duration, requestBytes: summary.requestBodyBytes,
            responseBytes: summary.responseBodyBytes)
        writeAccessLog(duration)
        log.reset()
        if owner.isRetired { finishSoon() }
        owner.exchangeEnded()
    }

    private func writeAccessLog(_ duration: Duration) {
        guard log.isWanted else { return }
        let host = clientHost
        let server = IPAddress(text: host.span)
        let number = trace.isKnown ? trace.low : context.traceNumbers.next()
        withHeadBytes { bytes in
            log.write(
                to: service.logger, settings: service.settings.accessLog, endpoint: service.endpoint,
                server: server, trace: trace, summary: summary, duration: duration, number: number,
                request: head, bytes)
        }
    }

    override func connectionClosed() {
        dial?.cancel()
        dial = nil
        owner.remove(self)
    }
}

extension HTTPService {
    /// The service's address, for logs.
    var target: String { dialer.target }
}
