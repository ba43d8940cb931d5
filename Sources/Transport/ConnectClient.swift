// Asks a proxy for a tunnel to a server, over a connection to the proxy, and leaves the connection to whoever uses the tunnel.

internal import Base
internal import Memory
public import Reactor
public import Wire

/// Why a proxy gave no tunnel.
public enum ConnectFailure: Error, Equatable, Sendable {
    /// It answered with another status than 2xx; `reason` is the words of its status line.
    case refused(status: Int, reason: String)
    /// What came is no answer: why.
    case malformed(String)
    /// It ended or broke the connection before it had answered.
    case closed
    case timeout
}

/// One CONNECT. Keeps itself alive through its stream until it is over.
public final class ConnectClient: ChannelDelegate {
    private let stream: Stream
    private var answer = ConnectAnswer()
    private var timer: CallbackTimer?
    private var completion: ((Result<[UInt8], ConnectFailure>) -> Void)?

    /// Sends the request over a stream that is connected. `completion` runs once, later, within `timeout`, unless it is
    /// cancelled: with the bytes of the tunnel that came with the answer (the stream is paused then and has no delegate), or
    /// with the failure (the stream is closed then).
    public init(
        _ loop: Loop, over stream: Stream, request: ConnectRequest, timeout: Duration,
        completion: @escaping (Result<[UInt8], ConnectFailure>) -> Void
    ) {
        self.stream = stream
        self.completion = completion
        super.init()
        timer = CallbackTimer(loop) { [unowned self] in self.fail(.timeout) }
        timer?.schedule(after: max(.zero, timeout))
        stream.delegate = self
        var bytes = ByteBuffer()
        request.write(into: &bytes)
        stream.write(bytes.span)
        stream.resumeReading()
    }

    /// Gives up: no completion follows.
    public func cancel() {
        guard completion != nil else { return }
        completion = nil
        timer?.cancel()
        stream.closeNow()
    }

    public override func channel(_ channel: Channel, received bytes: inout MutableSpan<UInt8>) {
        guard completion != nil else { return }
        do throws(ConnectAnswerError) {
            guard let outcome = try answer.take(bytes.span) else { return }
            switch outcome {
            case .tunnel(let early):
                stream.pauseReading()
                stream.delegate = nil
                finish(.success(early))
            case .refused(let status, let reason):
                fail(.refused(status: status, reason: reason))
            }
        } catch {
            switch error {
            case .malformed(let what): fail(.malformed("the answer to CONNECT is not HTTP: \(what)"))
            case .tooLong: fail(.malformed("the head of the answer to CONNECT is longer than \(ConnectAnswer.headBytesMax) bytes"))
            }
        }
    }

    public override func channelEnded(_ channel: Channel) { fail(.closed) }

    public override func channelFailed(_ channel: Channel, error: ChannelError) { fail(.closed) }

    private func fail(_ failure: ConnectFailure) {
        guard completion != nil else { return }
        stream.closeNow()
        finish(.failure(failure))
    }

    private func finish(_ result: Result<[UInt8], ConnectFailure>) {
        timer?.cancel()
        let told = completion
        completion = nil
        told?(result)
    }
}
