// A server, services and a log in the test's own process and loop, so that the agent's shells run on real sockets without
// another program.
import Base
import Config
import Memory
import Reactor
import Telemetry
import TestKit
import Transport
import Wire

@testable import Agent

/// Keeps the log's lines.
final class LogRecorder: LogSink {
    private(set) var lines: [String] = []

    override func write(_ line: Span<UInt8>) -> Bool {
        lines.append(string(line))
        return true
    }

    /// Lines that hold every one of the texts.
    func lines(_ texts: String...) -> [String] { lines.filter { line in texts.allSatisfy { line.contains($0) } } }
}

func string(_ bytes: Span<UInt8>) -> String {
    var copy: [UInt8] = []
    for index in bytes.indices { copy.append(bytes[index]) }
    return String(decoding: copy, as: UTF8.self)
}

/// What every test of a shell needs.
final class Harness {
    let loop: Loop
    let log = LogRecorder()
    let logger: Logger
    let resolver: Resolver
    let metrics = EndpointMetrics(endpoint: "e")

    init(_ backend: BackendChoice = .epoll) throws {
        SignalSource.ignorePipeSignal()
        loop = try Loop(backend: backend)
        logger = Logger(settings: LogSettings(level: .debug), clock: { SystemClock.unixNanoseconds }, sink: log)
        resolver = Resolver(loop)
    }

    func dialer(_ port: UInt16, host: String = "127.0.0.1") -> Dialer {
        Dialer(loop: loop, resolver: resolver, host: host, port: port)
    }

    func connector(_ port: UInt16, prefix: String = "", timeout: Duration = .seconds(5)) -> ServerConnector {
        ServerConnector(
            loop: loop, resolver: resolver, url: ServerURL(host: "127.0.0.1", port: port, pathPrefix: prefix), timeout: timeout)
    }

    func httpService(_ port: UInt16, _ change: (inout HTTPServiceSettings) -> Void = { _ in }) -> HTTPService {
        var settings = HTTPServiceSettings()
        settings.timeout = .seconds(5)
        change(&settings)
        return HTTPService(
            endpoint: "e", loop: loop, dialer: dialer(port), settings: settings, metrics: metrics, logger: logger)
    }

    func tcpService(_ port: UInt16) -> TCPService {
        TCPService(endpoint: "e", loop: loop, dialer: dialer(port), settings: TCPServiceSettings(), logger: logger)
    }

    /// A listener with short waits.
    func listener(_ server: TestServer, _ service: TunnelService, finished: @escaping () -> Void = {}) -> TunnelListener {
        var limits = ListenerMachine.Limits()
        limits.backoff.firstWait = .milliseconds(5)
        limits.backoff.waitMax = .milliseconds(20)
        limits.stableAfter = .zero
        return TunnelListener(
            endpoint: "e", loop: loop, connector: connector(server.port), service: service, logger: logger, limits: limits
        ) {
            service.close()
            finished()
        }
    }

    /// Everything between a server and a service on `port`, connected.
    func tunnel(_ service: TunnelService) throws -> (server: TestServer, listener: TunnelListener) {
        let server = try TestServer(loop)
        let listener = listener(server, service)
        listener.start()
        guard loop.turn(until: { listener.isConnected && server.sessions.count == 1 }) else { throw HarnessError.notConnected }
        return (server, listener)
    }
}

enum HarnessError: Error { case notConnected, noStream }

/// The server's side: takes upgrades, or refuses them.
final class TestServer: ListenerDelegate {
    private let context: HTTPContext
    private var listener: Listener?
    let port: UInt16
    /// Statuses for the next upgrades; none left: they are accepted.
    var refusals: [Int] = []
    fileprivate(set) var targets: [String] = []
    fileprivate(set) var sessions: [MuxSession] = []
    /// Of a raw upgrade (forward): the WebSocket.
    fileprivate(set) var rawChannels: [WebSocketChannel] = []
    fileprivate(set) var carriers: [Stream] = []
    let user = ServerSessionUser()

    init(_ loop: Loop) throws {
        context = HTTPContext(loop, settings: HTTPSettings())
        let descriptor = try Listener.bind(SocketAddress(address: "127.0.0.1", port: 0)!)
        port = SocketAddress.name(of: descriptor.raw)!.port
        super.init()
        listener = try Listener(loop, adopting: descriptor, delegate: self)
    }

    func stop() {
        listener?.close()
        listener = nil
    }

    override func accepted(_ listener: Listener, descriptor: consuming OwnedDescriptor) {
        guard let stream = try? Stream(context.loop, adopting: descriptor) else { return }
        carriers.append(stream)
        TestUpgrade(self, context, stream).start()
    }

    /// Opens a stream of the newest session.
    func open(_ user: ChannelDelegate) throws -> YamuxChannel {
        guard let channel = sessions.last?.open() else { throw HarnessError.noStream }
        channel.delegate = user
        channel.resumeReading()
        return channel
    }
}

final class ServerSessionUser: MuxSessionDelegate {
    private(set) var goneAway = 0
    private(set) var ended = 0

    override func sessionWentAway(_ session: MuxSession) { goneAway += 1 }
    override func sessionEnded(_ session: MuxSession, error: ChannelError?) { ended += 1 }
}

private final class TestUpgrade: HTTPConnection {
    private let server: TestServer

    init(_ server: TestServer, _ context: HTTPContext, _ stream: Stream) {
        self.server = server
        super.init(context, channel: stream, clientHost: [])
    }

    override func requestArrived() {
        var answer = ByteBuffer()
        let head = head
        let target = withHeadBytes { bytes in
            WebSocketUpgrade.writeAcceptance(head, bytes, into: &answer)
            answer.append("\r\n")
            return string(bytes.extracting(head.target))
        }
        server.targets.append(target)
        if !server.refusals.isEmpty {
            respondError(status: server.refusals.removeFirst(), "refused by the test")
            return
        }
        channel.write(answer.span)
        var leftover = ByteBuffer()
        let channel = WebSocketChannel(context.loop, over: takeOver(leftover: &leftover), role: .server, leftover: leftover)
        if target.contains("/_piko/") {
            server.rawChannels.append(channel)
        } else {
            server.sessions.append(MuxSession(context.loop, carrier: channel, role: .server, delegate: server.user))
        }
    }
}

/// A service of which the test says what it does with the bytes of a connection.
final class TestService: ListenerDelegate {
    private let loop: Loop
    private var listener: Listener?
    let port: UInt16
    fileprivate(set) var connections: [ServiceConnectionRecord] = []
    /// Called when bytes came.
    var onBytes: (ServiceConnectionRecord) -> Void = { _ in }

    init(_ loop: Loop) throws {
        self.loop = loop
        let descriptor = try Listener.bind(SocketAddress(address: "127.0.0.1", port: 0)!)
        port = SocketAddress.name(of: descriptor.raw)!.port
        super.init()
        listener = try Listener(loop, adopting: descriptor, delegate: self)
    }

    /// Nobody listens any more.
    func stop() {
        listener?.close()
        listener = nil
    }

    override func accepted(_ listener: Listener, descriptor: consuming OwnedDescriptor) {
        guard let stream = try? Stream(loop, adopting: descriptor) else { return }
        let record = ServiceConnectionRecord(stream, service: self)
        connections.append(record)
        stream.delegate = record
        stream.resumeReading()
    }
}

/// One connection of a service, with all that came on it.
final class ServiceConnectionRecord: ChannelDelegate {
    let stream: Stream
    private(set) var text = ""
    private(set) var hasEnded = false
    private(set) var hasFailed = false
    private unowned let service: TestService

    init(_ stream: Stream, service: TestService) {
        self.stream = stream
        self.service = service
    }

    /// Whole requests without a body that came so far.
    var requestCount: Int { text.split(separator: "\r\n\r\n", omittingEmptySubsequences: false).count - 1 }

    func send(_ text: String) { stream.write(Array(text.utf8).span) }

    override func channel(_ channel: Channel, received bytes: inout MutableSpan<UInt8>) {
        text += string(bytes.span)
        service.onBytes(self)
    }

    override func channelEnded(_ channel: Channel) { hasEnded = true }
    override func channelFailed(_ channel: Channel, error: ChannelError) { hasFailed = true }
}
