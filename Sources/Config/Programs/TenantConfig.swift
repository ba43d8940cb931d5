// Tenants of the server: each with keys of its own, and endpoints in a namespace of its own.

internal import Base

/// One tenant. Its endpoints are called "TENANT/ENDPOINT" wherever all tenants' are seen.
public struct TenantConfig: Equatable, Sendable {
    public var id = ""
    /// The tokens of its agents.
    public var auth = AuthConfig()
    /// The tokens of those who use its endpoints; not enabled: those of the proxy port count.
    public var proxyAuth = AuthConfig()
    /// What follows the endpoint's label in a host of the tenant's: "acme.example.com".
    public var domains: [String] = []
    public var limits = Limits()

    public init() {}

    /// What all of a tenant's agents and clients may use together, of each node; zero means no limit.
    public struct Limits: Equatable, Sendable {
        /// Agents' sessions, and endpoints that have one.
        public var tunnelsMax = 0
        public var endpointsMax = 0
        /// Requests that are served and TCP connections, and how many begin in a second.
        public var streamsMax = 0
        public var requestRateMax = 0

        public init() {}

        static let settings: [Setting<Limits>] = [
            Setting("max_tunnels", \.tunnelsMax, check: TenantRule.limit, "The tunnels that the tenant may have of a node; beyond: 429. 0 means no limit."),
            Setting(
                "max_endpoints", \.endpointsMax, check: TenantRule.limit,
                "The endpoints with a tunnel that the tenant may have of a node; beyond: 429. 0 means no limit."),
            Setting(
                "max_streams", \.streamsMax, check: TenantRule.limit,
                "The requests and TCP connections to the tenant's endpoints that a node serves at once; beyond: 429. 0 means no limit."),
            Setting(
                "max_request_rate", \.requestRateMax, check: TenantRule.limit,
                "Those that may begin in a second; beyond: 429. 0 means no limit."),
        ]
    }

    /// Bytes of a tenant's name.
    public static let idBytesMax = 63
    /// Tenants of a server.
    public static let countMax = 256

    static let settings: [Setting<TenantConfig>] =
        [
            Setting(
                "id", \.id, isRequired: true, check: TenantRule.id,
                "The tenant's name, as agents and clients say it in x-piko-tenant-id: up to 63 of a-z, A-Z, 0-9, \"-\", \"_\" and \".\"."),
            Setting(
                "domains", list: \.domains, placeholder: "DOMAIN", check: TenantRule.domain,
                """
                Domains whose hosts are the tenant's: with acme.example.com, ENDPOINT.acme.example.com is its ENDPOINT. A request \
                with x-piko-tenant-id is for the tenant that this names, whatever its host.
                """),
        ]
        + Setting.group("limits", \.limits, Limits.settings)
        + Setting.group("auth", \.auth, AuthConfig.settings(hasEndpoints: true, hasTunnels: true))
        + Setting.group("proxy_auth", \.proxyAuth, AuthConfig.settings(hasEndpoints: true, hasTunnels: false))

    func validate(_ path: String) throws(ConfigError) {
        try auth.validate("\(path).auth")
        guard auth.isEnabled else { throw ConfigError("\(path).auth: has no key: anybody could be tenant \"\(id)\"") }
        try proxyAuth.validate("\(path).proxy_auth")
    }

    /// Rules that concern several tenants.
    static func validate(_ tenants: [TenantConfig], _ path: String) throws(ConfigError) {
        if tenants.count > countMax { throw ConfigError("\(path): are more than \(countMax)") }
        var ids: Set<String> = []
        var domains: Set<String> = []
        for (index, tenant) in tenants.enumerated() {
            try tenant.validate("\(path).\(index)")
            guard ids.insert(tenant.id).inserted else { throw ConfigError("\(path).\(index).id: \"\(tenant.id)\" is there twice") }
            for domain in tenant.domains where !domains.insert(domain.lowercased()).inserted {
                throw ConfigError("\(path).\(index).domains: \"\(domain)\" is there twice")
            }
        }
    }
}

/// Rules of tenants' names: what is wrong, or nil.
public enum TenantRule {
    /// A tenant's name stands before the slash in "TENANT/ENDPOINT".
    @Sendable public static func id(_ text: String) -> String? {
        let isName = text.utf8.allSatisfy { isLetterOrDigit($0) || $0 == UInt8(ascii: "-") || $0 == UInt8(ascii: "_") || $0 == UInt8(ascii: ".") }
        guard !text.isEmpty, text.utf8.count <= TenantConfig.idBytesMax, isName else {
            return "is no tenant's name (1 to \(TenantConfig.idBytesMax) letters, digits, \"-\", \"_\" and \".\")"
        }
        return nil
    }

    @Sendable static func limit(_ number: Int) -> String? {
        (0...4_294_967_294).contains(number) ? nil : "is not within 0 to 4294967294"
    }

    @Sendable static func domain(_ text: String) -> String? {
        let labels = text.utf8.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: false)
        let areLabels = labels.allSatisfy { label in
            !label.isEmpty && label.count <= 63 && label.allSatisfy { isLetterOrDigit($0) || $0 == UInt8(ascii: "-") || $0 == UInt8(ascii: "_") }
        }
        return areLabels && text.utf8.count <= 240 ? nil : "is no domain (for example acme.example.com)"
    }

    private static func isLetterOrDigit(_ byte: UInt8) -> Bool {
        (0x30...0x39).contains(byte) || (0x41...0x5a).contains(byte) || (0x61...0x7a).contains(byte)
    }
}
