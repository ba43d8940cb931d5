// Addresses as people write them. Nothing is resolved here: a host may be a name, and what it means is asked when it is
// used.

/// Where to listen: "host:port", "[::1]:port", or ":port" for all addresses of the machine, IPv6 and IPv4.
public struct BindAddress: SettingValue, Hashable {
    /// A name or an IP address without brackets; empty means all addresses.
    public var host: String
    /// Zero lets the kernel choose.
    public var port: UInt16

    public init(host: String, port: UInt16) {
        self.host = host
        self.port = port
    }

    public static var placeholder: String { "ADDRESS" }

    public init(settingText text: String) throws(SettingError) {
        guard let (host, port) = AddressText.split(text), host.isEmpty || AddressText.isHost(host) else {
            throw SettingError("is not an address (for example :8000, 127.0.0.1:8000 or [::1]:8000)")
        }
        self.init(host: host, port: port)
    }

    public var settingText: String { AddressText.join(host, port) }
}

/// Where others reach a port of this node: "host:port", a host alone, or nothing, which means what can be told from where the
/// port is bound.
public struct AdvertiseAddress: SettingValue, Hashable {
    /// A name or an IP address without brackets; empty: it is derived.
    public var host: String
    /// Zero: that of the port itself.
    public var port: UInt16

    public init(host: String = "", port: UInt16 = 0) {
        self.host = host
        self.port = port
    }

    public static var placeholder: String { "HOST[:PORT]" }

    public init(settingText text: String) throws(SettingError) {
        if text.isEmpty {
            self.init()
            return
        }
        guard let (host, port) = AddressText.split(text, defaultPort: 0), host.isEmpty || AddressText.isHost(host),
            !host.isEmpty || port > 0
        else { throw SettingError("is not an address for others (for example 10.0.0.7, 10.0.0.7:8000 or node-1.example.com)") }
        // With the port that the node adds when there is none.
        guard AddressText.join(host, port == 0 ? .max : port).utf8.count <= Self.bytesMax else {
            throw SettingError("is longer than \(Self.bytesMax) bytes with its port")
        }
        self.init(host: host, port: port)
    }

    /// What other nodes take as an address.
    private static let bytesMax = 256

    public var settingText: String {
        port == 0 ? AddressText.bracketed(host) : AddressText.join(host, port)
    }

    static func help(_ key: String) -> String {
        "What other nodes are told to be the address. By default that of \(key), or this machine's where it names none."
    }
}

/// Where `forward` listens: as `BindAddress`, or a port alone, which means this machine only.
public struct LocalAddress: SettingValue, Hashable {
    public var bindAddress: BindAddress

    public init(_ bindAddress: BindAddress) { self.bindAddress = bindAddress }

    public static var placeholder: String { "ADDR" }

    public init(settingText text: String) throws(SettingError) {
        if let port = AddressText.port(text), port > 0 {
            bindAddress = BindAddress(host: "localhost", port: port)
        } else if let (host, port) = AddressText.split(text), host.isEmpty || AddressText.isHost(host) {
            bindAddress = BindAddress(host: host, port: port)
        } else {
            throw SettingError("is not an address (for example 3000, 127.0.0.1:3000 or :3000)")
        }
    }

    public var settingText: String { bindAddress.settingText }
}

/// A service that the agent connects to: a port of this machine, "host:port", or an http or https URL.
public struct ServiceAddress: SettingValue, Hashable {
    /// A name or an IP address without brackets, never empty.
    public var host: String
    /// 1 … 65535.
    public var port: UInt16
    /// The URL's path without its last "/", put in front of each request's path; empty when there is none.
    public var pathPrefix: String
    /// Whether it was written as a URL, which only an HTTP listener can use.
    public var isURL: Bool
    /// Whether it is an https URL.
    public var isSecure: Bool

    public init(host: String, port: UInt16, pathPrefix: String = "", isURL: Bool = false, isSecure: Bool = false) {
        self.isSecure = isSecure
        self.host = host
        self.port = port
        self.pathPrefix = pathPrefix
        self.isURL = isURL
    }

    public static var placeholder: String { "ADDR" }

    public init(settingText text: String) throws(SettingError) {
        if text.contains("://") {
            let url = try ServerURL(settingText: text)
            self.init(host: url.host, port: url.port, pathPrefix: url.pathPrefix, isURL: true, isSecure: url.isSecure)
        } else if let port = AddressText.port(text), port > 0 {
            self.init(host: "localhost", port: port)
        } else if let (host, port) = AddressText.split(text), AddressText.isHost(host), port > 0 {
            self.init(host: host, port: port)
        } else {
            throw SettingError(
                "is not a service's address (for example 3000, 10.0.0.7:3000 or http://10.0.0.7:3000; ports are 1 to 65535)")
        }
    }

    /// "host:port", for connecting and for messages.
    public var authority: String { AddressText.join(host, port) }

    public var settingText: String { isURL ? "\(isSecure ? "https" : "http")://\(authority)\(pathPrefix)" : authority }
}

/// The URL of a Piko server.
public struct ServerURL: SettingValue, Hashable {
    /// A name or an IP address without brackets, never empty.
    public var host: String
    /// 1 … 65535.
    public var port: UInt16
    /// The path without its last "/", put in front of the protocol's own paths; empty when there is none.
    public var pathPrefix: String
    /// Whether it is an https URL.
    public var isSecure: Bool

    public init(host: String, port: UInt16, pathPrefix: String = "", isSecure: Bool = false) {
        self.isSecure = isSecure
        self.host = host
        self.port = port
        self.pathPrefix = pathPrefix
    }

    public static var placeholder: String { "URL" }

    public init(settingText text: String) throws(SettingError) {
        let scheme = text.prefix { $0 != ":" }.lowercased()
        let bytes = Array(text.utf8)
        guard bytes.dropFirst(scheme.utf8.count).starts(with: "://".utf8) else {
            throw SettingError("is not a URL (for example http://localhost:8001)")
        }
        guard scheme == "http" || scheme == "https" else {
            throw SettingError("is not an http or https URL (for example http://localhost:8001)")
        }
        let isSecure = scheme == "https"
        let rest = bytes.dropFirst(scheme.utf8.count + "://".utf8.count)
        let authority = String(decoding: rest.prefix { $0 != UInt8(ascii: "/") }, as: UTF8.self)
        var path = rest.drop { $0 != UInt8(ascii: "/") }
        if authority.contains("@") { throw SettingError("names a user; a token goes into connect.token or its file") }
        while path.last == UInt8(ascii: "/") { path.removeLast() }
        guard path.allSatisfy(AddressText.isPathByte) else {
            throw SettingError("is not a plain http URL (a host, a port and a path, with no query and no spaces)")
        }
        guard let (host, port) = AddressText.split(authority, defaultPort: isSecure ? 443 : 80), AddressText.isHost(host), port > 0 else {
            throw SettingError("has no valid host and port (for example http://localhost:8001)")
        }
        self.init(host: host, port: port, pathPrefix: String(decoding: path, as: UTF8.self), isSecure: isSecure)
    }

    /// "host:port", with the port left out when it is the scheme's own: what a `Host` field holds.
    public var authority: String {
        port == (isSecure ? 443 : 80) ? AddressText.bracketed(host) : AddressText.join(host, port)
    }

    public var settingText: String { "\(isSecure ? "https" : "http")://\(authority)\(pathPrefix)" }
}

/// The parts of addresses.
enum AddressText {
    /// A port, 0 … 65535, in decimal without zeros in front.
    static func port(_ text: some StringProtocol) -> UInt16? {
        let digits = text.utf8
        guard (1...5).contains(digits.count), digits.allSatisfy({ $0 >= 48 && $0 <= 57 }) else { return nil }
        if digits.count > 1 && digits.first == 48 { return nil }
        return UInt16(String(text))
    }

    /// The host, without its brackets, and the port of "host:port". Without a port it is `defaultPort`, if there is one.
    static func split(_ text: String, defaultPort: UInt16? = nil) -> (host: String, port: UInt16)? {
        var host = text[...]
        var portText: Substring?
        if text.hasPrefix("[") {
            guard let end = text.firstIndex(of: "]") else { return nil }
            host = text[text.index(after: text.startIndex)..<end]
            let rest = text[text.index(after: end)...]
            if rest.hasPrefix(":") { portText = rest.dropFirst() } else if !rest.isEmpty { return nil }
            // Brackets are for IPv6 addresses only, and are never empty.
            if !host.contains(":") { return nil }
        } else if let colon = text.firstIndex(of: ":") {
            host = text[..<colon]
            portText = text[text.index(after: colon)...]
        }
        guard let portText else { return defaultPort.map { (String(host), $0) } }
        return port(portText).map { (String(host), $0) }
    }

    /// Whether the text can be a host: a name, an IPv4 address, or an IPv6 address with or without a zone.
    static func isHost(_ text: String) -> Bool {
        if text.isEmpty || text.utf8.count > 253 { return false }
        if text.contains(":") {
            let address = text.utf8.prefix { $0 != UInt8(ascii: "%") }
            let zone = text.utf8.dropFirst(address.count)
            return address.allSatisfy { isHexadecimal($0) || $0 == UInt8(ascii: ":") || $0 == UInt8(ascii: ".") }
                && (zone.isEmpty || (zone.count > 1 && zone.dropFirst().allSatisfy(isNameByte)))
        }
        return text.utf8.allSatisfy(isNameByte)
    }

    static func bracketed(_ host: String) -> String { host.contains(":") ? "[\(host)]" : host }

    static func join(_ host: String, _ port: UInt16) -> String { "\(bracketed(host)):\(port)" }

    private static func isHexadecimal(_ byte: UInt8) -> Bool {
        (byte >= 48 && byte <= 57) || (byte | 0x20 >= 97 && byte | 0x20 <= 102)
    }

    private static func isAlphanumeric(_ byte: UInt8) -> Bool {
        (byte >= 48 && byte <= 57) || (byte | 0x20 >= 97 && byte | 0x20 <= 122)
    }

    /// Whether the byte may be in a node's name.
    static func isPlainNameByte(_ byte: UInt8) -> Bool { isNameByte(byte) }

    private static func isNameByte(_ byte: UInt8) -> Bool {
        isAlphanumeric(byte) || byte == UInt8(ascii: "-") || byte == UInt8(ascii: ".") || byte == UInt8(ascii: "_")
    }

    /// Whether the byte may be in a segment of a URL's path as it is (RFC 3986, section 3.3, `pchar`).
    static func isSegmentByte(_ byte: UInt8) -> Bool {
        isAlphanumeric(byte) || "-._~!$&'()*+,;=:@".utf8.contains(byte)
    }

    /// Whether the byte may be in a URL's path.
    static func isPathByte(_ byte: UInt8) -> Bool {
        isSegmentByte(byte) || byte == UInt8(ascii: "/") || byte == UInt8(ascii: "%")
    }
}
