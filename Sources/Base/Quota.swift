// How much somebody may use at once, and whom that is counted for: what a token says of it, what processes tell each other, and
// what is counted against.

/// Whom use is counted for. Two tokens of one subject share what they may.
public struct QuotaSubject: Hashable, Sendable {
    /// Lower numbers are no subjects: shared memory has other uses for them.
    public static let keyMin: UInt64 = 65_536

    /// Never below `keyMin`.
    public let key: UInt64

    /// A subject of 64 bits of a hash; a low number is moved out of the way.
    public init(hash: UInt64) { key = hash < Self.keyMin ? hash | 1 << 63 : hash }

    /// The subject that another process told of; nil when that is none.
    public init?(key: UInt64) {
        guard key >= Self.keyMin else { return nil }
        self.key = key
    }
}

/// How much a subject may use. nil is no limit; 0 is nothing at all.
public struct QuotaLimits: Equatable, Sendable {
    /// The largest limit; larger ones become this.
    public static let most = UInt32.max - 1

    /// Agents' sessions at once.
    public var tunnels: UInt32?
    /// Endpoints with a session at once.
    public var endpoints: UInt32?
    /// Of clients: requests that are served and TCP connections, at once. Of an agent: streams of one session.
    public var streams: UInt32?
    /// Requests and TCP connections that begin in a second.
    public var requestRate: UInt32?

    public init(tunnels: UInt32? = nil, endpoints: UInt32? = nil, streams: UInt32? = nil, requestRate: UInt32? = nil) {
        self.tunnels = tunnels
        self.endpoints = endpoints
        self.streams = streams
        self.requestRate = requestRate
    }

    /// Whether nothing is limited.
    public var isNone: Bool { !limitsTunnels && !limitsRequests }
    /// Whether an agent's session draws from it.
    public var limitsTunnels: Bool { tunnels != nil || endpoints != nil }
    /// Whether a client's request draws from it.
    public var limitsRequests: Bool { streams != nil || requestRate != nil }
}

/// A subject and its limits, as whoever draws from them knows them.
public struct Quota: Equatable, Sendable {
    /// The most that apply to one request or session: its token's, and its tenant's.
    public static let countMax = 2

    public var subject: QuotaSubject
    public var limits: QuotaLimits

    public init(subject: QuotaSubject, limits: QuotaLimits) {
        self.subject = subject
        self.limits = limits
    }
}
