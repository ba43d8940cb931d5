// The configuration of an agent: the endpoints it listens on at the server, and the service behind each.

/// What an agent does.
public struct AgentConfig: Configuration {
    /// The server.
    public struct Connect: Equatable, Sendable {
        public var url = ServerURL(host: "localhost", port: 8001)
        /// Several servers in its place, as they were written; empty: `url` it is.
        public var urls: [String] = []
        /// How many of them each listener is connected to at once.
        public var redundancy = 1
        /// The time for one attempt, to the end of the upgrade.
        public var timeout = Duration.seconds(30)
        public var transport = TransportChoice.auto
        /// For a server with an https URL.
        public var tls = ClientTLS()
        public var token = TokenConfig()
        /// On the way to the server.
        public var proxy = ProxyConfig()

        public init() {}

        /// The servers, at least one. Those of `urls` were checked when they were read.
        public var servers: [ServerURL] {
            urls.isEmpty ? [url] : urls.compactMap { try? ServerURL(settingText: $0) }
        }

        /// Most servers that a list may have.
        static let serversMax = 32

        func validate() throws(ConfigError) {
            let servers = servers
            if !urls.isEmpty, url != Connect().url, !servers.contains(url) {
                throw ConfigError("connect.url: is none of connect.urls, which takes its place; name the servers in one of the two")
            }
            if servers.count > Self.serversMax { throw ConfigError("connect.urls: has more than \(Self.serversMax) servers") }
            if let twice = servers.indices.first(where: { servers[..<$0].contains(servers[$0]) }) {
                throw ConfigError("connect.urls: names \(servers[twice].settingText) twice")
            }
            if redundancy > servers.count {
                throw ConfigError(
                    "connect.redundancy: is \(redundancy), but \(urls.isEmpty ? "connect.url is one server" : "connect.urls has \(servers.count)"); each of a listener's tunnels goes to a server of its own")
            }
        }
    }

    /// The agent's own port, for metrics.
    public struct Metrics: Equatable, Sendable {
        public var isEnabled = false
        public var bindAddress = BindAddress(host: "", port: 5000)

        public init() {}
    }

    public var listeners: [ListenerConfig] = []
    public var connect = Connect()
    /// The keys under `server`.
    public var metrics = Metrics()
    public var log = LogConfig()
    /// The time that requests have to end after SIGTERM.
    public var gracePeriod = Duration.seconds(60)
    /// After a reload by which no listener connects for so long, the configuration before comes back; zero: never.
    public var revertAfter = Duration.zero
    /// The time that they have on what a reload or an upgrade took out of use; zero means no limit.
    public var drainTimeout = Duration.zero
    public var ioBackend = IOBackend.auto

    public init() {}

    public static let schema = Schema<AgentConfig>(
        [
            Setting(
                "connect.url", \.connect.url,
                """
                The server's upstream port. A path is put in front of the protocol's own, for servers behind a proxy.
                """),
            Setting(
                "connect.urls", list: \.connect.urls, placeholder: "URL", check: Rule.serverURL,
                """
                Several servers, in place of connect.url: nodes of one cluster. A listener that loses its server, or does not reach it, \
                goes on to the next; each begins at one of them at random.
                """),
            Setting(
                "connect.redundancy", \.connect.redundancy, check: Rule.within(1...8),
                """
                How many of the servers of connect.urls each listener is connected to at once. With 2, a node that dies takes no \
                listener off the network, not even for a moment.
                """),
            Setting(
                "connect.timeout", \.connect.timeout, check: Rule.positive,
                "How long one attempt to connect to the server may take. The agent tries again for ever."),
            Setting(
                "connect.transport", \.connect.transport,
                """
                How streams travel. direct opens a TCP connection for each beside the session, which costs both sides \
                far less; mux sends all through the session, as every Piko server knows it. auto takes direct where the \
                server does.
                """),
        ]
            + Setting.group("connect", \.connect.token, TokenConfig.settings)
            + Setting.group("connect", \.connect.proxy, ProxyConfig.settings)
            + Setting.group("connect.tls", \.connect.tls, ClientTLS.settings)
            + [
                Setting("server.enabled", \.metrics.isEnabled, "Serve the agent's metrics over HTTP, at /metrics."),
                Setting("server.bind_addr", \.metrics.bindAddress, "Where the agent serves its metrics."),
            ]
            + Setting.group("log", \.log, LogConfig.settings)
            + [
                Setting(
                    "grace_period", \.gracePeriod, check: Rule.positive,
                    "How long requests may go on after SIGTERM before they are cut."),
                Setting(
                    "reload.drain_timeout", \.drainTimeout, check: Rule.notNegative,
                    """
                    How long requests and connections may go on at a listener that a reload removed or changed, and in the old \
                    process after an upgrade, before they are cut. 0 means for as long as it takes.
                    """),
                Setting(
                    "reload.revert_after", \.revertAfter, check: Rule.notNegative,
                    """
                    When no listener is connected for so long after a reload, though one was before it, the agent goes back to the \
                    configuration that it had. For devices that nobody can walk to. 0 means never.
                    """),
                Setting("io_backend", \.ioBackend, flag: "io-backend", IOBackend.help),
            ],
        lists: [
            SettingList(
                "listeners", \.listeners, new: { ListenerConfig() }, ListenerConfig.settings,
                "The endpoints to listen on at the server, and the service behind each.")
        ])

    public func validate() throws(ConfigError) {
        try connect.validate()
        if revertAfter > .zero, revertAfter < connect.timeout {
            throw ConfigError(
                "reload.revert_after: is shorter than connect.timeout (\(connect.timeout.settingText)), the time of one attempt to connect")
        }
        try connect.tls.validate("connect.tls")
        try connect.token.validate()
        try connect.proxy.validate()
        for (index, listener) in listeners.enumerated() { try listener.validate("listeners.\(index)") }
    }
}

/// What a listener's connections carry.
public enum ListenerProtocol: String, Sendable, SettingWord {
    case http, tcp
}

/// How a TCP service is told who its client is.
public enum ProxyProtocolChoice: String, Sendable, SettingWord {
    case off, v1, v2
}

/// One endpoint and the service behind it.
public struct ListenerConfig: Equatable, Sendable {
    /// How the service is talked to.
    public struct HTTPClient: Equatable, Sendable {
        /// The interval of TCP keep-alive probes; zero means none.
        public var keepAliveTimeout = Duration.seconds(30)
        /// How long an idle connection is kept; zero means for ever.
        public var idleConnectionTimeout = Duration.seconds(90)
        /// How many idle connections are kept; zero keeps none, -1 sets no limit.
        public var idleConnectionsMax = 100
        /// Has no effect; see the key's help.
        public var isCompressionDisabled = false

        public init() {}
    }

    public var endpointID: String
    public var address: ServiceAddress
    public var `protocol` = ListenerProtocol.http
    public var accessLog = AccessLogConfig()
    /// HTTP: the time to the head of a response. TCP: the time to connect to the service. Zero means no limit.
    public var timeout = Duration.seconds(10)
    public var httpClient = HTTPClient()
    /// For a service with an https URL.
    public var tls = ClientTLS()
    public var proxyProtocol = ProxyProtocolChoice.off

    public init(endpointID: String, address: ServiceAddress, protocol: ListenerProtocol = .http) {
        self.endpointID = endpointID
        self.address = address
        self.protocol = `protocol`
    }

    /// An element before its required keys are set.
    init() { self.init(endpointID: "", address: ServiceAddress(host: "", port: 0)) }

    static let settings: [Setting<ListenerConfig>] =
        [
            Setting(
                "endpoint_id", \.endpointID, isRequired: true, check: Rule.endpoint, "The endpoint's name at the server."),
            Setting(
                "addr", \.address, isRequired: true,
                "The service: a port of this machine, host:port, or an http or https URL. A URL's path is put in front of each request's."),
            Setting(
                "protocol", \.protocol,
                "What connections carry: http requests, which are logged and forwarded one by one, or the bytes of tcp."),
        ] + optionSettings + tcpOnlySettings

    /// The keys that are also flags of `agent http`.
    static let optionSettings: [Setting<ListenerConfig>] =
        Setting.group("access_log", \.accessLog, AccessLogConfig.settings)
        + [
            Setting(
                "timeout", \.timeout, check: Rule.notNegative,
                """
                HTTP: how long the service may take to the head of its response before the client gets 504. TCP: how long \
                connecting to the service may take. 0 means no limit.
                """),
            Setting(
                "http_client.keep_alive_timeout", \.httpClient.keepAliveTimeout, check: Rule.notNegative,
                "The interval of TCP keep-alive probes on connections to the service. 0 means none."),
            Setting(
                "http_client.idle_conn_timeout", \.httpClient.idleConnectionTimeout, check: Rule.notNegative,
                "How long an idle connection to the service is kept for the next request. 0 means no limit."),
            Setting(
                "http_client.max_idle_conns", \.httpClient.idleConnectionsMax, check: Rule.within(-1...65_536),
                "How many idle connections to the service are kept. 0 keeps none, -1 sets no limit."),
            Setting(
                "http_client.disable_compression", \.httpClient.isCompressionDisabled,
                """
                Accepted for the sake of existing files. The agent passes bodies on as they are and never asks for a \
                compression that the client did not ask for.
                """),
        ]
        + Setting.group("tls", \.tls, ClientTLS.settings)

    /// The keys that are also flags of `agent tcp`.
    static let tcpOptionSettings = optionSettings.filter {
        ["access_log.level", "access_log.disable", "timeout"].contains($0.path)
    } + tcpOnlySettings

    private static let tcpOnlySettings: [Setting<ListenerConfig>] = [
        Setting(
            "proxy_protocol", \.proxyProtocol,
            """
            TCP: whether each connection to the service begins with a header of the PROXY protocol, and of which version, that says \
            who the client is. The service must expect it. A server that does not say who its clients are (one that is not of this \
            version) makes it a header without addresses.
            """)
    ]

    func validate(_ path: String) throws(ConfigError) {
        try accessLog.validate("\(path).access_log")
        try tls.validate("\(path).tls")
        if self.protocol != .tcp && proxyProtocol != .off {
            throw ConfigError("\(path).proxy_protocol: is for tcp listeners; an http service is told by X-Forwarded-For")
        }
        if self.protocol == .tcp && address.isURL {
            throw ConfigError("\(path).addr: a tcp listener takes a port or host:port, not a URL")
        }
    }
}
