// What a stream came through, session or data connection, as the connections that serve it see it.

internal import Reactor

/// A connection of an owner that can be asked to come to an end.
protocol DrainableConnection: AnyObject {
    /// Ends when what runs is done; at once when nothing runs.
    func finishSoon()
}

/// The owner of streams.
protocol StreamOwner: AnyObject {
    /// The server's address as text, for X-Forwarded-For.
    var peerHost: String { get }
    /// Whether no new exchange should begin.
    var isRetired: Bool { get }
    /// A connection serves a stream, and is to be told when the owner retires.
    func add(_ connection: any DrainableConnection)
    /// It ended.
    func remove(_ connection: any DrainableConnection)
    /// An HTTP exchange began or ended on a stream, or a raw stream began.
    func exchangeBegan()
    func exchangeEnded()
    /// The stream carries bytes until its end: it is a TCP listener's, or was upgraded.
    func becameRaw()
}
