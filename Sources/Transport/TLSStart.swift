// Puts TLS on a stream that is connected: its socket leaves the loop as a stream and comes back as a TLS channel.

public import Crypto
internal import Memory
public import Reactor

/// One handshake of a client. Keeps itself alive until it is over.
public final class TLSStart: ChannelDelegate {
    private let engine: TLSEngine
    private let context: TLSContext
    private let name: String
    private let limit: Duration
    private var stream: Stream?
    private var channel: TLSChannel?
    private var completion: ((_ channel: TLSChannel?, _ failure: String) -> Void)?
    /// Called once with the session, whatever came of the handshake: for people who look for a fault.
    public var inspect: ((TLSSession) -> Void)?

    /// Takes over the stream, on which nothing was sent or received. `name`: the server's host name or address. `completion` runs
    /// once, later, unless it is cancelled: with the channel, whose handshake is done, or nil and why there is none.
    public init(
        _ engine: TLSEngine, over stream: Stream, context: TLSContext, name: String, limit: Duration = .seconds(10),
        completion: @escaping (_ channel: TLSChannel?, _ failure: String) -> Void
    ) {
        self.engine = engine
        self.context = context
        self.name = name
        self.limit = limit
        self.stream = stream
        self.completion = completion
        super.init()
        stream.delegate = self
        stream.detach()
    }

    /// Gives up: no completion follows.
    public func cancel() {
        completion = nil
        stream?.closeNow()
        channel?.abort()
        stream = nil
        channel = nil
    }

    public override func streamDetached(_ stream: Stream, descriptor: consuming OwnedDescriptor, unsent: Span<UInt8>) {
        self.stream = nil
        guard completion != nil else { return }
        do {
            let channel = try TLSChannel(engine, adopting: descriptor, context: context, name: name, handshakeLimit: limit)
            self.channel = channel
            channel.delegate = self
            channel.inspect = inspect
            channel.secured = { [self] in
                channel.delegate = nil
                finish(channel, "")
            }
        } catch {
            finish(nil, error.description)
        }
    }

    public override func channelFailed(_ channel: Channel, error: ChannelError) {
        let failure = (channel as? TLSChannel)?.failure ?? ""
        finish(nil, failure.isEmpty ? "the connection was reset" : failure)
    }

    private func finish(_ channel: TLSChannel?, _ failure: String) {
        let told = completion
        completion = nil
        stream = nil
        self.channel = nil
        told?(channel, failure)
    }
}
