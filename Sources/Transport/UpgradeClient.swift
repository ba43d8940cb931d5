// The client's side of an upgrade on one of the server's own paths: connects nothing by itself, but takes a channel that is
// connected or connecting, sends the GET, and hands over either the upgraded connection or why there is none.
//
// It may offer two protocols at once, raw bytes and WebSocket: the server's 101 names the one that it took. A server that
// knows only WebSocket sees an Upgrade field with a name that it passes over.

internal import Base
internal import Memory
public import Reactor
public import Wire

/// Why an upgrade did not come about.
public enum UpgradeFailure: Error, Sendable {
    /// The server answered with another status; `message` is what its JSON or text body said, shortened.
    case refused(status: Int, message: String)
    /// The connection could not be made or broke.
    case connection(ChannelError)
    /// What came is not an answer to the upgrade.
    case protocolViolation(String)
    /// It took longer than the time allowed.
    case timeout

    /// A sentence for the log.
    public var text: String {
        switch self {
        case .refused(let status, let message): message.isEmpty ? "status \(status)" : "status \(status): \(message)"
        case .connection(.system(let code)): SystemError(code: code, call: "connect").description
        case .connection(.reset): "connection reset"
        case .connection(.protocolViolation): "protocol violation"
        case .connection(.carrierLost), .connection(.truncated): "connection closed"
        case .protocolViolation(let what): what
        case .timeout: "timeout"
        }
    }
}

/// What is asked of the server.
public struct UpgradeRequest {
    /// The path.
    public var target: String
    /// The value of Host.
    public var host: String
    /// Further fields, each `Name: value`.
    public var fields: [String] = []
    /// A protocol whose bytes are not framed, offered before WebSocket.
    public var raw: StaticString?
    /// Whether WebSocket is offered.
    public var webSocket: Bool

    public init(target: String, host: String, raw: StaticString? = nil, webSocket: Bool) {
        self.target = target
        self.host = host
        self.raw = raw
        self.webSocket = webSocket
    }
}

/// What the server granted.
public struct Upgraded {
    /// How bytes travel from here on.
    public enum Carrier {
        case webSocket(WebSocketChannel)
        /// The socket, perhaps with TLS, and what came behind the 101.
        case raw(Channel, leftover: [UInt8])
    }

    public var carrier: Carrier
    /// Whether the server takes data connections beside this session, within these limits.
    public var pool: DirectPoolLimits?
    /// Whether every stream of the session begins with a preamble.
    public var sendsPreambles = false
    /// The credential for data connections.
    public var credential: String?
}

extension UpgradeClient {
    /// What the answer said the time is, in the words of its Date field; nil: nothing.
    public var answerDate: String? {
        guard head.length > 0, let value = head.firstValue(of: .date), value.count <= 64 else { return nil }
        return input.withSpan(value) { String(decoding: [UInt8](copying: $0), as: UTF8.self) }
    }
}

/// One upgrade. Keeps itself alive through its stream until it has ended.
public final class UpgradeClient: ChannelDelegate {
    private let loop: Loop
    private let channel: Channel
    private let wanted: UpgradeRequest
    private let completion: (Result<Upgraded, UpgradeFailure>) -> Void
    private var request = ByteBuffer()
    private var key = ByteBuffer()
    private var parser = HeadParser(kind: .response, limits: HeadLimits())
    private var head = Head()
    private var input = ByteBuffer()
    private var timer: CallbackTimer?
    /// Looks at what came before the request was sent, but not within the call that makes this object.
    private var earlyLook: CallbackTimer?
    private var isOver = false
    private var isRefused = false

    /// The most of a refusal's body that is read.
    private static let bodyBytesMax = 4_096

    /// Sends the request, and tells `completion` within `timeout`, counted from now. `early`: what was received of the channel
    /// before.
    public init(
        _ loop: Loop, over channel: Channel, isConnected: Bool, early: [UInt8] = [], request wanted: UpgradeRequest, timeout: Duration,
        completion: @escaping (Result<Upgraded, UpgradeFailure>) -> Void
    ) {
        self.loop = loop
        self.channel = channel
        self.wanted = wanted
        self.completion = completion
        super.init()
        writeRequest()
        if !early.isEmpty {
            input.append(early.span)
            earlyLook = CallbackTimer(loop) { [unowned self] in if !self.isOver { self.look() } }
            earlyLook?.schedule(after: .zero)
        }
        timer = CallbackTimer(loop) { [unowned self] in self.fail(.timeout) }
        timer?.schedule(after: timeout)
        channel.delegate = self
        if isConnected { send() }
    }

    private func writeRequest() {
        request.append("GET \(wanted.target) HTTP/1.1\r\nHost: \(wanted.host)\r\nUser-Agent: piko/\(BuildInfo.version)\r\nConnection: Upgrade\r\nUpgrade: ")
        if let raw = wanted.raw {
            request.append(raw)
            if wanted.webSocket { request.append(", ") }
        }
        if wanted.webSocket {
            WebSocketHandshake.makeKey(random: Random.bytes(16).span, into: &key)
            request.append("websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ")
            request.append(key.span)
        }
        request.append("\r\n")
        for field in wanted.fields { request.append(field + "\r\n") }
        request.append("\r\n")
    }

    /// Gives up; `completion` is not told.
    public func cancel() {
        guard !isOver else { return }
        isOver = true
        timer?.cancel()
        drop()
    }

    private func drop() {
        if let stream = channel as? Stream { stream.closeNow() } else { channel.abort() }
    }

    private func send() {
        channel.write(request.span)
        request.removeAll()
        channel.resumeReading()
    }

    public override func streamConnected(_ stream: Stream) { send() }

    public override func channel(_ channel: Channel, received bytes: inout MutableSpan<UInt8>) {
        guard !isOver else { return }
        input.append(bytes.span)
        look()
    }

    private func look() {
        if isRefused {
            if input.count - head.length >= Self.bodyBytesMax { refused() }
            return
        }
        do {
            guard try parser.parse(input.span, into: &head) == .complete else { return }
        } catch {
            fail(.protocolViolation("the answer to the upgrade is not HTTP: \(error.reason)"))
            return
        }
        if head.status == 101 {
            upgraded()
        } else {
            isRefused = true
            if let length = head.contentLength, UInt64(input.count - head.length) >= length { refused() }
        }
    }

    private func upgraded() {
        var result = Upgraded(carrier: .raw(channel, leftover: []))
        let accepted = input.withSpan(0..<head.length) { bytes in
            readGrant(bytes, into: &result)
            return acceptedProtocol(bytes)
        }
        guard let accepted else {
            fail(.protocolViolation(
                wanted.webSocket ? "the answer to the upgrade is not that of a WebSocket" : "the server took no protocol that was offered"))
            return
        }
        isOver = true
        timer?.cancel()
        let leftover = input.withSpan(head.length..<input.count) { [UInt8](copying: $0) }
        switch accepted {
        case .raw:
            channel.delegate = nil
            channel.pauseReading()
            result.carrier = .raw(channel, leftover: leftover)
        case .webSocket:
            var buffer = ByteBuffer()
            buffer.append(leftover.span)
            result.carrier = .webSocket(WebSocketChannel(loop, over: channel, role: .client, leftover: buffer))
        }
        completion(.success(result))
    }

    private enum Accepted { case raw, webSocket }

    private func acceptedProtocol(_ bytes: Span<UInt8>) -> Accepted? {
        if let raw = wanted.raw, head.connectionUpgrade, Direct.names(head, bytes, .upgrade, raw) { return .raw }
        guard wanted.webSocket else { return nil }
        return key.withSpan(0..<key.count) { key in WebSocketUpgrade.isAccepted(head, bytes, key: key) } ? .webSocket : nil
    }

    /// What the 101 says about data connections.
    private func readGrant(_ bytes: Span<UInt8>, into result: inout Upgraded) {
        if let value = head.firstValue(of: .xPikoCredential), value.count <= DirectCredential.textBytesMax {
            result.credential = String(decoding: [UInt8](copying: bytes.extracting(value)), as: UTF8.self)
        }
        result.sendsPreambles = Direct.names(head, bytes, .xPikoTransport, Direct.preambles)
        if Direct.names(head, bytes, .xPikoTransport, Direct.transport), let value = head.firstValue(of: .xPikoPool) {
            result.pool = DirectPoolLimits(bytes, value)
        }
    }

    private func refused() {
        var bytes: [UInt8] = []
        input.withSpan(head.length..<min(input.count, head.length + Self.bodyBytesMax)) { text in
            for index in text.indices where text[index] >= 0x20 { bytes.append(text[index]) }
        }
        var message = String(decoding: bytes, as: UTF8.self)
        let prefix = "{\"error\":\""
        if message.hasPrefix(prefix), let end = message.dropFirst(prefix.count).firstIndex(of: "\"") {
            message = String(message.dropFirst(prefix.count)[..<end])
        }
        fail(.refused(status: head.status, message: message))
    }

    public override func channelEnded(_ channel: Channel) {
        if isRefused { refused() } else { fail(.connection(.carrierLost)) }
    }

    public override func channelFailed(_ channel: Channel, error: ChannelError) {
        guard !isOver else { return }
        if isRefused { return refused() }
        // A server that wants no such client says so behind the handshake.
        if let secure = channel as? TLSChannel, !secure.failure.isEmpty { return fail(.protocolViolation(secure.failure)) }
        fail(.connection(error))
    }

    private func fail(_ failure: UpgradeFailure) {
        guard !isOver else { return }
        isOver = true
        timer?.cancel()
        drop()
        completion(.failure(failure))
    }
}
