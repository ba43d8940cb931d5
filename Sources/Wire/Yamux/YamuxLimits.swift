// The bounds of one yamux session. The defaults suit a peer that runs the reference implementation; that one's own
// constants are the window, the unacknowledged streams and the four times.

/// The bounds of one yamux session.
public struct YamuxLimits: Sendable {
    /// The window each stream starts with in either direction, which the protocol fixes.
    public static let initialWindowBytes = 262_144

    /// Streams that live at once, whoever opened them. Further opens are refused.
    public var streamsMax = 16_384
    /// Streams of ours that the peer has not accepted yet.
    public var unacknowledgedStreamsMax = 256
    /// The receive window of a stream: what the peer may send before we consume. At least the initial window; what is
    /// above it is granted with the frame that opens or accepts the stream.
    public var windowBytesMax = YamuxLimits.initialWindowBytes
    /// The time between two pings of ours.
    public var keepAliveInterval = Duration.seconds(30)
    /// The time the peer has to answer a ping, or to send anything else.
    public var answerTimeMax = Duration.seconds(10)
    /// The time the peer has to accept or refuse a stream; after it the session is over.
    public var openTimeMax = Duration.seconds(75)
    /// The time a stream whose half we ended may go on without a byte from the peer.
    public var halfClosedTimeMax = Duration.seconds(300)

    /// The interval in which the three budgets below may be drawn.
    public var budgetInterval = Duration.seconds(10)
    /// Useless frames an interval: empty ones, such for streams that do not exist, refused opens.
    public var oddFramesMax = 256
    /// Pings of the peer an interval.
    public var pingsMax = 128
    /// Streams an interval that the peer opens and resets, or opens beyond `streamsMax` or after our go-away.
    public var churnMax = 8_192
    /// Bytes, summed over the session's life, that may still come for streams that we dropped and that are discarded
    /// without drawing on a budget. Each dropped stream adds what its window still allowed.
    public var discardBytesMax = 67_108_864

    /// The defaults.
    public init() {}

    /// Relations that must hold, checked once when a session is made.
    var areConsistent: Bool {
        streamsMax > 0 && streamsMax <= 1 << 24
            && unacknowledgedStreamsMax > 0
            && windowBytesMax >= YamuxLimits.initialWindowBytes && windowBytesMax <= 1 << 30
            && answerTimeMax > .zero && keepAliveInterval > answerTimeMax
            && openTimeMax >= keepAliveInterval && halfClosedTimeMax >= keepAliveInterval && budgetInterval > .zero
            && oddFramesMax >= 0 && pingsMax >= 0 && churnMax >= 0 && discardBytesMax >= 0
    }
}
