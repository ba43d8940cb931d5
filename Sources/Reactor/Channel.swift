// A two-way byte stream and its user. Sockets, yamux streams and WebSocket connections are all channels, so that the HTTP
// exchange and the relay are written once and run over any of them, on the server and on the agent.
//
// Rules that every channel keeps:
//  - `write` takes all bytes. A writer that respects back-pressure stops its source when `isWritable` turns false and
//    starts it again at `channelDrained`.
//  - `pauseReading` stops the source as soon as it can; what was already on its way is still delivered (a bounded amount).
//  - Callbacks never run from within a call that the user makes on the same channel.
//  - After `close`, `abort` or `channelFailed` the channel is dead: no callback follows, calls do nothing, and it has
//    dropped its delegate.

/// Why a channel broke.
public enum ChannelError: Error, Equatable {
    /// The kernel said so: errno.
    case system(Int32)
    /// The channel was cut: the peer reset it (yamux RST, TCP RST), or the session that carried it ended.
    case reset
    /// The peer broke the protocol that carries the channel.
    case protocolViolation
    /// What carries the channel ended without a proper close.
    case carrierLost
    /// The connection ended, but the peer of a TLS session did not say so under its protection: bytes may be missing.
    case truncated
}

/// A two-way byte stream.
open class Channel {
    /// Who is told. Strong: a channel keeps its user alive until it is dead.
    public final var delegate: ChannelDelegate?

    public init() {}

    /// Whether the bytes that wait for sending are below the high mark.
    open var isWritable: Bool { false }

    /// While bytes wait for sending, a number that changes as they go; nil: none waits, or the channel can't tell.
    open var sendingMark: UInt64? { nil }

    /// Queues a copy of the bytes for sending.
    open func write(_ bytes: Span<UInt8>) {}

    /// Stops or starts the delivery of received bytes. A new channel delivers only after the first `resumeReading`.
    open func pauseReading() {}
    open func resumeReading() {}

    /// Half-close: what is queued is sent, then the peer is told that nothing more comes. Receiving goes on.
    open func finish() {}

    /// Ends the channel in good order: what is queued is still sent, within a bound of time.
    open func close() {}

    /// Ends the channel at once and tells the peer that it broke.
    open func abort() {}

    // Of channels that are sockets; the others do nothing.

    /// Sends small writes at once (TCP_NODELAY).
    open func setNoDelay() {}

    /// Has the kernel take bytes only while fewer than `unsentBytesMax` wait in it to be sent for the first time. What is under way
    /// counts not, so it slows nothing down; but a peer that takes nothing holds that much of the memory that all sockets of the
    /// machine share, and not megabytes.
    open func limitUnsent() {}

    /// Bytes of `limitUnsent`.
    public static let unsentBytesMax: UInt32 = 262_144

    /// Probes an idle peer after `idle`, every `interval`, and gives up after `count` probes; `userTimeout` bounds how long
    /// sent bytes may stay unacknowledged (zero: the kernel's default).
    open func setKeepAlive(idle: Duration, interval: Duration, count: Int, userTimeout: Duration) {}

    /// The other end's address, where it has one.
    open var peer: SocketAddress? { nil }

    /// Kept until the channel is dead, for its user.
    open var attachment: AnyObject? {
        get { nil }
        set {}
    }
}

/// The user of one or more channels.
open class ChannelDelegate {
    public init() {}

    /// Bytes came in. They are valid, and may be changed, during the call only.
    open func channel(_ channel: Channel, received bytes: inout MutableSpan<UInt8>) {}

    /// The peer finished sending; nothing more is received. Sending still works.
    open func channelEnded(_ channel: Channel) {}

    /// `isWritable` turned true again.
    open func channelDrained(_ channel: Channel) {}

    /// What was queued before `finish` has been handed to the kernel or the carrier, and the peer is told.
    open func channelFinished(_ channel: Channel) {}

    /// The channel is dead.
    open func channelFailed(_ channel: Channel, error: ChannelError) {}

    /// A stream that was opened with `connectTo` is connected. Bytes may have been written before.
    open func streamConnected(_ stream: Stream) {}

    /// The pump of limited length that took from this stream carried all of it; what follows comes as received bytes again.
    open func streamPumped(_ stream: Stream) {}

    /// A stream was taken out of the loop: the descriptor is the delegate's, the stream is dead. `unsent`: what was written
    /// to it and did not reach the kernel (after `detachWithUnsent`).
    open func streamDetached(_ stream: Stream, descriptor: consuming OwnedDescriptor, unsent: Span<UInt8>) {}
}
