// Tunnels and endpoints of subjects in the routing table: what is refused, and what gives it back.

import Base
import Control
import Testing

@testable import Supervisor

@Suite struct QuotaTableTests {
    private let now = Instant(nanoseconds: 1_000_000_000)

    private static func quota(_ number: UInt64, tunnels: UInt32? = nil, endpoints: UInt32? = nil) -> Quota {
        Quota(subject: QuotaSubject(hash: 1 << 40 | number), limits: QuotaLimits(tunnels: tunnels, endpoints: endpoints))
    }

    private func register(
        _ table: inout RoutingTable, _ worker: UInt32, _ tunnel: UInt64, _ endpoint: String, _ quotas: [Quota], isMoved: Bool = false
    ) -> TunnelRefusal? {
        let quotas = TunnelQuotas(quotas, isMoved: isMoved)
        guard case .refused(let reason) = table.register(
            worker: worker, tunnel: tunnel, endpoint: endpoint, kind: .session, quotas: quotas)
        else { return nil }
        return reason
    }

    @Test func tunnelsAreCountedOverAllWorkers() {
        var table = RoutingTable()
        let quota = Self.quota(1, tunnels: 2)
        #expect(register(&table, 1, 1, "a", [quota]) == nil)
        #expect(register(&table, 2, 1, "a", [quota]) == nil)
        #expect(register(&table, 2, 2, "b", [quota]) == .tunnels)
        // Another subject, and one with another limit.
        #expect(register(&table, 2, 3, "a", [Self.quota(2, tunnels: 1)]) == nil)
        #expect(register(&table, 2, 4, "a", [Self.quota(1, tunnels: 3)]) == nil)
        #expect(register(&table, 2, 5, "a", []) == nil)
        // The one that was refused is not there.
        #expect(table.unregister(worker: 2, tunnel: 2, endpoint: "b", now: now) == nil)
        #expect(table.quotas.use(of: quota.subject) == (3, 1))
        _ = table.unregister(worker: 1, tunnel: 1, endpoint: "a", now: now)
        #expect(register(&table, 1, 1, "a", [quota]) == .tunnels)
        table.remove(worker: 2, now: now)
        #expect(table.quotas.use(of: quota.subject) == (0, 0) && table.quotas.count == 0)
        #expect(register(&table, 1, 1, "a", [quota]) == nil)
        #expect(register(&table, 1, 2, "a", [Self.quota(3, tunnels: 0)]) == .tunnels)
    }

    @Test func endpointsAreCountedOnce() {
        var table = RoutingTable()
        let quota = Self.quota(1, endpoints: 2)
        for (tunnel, endpoint, refusal) in [
            (1, "a", nil), (2, "a", nil), (3, "b", nil), (4, "c", TunnelRefusal.endpoints), (5, "b", nil),
        ] as [(UInt64, String, TunnelRefusal?)] { #expect(register(&table, 1, tunnel, endpoint, [quota]) == refusal) }
        _ = table.unregister(worker: 1, tunnel: 1, endpoint: "a", now: now)
        #expect(register(&table, 1, 4, "c", [quota]) == .endpoints)
        _ = table.unregister(worker: 1, tunnel: 2, endpoint: "a", now: now)
        #expect(register(&table, 1, 4, "c", [quota]) == nil)
        #expect(table.quotas.use(of: quota.subject) == (3, 2))
        #expect(register(&table, 1, 6, "d", [Self.quota(2, endpoints: 0)]) == .endpoints)
    }

    @Test func eachOfTwoRefuses() {
        var table = RoutingTable()
        let token = Self.quota(1, tunnels: 2)
        let tenant = Self.quota(9, tunnels: 3, endpoints: 1)
        #expect(register(&table, 1, 1, "a", [token, tenant]) == nil)
        #expect(register(&table, 1, 2, "b", [token, tenant]) == .endpoints)
        #expect(register(&table, 1, 2, "a", [token, tenant]) == nil)
        #expect(register(&table, 1, 3, "a", [token, tenant]) == .tunnels)
        #expect(register(&table, 1, 3, "a", [Self.quota(2, tunnels: 2), tenant]) == nil)
        #expect(register(&table, 1, 4, "a", [Self.quota(3, tunnels: 2), tenant]) == .tunnels)
        // Nothing is counted of what one refuses.
        #expect(table.quotas.use(of: Self.quota(3).subject) == (0, 0))
    }

    @Test func whatMovesIsNotRefused() {
        var table = RoutingTable()
        let quota = Self.quota(1, tunnels: 1, endpoints: 1)
        #expect(register(&table, 1, 1, "a", [quota]) == nil)
        #expect(register(&table, 2, 1, "a", [quota], isMoved: true) == nil)
        #expect(table.quotas.use(of: quota.subject) == (2, 1))
        _ = table.unregister(worker: 1, tunnel: 1, endpoint: "a", now: now)
        #expect(table.quotas.use(of: quota.subject) == (1, 1))
        #expect(register(&table, 2, 2, "a", [quota]) == .tunnels)
    }

    @Test func whatIsAboutToEndDrawsNoMore() {
        var table = RoutingTable()
        let quota = Self.quota(1, tunnels: 1)
        #expect(register(&table, 1, 1, "a", [quota]) == nil)
        table.release(worker: 2, tunnel: 1)
        #expect(register(&table, 1, 2, "a", [quota]) == .tunnels)
        table.release(worker: 1, tunnel: 1)
        table.release(worker: 1, tunnel: 1)
        #expect(table.lookup("a").entries == [RouteEntry(worker: 1, tunnels: 1)])
        #expect(register(&table, 1, 2, "a", [quota]) == nil)
        #expect(table.unregister(worker: 1, tunnel: 1, endpoint: "a", now: now) != nil)
        #expect(register(&table, 1, 3, "a", [quota]) == .tunnels)
    }

    @Test func anotherProgramGoesOnWithThem() {
        var table = RoutingTable()
        let quota = Self.quota(1, tunnels: 2)
        for tunnel in 1...2 { #expect(register(&table, 1, UInt64(tunnel), "a", [quota]) == nil) }
        var next = RoutingTable(taking: table.tunnels, version: table.lastVersion)
        #expect(register(&next, 1, 3, "a", [quota]) == .tunnels)
        _ = next.unregister(worker: 1, tunnel: 1, endpoint: "a", now: now)
        #expect(register(&next, 1, 3, "a", [quota]) == nil)
        // One that did not come along, more than there may be now.
        let less = table.tunnels.map { RegisteredTunnel(worker: $0.worker, tunnel: $0.tunnel, endpoint: "a", kind: $0.kind, quotas: [Self.quota(1, tunnels: 1)]) }
        #expect(RoutingTable(taking: less, version: 1).quotas.use(of: quota.subject) == (2, 1))
    }
}
