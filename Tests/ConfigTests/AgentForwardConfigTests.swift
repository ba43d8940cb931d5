// The agent's and forward's configurations: from files with lists, and from arguments.
import Base
import Config
import Testing

@Suite struct AgentConfigTests {
    static let text = """
        listeners:
          - endpoint_id: my-endpoint
            addr: 3000
          - endpoint_id: second
            addr: 10.0.0.7:5432
            protocol: tcp
            timeout: 1s
            access_log: {level: debug, disable: true, request_headers: {allow_list: [a, b]}, response_headers: {block_list: [c]}}
            http_client:
              keep_alive_timeout: 2s
              idle_conn_timeout: 3s
              max_idle_conns: -1
              disable_compression: true
        connect: {url: "http://piko:1/x", timeout: 4s}
        server: {enabled: true, bind_addr: ":6"}
        log: {level: warn}
        grace_period: 7s
        reload: {drain_timeout: 8s}
        io_backend: epoll
        """

    @Test func takesEveryKeyFromAFile() throws {
        let config = try load(AgentConfig.self, "agent start --config.path f", Self.text)
        #expect(config.listeners.count == 2)
        #expect(config.listeners[0] == ListenerConfig(endpointID: "my-endpoint", address: ServiceAddress(host: "localhost", port: 3000)))
        #expect(config.listeners[0].timeout == .seconds(10))
        var second = ListenerConfig(endpointID: "second", address: ServiceAddress(host: "10.0.0.7", port: 5432), protocol: .tcp)
        second.timeout = .seconds(1)
        second.accessLog.level = .debug
        second.accessLog.isDisabled = true
        second.accessLog.requestHeaders.allowList = ["a", "b"]
        second.accessLog.responseHeaders.blockList = ["c"]
        second.httpClient.keepAliveTimeout = .seconds(2)
        second.httpClient.idleConnectionTimeout = .seconds(3)
        second.httpClient.idleConnectionsMax = -1
        second.httpClient.isCompressionDisabled = true
        #expect(config.listeners[1] == second)
        #expect(config.connect.url == ServerURL(host: "piko", port: 1, pathPrefix: "/x"))
        #expect(config.connect.timeout == .seconds(4))
        #expect(config.metrics.isEnabled && config.metrics.bindAddress.port == 6)
        #expect(config.log.level == .warn && config.gracePeriod == .seconds(7) && config.drainTimeout == .seconds(8) && config.ioBackend == .epoll)
        #expect(try AgentConfig(flattened: config.flattened) == config)
    }

    /// A reload names the keys that the file changed and a flag fixes, whatever the flag says.
    @Test func keysThatFlagsFix() throws {
        let words = try invocation("agent start --config.path f --grace-period 1s --log.level=warn --connect.url http://c:2")
        func loaded(_ text: String) throws -> LoadedConfiguration<AgentConfig> {
            try LoadedConfiguration(words, environment: [:]) { (_, _) throws(ConfigError) in Array(text.utf8) }
        }
        let first = try loaded(Self.text)
        #expect(first.value.gracePeriod == .seconds(1) && first.value.drainTimeout == .seconds(8))
        #expect(try loaded(Self.text).keysFixedByFlags(since: first) == [])
        let second = try loaded(
            Self.text.replacing("grace_period: 7s", with: "grace_period: 9s").replacing("http://piko:1/x", with: "http://d:3")
                .replacing("drain_timeout: 8s", with: "drain_timeout: 1s"))
        #expect(second.keysFixedByFlags(since: first) == ["connect.url", "grace_period"])
        #expect(second.value.gracePeriod == .seconds(1) && second.value.drainTimeout == .seconds(1))
        #expect(second.value.connect.url.host == "c")
        #expect(throws: ConfigError.self) { try loaded("listeners: []") }
    }

    @Test func argumentsReplaceTheListeners() throws {
        let config = try load(
            AgentConfig.self, "agent http e http://a:1/b --timeout 0 --access-log.level error --connect.url http://c:2", Self.text)
        #expect(config.listeners.count == 1)
        #expect(config.listeners[0].endpointID == "e" && config.listeners[0].protocol == .http)
        #expect(config.listeners[0].address == ServiceAddress(host: "a", port: 1, pathPrefix: "/b", isURL: true))
        #expect(config.listeners[0].timeout == .zero && config.listeners[0].accessLog.level == .error)
        #expect(config.connect.url.host == "c" && config.connect.timeout == .seconds(4))
        let tcp = try load(AgentConfig.self, "agent tcp e 5432 --timeout=2s")
        #expect(tcp.listeners[0].protocol == .tcp && tcp.listeners[0].timeout == .seconds(2))
    }

    static let refusals: [(String, String?, String)] = [
        ("agent start", nil, "no listeners configured; name a file with --config.path, or use agent http or agent tcp"),
        ("agent start", "listners: []\n", "file.yaml:1:1: unknown key \"listners\"; did you mean \"listeners\"?"),
        ("agent start", "listeners:\n  - addr: 1\n", "file.yaml:2:5: listeners.0.endpoint_id is missing"),
        ("agent start", "listeners:\n  - endpoint_id: a\n", "file.yaml:2:5: listeners.0.addr is missing"),
        ("agent start", "listeners:\n  -\n", "file.yaml:2:4: listeners.0.endpoint_id is missing"),
        ("agent start", "listeners:\n  - endpoint_id:\n    addr: 1\n", "file.yaml:2:17: listeners.0.endpoint_id: a value is missing"),
        ("agent start", "listeners:\n  - a\n", "file.yaml:2:5: listeners.0 holds keys (\"key: value\"), not \"a\""),
        ("agent start", "listeners: a\n", "file.yaml:1:12: listeners: expected a list (\"- key: value\"), not \"a\""),
        (
            "agent start", "listeners:\n  - {endpoint_id: a, addr: 1, timout: 1s}\n",
            "file.yaml:2:31: unknown key \"timout\" in listeners.0; did you mean \"timeout\"?"
        ),
        (
            "agent start", "listeners:\n  - {endpoint_id: a/b, addr: 1}\n",
            "file.yaml:2:19: listeners.0.endpoint_id: \"a/b\" is not an endpoint's name (letters, digits, - . _ ~)"
        ),
        (
            "agent start", "listeners:\n  - {endpoint_id: a, addr: 'http://b', protocol: tcp}\n",
            "listeners.0.addr: a tcp listener takes a port or host:port, not a URL"
        ),
        ("agent start", "connect: {token: 'a b'}\n", "file.yaml:1:18: connect.token: the value is no token"),
        ("agent start", "connect: {tenant: a}\n", "file.yaml:1:11: unknown key \"tenant\" in connect"),
        ("agent http a 1 --connect.token a --connect.token-file b", nil, "connect.token_file: connect.token is set, too"),
        ("agent start", "listeners:\n- {endpoint_id: a, addr: 1, tls: {ca: b}}\n", "file.yaml:2:35: unknown key \"ca\" in listeners.0.tls"),
        ("agent start", "listeners:\n- {endpoint_id: a, addr: 1, tls: {cert: b}}\n", "listeners.0.tls: cert is set, and key is not"),
        ("agent http a 1 --connect.tls.key b", nil, "connect.tls: key is set, and cert is not"),
        ("agent http a 0", nil, "ADDR: \"0\" is not a service's address (for example 3000, 10.0.0.7:3000 or http://10.0.0.7:3000; ports are 1 to 65535)"),
        ("agent http a 1 --timeout -1s", nil, "--timeout: \"-1s\" must not be negative"),
        (
            "agent http a 1 --access-log.request-headers.allow-list b --access-log.request-headers.block-list c", nil,
            "listeners.0.access_log.request_headers: allow_list and block_list can't both be set"
        ),
    ]

    @Test(arguments: refusals.indices)
    func refuses(row: Int) {
        let (words, text, message) = Self.refusals[row]
        #expect(refusal(AgentConfig.self, words, text) == "config: " + message)
    }
}

@Suite struct ForwardConfigTests {
    @Test func takesEveryKeyFromAFile() throws {
        let config = try load(
            ForwardConfig.self, "forward start --config.path f",
            "ports:\n- {addr: 3000, endpoint_id: a}\n- {addr: ':1', endpoint_id: b}\nconnect: {url: http://c:2, timeout: 3s}\nio_backend: auto\n")
        #expect(config.ports == [
            ForwardConfig.Port(address: LocalAddress(BindAddress(host: "localhost", port: 3000)), endpointID: "a"),
            ForwardConfig.Port(address: LocalAddress(BindAddress(host: "", port: 1)), endpointID: "b"),
        ])
        #expect(config.connect.url == ServerURL(host: "c", port: 2) && config.connect.timeout == .seconds(3))
        #expect(try ForwardConfig(flattened: config.flattened) == config)
    }

    @Test(arguments: ["forward 3000 e", "forward tcp 3000 e", "forward --connect.url http://localhost:8000 3000 e"])
    func argumentsMakeThePort(words: String) throws {
        let config = try load(ForwardConfig.self, words)
        #expect(config.ports == [ForwardConfig.Port(address: LocalAddress(BindAddress(host: "localhost", port: 3000)), endpointID: "e")])
        #expect(config.connect.url == ServerURL(host: "localhost", port: 8000))
    }

    @Test func refuses() {
        #expect(refusal(ForwardConfig.self, "forward start") == "config: no ports configured; name a file with --config.path, or use forward tcp")
        #expect(refusal(ForwardConfig.self, "forward x e").hasPrefix("config: ADDR: \"x\" is not an address"))
        #expect(refusal(ForwardConfig.self, "forward start", "ports: [{addr: 1}]\n") == "config: file.yaml:1:9: ports.0.endpoint_id is missing")
    }
}

@Suite struct BenchConfigTests {
    @Test func goesThroughTextUnchanged() throws {
        #expect(try BenchConfig(flattened: BenchConfig().flattened) == BenchConfig())
        var config = BenchConfig()
        config.upstreams = 1
        #expect(throws: ConfigError("upstreams: 1 can't serve 100 endpoints")) { try config.validate() }
    }
}

@Suite struct FlattenedTests {
    @Test func refusesWhatIsNotOfTheSchema() {
        #expect(throws: ConfigError("unknown key \"a.b\"")) { try ServerConfig(flattened: [("a.b", "c")]) }
        #expect(throws: ConfigError("proxy.timeout: \"x\" is not a duration (for example 30s, 1m30s)")) {
            try ServerConfig(flattened: [("proxy.timeout", "x")])
        }
        #expect(throws: ConfigError("unknown key \"listeners.1.addr\"")) { try AgentConfig(flattened: [("listeners.1.addr", "1")]) }
    }
}

@Suite struct EnvironmentExpansionTests {
    static let environment = ["A": "1s", "B_2": "debug", "EMPTY": "", "LINES": "a\nb"]

    @Test(arguments: [
        ("proxy: {timeout: ${A}}", "1s"), ("proxy: {timeout: $A}", "1s"), ("proxy: {timeout: ${A:2s}}", "1s"),
        ("proxy: {timeout: ${MISSING:2s}}", "2s"), ("proxy: {timeout: ${EMPTY:3s}}", "3s"), ("proxy:\n  timeout: ${MISSING}\n", "30s"),
        ("proxy:\n  timeout: $MISSING\n", "30s"), ("# $$ $ $1 ${A}\nproxy: {timeout: 4${UNIT:s}}", "4s"), ("proxy: {timeout: ${MISSING:1m}30s}", "1m30s"),
    ])
    func replaces(text: String, timeout: String) throws {
        let config = try load(ServerConfig.self, "server --config.path f --config.expand-env", text, environment: Self.environment)
        #expect(config.proxy.timeout == GoDuration.parse(timeout))
    }

    @Test func isOffByDefault() throws {
        let text = "log: {subsystems: [$A, '${B_2}', $$]}\n"
        #expect(try load(ServerConfig.self, "server", text, environment: Self.environment).log.subsystems == ["$A", "${B_2}", "$$"])
        #expect(
            try load(ServerConfig.self, "server --config.expand-env", text, environment: Self.environment).log.subsystems
                == ["1s", "debug", "$"])
        #expect(
            try load(ServerConfig.self, "server --config.expand-env=false", text, environment: Self.environment).log.subsystems
                == ["$A", "${B_2}", "$$"])
    }

    @Test func refuses() {
        func answer(_ text: String) -> String {
            refusal(ServerConfig.self, "server --config.expand-env", text, environment: Self.environment)
        }
        #expect(answer("a\n# ${A\n}") == "config: file.yaml:2: \"${\" is not closed by \"}\" on its line; a \"$\" itself is written \"$$\"")
        #expect(answer("${}") == "config: file.yaml:1: \"${}\" names no environment variable; a \"$\" itself is written \"$$\"")
        #expect(answer("${1A}").hasPrefix("config: file.yaml:1: \"${1A}\" names no environment variable"))
        #expect(answer("${LINES}") == "config: file.yaml:1: the environment variable LINES holds a line break, which can't be put in")
    }
}
