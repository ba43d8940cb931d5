// The steps of a connection one by one, each waited for: what the agent does in one go when it runs (`ServerConnector`), taken apart so
// that each can be told of and timed.

internal import Base
internal import Crypto
internal import Reactor
internal import Transport
internal import Wire

/// Does single steps.
struct Probe {
    let context: ProgramContext
    /// The longest that one step may take.
    let limit: Duration

    /// Runs the loop until `isDone`, or until the time is over.
    func wait(_ limit: Duration, _ isDone: () -> Bool) {
        let deadline = SystemClock.now + limit
        while !isDone(), SystemClock.now < deadline { context.loop.runTurn(until: deadline) }
    }

    // MARK: Names and addresses

    /// The addresses of a host, as the agent finds them.
    func resolve(_ host: String, _ port: UInt16) -> Result<[SocketAddress], DialError> {
        if host == "localhost" { return .success(["127.0.0.1", "::1"].compactMap { SocketAddress(address: $0, port: port) }) }
        var answer: Result<[SocketAddress], ResolveError>?
        let resolution = context.resolver.resolve(host: host, port: port) { answer = $0 }
        wait(limit) { answer != nil }
        switch answer {
        case .success(let found): return .success(Array(found.prefix(DialMachine.addressesMax)))
        case .failure(let error): return .failure(.unresolved("lookup \(host): \(error)"))
        case nil:
            resolution.cancel()
            return .failure(.unresolved("lookup \(host): timed out"))
        }
    }

    /// What became of one address.
    struct Attempt {
        let address: SocketAddress
        /// nil: connected.
        let failure: DialError?
        let time: Duration
    }

    /// Tries all addresses at once, and returns what became of each, and the first of them that connected.
    func connect(_ addresses: [SocketAddress]) -> ([Attempt], Stream?) {
        let started = SystemClock.now
        let sockets = addresses.map { ProbeSocket(context.loop, $0) }
        wait(min(limit, .seconds(5))) { sockets.allSatisfy { $0.time != nil } || sockets.contains { $0.stream != nil } }
        // The others may be a moment behind.
        wait(.seconds(1)) { sockets.allSatisfy { $0.time != nil } }
        let attempts = sockets.map { socket in
            Attempt(
                address: socket.address, failure: socket.time == nil ? .timedOut : socket.failure.map { .failed($0) },
                time: socket.time ?? SystemClock.now - started)
        }
        let first = sockets.first { $0.stream != nil }
        for socket in sockets where socket !== first { socket.close() }
        return (attempts, first?.take())
    }

    // MARK: Above TCP

    /// The tunnel through a proxy: what came with its answer.
    func tunnel(_ tunnel: ProxyTunnel, over stream: Stream) -> Result<[UInt8], DialError> {
        var answer: Result<[UInt8], ConnectFailure>?
        let client = ConnectClient(context.loop, over: stream, request: tunnel.request, timeout: limit) { answer = $0 }
        wait(limit + .seconds(1)) { answer != nil }
        client.cancel()
        switch answer {
        case .success(let early): return .success(early)
        case .failure(let failure): return .failure(tunnel.error(failure))
        case nil: return .failure(.timedOut)
        }
    }

    /// What a TLS handshake came to.
    struct Secured {
        var channel: TLSChannel?
        var failure = ""
        var version = ""
        var cipher = ""
        var chain: [CertificateFacts] = []
    }

    func secure(_ stream: Stream, _ target: TLSTarget) -> Secured {
        var result = Secured()
        var isOver = false
        let start = TLSStart(target.engine, over: stream, context: target.context, name: target.name, limit: limit) { channel, failure in
            result.channel = channel
            result.failure = failure
            isOver = true
        }
        start.inspect = { session in
            result.version = session.version
            result.cipher = session.cipher
            result.chain = session.presented
        }
        wait(limit + .seconds(1)) { isOver }
        start.cancel()
        if !isOver { result.failure = "the TLS handshake took too long" }
        return result
    }

    /// What the server said to an upgrade, and what its clock said; nil: it does not say.
    func upgrade(_ channel: Channel, early: [UInt8], _ request: UpgradeRequest) -> (Result<Upgraded, UpgradeFailure>, date: Int64?) {
        var answer: Result<Upgraded, UpgradeFailure>?
        let client = UpgradeClient(
            context.loop, over: channel, isConnected: true, early: early, request: request, timeout: limit
        ) { answer = $0 }
        wait(limit + .seconds(1)) { answer != nil }
        let date = client.answerDate.flatMap(HTTPDate.seconds)
        return (answer ?? .failure(.timeout), date)
    }

    /// Says go-away on a session, with a ping behind it: the time to the answer, and how many streams came meanwhile, which are refused.
    func leave(_ carrier: WebSocketChannel) -> (time: Duration?, refused: Int) {
        let user = LeavingSession()
        let started = SystemClock.now
        let mux = MuxSession(context.loop, carrier: carrier, role: .client, delegate: user)
        mux.goAway(acceptingLate: true)
        wait(min(limit, .seconds(10))) { user.heardAt != nil || user.hasEnded }
        mux.close()
        settle()
        return (user.heardAt.map { $0 - started }, user.refused)
    }

    /// The status of `HEAD` at the path: nil and why there is none.
    func head(_ channel: Channel, host: String, path: String) -> (status: Int?, failure: String) {
        let reader = HeadReader()
        channel.delegate = reader
        channel.write("HEAD \(path) HTTP/1.1\r\nHost: \(host)\r\nUser-Agent: piko-diagnose\r\nConnection: close\r\n\r\n".utf8Span.span)
        channel.resumeReading()
        wait(limit) { reader.status != nil || !reader.failure.isEmpty }
        close(channel)
        return (reader.status, reader.failure.isEmpty ? "no answer to HEAD \(path) in time: timed out" : reader.failure)
    }

    func close(_ channel: Channel) {
        channel.delegate = nil
        channel.close()
        settle()
    }

    /// Lets connections end in good order.
    private func settle() {
        let deadline = SystemClock.now + .seconds(1)
        while context.loop.counters.handlesLingering > 0 || context.secure.counters.closing > 0, SystemClock.now < deadline {
            context.loop.runTurn(until: min(deadline, SystemClock.now + .milliseconds(10)))
        }
    }
}

/// One address that is tried.
private final class ProbeSocket: ChannelDelegate {
    let address: SocketAddress
    private let started = SystemClock.now
    private var attempt: Stream?
    /// Once it is connected.
    private(set) var stream: Stream?
    private(set) var failure: SystemError?
    /// Once it is known what became of it.
    private(set) var time: Duration?

    init(_ loop: Loop, _ address: SocketAddress) {
        self.address = address
        super.init()
        do throws(SystemError) {
            let stream = try Stream(loop, connectTo: address)
            attempt = stream
            stream.delegate = self
        } catch {
            failure = error
            time = .zero
        }
    }

    override func streamConnected(_ stream: Stream) {
        time = SystemClock.now - started
        self.stream = stream
    }

    override func channelFailed(_ channel: Channel, error: ChannelError) {
        if time == nil { time = SystemClock.now - started }
        if case .system(let code) = error {
            failure = SystemError(code: code, call: "connect")
        } else {
            failure = SystemError(code: 104, call: "connect")
        }
        attempt = nil
        stream = nil
    }

    /// The connection, which has no delegate from now on.
    func take() -> Stream? {
        let taken = stream
        taken?.delegate = nil
        attempt = nil
        stream = nil
        return taken
    }

    func close() {
        attempt?.delegate = nil
        attempt?.closeNow()
        attempt = nil
        stream = nil
    }
}

/// A session that ends as soon as it has begun.
private final class LeavingSession: MuxSessionDelegate {
    private(set) var heardAt: Instant?
    private(set) var hasEnded = false
    private(set) var refused = 0

    override func session(_ session: MuxSession, accepted channel: YamuxChannel) {
        refused += 1
        channel.abort()
    }

    override func sessionHeardGoAway(_ session: MuxSession) { heardAt = SystemClock.now }

    override func sessionEnded(_ session: MuxSession, error: ChannelError?) { hasEnded = true }
}

/// Reads the head of an answer.
private final class HeadReader: ChannelDelegate {
    private(set) var status: Int?
    private(set) var failure = ""
    private var bytes: [UInt8] = []
    private var parser = HeadParser(kind: .response, limits: HeadLimits())
    private var answer = Head()

    override func channel(_ channel: Channel, received piece: inout MutableSpan<UInt8>) {
        guard status == nil, failure.isEmpty else { return }
        for index in piece.indices { bytes.append(piece[index]) }
        do {
            if try parser.parse(bytes.span, into: &answer) == .complete { status = answer.status }
        } catch {
            failure = "the answer is not HTTP: \(error.reason)"
        }
    }

    override func channelEnded(_ channel: Channel) {
        if status == nil, failure.isEmpty { failure = "the connection ended without an answer" }
    }

    override func channelFailed(_ channel: Channel, error: ChannelError) {
        if status == nil, failure.isEmpty { failure = "the connection broke without an answer" }
    }
}
