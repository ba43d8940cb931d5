// Connections to the server: TCP, a proxy's tunnel where one is on the way, TLS where its URL is an https one, then an HTTP upgrade,
// within one time limit. The agent's sessions and data connections and the connections of `forward` are made here.

internal import Base
internal import Config
internal import Reactor
internal import Transport

/// Why there is no connection to the server.
struct ConnectError: Error, CustomStringConvertible {
    /// The status of the answer, when there was one.
    var status: Int?
    var description: String
}

/// What is asked of the server.
struct ConnectTarget {
    /// Below the path of the server's URL.
    var path: String
    /// Further fields, each `Name: value`.
    var fields: [String] = []
    /// A protocol whose bytes are not framed, offered before WebSocket.
    var raw: StaticString?
    var offersWebSocket = true
    /// Whether the server is shown the token.
    var showsToken = true

    init(_ path: String) { self.path = path }
}

/// A connection to the server after the upgrade.
struct ServerConnection {
    let upgraded: Upgraded
    /// The other end as the socket has it: the server or the proxy.
    let peer: SocketAddress?
    /// The "host:port" of the proxy; nil: the peer is the server.
    let proxy: String?
}

extension TokenConfig {
    /// The token, from its file if it is in one; empty: there is none.
    func read() throws(ConfigError) -> String {
        guard !file.isEmpty else { return token }
        let text = try SecretFile.read(file, "connect.token_file", FileContents.read)
        if let refusal = TokenRule.token(text) { throw ConfigError("connect.token_file: \(file): \(refusal)") }
        return text
    }
}

/// Makes connections to one server.
final class ServerConnector {
    fileprivate let loop: Loop
    private let resolver: Resolver
    private let dialer: Dialer
    /// To the proxy that was used last.
    private var proxyDialer: Dialer?
    fileprivate let url: ServerURL
    /// From the first look-up to the 101.
    var timeout: Duration
    var token: TokenConfig
    /// For connections to come.
    var route: ProxyRoute
    /// nil: without TLS.
    fileprivate private(set) var tls: TLSTarget?

    init(
        loop: Loop, resolver: Resolver, url: ServerURL, timeout: Duration, token: TokenConfig = TokenConfig(), route: ProxyRoute = ProxyRoute(),
        tls: TLSTarget? = nil
    ) {
        self.resolver = resolver
        self.route = route
        self.tls = tls
        self.loop = loop
        self.token = token
        self.url = url
        self.timeout = timeout
        dialer = Dialer(loop: loop, resolver: resolver, host: url.host, port: url.port)
    }

    /// The server's address as configured, for logs.
    var target: String { dialer.target }

    /// What was read from the files of TLS again is for connections to come.
    func use(_ tls: TLSTarget?) { self.tls = tls }

    /// The dialer of a new connection, and what is asked of the proxy when it leads to one.
    fileprivate func way() throws(ConfigError) -> (Dialer, ProxyTunnel?) {
        guard let proxy = try route.proxy() else { return (dialer, nil) }
        let tunnel = ProxyTunnel(proxy: proxy, target: dialer.target)
        if let proxyDialer, proxyDialer.target == proxy.proxy.authority { return (proxyDialer, tunnel) }
        let made = Dialer(loop: loop, resolver: resolver, host: proxy.proxy.host, port: proxy.proxy.port)
        proxyDialer = made
        return (made, tunnel)
    }

    /// The fields with the tenant and the token, which is read anew when it is in a file.
    fileprivate func authorization() throws(ConfigError) -> [String] {
        let tenant = token.tenantID.isEmpty ? [] : ["x-piko-tenant-id: \(token.tenantID)"]
        let text = try token.read()
        return text.isEmpty ? tenant : tenant + ["Authorization: Bearer \(text)"]
    }

    /// Connects and upgrades. `completion` runs once, later, unless the attempt is cancelled.
    func connect(
        _ target: ConnectTarget, completion: @escaping (Result<ServerConnection, ConnectError>) -> Void
    ) -> ConnectAttempt {
        ConnectAttempt(connector: self, target: target, completion: completion)
    }
}

/// One attempt to connect to the server.
final class ConnectAttempt {
    private let connector: ServerConnector
    private let target: ConnectTarget
    private let deadline: Instant
    private var completion: ((Result<ServerConnection, ConnectError>) -> Void)?
    private var dial: ChannelDial?
    private var upgrade: UpgradeClient?
    private var proxy: String?
    /// Tells of a failure that was there before there was anything to wait for.
    private var failing: CallbackTimer?

    fileprivate init(
        connector: ServerConnector, target: ConnectTarget,
        completion: @escaping (Result<ServerConnection, ConnectError>) -> Void
    ) {
        self.connector = connector
        self.target = target
        self.completion = completion
        deadline = connector.loop.now + connector.timeout
        do throws(ConfigError) {
            let (dialer, tunnel) = try connector.way()
            start(dialer, tunnel)
        } catch {
            failing = CallbackTimer(connector.loop) { [self] in fail(error.description) }
            failing?.schedule(after: .zero)
        }
    }

    private func start(_ dialer: Dialer, _ tunnel: ProxyTunnel?) {
        proxy = tunnel?.proxy.proxy.authority
        dial = ChannelDial(
            dialer, tunnel: tunnel, tls: connector.tls, timeout: connector.timeout,
            prepare: { stream in
                stream.setNoDelay()
                stream.limitUnsent()
                // Finds a peer that vanished while nothing is sent; no limit on unacknowledged data, which would also cut a
                // server that reads slowly.
                stream.setKeepAlive(idle: .seconds(15), interval: .seconds(15), count: 3, userTimeout: .zero)
            }, completion: { [self] result in dialed(result) })
    }

    /// Gives up: no completion follows.
    func cancel() {
        completion = nil
        dial?.cancel()
        upgrade?.cancel()
        failing = nil
        dial = nil
        upgrade = nil
    }

    private func dialed(_ result: Result<Channel, DialError>) {
        let early = dial?.early ?? []
        dial = nil
        switch result {
        case .failure(let error):
            fail(error.description)
        case .success(let channel):
            let peer = channel.peer
            let authorization: [String]
            do throws(ConfigError) {
                authorization = target.showsToken ? try connector.authorization() : []
            } catch {
                channel.abort()
                fail(error.description)
                return
            }
            var request = UpgradeRequest(
                target: connector.url.pathPrefix + target.path, host: connector.url.authority, raw: target.raw,
                webSocket: target.offersWebSocket)
            request.fields = target.fields
            request.fields += authorization
            upgrade = UpgradeClient(
                connector.loop, over: channel, isConnected: true, early: early, request: request,
                timeout: deadline - connector.loop.now
            ) { [self] result in upgraded(result, peer: peer) }
        }
    }

    private func upgraded(_ result: Result<Upgraded, UpgradeFailure>, peer: SocketAddress?) {
        upgrade = nil
        switch result {
        case .success(let upgraded):
            finish(.success(ServerConnection(upgraded: upgraded, peer: peer, proxy: proxy)))
        case .failure(let failure):
            var status: Int?
            if case .refused(let code, _) = failure { status = code }
            finish(.failure(ConnectError(status: status, description: failure.text)))
        }
    }

    private func fail(_ description: String) {
        failing = nil
        finish(.failure(ConnectError(status: nil, description: description)))
    }

    private func finish(_ result: Result<ServerConnection, ConnectError>) {
        let completion = self.completion
        self.completion = nil
        completion?(result)
    }
}
