// Puts TLS on a connection whose load balancer's header was read: its socket leaves the loop as a stream and comes back as a TLS
// channel, which begins with what came behind the header. The channel bounds its handshake by itself.

import Crypto
import Memory
import Reactor
import Transport

/// One connection on its way from the header to the handshake.
final class SecureBeginning: ChannelDelegate {
    private let engine: TLSEngine
    private let stream: Stream
    private let context: TLSContext
    private var early: ByteBuffer
    private var done: ((SecureBeginning, TLSChannel?) -> Void)?

    /// `done` runs once: with the channel, or nil when the connection is gone.
    init(
        _ engine: TLSEngine, _ stream: Stream, _ context: TLSContext, early: consuming ByteBuffer,
        _ done: @escaping (SecureBeginning, TLSChannel?) -> Void
    ) {
        self.engine = engine
        self.stream = stream
        self.context = context
        self.early = early
        self.done = done
        super.init()
    }

    func start() {
        stream.delegate = self
        stream.detach()
    }

    /// Closes the connection.
    func giveUp() {
        stream.closeNow()
        end(nil)
    }

    override func channel(_ channel: Channel, received bytes: inout MutableSpan<UInt8>) { early.append(bytes.span) }

    override func channelFailed(_ channel: Channel, error: ChannelError) { end(nil) }

    override func streamDetached(_ stream: Stream, descriptor: consuming OwnedDescriptor, unsent: Span<UInt8>) {
        end(try? TLSChannel(engine, adopting: descriptor, context: context, early: early.span))
    }

    private func end(_ channel: TLSChannel?) {
        let told = done
        done = nil
        told?(self, channel)
    }
}
