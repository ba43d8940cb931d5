// Who may use a port: the keys that tokens are checked with, and what the tokens must say. The same keys for each of the server's
// ports. What is wrong with a key is found out by the program, which can read it; here is only text.

/// The tokens of a port.
public struct AuthConfig: Equatable, Sendable {
    /// The secret that tokens are signed with; that of the file takes its place when the files are read. Empty: none.
    public var hmacSecretKey = ""
    public var hmacSecretKeyFile = ""
    /// Public keys in PEM, likewise.
    public var rsaPublicKey = ""
    public var rsaPublicKeyFile = ""
    public var ecdsaPublicKey = ""
    public var ecdsaPublicKeyFile = ""
    public var audience = ""
    public var issuer = ""
    /// A token without endpoints is for none.
    public var requiresEndpoints = false
    /// Tunnels go on when the time of their token is over.
    public var disablesDisconnectOnExpiry = false
    public var jwks = JWKS()

    public init() {}

    /// A set of keys that is published somewhere.
    public struct JWKS: Equatable, Sendable {
        /// The URL; empty: there is none.
        public var endpoint = ""
        /// Zero: `cacheTTLDefault`.
        public var cacheTTL = Duration.zero
        /// Zero: `timeoutDefault`.
        public var timeout = Duration.zero

        public static let cacheTTLDefault = Duration.seconds(3_600)
        public static let timeoutDefault = Duration.seconds(10)

        public init() {}

        /// How long keys are good for that a newer document lacks, and when a newer one is fetched.
        public var life: Duration { cacheTTL > .zero ? cacheTTL : Self.cacheTTLDefault }

        /// The longest time that fetching takes.
        public var timeLimit: Duration { timeout > .zero ? timeout : Self.timeoutDefault }

        /// The URL when it is to be fetched.
        public var httpURL: FetchURL? { FetchURL(endpoint) }

        /// The path of a `file:` URL; nil when the endpoint is another one.
        public var filePath: String? { AuthRule.filePath(endpoint) }
    }

    /// Whether the port is for those with tokens only.
    public var isEnabled: Bool { !sources.isEmpty }

    /// The keys that name where tokens' keys come from and are set.
    private var sources: [String] {
        [
            ("hmac_secret_key", hmacSecretKey), ("hmac_secret_key_file", hmacSecretKeyFile), ("rsa_public_key", rsaPublicKey),
            ("rsa_public_key_file", rsaPublicKeyFile), ("ecdsa_public_key", ecdsaPublicKey),
            ("ecdsa_public_key_file", ecdsaPublicKeyFile), ("jwks.endpoint", jwks.endpoint),
        ].filter { !$0.1.isEmpty }.map(\.0)
    }

    /// Rules that concern more than one key.
    func validate(_ path: String) throws(ConfigError) {
        let sources = sources
        if !jwks.endpoint.isEmpty, sources.count > 1 {
            throw ConfigError("\(path): jwks.endpoint and \(sources[0]) can't both be set")
        }
        guard sources.isEmpty else { return }
        // Whoever writes one of these thinks that the port is closed.
        for (key, isSet) in [
            ("audience", !audience.isEmpty), ("issuer", !issuer.isEmpty), ("require_endpoints", requiresEndpoints),
        ] where isSet {
            throw ConfigError("\(path).\(key): is set, but no key: anybody could use the port")
        }
    }

    /// Puts the keys of the files where the others are.
    public mutating func readFiles<Failure: Error>(
        _ path: String, _ read: (_ path: String, _ bytesMax: Int) throws(Failure) -> [UInt8]
    ) throws(ConfigError) {
        try Self.read(hmacSecretKeyFile, into: &hmacSecretKey, "\(path).hmac_secret_key", read)
        try Self.read(rsaPublicKeyFile, into: &rsaPublicKey, "\(path).rsa_public_key", read)
        try Self.read(ecdsaPublicKeyFile, into: &ecdsaPublicKey, "\(path).ecdsa_public_key", read)
    }

    private static func read<Failure: Error>(
        _ file: String, into key: inout String, _ path: String, _ read: (_ path: String, _ bytesMax: Int) throws(Failure) -> [UInt8]
    ) throws(ConfigError) {
        guard !file.isEmpty else { return }
        guard key.isEmpty else { throw ConfigError("\(path)_file: \(path) is set, too") }
        key = try SecretFile.read(file, "\(path)_file", read)
    }
}

/// A file with one secret or key in it.
public enum SecretFile {
    static let bytesMax = 65_536

    /// The text of the file without the white space around it. `key` is for messages.
    public static func read<Failure: Error>(
        _ file: String, _ key: String, _ read: (_ path: String, _ bytesMax: Int) throws(Failure) -> [UInt8]
    ) throws(ConfigError) -> String {
        let bytes: [UInt8]
        do throws(Failure) {
            bytes = try read(file, bytesMax)
        } catch {
            throw ConfigError("\(key): \(error)")
        }
        let isBlank: (UInt8) -> Bool = { $0 == 0x20 || (9...13).contains($0) }
        var content = bytes.drop(while: isBlank)
        while let last = content.last, isBlank(last) { content.removeLast() }
        guard let text = String(validating: content, as: UTF8.self) else { throw ConfigError("\(key): \(file): is not text") }
        if text.isEmpty { throw ConfigError("\(key): \(file): is empty") }
        return text
    }
}

extension AuthConfig {
    /// The keys of a port. Only where there are endpoints can they be required.
    static func settings(hasEndpoints: Bool, hasTunnels: Bool) -> [Setting<AuthConfig>] {
        [
            Setting(
                "hmac_secret_key", \.hmacSecretKey, isSecret: true,
                """
                The secret that tokens are signed with (HS256, HS384, HS512). Any of the keys closes the port to requests without \
                a valid token (docs/tokens.md). Flags are seen by everybody on the machine: prefer the file, or hmac_secret_key_file.
                """),
            Setting(
                "hmac_secret_key_file", \.hmacSecretKeyFile, placeholder: "FILE",
                "A file with the secret. White space around it is not a part of it. Read again when it changes."),
            Setting("rsa_public_key", \.rsaPublicKey, "An RSA key in PEM, for tokens with RS256, RS384 and RS512. At least 2048 bits."),
            Setting("rsa_public_key_file", \.rsaPublicKeyFile, placeholder: "FILE", "A file with the RSA key. Read again when it changes."),
            Setting("ecdsa_public_key", \.ecdsaPublicKey, "An elliptic curve key in PEM, for tokens with ES256, ES384 or ES512."),
            Setting("ecdsa_public_key_file", \.ecdsaPublicKeyFile, placeholder: "FILE",
                "A file with the elliptic curve key. Read again when it changes."),
            Setting(
                "jwks.endpoint", \.jwks.endpoint, check: AuthRule.endpoint,
                """
                Where a set of keys (JWKS) is, in place of the keys above: file:///PATH, https://HOST/PATH (of a server that the system trusts), \
                or http://HOST/PATH. Whoever is on the way of an http URL can exchange the keys.
                """),
            Setting(
                "jwks.cache_ttl", \.jwks.cacheTTL, check: Rule.notNegative,
                "How often the set is fetched, and how long a key is good for that a newer set lacks. 0 means 1h."),
            Setting("jwks.timeout", \.jwks.timeout, check: Rule.notNegative, "How long fetching the set may take. 0 means 10s."),
            Setting("audience", \.audience, "What the token's aud must name. Empty: it is not looked at."),
            Setting("issuer", \.issuer, "What the token's iss must be. Empty: it is not looked at."),
        ]
            + (hasEndpoints
                ? [
                    Setting(
                        "require_endpoints", \.requiresEndpoints,
                        "Refuse tokens that name no endpoints (piko.endpoints). Otherwise they are for all endpoints.")
                ] : [])
            + (hasTunnels
                ? [
                    Setting(
                        "disable_disconnect_on_expiry", \.disablesDisconnectOnExpiry,
                        "Let tunnels go on when the time of the token is over that they were opened with.")
                ]
                : [
                    Setting(
                        "disable_disconnect_on_expiry", \.disablesDisconnectOnExpiry,
                        "Accepted for the sake of existing files. Nothing on this port is cut when the time of a token is over.")
                ])
    }
}

/// Rules of the values above: what is wrong, or nil.
enum AuthRule {
    @Sendable static func endpoint(_ text: String) -> String? {
        if text.isEmpty { return nil }
        if filePath(text) != nil { return nil }
        if FetchURL(text) != nil { return nil }
        return "is no URL of a key set (file:///PATH, https://HOST/PATH or http://HOST/PATH)"
    }

    static func filePath(_ text: String) -> String? {
        guard text.hasPrefix("file:") else { return nil }
        var path = text.dropFirst("file:".count)
        if path.hasPrefix("//") {
            path = path.dropFirst(2)
            if path.hasPrefix("localhost/") { path = path.dropFirst("localhost".count) }
        }
        guard path.hasPrefix("/"), path.utf8.count > 1, !path.utf8.contains(0), !path.contains("%") else { return nil }
        return String(path)
    }
}
