// The node's control socket for people and their tools: a Unix stream socket, one JSON request and one JSON reply a line.
//
// Only this user and root may speak: the socket's mode says so, and the kernel's word on who connected is checked besides.
// Requests are answered in order, one at a time: a reload takes a while, and its answer is waited for. A connection that sends
// a line of more than `lineBytesMax`, or that lets replies pile up, is closed.
//
// When another program takes the node over, those that wait for the outcome go along: they get their answer from it.

import Base
import Control
import Memory
import Reactor
import Telemetry

/// Makes the reply to a request and gives it to the function, now or later.
typealias Answerer = (JSONValue, @escaping (JSONValue) -> Void) -> Void

/// Answers requests on the control socket.
final class ControlServer: ListenerDelegate {
    /// Where the socket is.
    let path: String
    private let loop: Loop
    private let answer: Answerer
    private var listener: Listener?
    private var detached: ((consuming OwnedDescriptor) -> Void)?
    private var connections: [ObjectIdentifier: ControlConnection] = [:]

    /// Connections at a time. More are turned away.
    static let connectionsMax = 32

    /// Listens at the path. `answer` makes the reply to a request.
    convenience init(_ loop: Loop, path: String, answer: @escaping Answerer) throws(SystemError) {
        try self.init(loop, path: path, adopting: try Listener.bindUnix(path, mode: 0o600), answer: answer)
    }

    /// Takes over a socket that listens at the path.
    init(_ loop: Loop, path: String, adopting descriptor: consuming OwnedDescriptor, answer: @escaping Answerer)
        throws(SystemError)
    {
        self.path = path
        self.loop = loop
        self.answer = answer
        super.init()
        listener = try Listener(loop, adopting: descriptor, delegate: self)
    }

    /// Takes over a connection that waits for an answer. Returns the function that gives it one.
    func adopt(asker descriptor: consuming OwnedDescriptor) -> ((JSONValue) -> Void)? {
        guard let stream = try? Stream(loop, adopting: descriptor) else { return nil }
        return add(stream).startWaiting()
    }

    /// Takes the socket, and the connections that wait for an answer, out of the loop. The others are closed.
    func detach(_ done: @escaping (_ listener: Int32, _ askers: [Int32]) -> Void) {
        var askers: [Int32] = []
        var left = 1
        func finish() {
            left -= 1
            guard left == 0, let listening = listening else { return }
            done(listening, askers)
        }
        var listening: Int32?
        for connection in Array(connections.values) {
            guard connection.isWaiting else {
                connection.end()
                continue
            }
            left += 1
            connection.detach { descriptor in
                if let number = descriptor { askers.append(number) }
                finish()
            }
        }
        connections = [:]
        detached = { descriptor in
            listening = descriptor.take()
            finish()
        }
        listener?.detach()
    }

    override func listenerDetached(_ listener: Listener, descriptor: consuming OwnedDescriptor) {
        self.listener = nil
        let done = detached
        detached = nil
        done?(descriptor)
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
        add(stream).start()
    }

    private func add(_ stream: Stream) -> ControlConnection {
        let connection = ControlConnection(stream, answer: answer) { [weak self] in self?.connections[$0] = nil }
        connections[ObjectIdentifier(connection)] = connection
        return connection
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
    private let answer: Answerer
    private let ended: (ObjectIdentifier) -> Void
    private var input = ByteBuffer()
    private var detached: ((Int32?) -> Void)?
    /// Whether a request is being answered.
    private(set) var isWaiting = false

    private static let lineBytesMax = 65_536

    init(_ stream: Stream, answer: @escaping Answerer, ended: @escaping (ObjectIdentifier) -> Void) {
        self.stream = stream
        self.answer = answer
        self.ended = ended
    }

    func start() {
        stream.delegate = self
        stream.resumeReading()
    }

    /// Begins as if a request had just been read.
    func startWaiting() -> (JSONValue) -> Void {
        isWaiting = true
        start()
        return { [weak self] in self?.reply($0) }
    }

    func end() { stream.close() }

    /// Takes the socket out of the loop; nil when it is lost.
    func detach(_ done: @escaping (Int32?) -> Void) {
        guard stream.isAlive else { return done(nil) }
        detached = done
        stream.detach()
    }

    override func streamDetached(_ stream: Stream, descriptor: consuming OwnedDescriptor, unsent: Span<UInt8>) {
        detached?(descriptor.take())
        detached = nil
    }

    private func finish() {
        stream.close()
        lost()
    }

    private func lost() {
        detached?(nil)
        detached = nil
        ended(ObjectIdentifier(self))
    }

    override func channel(_ channel: Channel, received bytes: inout MutableSpan<UInt8>) {
        input.append(bytes.span)
        advance()
        if input.count > Self.lineBytesMax { return finish() }
        if !stream.isWritable { stream.pauseReading() }
    }

    private func advance() {
        while !isWaiting, let length = Self.lineLength(input.span) {
            isWaiting = true
            let request = parse(length)
            input.consume(length + 1)
            switch request {
            case .success(let value): answer(value) { [weak self] in self?.reply($0) }
            case .failure(let error):
                reply(.object([JSONMember("error", .string("not JSON: \(error.reason) at byte \(error.offset)"))]))
            }
        }
    }

    /// The bytes before the first line's end.
    private static func lineLength(_ bytes: Span<UInt8>) -> Int? {
        var index = 0
        while index < bytes.count, bytes[index] != 0x0a { index += 1 }
        return index < bytes.count ? index : nil
    }

    private func parse(_ length: Int) -> Result<JSONValue, JSONError> {
        do throws(JSONError) {
            return .success(try input.withSpan(0..<length) { bytes throws(JSONError) in try JSONValue.parse(bytes) })
        } catch {
            return .failure(error)
        }
    }

    private func reply(_ value: JSONValue) {
        guard isWaiting, stream.isAlive else { return }
        var text = ByteBuffer()
        value.write(into: &text)
        text.append(0x0a)
        stream.write(text.span)
        isWaiting = false
        advance()
    }

    override func channelDrained(_ channel: Channel) { stream.resumeReading() }

    override func channelEnded(_ channel: Channel) { if !isWaiting { finish() } }

    override func channelFailed(_ channel: Channel, error: ChannelError) { lost() }
}
