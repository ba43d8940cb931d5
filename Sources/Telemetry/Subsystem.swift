// The parts of the programs that log, under the names that log queries for this protocol's programs already use.

/// Who writes a log line.
public enum Subsystem: UInt8, CaseIterable, Sendable {
    case main, server, proxy, proxyHTTP, proxyTCP, proxyAccess, upstream, admin, cluster, gossip
    case client, proxyHTTPAccess, proxyTCPAccess, forwarder

    /// The name in the line, and in `log.subsystems`.
    public var name: StaticString {
        switch self {
        case .main: "main"
        case .server: "server"
        case .proxy: "proxy"
        case .proxyHTTP: "proxy.http"
        case .proxyTCP: "proxy.tcp"
        case .proxyAccess: "proxy.access"
        case .upstream: "upstream"
        case .admin: "admin"
        case .cluster: "cluster"
        case .gossip: "gossip"
        case .client: "client"
        case .proxyHTTPAccess: "proxy.http.access"
        case .proxyTCPAccess: "proxy.tcp.access"
        case .forwarder: "forwarder"
        }
    }
}
