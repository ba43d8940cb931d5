// A channel's user that writes down what it is told.

public import Reactor

/// Keeps the bytes and the events of a channel.
public final class RecordingDelegate: ChannelDelegate {
    public private(set) var bytes: [UInt8] = []
    public private(set) var hasEnded = false
    public private(set) var failure: ChannelError?
    public private(set) var drains = 0
    /// Called with each piece, after it was kept.
    public var onBytes: ((Channel) -> Void)?

    public override init() { super.init() }

    public var text: String { String(decoding: bytes, as: UTF8.self) }

    public func forget() { bytes = [] }

    public override func channel(_ channel: Channel, received bytes: inout MutableSpan<UInt8>) {
        for index in bytes.indices { self.bytes.append(bytes[index]) }
        onBytes?(channel)
    }

    public override func channelEnded(_ channel: Channel) { hasEnded = true }
    public override func channelDrained(_ channel: Channel) { drains += 1 }
    public override func channelFailed(_ channel: Channel, error: ChannelError) { failure = error }
}

/// Sends back what it gets, with back-pressure, and ends when the peer has.
public final class EchoDelegate: ChannelDelegate {
    public override init() { super.init() }

    public override func channel(_ channel: Channel, received bytes: inout MutableSpan<UInt8>) {
        channel.write(bytes.span)
        if !channel.isWritable { channel.pauseReading() }
    }

    public override func channelDrained(_ channel: Channel) { channel.resumeReading() }

    public override func channelEnded(_ channel: Channel) {
        channel.finish()
        channel.close()
    }
}
