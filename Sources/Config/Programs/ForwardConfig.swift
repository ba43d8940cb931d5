// The configuration of `forward`: local TCP ports, and the endpoint that each leads to.

/// What `forward` does.
public struct ForwardConfig: Configuration {
    /// A local port and its endpoint.
    public struct Port: Equatable, Sendable {
        public var address: LocalAddress
        public var endpointID: String

        public init(address: LocalAddress, endpointID: String) {
            self.address = address
            self.endpointID = endpointID
        }

        /// An element before its required keys are set.
        init() { self.init(address: LocalAddress(BindAddress(host: "", port: 0)), endpointID: "") }

        static let settings: [Setting<Port>] = [
            Setting(
                "addr", \.address, isRequired: true,
                "Where to listen: a port, which only this machine reaches, or host:port. \":port\" means all addresses."),
            Setting(
                "endpoint_id", \.endpointID, isRequired: true, check: Rule.endpoint,
                "The endpoint that connections are forwarded to."),
        ]
    }

    /// The server.
    public struct Connect: Equatable, Sendable {
        public var url = ServerURL(host: "localhost", port: 8000)
        /// The time to the end of the upgrade.
        public var timeout = Duration.seconds(30)
        public var transport = TransportChoice.auto
        /// For a server with an https URL.
        public var tls = ClientTLS()
        public var token = TokenConfig()
        /// On the way to the server.
        public var proxy = ProxyConfig()

        public init() {}
    }

    public var ports: [Port] = []
    public var connect = Connect()
    public var log = LogConfig()
    public var ioBackend = IOBackend.auto

    public init() {}

    public static let schema = Schema<ForwardConfig>(
        [
            Setting(
                "connect.url", \.connect.url,
                "The server's proxy port. A path is put in front of the protocol's own, for servers behind a proxy."),
            Setting(
                "connect.timeout", \.connect.timeout, check: Rule.positive,
                "How long it may take to reach the endpoint before a connection is closed."),
            Setting(
                "connect.transport", \.connect.transport,
                """
                How a connection's bytes travel. direct sends them as they are, mux in WebSocket messages, as every Piko \
                server knows it. auto takes direct where the server does.
                """),
        ]
            + Setting.group("connect", \.connect.token, TokenConfig.settings)
            + Setting.group("connect", \.connect.proxy, ProxyConfig.settings)
            + Setting.group("connect.tls", \.connect.tls, ClientTLS.settings)
            + Setting.group("log", \.log, LogConfig.settings)
            + [Setting("io_backend", \.ioBackend, flag: "io-backend", IOBackend.help)],
        lists: [
            SettingList(
                "ports", \.ports, new: { Port() }, Port.settings, "The local ports, and the endpoint that each leads to.")
        ])

    public func validate() throws(ConfigError) {
        try connect.token.validate()
        try connect.proxy.validate()
        try connect.tls.validate("connect.tls")
    }
}
