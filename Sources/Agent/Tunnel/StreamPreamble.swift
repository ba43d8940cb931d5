// A stream of a session that begins with who its client is, because the listener asked for that (docs/protocol-direct.md): reads it,
// and then gives the stream to the service.

internal import Memory
internal import Reactor
internal import Transport
internal import Wire

/// One stream whose preamble has not come. Keeps itself alive through its channel.
final class StreamPreamble: ChannelDelegate {
    private let channel: YamuxChannel
    private let owner: any StreamOwner
    private let service: TunnelService
    private var input = ByteBuffer()

    init(_ channel: YamuxChannel, owner: any StreamOwner, service: TunnelService) {
        self.channel = channel
        self.owner = owner
        self.service = service
        super.init()
    }

    /// Starts to wait.
    func start() {
        channel.delegate = self
        channel.resumeReading()
    }

    override func channel(_ channel: Channel, received bytes: inout MutableSpan<UInt8>) {
        input.append(bytes.span)
        guard input.count >= DirectPreamble.byteCount else { return }
        let range = input.withSpan(0..<DirectPreamble.byteCount) { DirectPreamble.clientRange($0) }
        channel.delegate = nil
        guard let range else { return channel.abort() }
        let client = input.withSpan(range) { SocketAddress(encoded: $0) }
        var early = ByteBuffer()
        swap(&early, &input)
        early.consume(DirectPreamble.byteCount)
        channel.pauseReading()
        service.serve(IncomingStream(channel, owner: owner, client: client?.isUnspecified ?? true ? nil : client, early: early))
    }

    override func channelEnded(_ channel: Channel) { channel.abort() }
}
