// Raw TCP that sends every byte back, with half-close: when the client has finished sending, the rest is echoed and then
// finished too.

internal import Reactor

/// One echoing connection.
final class TCPEcho: ChannelDelegate {
    override func channel(_ channel: Channel, received bytes: inout MutableSpan<UInt8>) {
        channel.write(bytes.span)
        if !channel.isWritable { channel.pauseReading() }
    }

    override func channelDrained(_ channel: Channel) { channel.resumeReading() }

    override func channelEnded(_ channel: Channel) { channel.close() }
}
