// The tenants of the configuration as a worker serves them: whose request it is, and whose keys count. The endpoints of a tenant
// are called "TENANT/ENDPOINT" from the ports on, everywhere: in routes, gossip, status, logs and metrics. A name that an agent
// or a client says has no slash in it, so nobody says another tenant's.

import Authentication
import Base
import Config
import Control
import Memory
import Wire

/// One tenant.
final class Tenant {
    let id: String
    /// What stands before the names of its endpoints: its name and a slash.
    let prefix: [UInt8]
    /// The tokens of its agents.
    let upstream: PortAuthentication
    /// The tokens of its clients; nil: those of the port count.
    let proxy: PortAuthentication?
    /// What its sessions draw from, and what its requests do; each empty or one.
    let tunnelQuotas: [Quota]
    let requestQuotas: [Quota]

    init(_ config: TenantConfig, subjectKey: [UInt8]) {
        id = config.id
        prefix = Array(config.id.utf8) + [UInt8(ascii: "/")]
        upstream = PortAuthentication(.upstream, tenant: config.id, config.auth, subjectKey: subjectKey)
        let subject = TokenSubject(key: subjectKey).tenant(Array(config.id.utf8))
        func quotas(_ limits: QuotaLimits) -> [Quota] { limits.isNone ? [] : [Quota(subject: subject, limits: limits)] }
        func limit(_ number: Int) -> UInt32? { number == 0 ? nil : UInt32(number) }
        tunnelQuotas = quotas(QuotaLimits(tunnels: limit(config.limits.tunnelsMax), endpoints: limit(config.limits.endpointsMax)))
        requestQuotas = quotas(
            QuotaLimits(streams: limit(config.limits.streamsMax), requestRate: limit(config.limits.requestRateMax)))
        proxy = config.proxyAuth.isEnabled
            ? PortAuthentication(.proxy, tenant: config.id, config.proxyAuth, subjectKey: subjectKey) : nil
    }
}

/// All of them.
final class TenantTable {
    private var byID: [[UInt8]: Tenant] = [:]
    private var byDomain: [[UInt8]: Tenant] = [:]

    init(_ configs: [TenantConfig], subjectKey: [UInt8]) {
        for config in configs {
            let tenant = Tenant(config, subjectKey: subjectKey)
            byID[Array(config.id.utf8)] = tenant
            for domain in config.domains { byDomain[Array(domain.lowercased().utf8)] = tenant }
        }
    }

    var isEmpty: Bool { byID.isEmpty }

    /// The tenant of that name.
    func named(_ id: String) -> Tenant? { byID[Array(id.utf8)] }

    /// Whether agents of that tenant may be here; the empty name: agents of none.
    func knows(_ id: String) -> Bool { id.isEmpty ? isEmpty : named(id) != nil }

    /// The value of the request's `x-piko-tenant-id`; empty when there is none. Two are refused.
    static func claim(_ head: borrowing Head, _ bytes: Span<UInt8>) throws(HTTPError) -> [UInt8] {
        guard let place = head.firstValue(of: .xPikoTenant) else { return [] }
        guard head.count(of: .xPikoTenant) == 1 else { throw HTTPError(status: 400, reason: "more than one x-piko-tenant-id field") }
        return [UInt8](copying: bytes.extracting(place))
    }

    /// The tenant that an agent says it is of; nil: the port has none. One that there is not is told nothing else.
    func ofAgent(_ head: borrowing Head, _ bytes: Span<UInt8>, portHasKeys: Bool) throws(HTTPError) -> Tenant? {
        let claim = try Self.claim(head, bytes)
        if let tenant = byID[claim] { return tenant }
        // Without tenants and keys the name means nothing, as at the original.
        guard isEmpty, claim.isEmpty || !portHasKeys else { throw Self.unknown }
        return nil
    }

    /// The tenant that a client's request is for: that of the field, or else that of the host's domain; nil: none.
    func ofClient(_ head: borrowing Head, _ bytes: Span<UInt8>) throws(HTTPError) -> Tenant? {
        guard !isEmpty else { return nil }
        let claim = try Self.claim(head, bytes)
        guard claim.isEmpty else {
            guard let tenant = byID[claim] else { throw Self.unknown }
            return tenant
        }
        guard !byDomain.isEmpty, let domain = EndpointName.domain(from: head, bytes: bytes) else { return nil }
        return byDomain[Self.lowercased(bytes.extracting(domain))]
    }

    static let unknown = HTTPError(status: 401, reason: "unknown tenant")

    private static func lowercased(_ bytes: Span<UInt8>) -> [UInt8] {
        [UInt8](copying: bytes).map { (0x41...0x5a).contains($0) ? $0 | 0x20 : $0 }
    }
}

extension Worker {
    /// Whether an agent's data connections end with its session, whatever ended that. Where agents need a token, what it opened is gone
    /// with it: a session that ended may be one that is not let in any more, and its quota is free for others.
    var bindsDataToSessions: Bool { upstreamAuthentication.isEnabled || !tenants.isEmpty }

    /// Who checks the tokens; nil: there is no such tenant.
    func authentication(of port: TokenPort) -> PortAuthentication? {
        guard port.tenant.isEmpty else {
            let tenant = tenants.named(port.tenant)
            return port.listener == .upstream ? tenant?.upstream : tenant?.proxy
        }
        return switch port.listener {
        case .proxy: proxyAuthentication
        case .upstream: upstreamAuthentication
        case .admin: adminAuthentication
        }
    }
}
