// The configuration of the load generator: how much of what, and against which server.

/// What a benchmark does.
public struct BenchConfig: Configuration {
    /// The server.
    public struct Connect: Equatable, Sendable {
        public var proxyURL = ServerURL(host: "localhost", port: 8000)
        public var upstreamURL = ServerURL(host: "localhost", port: 8001)
        public var timeout = Duration.seconds(5)
        public var transport = TransportChoice.auto

        public init() {}
    }

    public var requests = 100_000
    public var clients = 100
    public var endpoints = 100
    public var upstreams = 100
    /// Bytes of a request's body.
    public var size = 1024
    public var connect = Connect()
    public var log = LogConfig()
    public var ioBackend = IOBackend.auto

    public init() {}

    public static let schema = Schema<BenchConfig>(
        [
            Setting("requests", \.requests, check: Rule.within(1...1_000_000_000), "How many requests to send in all."),
            Setting("clients", \.clients, check: Rule.within(1...65_536), "How many clients send at the same time."),
            Setting("endpoints", \.endpoints, check: Rule.within(1...65_536), "How many endpoints the requests go to."),
            Setting("upstreams", \.upstreams, check: Rule.within(1...65_536), "How many upstreams serve the endpoints."),
            Setting("size", \.size, check: Rule.within(0...1_073_741_824), "The bytes of each request's body."),
            Setting("connect.proxy_url", \.connect.proxyURL, "The server's proxy port."),
            Setting("connect.upstream_url", \.connect.upstreamURL, "The server's upstream port."),
            Setting("connect.timeout", \.connect.timeout, check: Rule.positive, "How long connecting may take."),
            Setting(
                "connect.transport", \.connect.transport,
                "How streams travel between the upstreams and the server: auto, direct or mux, as for piko agent."),
        ]
            + Setting.group("log", \.log, LogConfig.settings)
            + [Setting("io_backend", \.ioBackend, flag: "io-backend", IOBackend.help)])

    public func validate() throws(ConfigError) {
        if connect.proxyURL.isSecure || connect.upstreamURL.isSecure { throw ConfigError("connect: the benchmark talks http, not https") }
        if upstreams < endpoints { throw ConfigError("upstreams: \(upstreams) can't serve \(endpoints) endpoints") }
    }
}
