// One question over one connection, waited for: the commands that ask a server do nothing else meanwhile, so they drive
// a loop of their own until the answer is there or the time is over.
internal import Base
internal import Memory
internal import Reactor

/// Where a question goes.
enum QuestionTarget {
    case tcp(host: String, port: UInt16)
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
                return try collect(answer, from: Stream(loop, connectToUnix: path), question, isWhole: isWhole)
            } catch {
                throw CommandFailure("\(error)")
            }
        case .tcp(let host, let port):
            var failure = SystemError(code: 0, call: "connect")
            // A name often has an IPv6 and an IPv4 address, and only one of them is listened on.
            for address in try resolve(host, port) {
                let answer = Answer()
                do throws(SystemError) {
                    return try collect(answer, from: Stream(loop, connectTo: address), question, isWhole: isWhole)
                } catch {
                    if answer.isConnected { throw CommandFailure("\(error)") }
                    failure = error
                }
            }
            throw CommandFailure("\(failure); does a server listen there?")
        }
    }

    private func resolve(_ host: String, _ port: UInt16) throws(CommandFailure) -> [SocketAddress] {
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
        _ answer: Answer, from stream: Stream, _ question: [UInt8], isWhole: (Span<UInt8>) -> Bool
    ) throws(SystemError) -> [UInt8] {
        stream.delegate = answer
        stream.write(question.span)
        stream.resumeReading()
        defer { stream.closeNow() }
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
