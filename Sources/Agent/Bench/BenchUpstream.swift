// The service of the benchmark's upstreams: answers every request once its body has been read, and understands only what the
// benchmark's clients send.

internal import Memory
internal import Reactor
internal import Wire

/// Answers the streams of the benchmark's listeners.
final class BenchUpstream: TunnelService {
    override func serve(_ stream: consuming IncomingStream) {
        BenchConnection(stream).start()
    }
}

/// One stream with requests in it.
private final class BenchConnection: ChannelDelegate, DrainableConnection {
    private let owner: any StreamOwner
    private let channel: Channel
    private var parser = HeadParser(kind: .request, limits: HeadLimits())
    private var head = Head()
    private var input = ByteBuffer()
    /// Bytes of the request's body that are still to come; nil: its head is.
    private var bodyLeft: UInt64?
    private var isEnding = false
    private var isOver = false

    private static let answer = Array("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".utf8)

    init(_ stream: consuming IncomingStream) {
        owner = stream.owner
        channel = stream.channel
        input.append(stream.early.span)
        super.init()
    }

    func start() {
        owner.add(self)
        channel.delegate = self
        channel.resumeReading()
        serve()
    }

    func finishSoon() {
        isEnding = true
        if bodyLeft == nil { close() }
    }

    private func close() {
        if isOver { return }
        isOver = true
        channel.close()
        owner.remove(self)
    }

    private func serve() {
        while !isOver {
            if bodyLeft == nil {
                guard !input.isEmpty, let isWhole = try? parser.parse(input.span, into: &head) == .complete else {
                    if !input.isEmpty { close() }
                    return
                }
                guard isWhole else { return }
                input.consume(head.length)
                parser.reset()
                bodyLeft = head.contentLength ?? 0
                owner.exchangeBegan()
            }
            let taken = min(bodyLeft ?? 0, UInt64(input.count))
            input.consume(Int(taken))
            bodyLeft = (bodyLeft ?? 0) - taken
            guard bodyLeft == 0 else { return }
            bodyLeft = nil
            channel.write(Self.answer.span)
            owner.exchangeEnded()
            if isEnding || owner.isRetired { close() }
        }
    }

    override func channel(_ channel: Channel, received bytes: inout MutableSpan<UInt8>) {
        input.append(bytes.span)
        serve()
    }

    override func channelEnded(_ channel: Channel) { close() }

    override func channelFailed(_ channel: Channel, error: ChannelError) {
        if isOver { return }
        isOver = true
        owner.remove(self)
    }
}
