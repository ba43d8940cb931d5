// What became of one request: the facts that logs and counters are made of.

public import Base

/// Who ended an exchange, or a connection of bytes.
public enum ExchangeOutcome: UInt8, Sendable {
    /// It came to its end: the service's answer went out whole.
    case completed
    /// The client left before the end.
    case client
    /// We answered in the service's place, or cut it: refused, too late, beyond a limit.
    case gateway
    /// The service, or what leads to it, broke.
    case service

    /// The word for logs.
    public var name: StaticString {
        switch self {
        case .completed: "completed"
        case .client: "client"
        case .gateway: "gateway"
        case .service: "service"
        }
    }
}

/// What became of one request, for logs and counters.
public struct ExchangeSummary: Sendable {
    /// The status sent, or 0 when the client got none.
    public var status = 0
    public var started = Instant(nanoseconds: 0)
    /// When the first byte of the response's head came from the service; nil: none came, or the answer is ours. Interim responses
    /// don't count.
    public var firstByte: Instant?
    /// Who ended it.
    public var outcome = ExchangeOutcome.completed
    public var requestBodyBytes: UInt64 = 0
    public var responseBodyBytes: UInt64 = 0
    /// Whether an upgrade turned the connection into a byte stream.
    public var wasUpgraded = false
    /// Whether the response was cut before its end.
    public var wasCut = false
    /// Upstream connections tried.
    public var attempts = 0
}
