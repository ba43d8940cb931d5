// Connections to one configured host and port: the local service of a listener, or the server.
//
// The host is fixed when the dialer is made and nothing that comes through a tunnel can change it: that is what pins the
// agent to its service (no request line, Host field or header ever reaches this file).
//
// A name is looked up again for a dial when the last answer is older than `answerAgeMax`; one look-up serves all dials
// that wait for it. When the look-up fails, the addresses of the last one are tried: a name server that is away for a
// moment does not take a service with it. The address that answered last is tried first.

internal import Base
internal import Glibc
internal import Reactor

/// Why no connection could be made.
enum DialError: Error, CustomStringConvertible {
    /// The name could not be resolved: the resolver's words.
    case unresolved(String)
    /// The last address that was tried failed.
    case failed(SystemError)
    /// No address answered in time.
    case timedOut
    /// The TLS handshake failed: why.
    case insecure(String)
    /// There is no way through the proxy: which one, and why.
    case proxy(String)

    var description: String {
        switch self {
        case .unresolved(let text): text
        case .failed(let error): error.description
        case .timedOut: "connect: timed out"
        case .insecure(let text), .proxy(let text): text
        }
    }
}

/// Makes connections to one host and port.
final class Dialer {
    /// How long the addresses of a name are used without asking again.
    static let answerAgeMax = Duration.seconds(5)

    /// As configured, for logs: "localhost:3000".
    let target: String

    let loop: Loop
    private let resolver: Resolver
    private let host: String
    private let port: UInt16
    /// As found last; the address that connected last comes first.
    private var addresses: [SocketAddress]
    /// When `addresses` were found.
    private var resolvedAt: Instant?
    /// No name has to be looked up: `addresses` stay as they are.
    private let isLiteral: Bool
    private var isResolving = false
    /// Dials that wait for the look-up in progress.
    private var waiting: [Dial] = []

    /// Connections to `host`, a name or an address, and `port`.
    convenience init(loop: Loop, resolver: Resolver, host: String, port: UInt16) {
        // RFC 6761 section 6.3: "localhost" is this machine, whatever a name server says.
        let literals = host == "localhost" ? ["127.0.0.1", "::1"] : [host]
        let addresses = literals.compactMap { SocketAddress(address: $0, port: port) }
        self.init(loop: loop, resolver: resolver, host: host, port: port, addresses: addresses)
    }

    /// The same, with the addresses of the host; none: they are looked up.
    init(loop: Loop, resolver: Resolver, host: String, port: UInt16, addresses: [SocketAddress]) {
        self.loop = loop
        self.resolver = resolver
        self.host = host
        self.port = port
        target = host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
        self.addresses = addresses
        isLiteral = !addresses.isEmpty
    }

    /// Starts to connect; a `timeout` of zero means no limit. `completion` runs once, later, unless the dial is cancelled;
    /// the stream it gets has no delegate yet.
    func dial(timeout: Duration, completion: @escaping (Result<Stream, DialError>) -> Void) -> Dial {
        let dial = Dial(dialer: self, timeout: timeout, completion: completion)
        if isLiteral || isFresh {
            dial.begin(with: addresses)
        } else {
            waiting.append(dial)
            resolve()
        }
        return dial
    }

    private var isFresh: Bool {
        guard let resolvedAt else { return false }
        return loop.now - resolvedAt < Self.answerAgeMax
    }

    private func resolve() {
        if isResolving { return }
        isResolving = true
        resolver.resolve(host: host, port: port) { [self] result in resolved(result) }
    }

    private func resolved(_ result: Result<[SocketAddress], ResolveError>) {
        isResolving = false
        let dials = waiting
        waiting = []
        switch result {
        case .success(let found):
            remember(found)
        case .failure(let error):
            if addresses.isEmpty {
                for dial in dials { dial.fail(.unresolved("lookup \(host): \(error)")) }
                return
            }
        }
        for dial in dials { dial.begin(with: addresses) }
    }

    private func remember(_ found: [SocketAddress]) {
        let preferred = addresses.first
        addresses = Array(found.prefix(DialMachine.addressesMax))
        resolvedAt = loop.now
        if let preferred { prefer(preferred) }
    }

    /// `address` connected: the next dial tries it first.
    fileprivate func prefer(_ address: SocketAddress) {
        guard addresses.first != address, let index = addresses.firstIndex(of: address) else { return }
        addresses.remove(at: index)
        addresses.insert(address, at: 0)
    }
}

/// One attempt to get a connection; see `DialMachine` for how it goes through the addresses.
final class Dial {
    private let dialer: Dialer
    private var machine = DialMachine(count: 0)
    private var addresses: [SocketAddress] = []
    private var attempts: [DialAttempt] = []
    private var lastError: SystemError?
    /// The attempt that was started last failed within the call that started it.
    private var failedAtOnce = false
    private var completion: ((Result<Stream, DialError>) -> Void)?
    private var deadline: CallbackTimer?
    private var stagger: CallbackTimer?

    fileprivate init(dialer: Dialer, timeout: Duration, completion: @escaping (Result<Stream, DialError>) -> Void) {
        self.dialer = dialer
        self.completion = completion
        // The timers hold the dial until it is over, so that the caller may drop it.
        deadline = CallbackTimer(dialer.loop) { [self] in expired() }
        stagger = CallbackTimer(dialer.loop) { [self] in staggerFired() }
        if timeout > .zero { deadline?.schedule(after: timeout) }
    }

    /// Gives up: no completion follows.
    func cancel() {
        completion = nil
        perform(machine.handle(.stop))
        release()
    }

    fileprivate func begin(with addresses: [SocketAddress]) {
        guard completion != nil else { return }
        self.addresses = addresses
        machine = DialMachine(count: addresses.count)
        perform(machine.handle(.start))
    }

    fileprivate func fail(_ error: DialError) { finish(.failure(error)) }

    private func expired() {
        perform(machine.handle(.stop))
        finish(.failure(.timedOut))
    }

    private func perform(_ action: DialMachine.Action) {
        switch action {
        case .none, .succeed:
            break
        case .attempt(let index, let more):
            attempt(index, more: more)
        case .fail:
            finish(.failure(.failed(lastError ?? SystemError(code: 0, call: "connect"))))
        case .cancel:
            for attempt in attempts { attempt.stream.closeNow() }
            attempts = []
        }
    }

    private func attempt(_ index: Int, more: Bool) {
        do {
            let stream = try Stream(dialer.loop, connectTo: addresses[index])
            let attempt = DialAttempt(dial: self, stream: stream, address: addresses[index])
            stream.delegate = attempt
            attempts.append(attempt)
        } catch {
            // The kernel refused at once (no route, no descriptors). Told in the next turn, so that no completion runs
            // from within `dial`.
            lastError = error
            failedAtOnce = true
            stagger?.schedule(after: .zero)
            return
        }
        if more { stagger?.schedule(after: DialMachine.stagger) }
    }

    private func staggerFired() {
        let event: DialMachine.Event = failedAtOnce ? .attemptFailed : .staggerElapsed
        failedAtOnce = false
        perform(machine.handle(event))
    }

    fileprivate func connected(_ attempt: DialAttempt) {
        guard machine.handle(.connected) == .succeed else { return }
        dialer.prefer(attempt.address)
        for other in attempts where other !== attempt { other.stream.closeNow() }
        attempt.stream.delegate = nil
        finish(.success(attempt.stream))
    }

    fileprivate func attemptFailed(_ attempt: DialAttempt, error: ChannelError) {
        attempts.removeAll { $0 === attempt }
        if case .system(let code) = error {
            lastError = SystemError(code: code, call: "connect")
        } else {
            lastError = SystemError(code: ECONNRESET, call: "connect")
        }
        perform(machine.handle(.attemptFailed))
    }

    private func finish(_ result: Result<Stream, DialError>) {
        let completion = self.completion
        release()
        completion?(result)
    }

    /// Lets go of everything that holds this dial.
    private func release() {
        completion = nil
        attempts = []
        deadline?.cancel()
        stagger?.cancel()
        deadline = nil
        stagger = nil
    }
}

/// One address of one dial.
private final class DialAttempt: ChannelDelegate {
    let stream: Stream
    let address: SocketAddress
    private let dial: Dial

    init(dial: Dial, stream: Stream, address: SocketAddress) {
        self.dial = dial
        self.stream = stream
        self.address = address
    }

    override func streamConnected(_ stream: Stream) { dial.connected(self) }

    override func channelFailed(_ channel: Channel, error: ChannelError) { dial.attemptFailed(self, error: error) }
}
