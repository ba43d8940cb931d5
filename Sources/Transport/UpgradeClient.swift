// The client's side of a WebSocket handshake: connects nothing by itself, but takes a stream that is connected or
// connecting, sends the GET, and hands over either the WebSocket or why there is none.

internal import Base
internal import Memory
public import Reactor
internal import Wire

/// Why an upgrade did not come about.
public enum UpgradeFailure: Error, Sendable {
    /// The server answered with another status; `message` is what its JSON or text body said, shortened.
    case refused(status: Int, message: String)
    /// The connection could not be made or broke.
    case connection(ChannelError)
    /// What came is not an answer to a WebSocket handshake.
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
        case .connection(.carrierLost): "connection closed"
        case .protocolViolation(let what): what
        case .timeout: "timeout"
        }
    }
}

/// One handshake. Keeps itself alive through its stream until it has ended.
public final class UpgradeClient: ChannelDelegate {
    private let loop: Loop
    private let stream: Stream
    private let completion: (Result<WebSocketChannel, UpgradeFailure>) -> Void
    private var request = ByteBuffer()
    private var key = ByteBuffer()
    private var parser = HeadParser(kind: .response, limits: HeadLimits())
    private var head = Head()
    private var input = ByteBuffer()
    private var timer: CallbackTimer?
    private var isOver = false
    private var isRefused = false

    /// The most of a refusal's body that is read.
    private static let bodyBytesMax = 4_096

    /// Sends `GET target` with the given `Host` and further fields (each `Name: value`), and tells `completion` within
    /// `timeout`, counted from now.
    public init(
        _ loop: Loop, stream: Stream, isConnected: Bool, target: String, host: String, fields: [String], timeout: Duration,
        completion: @escaping (Result<WebSocketChannel, UpgradeFailure>) -> Void
    ) {
        self.loop = loop
        self.stream = stream
        self.completion = completion
        super.init()
        WebSocketHandshake.makeKey(random: Random.bytes(16).span, into: &key)
        request.append("GET \(target) HTTP/1.1\r\nHost: \(host)\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n")
        request.append("Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ")
        request.append(key.span)
        request.append("\r\n")
        for field in fields { request.append(field + "\r\n") }
        request.append("\r\n")
        timer = CallbackTimer(loop) { [unowned self] in self.fail(.timeout) }
        timer?.schedule(after: timeout)
        stream.delegate = self
        if isConnected { send() }
    }

    /// Gives up; `completion` is not told.
    public func cancel() {
        guard !isOver else { return }
        isOver = true
        timer?.cancel()
        stream.closeNow()
    }

    private func send() {
        stream.write(request.span)
        request.removeAll()
        stream.resumeReading()
    }

    public override func streamConnected(_ stream: Stream) { send() }

    public override func channel(_ channel: Channel, received bytes: inout MutableSpan<UInt8>) {
        guard !isOver else { return }
        input.append(bytes.span)
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
        guard WebSocketUpgrade.isAccepted(head, input.span.extracting(0..<head.length), key: key.span) else {
            fail(.protocolViolation("the answer to the upgrade is not that of a WebSocket"))
            return
        }
        isOver = true
        timer?.cancel()
        var leftover = ByteBuffer()
        leftover.append(input.span.extracting(head.length..<input.count))
        completion(.success(WebSocketChannel(loop, over: stream, role: .client, leftover: leftover)))
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
        if isRefused { refused() } else { fail(.connection(error)) }
    }

    private func fail(_ failure: UpgradeFailure) {
        guard !isOver else { return }
        isOver = true
        timer?.cancel()
        stream.closeNow()
        completion(.failure(failure))
    }
}
