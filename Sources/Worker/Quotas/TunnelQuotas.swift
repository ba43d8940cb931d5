// What quotas mean for an agent's session: the supervisor counts tunnels and endpoints and says when there are too many; the
// streams of a session are bounded here, as those of `upstream.limits.max_streams` are.

import Base
import Control
import Memory
import Wire

extension TunnelRefusal {
    /// The status that the agent gets; it tries again after both.
    var status: Int { self == .tableFull ? 503 : 429 }

    /// And the text.
    var text: StaticString {
        switch self {
        case .tableFull, .endpoints: "too many endpoints"
        case .tunnels: "too many tunnels"
        }
    }
}

extension Worker {
    /// The tunnel draws from no quota any more.
    func release(_ tunnel: Tunnel) { control.send(.release(tunnel: tunnel.id)) }
}

extension [Quota] {
    /// Whether one of them limits streams. Such an agent opens no data connections, whose streams nobody could count over all workers
    /// without asking.
    var limitStreams: Bool { contains { $0.limits.streams != nil } }
}

extension YamuxLimits {
    /// The same with no more streams than each of the quotas has.
    func within(_ quotas: [Quota]) -> YamuxLimits {
        var limits = self
        for quota in quotas { if let streams = quota.limits.streams { limits.streamsMax = Swift.min(limits.streamsMax, Int(streams)) } }
        return limits
    }
}

extension QuotaRegion {
    /// What the worker draws with.
    func account(of setup: WorkerSetup) throws(WorkerSetupError) -> QuotaAccount {
        guard Int(setup.slab) < slabCount else { throw .noSlab }
        return account(slab: Int(setup.slab))
    }
}

// A tunnel takes its quotas along to another worker.

extension StateWriter {
    mutating func write(_ quota: Quota) {
        write(quota.subject.key)
        for limit in [quota.limits.tunnels, quota.limits.endpoints, quota.limits.streams, quota.limits.requestRate] { write(limit ?? .max) }
    }
}

extension StateReader {
    mutating func quota(_ bytes: Span<UInt8>) throws(StateReadError) -> Quota {
        guard let subject = QuotaSubject(key: try number(bytes)) else { throw StateReadError() }
        let limits = QuotaLimits(
            tunnels: try limit(bytes), endpoints: try limit(bytes), streams: try limit(bytes), requestRate: try limit(bytes))
        return Quota(subject: subject, limits: limits)
    }

    private mutating func limit(_ bytes: Span<UInt8>) throws(StateReadError) -> UInt32? {
        let value: UInt32 = try integer(bytes)
        return value == .max ? nil : value
    }
}
