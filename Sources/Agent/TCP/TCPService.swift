// A TCP listener's service: every stream of the tunnel is joined to a connection of its own to the one configured address.
// Half-close, resets and back-pressure go through both ways (`Relay`). When the service can't be reached the stream is
// reset, so that the client does not take it for an empty answer.

internal import Base
internal import Memory
internal import Reactor
internal import Telemetry
internal import Transport
internal import Wire

/// How a TCP listener reaches its service.
struct TCPServiceSettings {
    /// To connect.
    var timeout: Duration = .seconds(10)
    /// The header that the service gets in front of a connection's bytes; nil: none.
    var proxyProtocol: ProxyVersion?
    var accessLog = AccessLogSettings()
}

/// Serves the streams of a TCP listener.
final class TCPService: TunnelService {
    fileprivate let endpoint: String
    fileprivate let loop: Loop
    fileprivate let dialer: Dialer
    fileprivate private(set) var settings: TCPServiceSettings
    fileprivate let logger: Logger

    init(endpoint: String, loop: Loop, dialer: Dialer, settings: TCPServiceSettings, logger: Logger) {
        self.endpoint = endpoint
        self.loop = loop
        self.dialer = dialer
        self.settings = settings
        self.logger = logger
    }

    override var needsClients: Bool { settings.proxyProtocol != nil }

    override func change(_ accessLog: AccessLogSettings) { settings.accessLog = accessLog }

    override func serve(_ stream: consuming IncomingStream) {
        TCPConnection(self, stream).start()
    }
}

/// A stream of the tunnel whose connection to the service is being made. Nothing is read from it until then.
private final class TCPConnection: ChannelDelegate, DrainableConnection {
    private let service: TCPService
    private let channel: Channel
    private let owner: any StreamOwner
    private let client: SocketAddress?
    private var early: [UInt8]
    private let started: Instant
    private var dial: Dial?
    /// The client finished before the service was reached.
    private var hasEnded = false

    init(_ service: TCPService, _ stream: consuming IncomingStream) {
        self.service = service
        channel = stream.channel
        owner = stream.owner
        client = stream.client
        early = [UInt8](copying: stream.early.span)
        started = service.loop.now
    }

    /// Bytes without an end in sight: it ends when its client or the service does.
    func finishSoon() {}

    func start() {
        owner.add(self)
        owner.exchangeBegan()
        owner.becameRaw()
        channel.delegate = self
        channel.pauseReading()
        dial = service.dialer.dial(timeout: service.settings.timeout) { [self] result in
            dial = nil
            switch result {
            case .success(let stream): join(stream)
            case .failure(let error): unreachable(error)
            }
        }
    }

    private func join(_ stream: Stream) {
        stream.setNoDelay()
        stream.limitUnsent()
        stream.setKeepAlive(idle: .seconds(30), interval: .seconds(30), count: 3, userTimeout: .zero)
        log("connection opened")
        if let version = service.settings.proxyProtocol { writeHeader(version, to: stream) }
        let waiting = early
        early = []
        stream.write(waiting.span)
        let relay = Relay(channel, stream) { [self] outcome in
            var outcome = outcome
            outcome.leftBytes &+= UInt64(waiting.count)
            log("connection closed", outcome: outcome)
            owner.remove(self)
        }
        relay.start()
        if hasEnded { relay.channelEnded(channel) }
    }

    /// Tells the service who the client is. It connected to the server, which does not say where: so the service's own address stands
    /// for that.
    private func writeHeader(_ version: ProxyVersion, to stream: Stream) {
        var header = ProxyHeader()
        if let client, let own = stream.peer {
            header = ProxyHeader(source: ProxyEnd(client.ip, client.port), destination: ProxyEnd(own.ip, own.port))
        }
        var bytes = ByteBuffer()
        header.write(version, into: &bytes)
        stream.write(bytes.span)
    }

    private func unreachable(_ error: DialError) {
        service.logger.warn(.proxyTCP, "service unreachable") {
            $0.field("endpoint-id", service.endpoint)
            $0.field("addr", service.dialer.target)
            $0.field("err", error.description)
        }
        channel.abort()
        owner.remove(self)
    }

    private func log(_ text: StaticString, outcome: RelayOutcome? = nil) {
        let settings = service.settings.accessLog
        if settings.isDisabled { return }
        service.logger.log(settings.level, .proxyTCPAccess, text) {
            $0.field("endpoint-id", service.endpoint)
            if let client { $0.field("client_addr", client.description) }
            guard let outcome else { return }
            $0.field("duration", service.loop.now - started)
            $0.field("bytes_in", outcome.leftBytes)
            $0.field("bytes_out", outcome.rightBytes)
            $0.field("outcome", outcome.endedBy.name)
        }
    }

    /// The stream was reset before the service answered.
    override func channelFailed(_ channel: Channel, error: ChannelError) {
        dial?.cancel()
        dial = nil
        owner.remove(self)
    }

    /// Bytes that were on their way when reading stopped.
    override func channel(_ channel: Channel, received bytes: inout MutableSpan<UInt8>) {
        early += [UInt8](copying: bytes.span)
    }

    override func channelEnded(_ channel: Channel) { hasEnded = true }
}
