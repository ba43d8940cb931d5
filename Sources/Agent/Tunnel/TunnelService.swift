// What is behind a listener: something that takes the streams that the server opens. HTTP and TCP listeners differ here
// and nowhere else.

internal import Memory
internal import Reactor
internal import Telemetry
internal import Transport

/// A stream that the server opened.
struct IncomingStream: ~Copyable {
    let channel: Channel
    let owner: any StreamOwner
    /// The client as the server sees it; nil: not known (streams of a session).
    let client: SocketAddress?
    /// What was read of it already.
    let early: ByteBuffer

    /// A stream of which nothing was read.
    init(_ channel: Channel, owner: any StreamOwner) {
        self.init(channel, owner: owner, client: nil, early: ByteBuffer())
    }

    init(_ channel: Channel, owner: any StreamOwner, client: SocketAddress?, early: consuming ByteBuffer) {
        self.channel = channel
        self.owner = owner
        self.client = client
        self.early = early
    }
}

/// Serves the streams of one listener.
class TunnelService {
    /// Whether it has to know who the client of a stream is.
    var needsClients: Bool { false }

    /// Serves a new stream.
    func serve(_ stream: consuming IncomingStream) {}

    /// Requests are logged in another way from now on.
    func change(_ accessLog: AccessLogSettings) {}

    /// What was read from the files of TLS again is for connections to come.
    func use(_ tls: TLSTarget?) {}

    /// No more streams come: idle connections to the service are of no more use.
    func close() {}
}
