// Carries bytes both ways between two channels until both directions have ended: TCP streams of tunnels, connections
// after an HTTP upgrade.
//
// Half-close is carried where both channels have it: the end of one direction becomes `finish` on the other side, and the
// opposite direction runs on. Back-pressure: a side is read only while the other side takes bytes; what was already on
// its way when reading stopped is bounded by the channel (a socket's receive buffers, a stream's window).
//
// Two sockets are joined by pumps of the core, which keep the same rules: then no byte comes through here, only the ends.
//
// A side that broke takes the other with it: by reset when it was reset, so that nobody mistakes a cut for an end; in good
// order, after the bytes that came, when its carrier was merely gone (a WebSocket peer that closed without a Close
// frame, as the public clients do).

public import Reactor

/// How a relay ended, and what it carried.
public struct RelayOutcome: Sendable {
    /// Bytes received from the left channel.
    public var leftBytes: UInt64 = 0
    /// Bytes received from the right channel.
    public var rightBytes: UInt64 = 0
    /// The error that ended it; nil when both directions came to their end.
    public var error: ChannelError?
    /// Who ended it: the left side is the client's.
    public var endedBy = ExchangeOutcome.completed
}

/// Two channels joined to each other. It owns both from `start` on.
public final class Relay: ChannelDelegate {
    private let left: Channel
    private let right: Channel
    private let ended: (RelayOutcome) -> Void
    private var outcome = RelayOutcome()
    private var leftEnded = false
    private var rightEnded = false
    private var isOver = false
    /// What pumps had taken from each side before the relay.
    private var pumpedBefore: (left: UInt64, right: UInt64) = (0, 0)

    /// `ended` runs once, when the relay has let go of both channels. Bytes that are queued then are still sent.
    public init(_ left: Channel, _ right: Channel, ended: @escaping (RelayOutcome) -> Void) {
        self.left = left
        self.right = right
        self.ended = ended
        super.init()
        left.delegate = self
        right.delegate = self
    }

    /// Starts to read both sides.
    public func start() {
        if let left = left as? Stream, let right = right as? Stream {
            pumpedBefore = (left.pumpedBytes, right.pumpedBytes)
            // Bytes of this turn that still come here are written before the first that is pumped.
            _ = left.pump(to: right)
            _ = right.pump(to: left)
        }
        left.resumeReading()
        right.resumeReading()
    }

    /// Ends both sides at once, as a reset.
    public func abort() {
        guard !isOver else { return }
        left.abort()
        right.abort()
        outcome.endedBy = .gateway
        over(error: .reset)
    }

    public override func channel(_ channel: Channel, received bytes: inout MutableSpan<UInt8>) {
        let other: Channel
        if channel === left {
            outcome.leftBytes &+= UInt64(bytes.count)
            other = right
        } else {
            outcome.rightBytes &+= UInt64(bytes.count)
            other = left
        }
        other.write(bytes.span)
        if !other.isWritable { channel.pauseReading() }
    }

    public override func channelDrained(_ channel: Channel) {
        (channel === left ? right : left).resumeReading()
    }

    public override func channelEnded(_ channel: Channel) {
        if channel === left {
            leftEnded = true
            right.finish()
        } else {
            rightEnded = true
            left.finish()
        }
        if leftEnded && rightEnded && !isOver {
            left.close()
            right.close()
            over(error: nil)
        }
    }

    public override func channelFailed(_ channel: Channel, error: ChannelError) {
        guard !isOver else { return }
        let other = channel === left ? right : left
        outcome.endedBy = channel === left ? .client : .service
        if error == .carrierLost { other.close() } else { other.abort() }
        over(error: error)
    }

    private func over(error: ChannelError?) {
        guard !isOver else { return }
        isOver = true
        if let left = left as? Stream, let right = right as? Stream {
            outcome.leftBytes &+= left.pumpedBytes &- pumpedBefore.left
            outcome.rightBytes &+= right.pumpedBytes &- pumpedBefore.right
        }
        outcome.error = error
        ended(outcome)
    }
}
