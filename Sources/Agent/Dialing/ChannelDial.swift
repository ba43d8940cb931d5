// A connection as a channel: TCP, a proxy's tunnel in it where one is on the way, and TLS over it where the target wants it, within
// one limit of time.

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
    private let loop: Loop
    private let tunnel: ProxyTunnel?
    private let tls: TLSTarget?
    private let prepare: (Stream) -> Void
    private let timeout: Duration
    private let started: Instant
    private var completion: ((Result<Channel, DialError>) -> Void)?
    private var dial: Dial?
    private var connect: ConnectClient?
    private var start: TLSStart?
    /// What came of the channel's bytes with the proxy's answer.
    private(set) var early: [UInt8] = []

    /// The longest that a handshake may take, whatever is left of the time.
    private static let handshakeMax = Duration.seconds(10)

    /// Starts to connect; a `timeout` of zero means no limit. `tunnel`: the dialer's target is a proxy. `prepare` sets the socket's options. `completion` runs once, later,
    /// unless the dial is cancelled; the channel it gets has no delegate yet.
    init(
        _ dialer: Dialer, tunnel: ProxyTunnel? = nil, tls: TLSTarget?, timeout: Duration, prepare: @escaping (Stream) -> Void,
        completion: @escaping (Result<Channel, DialError>) -> Void
    ) {
        loop = dialer.loop
        self.tunnel = tunnel
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
        connect?.cancel()
        start?.cancel()
        dial = nil
        connect = nil
        start = nil
    }

    /// What is left of the time, and `most` at most.
    private func timeLeft(_ most: Duration) -> Duration {
        timeout == .zero ? most : max(.zero, min(most, timeout - (SystemClock.now - started)))
    }

    private func connected(_ result: Result<Stream, DialError>) {
        dial = nil
        switch result {
        case .failure(let error): finish(.failure(tunnel?.error(error) ?? error))
        case .success(let stream):
            prepare(stream)
            if let tunnel { ask(tunnel, over: stream) } else { secure(stream) }
        }
    }

    private func ask(_ tunnel: ProxyTunnel, over stream: Stream) {
        let time = timeout == .zero ? Self.handshakeMax : timeLeft(timeout)
        connect = ConnectClient(loop, over: stream, request: tunnel.request, timeout: time) { [self] result in
            connect = nil
            switch result {
            case .failure(let failure): finish(.failure(tunnel.error(failure)))
            case .success(let early):
                self.early = early
                secure(stream)
            }
        }
    }

    private func secure(_ stream: Stream) {
        guard let tls else { return finish(.success(stream)) }
        // In TLS the server is silent until it has heard the client.
        guard early.isEmpty else {
            stream.closeNow()
            finish(.failure(.insecure("what came through the proxy is not TLS")))
            return
        }
        start = TLSStart(
            tls.engine, over: stream, context: tls.context, name: tls.name, limit: timeLeft(Self.handshakeMax)
        ) { [self] channel, failure in
            start = nil
            if let channel { finish(.success(channel)) } else { finish(.failure(.insecure(failure))) }
        }
    }

    private func finish(_ result: Result<Channel, DialError>) {
        let told = completion
        completion = nil
        told?(result)
    }
}
