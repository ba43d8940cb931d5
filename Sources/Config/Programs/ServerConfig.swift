// The configuration of a server node: of the supervisor, and by it of its workers.

/// What a server node does.
public struct ServerConfig: Configuration {
    /// The port that clients talk to.
    public struct Proxy: Equatable, Sendable {
        public var bindAddress = BindAddress(host: "", port: 8000)
        public var advertiseAddress = AdvertiseAddress()
        /// The time to the head of a response; zero means no limit.
        public var timeout = Duration.seconds(30)
        /// How long a request waits for an agent to come back; zero means not at all.
        public var reconnectWait = Duration.seconds(2)
        public var accessLog = AccessLogConfig()
        /// Whether requests go on without a `traceparent` and an `x-request-id` of ours.
        public var isTraceDisabled = false
        public var http = HTTP()
        /// Requests that wait for an agent at one worker, and the bytes that they hold.
        public var waitingMax = 4_096
        public var waitingBytesMax = 33_554_432
        public var entrance = Entrance()
        public var tls = PortTLS()
        /// Towards the proxy and admin ports of other nodes.
        public var nodeTLS = ClientTLS()
        public var auth = AuthConfig()

        public init() {}
    }

    /// Limits of client connections.
    public struct HTTP: Equatable, Sendable {
        /// The longest time without a byte of a request's body; zero means no limit.
        public var readTimeout = Duration.seconds(60)
        /// The time for a request's head; zero means no limit.
        public var readHeaderTimeout = Duration.seconds(10)
        /// The longest time in which the client takes no byte of a response that waits for it; zero means no limit.
        public var writeTimeout = Duration.seconds(60)
        /// How long a connection waits for its next request; zero means no limit.
        public var idleTimeout = Duration.seconds(300)
        /// The largest head of a request.
        public var headBytesMax = 1_048_576
        /// The most field lines of a head.
        public var headersMax = 200
        /// The bytes a second that a request's body has to bring; zero: no more than `readTimeout` asks for.
        public var bodyRateMin = 0

        public init() {}
    }

    /// The port for people and for what watches the node.
    public struct Port: Equatable, Sendable {
        public var bindAddress: BindAddress
        public var advertiseAddress = AdvertiseAddress()
        public var entrance = Entrance()
        public var tls = PortTLS()
        public var auth = AuthConfig()

        public init(port: UInt16) { bindAddress = BindAddress(host: "", port: port) }
    }

    /// The port that agents talk to.
    public struct Upstream: Equatable, Sendable {
        public var bindAddress = BindAddress(host: "", port: 8001)
        public var advertiseAddress = AdvertiseAddress()
        public var rebalance = Rebalance()
        public var direct = Direct()
        /// Tunnels of the node.
        public var tunnelsMax = 262_144
        /// Streams of one tunnel.
        public var streamsMax = 16_384
        public var entrance = Entrance()
        public var tls = PortTLS()
        public var auth = AuthConfig()
        /// With one, the port is for tenants' agents only.
        public var tenants: [TenantConfig] = []

        public init() {}
    }

    /// Data connections beside agents' sessions.
    public struct Direct: Equatable, Sendable {
        public var isEnabled = true
        /// Data connections of one endpoint that a worker takes.
        public var connectionsMax = 1_024
        /// Those of one listener of an agent that may wait for a stream.
        public var idleMax = 128
        /// How long a data connection may wait for a stream.
        public var idleTimeout = Duration.seconds(60)

        public init() {}
    }

    /// The node's own processes.
    public struct Process: Equatable, Sendable {
        /// How many workers; zero means one for each processor that the process may use.
        public var workers = 0
        /// The control socket's path; empty means the first of `ControlSocketPath.candidates` that can be used.
        public var controlSocket = ""
        public var ioBackend = IOBackend.auto
        /// Who the workers are, `USER` or `USER:GROUP`; empty means `defaultUsers` when the server is root, else who it is.
        public var user = ""
        /// Whether workers are held to the system calls that they need.
        public var isFiltered = true

        public init() {}
    }

    /// How one generation of workers follows another.
    public struct Reload: Equatable, Sendable {
        /// How long a worker of an old generation may go on; zero means as long as it has connections.
        public var drainTimeout = Duration.zero
        /// Generations that live at the same time.
        public var generationsMax = 8

        public init() {}
    }

    public var proxy = Proxy()
    public var upstream = Upstream()
    public var admin = Port(port: 8002)
    public var cluster = Cluster()
    public var log = LogConfig()
    /// The time that requests and tunnels have to end after SIGTERM.
    public var gracePeriod = Duration.seconds(60)
    /// The time between the end of readiness and the end of accepting, after SIGTERM.
    public var shutdownDelay = Duration.zero
    public var reload = Reload()
    public var server = Process()
    public var trustedProxies = TrustedProxies()

    public init() {}

    public static let schema = Schema<ServerConfig>(
        Setting.group("proxy", \.proxy, Proxy.settings)
            + Setting.group("proxy", \.proxy.entrance, Entrance.settings)
            + [
                Setting(
                    "upstream.bind_addr", \.upstream.bindAddress,
                    "Where agents connect. Without a host: all addresses, IPv6 and IPv4."),
                Setting(
                    "upstream.advertise_addr", \.upstream.advertiseAddress,
                    AdvertiseAddress.help("upstream.bind_addr")),
                Setting(
                    "upstream.limits.max_tunnels", \.upstream.tunnelsMax, check: Rule.within(1...262_144),
                    "The most tunnels that the node has at once. An agent that comes beyond gets 503, and tries again."),
                Setting(
                    "upstream.limits.max_streams", \.upstream.streamsMax, check: Rule.within(1...1_048_576),
                    "The most streams that one tunnel carries at once. A request beyond waits for one, at most proxy.timeout."),
            ]
            + Setting.group("upstream.auth", \.upstream.auth, AuthConfig.settings(hasEndpoints: true, hasTunnels: true))
            + Setting.group("upstream.rebalance", \.upstream.rebalance, Rebalance.settings)
            + Setting.group("upstream.direct", \.upstream.direct, Direct.settings)
            + Setting.group("upstream.tls", \.upstream.tls, PortTLS.settings)
            + Setting.group("upstream", \.upstream.entrance, Entrance.settings)
            + [
                Setting(
                    "admin.bind_addr", \.admin.bindAddress,
                    "Where /health, /ready, /metrics and /status answer. Without a host: all addresses, IPv6 and IPv4."),
                Setting("admin.advertise_addr", \.admin.advertiseAddress, AdvertiseAddress.help("admin.bind_addr")),
            ]
            + Setting.group("admin.auth", \.admin.auth, AuthConfig.settings(hasEndpoints: false, hasTunnels: false))
            + Setting.group("admin.tls", \.admin.tls, PortTLS.settings)
            + Setting.group("admin", \.admin.entrance, Entrance.settings)
            + [TrustedProxies.setting]
            + Setting.group("cluster", \.cluster, Cluster.settings)
            + Setting.group("log", \.log, LogConfig.settings)
            + [
                Setting(
                    "grace_period", \.gracePeriod, check: Rule.positive,
                    "How long requests and tunnels may go on after SIGTERM before they are cut."),
                Setting(
                    "shutdown_delay", \.shutdownDelay, check: Rule.notNegative,
                    """
                    How long the node goes on as before after SIGTERM, but for /ready, which says 503 at once, and answers to \
                    clients, which say "Connection: close": the time that a load balancer needs to send clients and agents \
                    elsewhere. grace_period begins after it.
                    """),
            ]
            + Setting.group("reload", \.reload, Reload.settings)
            + Setting.group("server", \.server, Process.settings),
        lists: [
            SettingList(
                "upstream.tenants", \.upstream.tenants, new: { TenantConfig() }, TenantConfig.settings,
                """
                Tenants, each with its own keys and its own namespace of endpoints (docs/tokens.md). With one, the upstream port \
                takes agents of tenants only, and upstream.auth counts for nobody.
                """)
        ])

    public mutating func readFiles<Failure: Error>(
        _ read: (_ path: String, _ bytesMax: Int) throws(Failure) -> [UInt8]
    ) throws(ConfigError) {
        try cluster.gossip.readKeys(read)
        try proxy.auth.readFiles("proxy.auth", read)
        try upstream.auth.readFiles("upstream.auth", read)
        try admin.auth.readFiles("admin.auth", read)
        for index in upstream.tenants.indices {
            try upstream.tenants[index].auth.readFiles("upstream.tenants.\(index).auth", read)
            try upstream.tenants[index].proxyAuth.readFiles("upstream.tenants.\(index).proxy_auth", read)
        }
    }

    public func validate() throws(ConfigError) {
        if cluster.gossip.secretKeys.count > ClusterRule.keysMax {
            throw ConfigError("cluster.gossip: has more than \(ClusterRule.keysMax) keys")
        }
        if cluster.join.count > 64 { throw ConfigError("cluster.join: has more than 64 addresses") }
        try proxy.accessLog.validate("proxy.access_log")
        try proxy.tls.validate("proxy.tls")
        try proxy.nodeTLS.validate("proxy.tls.client")
        try upstream.tls.validate("upstream.tls")
        try admin.tls.validate("admin.tls")
        try proxy.auth.validate("proxy.auth")
        try upstream.auth.validate("upstream.auth")
        try admin.auth.validate("admin.auth")
        try TenantConfig.validate(upstream.tenants, "upstream.tenants")
        try trustedProxies.validate()
        for (path, entrance) in [("proxy", proxy.entrance), ("upstream", upstream.entrance), ("admin", admin.entrance)] {
            try entrance.validate(path, hasTrusted: !trustedProxies.blocks.isEmpty)
        }
        // Workers get it in one message.
        let all = flattened
        for (key, value) in all where value.utf8.count > 65_536 {
            throw ConfigError("\(key): is longer than 65,536 bytes")
        }
        if all.count > 2_000 || all.reduce(0, { $0 + $1.0.utf8.count + $1.1.utf8.count + 6 }) > 120_000 {
            throw ConfigError("it holds too much: 2,000 values and 120,000 bytes are the most in all, keys in files included")
        }
        if upstream.direct.idleMax > upstream.direct.connectionsMax {
            throw ConfigError("upstream.direct.max_idle: is more than upstream.direct.max_connections")
        }
    }
}

extension ServerConfig.Proxy {
    static let settings: [Setting<ServerConfig.Proxy>] =
        [
            Setting(
                "bind_addr", \.bindAddress,
                "Where clients' requests arrive. Without a host: all addresses, IPv6 and IPv4."),
            Setting("advertise_addr", \.advertiseAddress, AdvertiseAddress.help("proxy.bind_addr")),
            Setting(
                "timeout", \.timeout, check: Rule.notNegative,
                """
                How long to wait for the head of a response before the client gets 504. Bodies, event streams and \
                upgraded connections may take any time. 0 means no limit.
                """),
            Setting(
                "reconnect_wait", \.reconnectWait, check: Rule.notNegative,
                """
                How long a request waits for an agent when the endpoint's last one went away a moment ago, before the client \
                gets 502. 0 means not at all.
                """),
            Setting(
                "limits.max_waiting_requests", \.waitingMax, check: Rule.within(0...1_048_576),
                "The most requests that wait for an agent (reconnect_wait) at one worker. Further ones get 502 at once."),
            Setting(
                "limits.max_waiting_bytes", \.waitingBytesMax, check: Rule.within(0...1_099_511_627_776),
                "The most bytes that the requests which wait for an agent hold at one worker. Further ones get 502 at once."),
        ]
        + Setting.group("access_log", \.accessLog, AccessLogConfig.settings)
        + [
            Setting(
                "trace.disable", \.isTraceDisabled,
                """
                Give requests without a traceparent (W3C Trace Context) or an x-request-id none, and pass on whatever comes there. \
                Without this, those that come without get one, and those that are not valid are replaced.
                """)
        ]
        + Setting.group("http", \.http, ServerConfig.HTTP.settings)
        + Setting.group("auth", \.auth, AuthConfig.settings(hasEndpoints: true, hasTunnels: false))
        + Setting.group("tls", \.tls, PortTLS.settings)
        + Setting.group("tls.client", \.nodeTLS, ClientTLS.nodeSettings)
}

extension ServerConfig.Reload {
    static let settings: [Setting<ServerConfig.Reload>] = [
        Setting(
            "drain_timeout", \.drainTimeout, check: Rule.notNegative,
            """
            How long connections may stay with the workers of before a reload or an upgrade. Only those stay that can't move: \
            running requests, TCP connections and WebSockets. 0 means for as long as they last.
            """),
        Setting(
            "max_generations", \.generationsMax, check: Rule.within(2...64),
            "How many generations of workers may live at the same time. Of more, the oldest has 10 seconds to finish."),
    ]
}

extension ServerConfig.Direct {
    static let settings: [Setting<ServerConfig.Direct>] = [
        Setting(
            "enabled", \.isEnabled,
            """
            Offer agents the direct transport: one TCP connection for each stream, whose bytes the kernel carries, beside \
            the session. Agents that do not know it are served as ever.
            """),
        Setting(
            "max_connections", \.connectionsMax, check: Rule.within(1...65_536),
            "The most data connections of one endpoint that a worker takes. Beyond, streams go through the sessions."),
        Setting(
            "max_idle", \.idleMax, check: Rule.within(1...65_536),
            "The most data connections that one listener of an agent keeps waiting for streams."),
        Setting(
            "idle_timeout", \.idleTimeout, check: Rule.positive,
            "How long a data connection may wait for a stream before it is closed."),
    ]
}

extension ServerConfig.HTTP {
    static let settings: [Setting<ServerConfig.HTTP>] = [
        Setting(
            "read_timeout", \.readTimeout, check: Rule.notNegative,
            """
            The longest time without progress of a request's body. It does not bound the whole upload, which may take \
            any time while bytes arrive. 0 means no limit.
            """),
        Setting(
            "read_header_timeout", \.readHeaderTimeout, check: Rule.notNegative,
            "How long a request's head may take from its first byte. 0 means no limit."),
        Setting(
            "write_timeout", \.writeTimeout, check: Rule.notNegative,
            """
            The longest time without progress of a response that waits for the client to take it. It does not bound the \
            whole response: long downloads and event streams are not cut. 0 means no limit.
            """),
        Setting(
            "idle_timeout", \.idleTimeout, check: Rule.notNegative,
            "How long a connection may wait for its next request. 0 means no limit."),
        Setting(
            "max_header_bytes", \.headBytesMax, check: Rule.within(1024...16_777_216),
            "The largest head of a request: its first line and headers, in bytes."),
        Setting(
            "max_headers", \.headersMax, check: Rule.within(16...10_000),
            "The most header lines of a request. More get 431."),
        Setting(
            "min_body_rate", \.bodyRateMin, check: Rule.within(0...1_000_000_000),
            """
            The bytes a second that a request's body has to bring, on the average of each stretch of read_timeout; one that \
            is slower is cut with 408. Time in which the service takes nothing does not count. It does not concern responses. 0 \
            means that one byte in read_timeout is enough.
            """),
    ]
}

extension ServerConfig.Process {
    static let settings: [Setting<ServerConfig.Process>] = [
        Setting(
            "workers", \.workers, check: Rule.within(0...1024),
            "How many worker processes carry the traffic. 0 means one for each processor."),
        Setting(
            "control_socket", \.controlSocket, placeholder: "PATH", check: Rule.socketPath,
            """
            The Unix socket for commands such as piko server info. By default piko/server.sock in $XDG_RUNTIME_DIR if \
            that is set, else /run/piko/server.sock, or /tmp/piko-UID/server.sock where /run can't be written.
            """),
        Setting("io_backend", \.ioBackend, flag: "io-backend", IOBackend.help),
        Setting(
            "user", \.user, check: Rule.account,
            """
            The user that the workers run as, when the server is root: USER or USER:GROUP, names or numbers. By default \
            piko, or nobody where there is no such user. root leaves them root, without capabilities. See docs/security.md.
            """),
        Setting(
            "seccomp", \.isFiltered,
            """
            Hold each worker to the system calls that it needs; any other ends it. See docs/security.md.
            """),
    ]
}

/// Where a node's control socket is when no path is configured.
public enum ControlSocketPath {
    /// That of a service of the system.
    public static let system = "/run/piko/server.sock"

    /// The paths to try, best first. A server takes the first whose directory it has or can make; commands ask the
    /// first one that exists.
    public static func candidates(environment: [String: String], userID: UInt32) -> [String] {
        if let runtime = environment["XDG_RUNTIME_DIR"], runtime.hasPrefix("/") {
            return ["\(runtime)/piko/server.sock"]
        }
        return [system, "/tmp/piko-\(userID)/server.sock"]
    }
}
