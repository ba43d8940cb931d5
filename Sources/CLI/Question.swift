// One question over one connection, waited for: the commands that ask a server do nothing else meanwhile, so they drive
// a loop of their own until the answer is there or the time is over.
internal import Base
internal import Crypto
internal import Memory
internal import Reactor
internal import Transport

/// Where a question goes.
enum QuestionTarget {
    /// With TLS, where there are settings for it.
    case tcp(host: String, port: UInt16, TLSContext? = nil)
    case unix(path: String)
}

/// Asks questions, each within the same time.
struct Questioner {
    /// The time for one question, from the look-up of the name to the last byte of the answer.
    static let timeMax = Duration.seconds(15)
    /// The longest answer.
    static let answerBytesMax = 16_777_216

    private let loop: Loop
    private let deadline: Instant
    private let answerBytesMax: Int

    init(within time: Duration = Questioner.timeMax, answerBytesMax: Int = Questioner.answerBytesMax) throws(CommandFailure) {
        self.answerBytesMax = answerBytesMax
        do throws(SystemError) {
            // One connection needs no ring, and epoll can always be had.
            loop = try Loop(backend: .epoll)
        } catch {
            throw CommandFailure("piko: \(error)")
        }
        deadline = loop.now + time
    }

    /// Sends the question and returns what came back once `isWhole` finds the answer complete, or the peer has ended;
    /// `isWhole` is asked after each piece with all bytes so far.
    func ask(
        _ target: QuestionTarget, _ question: [UInt8], isWhole: (Span<UInt8>) -> Bool
    ) throws(CommandFailure) -> [UInt8] {
        switch target {
        case .unix(let path):
            let answer = Answer()
            do throws(SystemError) {
                let stream = try Stream(loop, connectToUnix: path)
                stream.delegate = answer
                return try collect(answer, from: stream, question, isWhole: isWhole)
            } catch {
                throw CommandFailure("\(error)")
            }
        case .tcp(let host, let port, let secure):
            var failure = SystemError(code: 0, call: "connect")
            // A name often has an IPv6 and an IPv4 address, and only one of them is listened on.
            for address in try resolve(host, port) {
                let answer = Answer()
                do throws(SystemError) {
                    let stream = try Stream(loop, connectTo: address)
                    stream.delegate = answer
                    if secure == nil { return try collect(answer, from: stream, question, isWhole: isWhole) }
                    try connect(stream, answer)
                } catch {
                    if answer.isConnected { throw CommandFailure("\(error)") }
                    failure = error
                    continue
                }
                guard let secure, let stream = answer.stream else { continue }
                let channel = try handshake(stream, secure, host)
                channel.delegate = answer
                do throws(SystemError) {
                    return try collect(answer, from: channel, question, isWhole: isWhole)
                } catch {
                    throw CommandFailure(channel.failure.isEmpty ? "\(error)" : channel.failure)
                }
            }
            throw CommandFailure("\(failure); does a server listen there?")
        }
    }

    /// Waits for the connection, with nothing sent yet.
    private func connect(_ stream: Stream, _ answer: Answer) throws(SystemError) {
        while !answer.isConnected, loop.now < deadline {
            loop.runTurn(until: deadline)
            if let failure = answer.failure { throw failure }
        }
        guard answer.isConnected else { throw SystemError(code: Self.timedOut, call: "connect") }
        answer.stream = stream
    }

    private func handshake(_ stream: Stream, _ secure: TLSContext, _ host: String) throws(CommandFailure) -> TLSChannel {
        var made: TLSChannel?
        var failure: String?
        let start = TLSStart(TLSEngine(loop), over: stream, context: secure, name: host, limit: deadline - loop.now) { channel, text in
            made = channel
            failure = text
        }
        while failure == nil, loop.now < deadline { loop.runTurn(until: deadline) }
        start.cancel()
        guard let made else { throw CommandFailure(failure ?? "the TLS handshake took too long") }
        return made
    }

    /// The addresses of a name, or the address itself.
    func resolve(_ host: String, _ port: UInt16) throws(CommandFailure) -> [SocketAddress] {
        var result: Result<[SocketAddress], ResolveError>?
        let resolution = Resolver(loop).resolve(host: host, port: port) { result = $0 }
        while result == nil && loop.now < deadline { loop.runTurn(until: deadline) }
        switch result {
        case .success(let addresses): return addresses
        case .failure(let error): throw CommandFailure("\(host): \(error)")
        case nil:
            resolution.cancel()
            throw CommandFailure("\(host): the look-up of the name took too long")
        }
    }

    private func collect(
        _ answer: Answer, from channel: Channel, _ question: [UInt8], isWhole: (Span<UInt8>) -> Bool
    ) throws(SystemError) -> [UInt8] {
        channel.write(question.span)
        channel.resumeReading()
        defer { if let stream = channel as? Stream { stream.closeNow() } else { channel.close() } }
        var seen = 0
        while loop.now < deadline {
            loop.runTurn(until: deadline)
            if let failure = answer.failure { throw failure }
            let bytes = answer.bytes
            if bytes.count > answerBytesMax { throw SystemError(code: Self.messageTooLong, call: "read") }
            if answer.hasEnded { return bytes }
            if bytes.count > seen && isWhole(bytes.span) { return bytes }
            seen = bytes.count
        }
        throw SystemError(code: Self.timedOut, call: answer.isConnected ? "read" : "connect")
    }

    /// EMSGSIZE and ETIMEDOUT.
    private static let messageTooLong: Int32 = 90
    private static let timedOut: Int32 = 110
}

/// Collects what comes back.
private final class Answer: ChannelDelegate {
    var bytes: [UInt8] = []
    var isConnected = false
    /// Connected, for TLS to be put on it.
    var stream: Stream?
    var hasEnded = false
    var failure: SystemError?

    override func streamConnected(_ stream: Stream) { isConnected = true }

    override func channel(_ channel: Channel, received piece: inout MutableSpan<UInt8>) {
        for index in piece.indices { bytes.append(piece[index]) }
    }

    override func channelEnded(_ channel: Channel) { hasEnded = true }

    override func channelFailed(_ channel: Channel, error: ChannelError) {
        let call = isConnected ? "read" : "connect"
        if case .system(let code) = error {
            failure = SystemError(code: code, call: call)
        } else {
            failure = SystemError(code: Self.connectionReset, call: call)
        }
    }

    /// ECONNRESET.
    private static let connectionReset: Int32 = 104
}
