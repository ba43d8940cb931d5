// A connection as a channel: TCP, and TLS over it where the target wants it, within one limit of time.

internal import Base
internal import Crypto
internal import Reactor
internal import Transport

/// How TLS is put on the connections to one target.
struct TLSTarget {
    let engine: TLSEngine
    let context: TLSContext
    /// Whom the server must prove to be: the host as configured.
    let name: String
}

/// One attempt to get a channel. Keeps itself alive until it is over.
final class ChannelDial {
    private let tls: TLSTarget?
    private let prepare: (Stream) -> Void
    private let timeout: Duration
    private let started: Instant
    private var completion: ((Result<Channel, DialError>) -> Void)?
    private var dial: Dial?
    private var start: TLSStart?

    /// The longest that a handshake may take, whatever is left of the time.
    private static let handshakeMax = Duration.seconds(10)

    /// Starts to connect; a `timeout` of zero means no limit. `prepare` sets the socket's options. `completion` runs once, later,
    /// unless the dial is cancelled; the channel it gets has no delegate yet.
    init(
        _ dialer: Dialer, tls: TLSTarget?, timeout: Duration, prepare: @escaping (Stream) -> Void,
        completion: @escaping (Result<Channel, DialError>) -> Void
    ) {
        self.tls = tls
        self.prepare = prepare
        self.timeout = timeout
        self.completion = completion
        started = SystemClock.now
        dial = dialer.dial(timeout: timeout) { [self] result in connected(result) }
    }

    /// Gives up: no completion follows.
    func cancel() {
        completion = nil
        dial?.cancel()
        start?.cancel()
        dial = nil
        start = nil
    }

    private func connected(_ result: Result<Stream, DialError>) {
        dial = nil
        switch result {
        case .failure(let error): finish(.failure(error))
        case .success(let stream):
            prepare(stream)
            guard let tls else { return finish(.success(stream)) }
            let left = timeout == .zero ? Self.handshakeMax : timeout - (SystemClock.now - started)
            start = TLSStart(
                tls.engine, over: stream, context: tls.context, name: tls.name, limit: max(.zero, min(Self.handshakeMax, left))
            ) { [self] channel, failure in
                start = nil
                if let channel { finish(.success(channel)) } else { finish(.failure(.insecure(failure))) }
            }
        }
    }

    private func finish(_ result: Result<Channel, DialError>) {
        let told = completion
        completion = nil
        told?(result)
    }
}
