// The proxy towards the server: its URL, the keys that name it, and what the environment says.
import Base
import Testing

@testable import Config

@Suite struct ProxyURLTests {
    private static func proxy(_ host: String, _ port: UInt16, _ user: String? = nil, _ password: String = "") -> OutboundProxy {
        OutboundProxy(host: host, port: port, credentials: user.map { OutboundProxy.Credentials(user: $0, password: password) })
    }

    /// A URL, what it means, and how it is written back.
    static let urls: [(String, OutboundProxy, String)] = [
        ("http://proxy.example:3128", proxy("proxy.example", 3128), "http://proxy.example:3128"),
        ("http://proxy.example", proxy("proxy.example", 80), "http://proxy.example:80"),
        ("http://proxy.example/", proxy("proxy.example", 80), "http://proxy.example:80"),
        ("HTTP://10.0.0.7:8080/", proxy("10.0.0.7", 8080), "http://10.0.0.7:8080"),
        ("http://[::1]:3128", proxy("::1", 3128), "http://[::1]:3128"), ("http://[2001:db8::1]", proxy("2001:db8::1", 80), "http://[2001:db8::1]:80"),
        ("http://user:pass@proxy.example:3128", proxy("proxy.example", 3128, "user", "pass"), "http://user:pass@proxy.example:3128"),
        ("http://user@a:1", proxy("a", 1, "user"), "http://user:@a:1"), ("http://user:@a:1", proxy("a", 1, "user"), "http://user:@a:1"),
        ("http://:pass@a:1", proxy("a", 1, "", "pass"), "http://:pass@a:1"), ("http://@a:1", proxy("a", 1), "http://a:1"),
        ("http://u:p@ss:w@a:1", proxy("a", 1, "u", "p@ss:w"), "http://u:p%40ss%3Aw@a:1"),
        ("http://d%5Cu:%2F%3f%23%25%20%40@[fe80::1%eth0]:1", proxy("fe80::1%eth0", 1, "d\\u", "/?#% @"), "http://d%5Cu:%2F%3F%23%25%20%40@[fe80::1%eth0]:1"),
        ("http://u:%C3%A9@a:1", proxy("a", 1, "u", "é"), "http://u:%C3%A9@a:1"), ("http://u:é@a:1", proxy("a", 1, "u", "é"), "http://u:%C3%A9@a:1"),
    ]

    @Test(arguments: urls.indices)
    func takes(row: Int) throws {
        let (text, wanted, canonical) = Self.urls[row]
        #expect(try OutboundProxy(url: text) == wanted)
        #expect(ProxySetting.through(wanted).settingText == canonical)
        #expect(try ProxySetting(settingText: canonical) == .through(wanted))
        #expect("\(wanted)" == wanted.authority && String(reflecting: wanted) == wanted.authority)
    }

    static let malformed = "is not a proxy's URL"
    static let refusals: [(String, String)] = [
        ("proxy.example:3128", malformed), ("ftp://a:1", malformed), ("://a", malformed), ("http:/a", malformed), ("http://a:1/path", malformed),
        ("http://a:1?q", malformed), ("http://a:1#f", malformed), ("http://u:p/w@a:1", malformed), ("http://u:p w@a:1", malformed),
        ("http://u:%2@a:1", malformed), ("http://u:%zz@a:1", malformed), ("http://u:%@a:1", malformed), ("http://u:%0d%0aX@a:1", malformed),
        ("http://u:%7f@a:1", malformed), ("http://u:%ff@a:1", malformed), ("http://u:\u{1}@a:1", malformed),
        ("http://", "has no valid host and port"), ("http://:3128", "has no valid host and port"), ("http://a:0", "has no valid host and port"),
        ("http://a:65536", "has no valid host and port"), ("http://a:b", "has no valid host and port"), ("http://::1:80", "has no valid host and port"),
        ("http://[::1", "has no valid host and port"), ("http://u:p@", "has no valid host and port"),
        ("http://a%3Ab:c@h:1", "has a user with a colon"), ("https://a:1", "is an https URL"), ("HTTPS://u:p@a", "is an https URL"),
        ("socks5://a:1", "is a SOCKS proxy's"), ("socks5h://a:1", "is a SOCKS proxy's"), ("socks4://a:1", "is a SOCKS proxy's"),
        ("http://" + String(repeating: "a", count: 4_096), "is longer than 4096 bytes"),
    ]

    @Test(arguments: refusals.indices)
    func refuses(row: Int) {
        let (text, words) = Self.refusals[row]
        do throws(SettingError) {
            let proxy = try OutboundProxy(url: text)
            Issue.record("\(text) is \(proxy)")
        } catch {
            #expect(error.message.hasPrefix(words), "\(text): \(error.message)")
        }
    }
}

@Suite struct ProxyKeyTests {
    private static let file = "listeners: [{endpoint_id: a, addr: 1}]\nports: []\n"

    @Test func words() throws {
        #expect(try ProxySetting(settingText: "") == .environment)
        #expect(try ProxySetting(settingText: "none") == .direct)
        #expect(try ProxySetting(settingText: "direct") == .direct)
        #expect(ProxySetting.direct.settingText == "none" && ProxySetting.environment.settingText == "")
    }

    @Test func keys() throws {
        let proxy = OutboundProxy(host: "p", port: 3128, credentials: OutboundProxy.Credentials(user: "u", password: "s3cret"))
        let agent = try load(AgentConfig.self, "agent start --config.path f", "listeners: [{endpoint_id: a, addr: 1}]\nconnect: {proxy_url: 'http://u:s3cret@p:3128'}\n")
        #expect(agent.connect.proxy.setting == .through(proxy))
        #expect(try AgentConfig(flattened: agent.flattened) == agent)
        let flag = try load(AgentConfig.self, "agent http a 1 --connect.proxy-url http://u:s3cret@p:3128")
        #expect(flag.connect.proxy.setting == .through(proxy))
        let forward = try load(ForwardConfig.self, "forward 1 a --connect.proxy-url none")
        #expect(forward.connect.proxy.setting == .direct)
        #expect(try load(ForwardConfig.self, "forward 1 a --connect.proxy-url-file f").connect.proxy.file == "f")
        #expect(try load(ForwardConfig.self, "forward 1 a").connect.proxy == ProxyConfig())
    }

    /// The value is never shown: it may hold a password.
    static let refusals: [(String, String?, String)] = [
        ("agent http a 1 --connect.proxy-url socks5://u:s3cret@p", nil, "--connect.proxy-url: the value is a SOCKS proxy's"),
        ("agent http a 1 --connect.proxy-url u:s3cret@p:1", nil, "--connect.proxy-url: the value is not a proxy's URL"),
        ("agent start", "connect: {proxy_url: 'https://u:s3cret@p'}\n", "file.yaml:1:22: connect.proxy_url: the value is an https URL"),
        ("agent http a 1 --connect.proxy-url http://p --connect.proxy-url-file f", nil, "connect.proxy_url_file: connect.proxy_url is set, too"),
    ]

    @Test(arguments: refusals.indices)
    func refuses(row: Int) {
        let (words, text, message) = Self.refusals[row]
        let found = refusal(AgentConfig.self, words, text)
        #expect(found.hasPrefix("config: " + message) && !found.contains("s3cret"), "\(found)")
        let forward = words.replacing("agent http a 1", with: "forward 1 a").replacing("agent start", with: "forward start")
        #expect(refusal(ForwardConfig.self, forward, text).hasPrefix("config: " + message))
    }
}

@Suite struct ProxyEnvironmentTests {
    /// NO_PROXY, a server, and whether it is reached directly.
    static let rows: [(String, String, UInt16, Bool)] = [
        ("", "example.com", 80, false), ("*", "example.com", 80, true), ("a, * ,b", "example.com", 80, true), ("**", "example.com", 80, false),
        ("", "localhost", 80, true), ("", "LOCALHOST", 80, true), ("", "127.0.0.1", 80, true), ("", "127.9.9.9", 80, true), ("", "::1", 80, true),
        ("", "::ffff:127.0.0.1", 80, true), ("", "128.0.0.1", 80, false), ("", "0.0.0.0", 80, false), ("", "localhost.example.com", 80, false),
        ("example.com", "example.com", 80, true), ("example.com", "EXAMPLE.com", 80, true), ("EXAMPLE.COM", "a.example.com", 80, true),
        ("example.com", "a.b.example.com", 80, true), ("example.com", "notexample.com", 80, false), ("example.com", "example.com.org", 80, false),
        (".example.com", "example.com", 80, false), (".example.com", "a.example.com", 80, true), ("*.example.com", "example.com", 80, false),
        ("*.example.com", "a.b.example.com", 80, true), ("*.example.com", "aexample.com", 80, false), ("com", "example.com", 80, true),
        ("example.com:80", "example.com", 80, true), ("example.com:80", "a.example.com", 80, true), ("example.com:80", "example.com", 81, false),
        (".example.com:443", "a.example.com", 443, true), ("example.com:", "example.com", 81, true),
        (" a.b ,\texample.com\t, c", "example.com", 80, true), (",,", "example.com", 80, false), (":80", "example.com", 80, false), (".", "a.", 80, false),
        ("10.0.0.7", "10.0.0.7", 80, true), ("10.0.0.7", "10.0.0.70", 80, false), ("10.0.0.7:80", "10.0.0.7", 80, true), ("10.0.0.7:80", "10.0.0.7", 81, false),
        ("::ffff:10.0.0.7", "10.0.0.7", 80, true), ("10.0.0.0/8", "10.1.2.3", 80, true), ("10.0.0.0/8", "11.1.2.3", 80, false),
        ("10.9.9.9/8", "10.1.2.3", 80, true), ("0.0.0.0/0", "8.8.8.8", 80, true), ("0.0.0.0/0", "2001:db8::1", 80, false), ("::/0", "8.8.8.8", 80, false),
        ("10.0.0.0/8", "ten.example.com", 80, false), ("10.0.0.0/33", "10.1.2.3", 80, false), ("10.0.0/8", "10.0.0.1", 80, false),
        ("2001:db8::1", "2001:db8::1", 80, true), ("2001:DB8::1", "2001:db8:0::1", 80, true), ("[2001:db8::1]", "2001:db8::1", 80, true),
        ("[2001:db8::1]:80", "2001:db8::1", 80, true), ("[2001:db8::1]:80", "2001:db8::1", 81, false), ("2001:db8::/32", "2001:db8:1::1", 80, true),
        ("2001:db8::/32", "2001:db9::1", 80, false), ("fe80::1", "fe80::1%eth0", 80, true), ("a:b:c", "a", 80, false),
    ]

    @Test(arguments: rows.indices)
    func exceptions(row: Int) {
        let (list, host, port, isDirect) = Self.rows[row]
        #expect(ProxyExceptions(list).contains(host: host, port: port) == isDirect, "NO_PROXY=\(list) and \(host):\(port)")
    }

    private static let plain = ServerURL(host: "piko.example.com", port: 80)
    private static let secure = ServerURL(host: "piko.example.com", port: 443, isSecure: true)

    /// Variables, whether the server's URL is an https one, and the proxy and who named it.
    static let variables: [([String: String], Bool, String?)] = [
        ([:], false, nil), (["HTTP_PROXY": "http://p:1"], false, "p:1 HTTP_PROXY"), (["HTTP_PROXY": "http://p:1"], true, nil),
        (["HTTPS_PROXY": "http://p:1"], true, "p:1 HTTPS_PROXY"), (["HTTPS_PROXY": "http://p:1"], false, nil),
        (["https_proxy": "http://p:1"], true, "p:1 https_proxy"), (["http_proxy": "p:1"], false, "p:1 http_proxy"), (["http_proxy": "u:x@p"], false, "p:80 http_proxy"),
        (["HTTP_PROXY": "http://p:1", "http_proxy": "http://q:1"], false, "p:1 HTTP_PROXY"), (["HTTP_PROXY": "", "http_proxy": "q:1"], false, "q:1 http_proxy"),
        (["HTTP_PROXY": "p:1", "NO_PROXY": "example.com"], false, nil), (["HTTP_PROXY": "p:1", "no_proxy": "*"], false, nil),
        (["HTTP_PROXY": "p:1", "NO_PROXY": "other", "no_proxy": "*"], false, "p:1 HTTP_PROXY"), (["HTTP_PROXY": "p:1", "NO_PROXY": "example.com:443"], false, "p:1 HTTP_PROXY"),
        (["HTTPS_PROXY": "p:1", "NO_PROXY": "example.com:443"], true, nil), (["ALL_PROXY": "p:1"], false, nil),
        (["HTTP_PROXY": "socks5://p", "NO_PROXY": "*"], false, nil),
    ]

    @Test(arguments: variables.indices)
    func chooses(row: Int) throws {
        let (variables, isSecure, wanted) = Self.variables[row]
        let found = try ProxyEnvironment(variables).proxy(for: isSecure ? Self.secure : Self.plain)
        #expect(found.map { "\($0.proxy.authority) \($0.source)" } == wanted)
    }

    /// What can't be used is refused, not passed by: connections would go past the proxy.
    @Test(arguments: ["https://u:s3cret@p", "socks5://u:s3cret@p", "http://u:s3cret@p/path", "u:s3cret@", "http://"])
    func refuses(value: String) {
        do throws(ConfigError) {
            let found = try ProxyEnvironment(["HTTP_PROXY": value]).proxy(for: Self.plain)
            Issue.record("\(value) is \(String(describing: found))")
        } catch {
            #expect(error.message.hasPrefix("HTTP_PROXY of the environment: the value ") && !error.message.contains("s3cret"), "\(error)")
        }
    }

    @Test func masksBlocks() {
        #expect(AddressBlock(masking: "10.1.2.3/8")?.description == "10.0.0.0/8")
        #expect(AddressBlock(masking: "2001:db8::1/32")?.description == "2001:db8::/32")
        #expect(AddressBlock(masking: "10.1.2.3/x") == nil && AddressBlock(masking: "a/8") == nil)
    }
}
