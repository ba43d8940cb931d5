// Configurations as programs load them: defaults, file, flags, arguments, in this order; their text form; what is refused.
import Base
import Config
import Testing

/// The invocation of a command line that must be understood.
func invocation(_ words: String, of root: CommandSpec = Commands.piko) throws -> Invocation {
    let parser = CommandLineParser(root, parents: root.name == "piko" ? [] : Commands.parents)
    guard case .run(let invocation) = try parser.parse(words.split(separator: " ").map { String($0) }) else {
        throw CommandLineError(message: "not a command to run", helpCommand: "")
    }
    return invocation
}

/// A file with the text.
func file(_ text: String, name: String = "file.yaml") -> ConfigFile {
    ConfigFile(name: name, bytes: Array(text.utf8))
}

/// Loads a configuration from a command line and a file's text.
func load<Value: Configuration>(
    _ type: Value.Type, _ words: String, _ text: String? = nil, environment: [String: String] = [:]
) throws -> Value {
    try Value(invocation(words), file: text.map { file($0) }, environment: environment)
}

/// The message with which loading fails.
func refusal<Value: Configuration>(
    _ type: Value.Type, _ words: String, _ text: String? = nil, environment: [String: String] = [:]
) -> String {
    do {
        _ = try load(type, words, text, environment: environment)
        return "accepted"
    } catch { return "\(error)" }
}

@Suite struct ServerConfigTests {
    @Test func hasTheDefaultsOfTheOriginal() throws {
        let config = try load(ServerConfig.self, "server")
        #expect(config == ServerConfig())
        #expect(config.proxy.bindAddress == BindAddress(host: "", port: 8000))
        #expect(config.upstream.bindAddress == BindAddress(host: "", port: 8001))
        #expect(config.admin.bindAddress == BindAddress(host: "", port: 8002))
        #expect(config.proxy.timeout == .seconds(30))
        #expect(config.proxy.http.readHeaderTimeout == .seconds(10))
        #expect(config.proxy.http.idleTimeout == .seconds(300))
        #expect(config.proxy.http.headBytesMax == 1_048_576)
        #expect(config.gracePeriod == .seconds(60))
        #expect(config.log.level == .info)
    }

    /// What the file has about who may come to a port.
    private func entrance(_ number: Int) -> ServerConfig.Entrance {
        var entrance = ServerConfig.Entrance()
        entrance.allow = ["10.\(number).0.0/16"]
        entrance.deny = ["10.\(number).0.1"]
        entrance.usesProxyProtocol = true
        entrance.connectionsMax = 10 + number
        entrance.connectionsPerAddressMax = 100 + number
        entrance.connectionRateMax = 1_000 + number
        return entrance
    }

    @Test func takesEveryKeyFromAFile() throws {
        let config = try load(
            ServerConfig.self, "server --config.path file.yaml",
            """
            # A comment.
            proxy:
              bind_addr: "127.0.0.1:1"
              advertise_addr: 10.0.0.1
              timeout: 1m30s
              reconnect_wait: 9s
              access_log:
                level: warn
                disable: true
                format: combined
                sample: 0.25
                show_secrets: true
                request_headers: {allow_list: [Host, "User-Agent"]}
                response_headers:
                  block_list:
                  - Set-Cookie
              trace: {disable: true}
              http:
                read_timeout: 1s
                read_header_timeout: 2s
                write_timeout: 3s
                idle_timeout: 4s
                max_header_bytes: 65536
                max_headers: 20
                min_body_rate: 21
              access: {allow: [10.1.0.0/16], deny: [10.1.0.1]}
              proxy_protocol: true
              limits: {max_connections: 11, max_connections_per_ip: 101, max_connection_rate: 1001, max_waiting_requests: 18, max_waiting_bytes: 19}
              tls:
                cert: a.pem
                key: a.key
                certs: ["b.pem:b.key", "c.pem:c.key"]
                client_cas: d.pem
                client: {cert: e.pem, key: e.key, root_cas: f.pem, insecure_skip_verify: true, server_name: node}
              auth:
                hmac_secret_key: a
                hmac_secret_key_file: b
                rsa_public_key: c
                rsa_public_key_file: d
                ecdsa_public_key: e
                ecdsa_public_key_file: f
                audience: g
                issuer: h
                require_endpoints: true
                disable_disconnect_on_expiry: true
            upstream:
              auth:
                hmac_secret_key: i
                hmac_secret_key_file: j
                rsa_public_key: k
                rsa_public_key_file: l
                ecdsa_public_key: m
                ecdsa_public_key_file: n
                audience: o
                issuer: p
                require_endpoints: true
                disable_disconnect_on_expiry: true
              bind_addr: :2
              tls: {cert: g.pem, key: g.key, certs: ["h.pem:h.key"], client_cas: i.pem}
              advertise_addr: node-1.example.com:12
              rebalance: {threshold: 0.25, shed_rate: 0.01, min_conns: 7}
              direct: {enabled: false, max_connections: 9, max_idle: 8, idle_timeout: 7s}
              access: {allow: [10.2.0.0/16], deny: [10.2.0.1]}
              proxy_protocol: true
              limits: {max_connections: 12, max_connections_per_ip: 102, max_connection_rate: 1002, max_tunnels: 22, max_streams: 23}
            admin:
              bind_addr: '[::1]:3'
              tls: {cert: j.pem, key: j.key, certs: ["k.pem:k.key"], client_cas: l.pem}
              advertise_addr: ":13"
              auth:
                jwks: {endpoint: "file:///keys.json", cache_ttl: 5m, timeout: 3s}
                audience: q
                issuer: r
                disable_disconnect_on_expiry: true
              access: {allow: [10.3.0.0/16], deny: [10.3.0.1]}
              proxy_protocol: true
              limits: {max_connections: 13, max_connections_per_ip: 103, max_connection_rate: 1003}
            cluster:
              node_id: node-1
              node_id_prefix: piko-
              id: blue
              join: [10.0.0.7, "piko.example.com:9"]
              join_timeout: 9s
              abort_if_join_fails: false
              gossip:
                bind_addr: :4
                advertise_addr: "[::1]"
                interval: 200ms
                max_packet_size: 1200
                secret_keys: [0123456789abcdef, "another key, a long one"]
                secret_key_files: [key-file]
            log: {level: debug, subsystems: [proxy, upstream]}
            grace_period: 5s
            shutdown_delay: 6s
            reload: {drain_timeout: 8s, max_generations: 5}
            server:
              workers: 4
              control_socket: /tmp/piko.sock
              io_backend: epoll
              user: piko:tunnels
              seccomp: false
            trusted_proxies: [10.0.0.0/8, "::1"]
            """)
        var expected = ServerConfig()
        expected.trustedProxies.texts = ["10.0.0.0/8", "::1"]
        expected.proxy.entrance = entrance(1)
        expected.upstream.entrance = entrance(2)
        expected.admin.entrance = entrance(3)
        expected.proxy.waitingMax = 18
        expected.proxy.waitingBytesMax = 19
        expected.proxy.http.headersMax = 20
        expected.proxy.http.bodyRateMin = 21
        expected.upstream.tunnelsMax = 22
        expected.upstream.streamsMax = 23
        expected.proxy.bindAddress = BindAddress(host: "127.0.0.1", port: 1)
        expected.proxy.timeout = .seconds(90)
        expected.proxy.reconnectWait = .seconds(9)
        expected.proxy.accessLog.level = .warn
        expected.proxy.accessLog.isDisabled = true
        expected.proxy.accessLog.form = .combined
        expected.proxy.accessLog.sample = 0.25
        expected.proxy.accessLog.showsSecrets = true
        expected.proxy.isTraceDisabled = true
        expected.proxy.accessLog.requestHeaders.allowList = ["Host", "User-Agent"]
        expected.proxy.accessLog.responseHeaders.blockList = ["Set-Cookie"]
        expected.proxy.http.readTimeout = .seconds(1)
        expected.proxy.http.readHeaderTimeout = .seconds(2)
        expected.proxy.http.writeTimeout = .seconds(3)
        expected.proxy.http.idleTimeout = .seconds(4)
        expected.proxy.http.headBytesMax = 65536
        expected.proxy.tls = tls("a", ["b", "c"], "d")
        expected.proxy.nodeTLS.certificate = "e.pem"
        expected.proxy.nodeTLS.key = "e.key"
        expected.proxy.nodeTLS.rootAuthorities = "f.pem"
        expected.proxy.nodeTLS.skipsVerification = true
        expected.proxy.nodeTLS.serverName = "node"
        expected.upstream.tls = tls("g", ["h"], "i")
        expected.admin.tls = tls("j", ["k"], "l")
        expected.upstream.bindAddress = BindAddress(host: "", port: 2)
        expected.upstream.direct.isEnabled = false
        expected.upstream.direct.connectionsMax = 9
        expected.upstream.direct.idleMax = 8
        expected.upstream.direct.idleTimeout = .seconds(7)
        expected.admin.bindAddress = BindAddress(host: "::1", port: 3)
        expected.proxy.advertiseAddress = AdvertiseAddress(host: "10.0.0.1")
        expected.upstream.advertiseAddress = AdvertiseAddress(host: "node-1.example.com", port: 12)
        expected.admin.advertiseAddress = AdvertiseAddress(port: 13)
        expected.upstream.rebalance.threshold = 0.25
        expected.upstream.rebalance.shedRate = 0.01
        expected.upstream.rebalance.tunnelsMin = 7
        expected.cluster.nodeID = "node-1"
        expected.cluster.nodeIDPrefix = "piko-"
        expected.cluster.id = "blue"
        expected.cluster.join = ["10.0.0.7", "piko.example.com:9"]
        expected.cluster.joinTimeout = .seconds(9)
        expected.cluster.abortsIfJoinFails = false
        expected.cluster.gossip.bindAddress = BindAddress(host: "", port: 4)
        expected.cluster.gossip.advertiseAddress = AdvertiseAddress(host: "::1")
        expected.cluster.gossip.interval = .milliseconds(200)
        expected.cluster.gossip.packetBytesMax = 1_200
        expected.cluster.gossip.secretKeys = ["0123456789abcdef", "another key, a long one"]
        expected.cluster.gossip.secretKeyFiles = ["key-file"]
        expected.proxy.auth = auth("abcdefgh")
        expected.upstream.auth = auth("ijklmnop")
        expected.admin.auth.jwks.endpoint = "file:///keys.json"
        expected.admin.auth.jwks.cacheTTL = .seconds(300)
        expected.admin.auth.jwks.timeout = .seconds(3)
        expected.admin.auth.audience = "q"
        expected.admin.auth.issuer = "r"
        expected.admin.auth.disablesDisconnectOnExpiry = true
        expected.log.level = .debug
        expected.log.subsystems = ["proxy", "upstream"]
        expected.gracePeriod = .seconds(5)
        expected.shutdownDelay = .seconds(6)
        expected.reload.drainTimeout = .seconds(8)
        expected.reload.generationsMax = 5
        expected.server.workers = 4
        expected.server.controlSocket = "/tmp/piko.sock"
        expected.server.ioBackend = .epoll
        expected.server.user = "piko:tunnels"
        expected.server.isFiltered = false
        #expect(config == expected)
        // Every key differs from its default, so that none can be forgotten in the text form.
        let defaults = Dictionary(grouping: ServerConfig().flattened, by: \.0).mapValues { $0.map(\.1) }
        for setting in ServerConfig.keys {
            let texts = config.flattened.filter { $0.0 == setting.path }.map(\.1)
            let isFilter = setting.path.hasSuffix("request_headers.block_list")
                || setting.path.hasSuffix("response_headers.allow_list")
            // A key set excludes the other keys.
            let isOtherKey = setting.path.hasPrefix("admin.auth.") == setting.path.contains("_key") && setting.path.contains(".auth.")
                && (setting.path.contains("_key") || setting.path.contains(".jwks."))
            #expect(isFilter || isOtherKey || texts != defaults[setting.path, default: []], "\(setting.path)")
        }
        #expect(try ServerConfig(flattened: config.flattened) == config)
    }

    /// The tokens of a port with every key but a key set, each value a letter.
    private func auth(_ letters: String) -> AuthConfig {
        let letters = letters.map { String($0) }
        var auth = AuthConfig()
        auth.hmacSecretKey = letters[0]
        auth.hmacSecretKeyFile = letters[1]
        auth.rsaPublicKey = letters[2]
        auth.rsaPublicKeyFile = letters[3]
        auth.ecdsaPublicKey = letters[4]
        auth.ecdsaPublicKeyFile = letters[5]
        auth.audience = letters[6]
        auth.issuer = letters[7]
        auth.requiresEndpoints = true
        auth.disablesDisconnectOnExpiry = true
        return auth
    }

    @Test func keysForTokensComeFromFilesToo() throws {
        let files = ["secret": "\n the secret \r\n", "empty": " \n", "binary": "\u{0}"]
        func config(_ words: String) throws -> ServerConfig {
            try ServerConfig(try invocation("server \(words)"), environment: [:]) { path, _ throws(ConfigError) in
                guard let text = files[path] else { throw ConfigError("no \(path)") }
                return Array(text.utf8)
            }
        }
        let read = try config("--upstream.auth.hmac-secret-key-file secret --admin.auth.rsa-public-key-file secret")
        #expect(read.upstream.auth.hmacSecretKey == "the secret" && read.admin.auth.rsaPublicKey == "the secret")
        #expect(read.upstream.auth.isEnabled && read.admin.auth.isEnabled && !read.proxy.auth.isEnabled)
        #expect(!YAML.write(read.yaml).contains("hmac_secret_key: the secret"))
        for (words, message) in [
            ("--proxy.auth.hmac-secret-key-file nowhere", "proxy.auth.hmac_secret_key_file: config: no nowhere"),
            ("--proxy.auth.hmac-secret-key-file empty", "proxy.auth.hmac_secret_key_file: empty: is empty"),
            ("--proxy.auth.hmac-secret-key-file secret --proxy.auth.hmac-secret-key a", "proxy.auth.hmac_secret_key_file: proxy.auth.hmac_secret_key is set, too"),
            ("--proxy.auth.hmac-secret-key a --proxy.auth.jwks.endpoint file:///k", "proxy.auth: jwks.endpoint and hmac_secret_key can't both be set"),
            ("--proxy.auth.audience a", "proxy.auth.audience: is set, but no key: anybody could use the port"),
        ] {
            #expect(throws: ConfigError(message)) { try config(words) }
        }
    }

    @Test(arguments: [
        ("file:///a/b", "/a/b"), ("file:/a", "/a"), ("file://localhost/a", "/a"), ("file://host/a", nil), ("file:///", nil), ("file:a", nil),
        ("file:///a%20b", nil), ("/a", nil), ("", nil), ("http://a/b", nil),
    ])
    func fileURLs(_ text: String, _ path: String?) {
        var set = AuthConfig.JWKS()
        set.endpoint = text
        #expect(set.filePath == path)
    }

    private func tls(_ name: String, _ others: [String], _ authorities: String) -> PortTLS {
        var tls = PortTLS()
        tls.certificate = "\(name).pem"
        tls.key = "\(name).key"
        tls.certificates = others.map { "\($0).pem:\($0).key" }
        tls.clientAuthorities = "\(authorities).pem"
        return tls
    }

    @Test func keysComeFromFilesToo() throws {
        let invocation = try invocation(
            "server --cluster.gossip.secret-keys first-key-0123456 --cluster.gossip.secret-key-files two,three")
        let files = ["two": " second-key-0123456\r\n", "three": "third-key-01234567"]
        let config = try ServerConfig(invocation, environment: [:]) { path, _ throws(ConfigError) in Array(files[path]!.utf8) }
        #expect(config.cluster.gossip.secretKeys == ["first-key-0123456", "second-key-0123456", "third-key-01234567"])
        #expect(!YAML.write(config.yaml).contains("-key-0"))
        #expect(throws: ConfigError("cluster.gossip.secret_key_files: two: the key is shorter than 16 bytes")) {
            try ServerConfig(invocation, environment: [:]) { _, _ throws(ConfigError) in Array("short".utf8) }
        }
    }

    @Test func joinAddressesGetThePort() throws {
        var config = ServerConfig()
        config.cluster.join = ["10.0.0.7", "[::1]:5", "piko.example.com:9"]
        #expect(
            config.cluster.joinAddresses(defaultPort: 8003) == [
                BindAddress(host: "10.0.0.7", port: 8003), BindAddress(host: "::1", port: 5),
                BindAddress(host: "piko.example.com", port: 9),
            ])
    }

    @Test func flagsWinOverTheFile() throws {
        let text = "proxy: {bind_addr: ':1', timeout: 1s}\nlog: {level: error, subsystems: [a, b]}\nserver: {io_backend: epoll}\n"
        let config = try load(
            ServerConfig.self,
            "server --proxy.timeout=2s --config.path f --log.subsystems c,d --log.subsystems=e --io-backend io_uring", text)
        #expect(config.proxy.bindAddress.port == 1)
        #expect(config.proxy.timeout == .seconds(2))
        #expect(config.log.level == .error)
        #expect(config.log.subsystems == ["c", "d", "e"])
        #expect(config.server.ioBackend == .ioUring)
        #expect(try load(ServerConfig.self, "server --grace-period 1s --grace-period 2s").gracePeriod == .seconds(2))
        #expect(try load(ServerConfig.self, "server --log.subsystems=", text).log.subsystems == [])
    }

    @Test(arguments: ["", "# nothing\n", "---\n", "proxy:\n", "proxy: ~\n", "proxy:\n  timeout:\n  bind_addr: null\nlog:\n  subsystems:\n"])
    func nullLeavesTheDefault(text: String) throws {
        #expect(try load(ServerConfig.self, "server", text) == ServerConfig())
    }

    /// A file's text and the message that it is refused with.
    static let refusals: [(String, String)] = [
        ("proxy:\n  timeout: 5x\n", "file.yaml:2:12: proxy.timeout: \"5x\" is not a duration (for example 30s, 1m30s)"),
        ("proxy:\n  timeout: 5\n", "file.yaml:2:12: proxy.timeout: \"5\" is not a duration (for example 30s, 1m30s)"),
        ("proxy:\n  timeout: -5s\n", "file.yaml:2:12: proxy.timeout: \"-5s\" must not be negative"),
        ("grace_period: 0\n", "file.yaml:1:15: grace_period: \"0\" must be longer than zero"),
        ("proxi:\n  timeout: 5s\n", "file.yaml:1:1: unknown key \"proxi\"; did you mean \"proxy\"?"),
        ("proxy:\n  timeot: 5s\n", "file.yaml:2:3: unknown key \"timeot\" in proxy; did you mean \"timeout\"?"),
        ("server_id: x\n", "file.yaml:1:1: unknown key \"server_id\"; did you mean \"server\"?"),
        (
            "cluster: {node_id: a/b}\n",
            "file.yaml:1:20: cluster.node_id: \"a/b\" is not a node's name (letters, digits, - . _)"
        ),
        (
            "cluster: {node_id: local}\n",
            "file.yaml:1:20: cluster.node_id: \"local\" is not a node's name: it means the node that is asked"
        ),
        (
            "cluster: {node_id_prefix: \(String(repeating: "a", count: 122))}\n",
            "file.yaml:1:27: cluster.node_id_prefix: \"\(String(repeating: "a", count: 122))\" is longer than 121 bytes (seven letters are added)"
        ),
        (
            "proxy: {advertise_addr: \(String(repeating: "a", count: 251))}\n",
            "file.yaml:1:25: proxy.advertise_addr: \"\(String(repeating: "a", count: 251))\" is longer than 256 bytes with its port"
        ),
        (
            "cluster: {join: ['a:b']}\n",
            "file.yaml:1:18: cluster.join: \"a:b\" is not an address to join (for example 10.0.0.7, 10.0.0.7:8003 or piko.example.com)"
        ),
        ("cluster: {gossip: {interval: 1ms}}\n", "file.yaml:1:30: cluster.gossip.interval: \"1ms\" is not between 10ms and 1m"),
        (
            "cluster: {gossip: {secret_keys: [short-secret]}}\n",
            "file.yaml:1:34: cluster.gossip.secret_keys: the value is shorter than 16 bytes"
        ),
        (
            "upstream: {rebalance: {shed_rate: 1.5}}\n",
            "file.yaml:1:35: upstream.rebalance.shed_rate: \"1.5\" is not between 0 and 1"
        ),
        (
            "upstream: {rebalance: {threshold: 1e3}}\n",
            "file.yaml:1:35: upstream.rebalance.threshold: \"1e3\" is not a number with at most four digits after the point (for example 0.25)"
        ),
        ("proxy: [a]\n", "file.yaml:1:8: proxy holds keys (\"key: value\"), not a list"),
        ("proxy: 5\n", "file.yaml:1:8: proxy holds keys (\"key: value\"), not \"5\""),
        ("- a\n", "file.yaml:1:1: a configuration holds keys (\"key: value\"), not a list"),
        ("server:\n  user: a b\n", "file.yaml:2:9: server.user: \"a b\" is not of the form USER or USER:GROUP"),
        ("server:\n  user: 'a:b:c'\n", "file.yaml:2:9: server.user: \"a:b:c\" is not of the form USER or USER:GROUP"),
        ("server:\n  workers: two\n", "file.yaml:2:12: server.workers: \"two\" is not a whole number"),
        ("server:\n  workers: 010\n", "file.yaml:2:12: server.workers: \"010\" is not a whole number"),
        ("server:\n  workers: 1025\n", "file.yaml:2:12: server.workers: \"1025\" is not between 0 and 1024"),
        (
            "server:\n  workers: '2'\n",
            "file.yaml:2:12: server.workers: \"2\" must not be quoted (a quoted value is a text)"
        ),
        ("proxy:\n  access_log:\n    disable: yes\n", "file.yaml:3:14: proxy.access_log.disable: \"yes\" is neither true nor false"),
        ("proxy: {access_log: {sample: 1.5}}\n", "file.yaml:1:30: proxy.access_log.sample: \"1.5\" is not between 0 and 1"),
        ("proxy: {access_log: {format: apache}}\n", "file.yaml:1:30: proxy.access_log.format: \"apache\" is not one of json and combined"),
        ("log:\n  level: loud\n", "file.yaml:2:10: log.level: \"loud\" is not one of debug, info, warn and error"),
        ("log:\n  level: [info]\n", "file.yaml:2:10: log.level: expected one value, not a list"),
        ("log:\n  subsystems: proxy\n", "file.yaml:2:15: log.subsystems: expected a list such as [a, b], not \"proxy\""),
        ("log:\n  subsystems: ['']\n", "file.yaml:2:16: log.subsystems: \"\" is empty; an item must hold text"),
        (
            "upstream:\n  bind_addr: 8001\n",
            "file.yaml:2:14: upstream.bind_addr: \"8001\" is not an address (for example :8000, 127.0.0.1:8000 or [::1]:8000)"
        ),
        ("upstream: {direct: {max_connections: 5, max_idle: 6}}\n", "upstream.direct.max_idle: is more than upstream.direct.max_connections"),
        (
            "proxy:\n  access_log:\n    request_headers: {allow_list: [a], block_list: [b]}\n",
            "proxy.access_log.request_headers: allow_list and block_list can't both be set"
        ),
    ]

    @Test(arguments: refusals.indices)
    func refusesWithPlaceAndHint(row: Int) {
        let (text, message) = Self.refusals[row]
        #expect(refusal(ServerConfig.self, "server", text) == "config: " + message)
    }

    @Test func takesTheLongestNamesAndAddresses() throws {
        let config = try load(
            ServerConfig.self, "server",
            """
            proxy: {advertise_addr: \(String(repeating: "a", count: 250))}
            cluster: {node_id_prefix: \(String(repeating: "b", count: 121))}
            """)
        #expect(config.proxy.advertiseAddress.host.utf8.count == 250 && config.cluster.nodeIDPrefix.utf8.count == 121)
    }

    @Test func refusesFlagsByTheirName() {
        #expect(
            refusal(ServerConfig.self, "server --proxy.timeout 5x")
                == "config: --proxy.timeout: \"5x\" is not a duration (for example 30s, 1m30s)")
        #expect(
            refusal(
                ServerConfig.self,
                "server --proxy.access-log.request-headers.allow-list a --proxy.access-log.request-headers.block-list b")
                == "config: proxy.access_log.request_headers: allow_list and block_list can't both be set")
    }

    @Test func controlSocketFollowsTheEnvironment() {
        #expect(ControlSocketPath.candidates(environment: ["XDG_RUNTIME_DIR": "/run/user/7"], userID: 7) == ["/run/user/7/piko/server.sock"])
        #expect(ControlSocketPath.candidates(environment: [:], userID: 7) == ["/run/piko/server.sock", "/tmp/piko-7/server.sock"])
        #expect(ControlSocketPath.candidates(environment: ["XDG_RUNTIME_DIR": ""], userID: 7).count == 2)
    }
}
