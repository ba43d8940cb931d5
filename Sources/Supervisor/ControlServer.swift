// The node's control socket for people and their tools: a Unix stream socket, one JSON request and one JSON reply a line.
//
// Only this user and root may speak: the socket's mode says so, and the kernel's word on who connected is checked besides.
// Requests are answered in order; a connection that sends a line of more than `lineBytesMax`, or that lets replies pile
// up, is closed.

import Base
import Control
import Memory
import Reactor
import Telemetry

/// Answers requests on the control socket.
final class ControlServer: ListenerDelegate {
    /// Where the socket is.
    let path: String
    private let loop: Loop
    private let answer: (JSONValue) -> JSONValue
    private var listener: Listener?
    private var connections: [ObjectIdentifier: ControlConnection] = [:]

    /// Connections at a time. More are turned away.
    static let connectionsMax = 32

    /// Listens at the path. `answer` makes the reply to a request.
    init(_ loop: Loop, path: String, answer: @escaping (JSONValue) -> JSONValue) throws(SystemError) {
        self.path = path
        self.loop = loop
        self.answer = answer
        super.init()
        listener = try Listener(loop, adopting: try Listener.bindUnix(path, mode: 0o600), delegate: self)
    }

    /// Stops listening and removes the socket.
    func close() {
        guard let listener else { return }
        listener.close()
        self.listener = nil
        FileContents.remove(path)
        for connection in connections.values { connection.end() }
        connections = [:]
    }

    override func accepted(_ listener: Listener, descriptor: consuming OwnedDescriptor) {
        guard connections.count < Self.connectionsMax, Self.isTrusted(descriptor.raw) else { return }
        guard let stream = try? Stream(loop, adopting: descriptor) else { return }
        let connection = ControlConnection(stream, answer: answer) { [unowned self] in connections[$0] = nil }
        connections[ObjectIdentifier(connection)] = connection
        connection.start()
    }

    override func acceptFailed(_ listener: Listener, error: SystemError) {
        let timer = CallbackTimer(loop) { listener.resume() }
        timer.schedule(after: .seconds(1))
        resting = timer
    }
    private var resting: CallbackTimer?

    /// Whether the same user or root is at the other end.
    private static func isTrusted(_ descriptor: Int32) -> Bool {
        guard let user = try? Sockets.credentials(of: descriptor).user else { return false }
        return user == ProgramEnvironment.userIdentifier || user == 0
    }
}

/// One connection to the control socket.
private final class ControlConnection: ChannelDelegate {
    private let stream: Stream
    private let answer: (JSONValue) -> JSONValue
    private let ended: (ObjectIdentifier) -> Void
    private var input = ByteBuffer()

    private static let lineBytesMax = 65_536

    init(_ stream: Stream, answer: @escaping (JSONValue) -> JSONValue, ended: @escaping (ObjectIdentifier) -> Void) {
        self.stream = stream
        self.answer = answer
        self.ended = ended
    }

    func start() {
        stream.delegate = self
        stream.resumeReading()
    }

    func end() { stream.close() }

    private func finish() {
        stream.close()
        ended(ObjectIdentifier(self))
    }

    override func channel(_ channel: Channel, received bytes: inout MutableSpan<UInt8>) {
        input.append(bytes.span)
        while let length = Self.lineLength(input.span) {
            reply(to: length)
            input.consume(length + 1)
        }
        if input.count > Self.lineBytesMax { return finish() }
        if !stream.isWritable { stream.pauseReading() }
    }

    /// The bytes before the first line's end.
    private static func lineLength(_ bytes: Span<UInt8>) -> Int? {
        var index = 0
        while index < bytes.count, bytes[index] != 0x0a { index += 1 }
        return index < bytes.count ? index : nil
    }

    private func reply(to length: Int) {
        let value: JSONValue
        do throws(JSONError) {
            value = answer(try JSONValue.parse(input.span.extracting(0..<length)))
        } catch {
            value = .object([JSONMember("error", .string("not JSON: \(error.reason) at byte \(error.offset)"))])
        }
        var text = ByteBuffer()
        value.write(into: &text)
        text.append(0x0a)
        stream.write(text.span)
    }

    override func channelDrained(_ channel: Channel) { stream.resumeReading() }

    override func channelEnded(_ channel: Channel) { finish() }

    override func channelFailed(_ channel: Channel, error: ChannelError) { ended(ObjectIdentifier(self)) }
}
