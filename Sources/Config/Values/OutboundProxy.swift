// The HTTP proxy through which an agent, or `forward`, reaches its server: its URL, and the keys that name it.
//
// The URL may hold a password, so nothing here puts more than host and port into a message or a description; only
// `settingText` has the whole of it, for the text form of a configuration.

/// A proxy that is asked with CONNECT, in the open.
public struct OutboundProxy: Hashable, Sendable, CustomStringConvertible, CustomDebugStringConvertible {
    /// What the proxy is shown, as its URL means it: percent-decoded.
    public struct Credentials: Hashable, Sendable, CustomStringConvertible, CustomDebugStringConvertible {
        /// Without a colon (RFC 7617 section 2).
        public var user: String
        public var password: String

        public init(user: String, password: String) {
            self.user = user
            self.password = password
        }

        public var description: String { "(hidden)" }
        public var debugDescription: String { description }
    }

    /// A name or an IP address without brackets, never empty.
    public var host: String
    /// 1 … 65535.
    public var port: UInt16
    /// nil: the proxy is shown none.
    public var credentials: Credentials?

    /// The port of an http URL that names none.
    public static let defaultPort: UInt16 = 80
    /// Bytes of a URL.
    static let bytesMax = 4_096

    public init(host: String, port: UInt16 = OutboundProxy.defaultPort, credentials: Credentials? = nil) {
        self.host = host
        self.port = port
        self.credentials = credentials
    }

    /// From `http://USER:PASSWORD@HOST:PORT`, of which the credentials and the port may be missing.
    public init(url text: String) throws(SettingError) {
        if text.utf8.count > Self.bytesMax { throw SettingError("is longer than \(Self.bytesMax) bytes") }
        guard let end = text.firstRange(of: "://") else { throw Self.malformed }
        try Self.check(scheme: text[..<end.lowerBound].lowercased())
        var rest = text[end.upperBound...]
        if rest.hasSuffix("/") { rest.removeLast() }
        // A password that was not encoded is the usual reason for these.
        if rest.contains(where: { "/?# ".contains($0) }) { throw Self.malformed }
        if let at = rest.lastIndex(of: "@") {
            credentials = try Self.credentials(rest[..<at])
            rest = rest[rest.index(after: at)...]
        }
        guard let (host, port) = AddressText.split(String(rest), defaultPort: Self.defaultPort), AddressText.isHost(host), port > 0 else {
            throw SettingError("has no valid host and port (for example http://proxy.example.com:3128)")
        }
        self.host = host
        self.port = port
    }

    private static let malformed = SettingError(
        "is not a proxy's URL (http://USER:PASSWORD@HOST:PORT, with / ? # @ : % and spaces in user and password percent-encoded)")

    private static func check(scheme: String) throws(SettingError) {
        if scheme == "http" { return }
        if scheme == "https" {
            throw SettingError("is an https URL: TLS to the proxy itself is not spoken (http://HOST:PORT is; TLS to the server goes through it)")
        }
        if scheme.hasPrefix("socks") { throw SettingError("is a SOCKS proxy's: only HTTP proxies are spoken to (http://HOST:PORT)") }
        throw malformed
    }

    private static func credentials(_ text: Substring) throws(SettingError) -> Credentials? {
        if text.isEmpty { return nil }
        let parts = text.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
        let user = try decoded(parts[0])
        if user.contains(":") { throw SettingError("has a user with a colon, which Basic credentials can't have") }
        return Credentials(user: user, password: parts.count == 2 ? try decoded(parts[1]) : "")
    }

    private static func decoded(_ text: Substring) throws(SettingError) -> String {
        guard let bytes = PercentCoding.decode(text.utf8), let decoded = String(validating: bytes, as: UTF8.self),
            bytes.allSatisfy({ $0 >= 0x20 && $0 != 0x7f })
        else { throw malformed }
        return decoded
    }

    /// "host:port", for connecting and for messages.
    public var authority: String { AddressText.join(host, port) }

    /// The whole URL, with the password.
    var urlText: String {
        let shown = credentials.map { "\(PercentCoding.encode($0.user)):\(PercentCoding.encode($0.password))@" } ?? ""
        return "http://\(shown)\(authority)"
    }

    public var description: String { authority }
    public var debugDescription: String { authority }
}

/// The value of `connect.proxy_url`.
public enum ProxySetting: SettingValue, Hashable {
    /// As the environment says.
    case environment
    /// No proxy, whatever the environment says.
    case direct
    case through(OutboundProxy)

    public static var placeholder: String { "URL|none" }

    public init(settingText text: String) throws(SettingError) {
        switch text {
        case "": self = .environment
        case "none", "direct": self = .direct
        default: self = .through(try OutboundProxy(url: text))
        }
    }

    public var settingText: String {
        switch self {
        case .environment: ""
        case .direct: "none"
        case .through(let proxy): proxy.urlText
        }
    }
}

/// The proxy towards the server, or where it is written.
public struct ProxyConfig: Equatable, Sendable {
    public var setting = ProxySetting.environment
    /// Read for each connection: who changes the password writes a new file. Empty: none.
    public var file = ""

    /// The key of `setting`, for messages.
    public static let key = "connect.proxy_url"
    /// The key of `file`.
    public static let fileKey = "connect.proxy_url_file"

    public init() {}

    static let settings: [Setting<ProxyConfig>] = [
        Setting(
            "proxy_url", \.setting, isSecret: true,
            """
            An HTTP proxy to reach the server through, by CONNECT: http://USER:PASSWORD@HOST:PORT, without credentials if it asks for \
            none. none means no proxy. By default HTTPS_PROXY, for an http URL HTTP_PROXY, and NO_PROXY of the environment say. Flags \
            are seen by everybody on the machine: prefer the file, or proxy_url_file.
            """),
        Setting(
            "proxy_url_file", \.file, placeholder: "FILE",
            """
            A file with the proxy's URL, in place of proxy_url. It is read anew for each connection. White space around it is not a \
            part of it.
            """),
    ]

    func validate() throws(ConfigError) {
        if setting != .environment, !file.isEmpty { throw ConfigError("\(Self.fileKey): \(Self.key) is set, too") }
    }
}

/// Percent-encoding (RFC 3986 section 2.1).
enum PercentCoding {
    /// The bytes that the text stands for; nil where no two digits follow a `%`.
    static func decode(_ text: Substring.UTF8View) -> [UInt8]? {
        var output: [UInt8] = []
        var rest = text[...]
        while let byte = rest.popFirst() {
            if byte != UInt8(ascii: "%") {
                output.append(byte)
                continue
            }
            guard let high = rest.popFirst().flatMap(digit), let low = rest.popFirst().flatMap(digit) else { return nil }
            output.append(high << 4 | low)
        }
        return output
    }

    /// The text with everything encoded that means something in a URL.
    static func encode(_ text: String) -> String {
        var output = ""
        for byte in text.utf8 {
            if AddressText.isPlainNameByte(byte) {
                output.unicodeScalars.append(UnicodeScalar(byte))
            } else {
                output += "%" + (byte < 16 ? "0" : "") + String(byte, radix: 16, uppercase: true)
            }
        }
        return output
    }

    private static func digit(_ byte: UInt8) -> UInt8? {
        switch byte {
        case 0x30...0x39: byte - 0x30
        case 0x41...0x46: byte - 0x37
        case 0x61...0x66: byte - 0x57
        default: nil
        }
    }
}
