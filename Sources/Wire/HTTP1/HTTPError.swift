// Why a message was refused, with the status that says so to a client.

/// The peer broke the protocol, or asked for what we do not do.
public struct HTTPError: Error, Sendable, CustomStringConvertible {
    /// The status to answer with. What a server sent wrongly is 502.
    public var status: Int
    /// One line, fit for a client's eyes and for a log.
    public var reason: StaticString

    public init(status: Int, reason: StaticString) {
        self.status = status
        self.reason = reason
    }

    /// A message that cannot be understood in exactly one way.
    static func malformed(_ reason: StaticString) -> HTTPError { HTTPError(status: 400, reason: reason) }

    public var description: String { "\(status) \(reason)" }
}
