// What every port of a server has about who may come in: access lists, load balancers that speak for their clients, and limits.

internal import Base

extension ServerConfig {
    /// Who may come to a port, and how many.
    public struct Entrance: Equatable, Sendable {
        /// Blocks of addresses; empty `allow`: everybody.
        public var allow: [String] = []
        public var deny: [String] = []
        /// Whether load balancers announce each connection's client.
        public var usesProxyProtocol = false
        /// Connections that are open at once; zero: as many as there are descriptors for.
        public var connectionsMax = 0
        /// The same, of one address; zero: no limit.
        public var connectionsPerAddressMax = 0
        /// New connections in a second; zero: no limit.
        public var connectionRateMax = 0

        public init() {}
    }
}

extension ServerConfig.Entrance {
    static let settings: [Setting<ServerConfig.Entrance>] = [
        Setting(
            "access.allow", list: \.allow, placeholder: "BLOCK", check: Rule.addressBlock,
            """
            The only addresses that may connect to this port: blocks such as 10.0.0.0/8 or 2001:db8::/32, or single addresses. \
            Others are closed before a byte is read. An empty list means all.
            """),
        Setting(
            "access.deny", list: \.deny, placeholder: "BLOCK", check: Rule.addressBlock,
            "Addresses that may not connect to this port, whatever access.allow says."),
        Setting(
            "proxy_protocol", \.usesProxyProtocol,
            """
            Whether connections from trusted_proxies begin with a header of the PROXY protocol (version 1 or 2), which says who \
            the client is. Connections from other addresses, and from nodes of the cluster, begin without.
            """),
        Setting(
            "limits.max_connections", \.connectionsMax, check: Rule.within(0...1_000_000_000),
            "The most connections of this port that are open at once. Further ones are closed. 0 means as many as there is room for."),
        Setting(
            "limits.max_connections_per_ip", \.connectionsPerAddressMax, check: Rule.within(0...1_000_000_000),
            """
            The most connections of this port that one IPv4 address, or one /64 network of IPv6, has open at once. Further \
            ones are closed. 0 means no limit.
            """),
        Setting(
            "limits.max_connection_rate", \.connectionRateMax, check: Rule.within(0...1_000_000_000),
            """
            The most new connections a second that this port takes, with as many at once after a pause. Further ones are \
            closed. 0 means no limit.
            """),
    ]

    func validate(_ path: String, hasTrusted: Bool) throws(ConfigError) {
        for (key, list) in [("allow", allow), ("deny", deny)] where list.count > AddressBlocks.countMax {
            throw ConfigError("\(path).access.\(key): has more than \(AddressBlocks.countMax) blocks")
        }
        if usesProxyProtocol, !hasTrusted {
            throw ConfigError("\(path).proxy_protocol: needs trusted_proxies, the addresses of the load balancers that speak it")
        }
    }
}

/// The proxies whose word about their clients counts.
public struct TrustedProxies: Equatable, Sendable {
    /// Blocks of addresses, or `nobody` alone; empty: nothing is configured.
    public var texts: [String] = []

    /// The word for a list that trusts no address.
    static let nobody = "none"

    public init() {}

    /// Whether what requests say about the way that they came is judged at all.
    public var isConfigured: Bool { !texts.isEmpty }

    /// The blocks as they are written.
    public var blocks: [String] { texts.filter { $0 != Self.nobody } }

    static let setting = Setting<ServerConfig>(
        "trusted_proxies", list: \.trustedProxies.texts, placeholder: "BLOCK",
        check: { $0 == nobody ? nil : Rule.addressBlock($0) },
        """
        Addresses of load balancers and proxies in front of this server. What they say in X-Forwarded-For, \
        X-Forwarded-Proto, X-Forwarded-Host and Forwarded is kept and added to, and the client is who they say; what \
        anybody else says there is replaced. none alone trusts nobody. When the list is empty, X-Forwarded-For \
        is added to whoever sent it, the others are passed on as they came, and the client is who connects.
        """)

    func validate() throws(ConfigError) {
        if texts.contains(Self.nobody), texts.count > 1 { throw ConfigError("trusted_proxies: none must stand alone") }
        if texts.count > AddressBlocks.countMax { throw ConfigError("trusted_proxies: has more than \(AddressBlocks.countMax) blocks") }
    }
}

extension Rule {
    /// A block of addresses.
    @Sendable static func addressBlock(_ text: String) -> String? {
        do throws(AddressBlockError) {
            _ = try AddressBlock(text)
            return nil
        } catch {
            return error.message
        }
    }
}
