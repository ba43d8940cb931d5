// How many tunnels and endpoints each subject of a quota has on this node. Beside the routing table, which says what comes and goes.
//
// Invariants: a subject is in the table exactly while it has a tunnel; the sum over its endpoints is the number of its tunnels.

import Base
import Control

/// Subject to endpoints to tunnels.
struct QuotaTable {
    private struct Use {
        var tunnels = 0
        var endpoints: [ExactName: Int] = [:]
    }

    private var uses: [QuotaSubject: Use] = [:]

    /// Subjects that have something.
    var count: Int { uses.count }

    /// The tunnels and endpoints of the subject.
    func use(of subject: QuotaSubject) -> (tunnels: Int, endpoints: Int) {
        guard let use = uses[subject] else { return (0, 0) }
        return (use.tunnels, use.endpoints.count)
    }

    /// Why another tunnel of the endpoint may not be; nil: it may.
    func refusal(_ endpoint: String, _ quotas: [Quota]) -> TunnelRefusal? {
        for quota in quotas {
            let use = uses[quota.subject]
            if let limit = quota.limits.tunnels, use?.tunnels ?? 0 >= Int(limit) { return .tunnels }
            guard let limit = quota.limits.endpoints, use?.endpoints[endpoint] == nil else { continue }
            if use?.endpoints.count ?? 0 >= Int(limit) { return .endpoints }
        }
        return nil
    }

    /// Counts a tunnel.
    mutating func add(_ endpoint: String, _ quotas: [Quota]) {
        for quota in quotas {
            uses[quota.subject, default: Use()].tunnels += 1
            uses[quota.subject, default: Use()].endpoints[endpoint, default: 0] += 1
        }
    }

    /// Forgets a tunnel that was counted.
    mutating func remove(_ endpoint: String, _ quotas: [Quota]) {
        for quota in quotas {
            guard var use = uses[quota.subject], let count = use.endpoints[endpoint] else {
                preconditionFailure("a tunnel that was not counted")
            }
            use.tunnels -= 1
            use.endpoints[endpoint] = count > 1 ? count - 1 : nil
            uses[quota.subject] = use.tunnels > 0 ? use : nil
        }
    }
}
