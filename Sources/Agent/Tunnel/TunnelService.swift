// What is behind a listener: something that takes the streams that the server opens. HTTP and TCP listeners differ here
// and nowhere else.

internal import Transport

/// Serves the streams of one listener.
class TunnelService {
    /// Serves a new stream of `session`.
    func serve(_ channel: YamuxChannel, of session: TunnelSession) {}

    /// No more streams come: idle connections to the service are of no more use.
    func close() {}
}

/// A connection of a session that can be asked to come to an end.
protocol DrainableConnection: AnyObject {
    /// Ends when what runs is done; at once when nothing runs.
    func finishSoon()
}
