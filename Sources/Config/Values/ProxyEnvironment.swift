// What the environment says about proxies: HTTPS_PROXY, HTTP_PROXY and NO_PROXY, in capitals or not. There is no standard; this is
// what programs in Go do (golang.org/x/net/http/httpproxy), as many who set these variables expect it.
//
// A server on this machine (localhost, a loopback address) is never reached through a proxy of the environment.

internal import Base

/// A proxy, and who named it.
public struct NamedProxy: Equatable, Sendable {
    public var proxy: OutboundProxy
    /// A key of the configuration or a variable of the environment, for messages.
    public var source: String

    public init(_ proxy: OutboundProxy, from source: String) {
        self.proxy = proxy
        self.source = source
    }
}

/// The variables about proxies.
public struct ProxyEnvironment: Sendable {
    private let variables: [String: String]
    private let exceptions: ProxyExceptions

    public init(_ variables: [String: String] = [:]) {
        self.variables = variables
        exceptions = ProxyExceptions(Self.find("NO_PROXY", variables)?.value ?? "")
    }

    /// The proxy for a server; nil: none.
    public func proxy(for url: ServerURL) throws(ConfigError) -> NamedProxy? {
        guard let (name, value) = Self.find(url.isSecure ? "HTTPS_PROXY" : "HTTP_PROXY", variables),
            !exceptions.contains(host: url.host, port: url.port)
        else { return nil }
        do throws(SettingError) {
            // "proxy:3128" is what many write.
            return NamedProxy(try OutboundProxy(url: value.contains("://") ? value : "http://\(value)"), from: name)
        } catch {
            throw ConfigError("\(name) of the environment: the value \(error.message); \(ProxyConfig.key): none is for no proxy")
        }
    }

    /// The variable of that name in capitals, else in small letters, that is not empty.
    private static func find(_ name: String, _ variables: [String: String]) -> (name: String, value: String)? {
        for name in [name, name.lowercased()] {
            if let value = variables[name], !value.isEmpty { return (name, value) }
        }
        return nil
    }
}

/// Servers for which the environment's proxies are not used: the list of NO_PROXY.
public struct ProxyExceptions: Sendable {
    private struct Rule {
        enum Kind {
            case address(IPAddress)
            case block(AddressBlock)
            /// The domain with a dot in front, and whether the name without that dot is meant, too.
            case domain(suffix: String, withItself: Bool)
        }

        let kind: Kind
        /// nil: every port.
        var port: String?
    }

    private var rules: [Rule] = []
    private var isForAll = false

    /// Items of a list; the rest of a longer one is not looked at.
    public static let countMax = 1_024

    /// From a list with commas: `*`; an address or a block; a domain, with its subdomains, or with a dot (or `*.`) in front
    /// without itself. All but blocks may have a port. What is none of these is passed over.
    public init(_ text: String) {
        for item in text.split(separator: ",").prefix(Self.countMax) {
            let word = Self.trimmed(item).lowercased()
            if word == "*" { isForAll = true }
            if let rule = Self.rule(word) { rules.append(rule) }
        }
    }

    private static func trimmed(_ text: Substring) -> Substring {
        let isBlank: (Character) -> Bool = { $0.isWhitespace }
        var text = text.drop(while: isBlank)
        while let last = text.last, isBlank(last) { text.removeLast() }
        return text
    }

    private static func rule(_ word: String) -> Rule? {
        if word.contains("/") { return AddressBlock(masking: word).map { Rule(kind: .block($0)) } }
        var host = word
        var port: String?
        if IPAddress(text: word) == nil, !word.hasSuffix("]"), let colon = word.lastIndex(of: ":") {
            host = String(word[..<colon])
            port = String(word[word.index(after: colon)...])
        }
        if host.hasPrefix("["), host.hasSuffix("]") { host = String(host.dropFirst().dropLast()) }
        if let address = IPAddress(text: host) { return Rule(kind: .address(address), port: port) }
        if host.contains(":") { return nil }
        if host.hasPrefix("*.") { host.removeFirst() }
        let hasDot = host.hasPrefix(".")
        if host.isEmpty || host == "." { return nil }
        return Rule(kind: .domain(suffix: hasDot ? host : ".\(host)", withItself: !hasDot), port: port)
    }

    /// Whether the server is reached directly.
    public func contains(host: String, port: UInt16) -> Bool {
        let name = host.lowercased()
        let address = IPAddress(text: String(name.prefix { $0 != "%" }))
        if name == "localhost" || address.map(Self.isLoopback) == true || isForAll { return true }
        return rules.contains { Self.matches($0, name, address, String(port)) }
    }

    private static func matches(_ rule: Rule, _ name: String, _ address: IPAddress?, _ port: String) -> Bool {
        if let wanted = rule.port, !wanted.isEmpty, wanted != port { return false }
        switch rule.kind {
        case .address(let one): return one == address
        case .block(let block): return address.map(block.contains) ?? false
        case .domain(let suffix, let withItself): return name.hasSuffix(suffix) || (withItself && name == suffix.dropFirst())
        }
    }

    private static func isLoopback(_ address: IPAddress) -> Bool {
        if let four = address.ipv4 { return four >> 24 == 127 }
        return address == IPAddress(high: 0, low: 1)
    }
}
