// Reads a load balancer's header (PROXY protocol) from a new connection, within a time, and gives the connection back with what
// came behind it. What is too long or wrong is refused at the first byte that shows it.
//
//     reading ──header whole──► read        reading ──wrong, or time──► refused
//        ├── wrong, or time, and it need not have one ──► none
//        └── end or failure ──► ended

import Base
import Memory
import Reactor
import Wire

/// One connection whose header has not come.
final class ProxyHeaderReader: ChannelDelegate {
    /// What came of it. Nothing refers to the stream any more, which is open in all cases but the last.
    enum Outcome: ~Copyable {
        case read(ProxyHeader, rest: ByteBuffer)
        /// It has no header, and need not have one.
        case none(rest: ByteBuffer)
        case refused(StaticString)
        case ended
    }

    private let stream: Stream
    private let time: Duration
    private let isOptional: Bool
    private var done: ((ProxyHeaderReader, consuming Outcome) -> Void)?
    private var input = ByteBuffer()
    private var timer: CallbackTimer?

    init(_ stream: Stream, time: Duration, isOptional: Bool, _ done: @escaping (ProxyHeaderReader, consuming Outcome) -> Void) {
        self.stream = stream
        self.time = time
        self.isOptional = isOptional
        self.done = done
        super.init()
    }

    func start() {
        let timer = CallbackTimer(stream.loop) { [unowned self] in withoutHeader("no header in time") }
        timer.schedule(after: time)
        self.timer = timer
        stream.delegate = self
        stream.resumeReading()
    }

    /// Closes the connection.
    func giveUp() {
        stream.close()
        end(.ended)
    }

    override func channel(_ channel: Channel, received bytes: inout MutableSpan<UInt8>) {
        input.append(bytes.span)
        do throws(ProxyHeaderError) {
            guard case .complete(let header, let length) = try ProxyHeader.parse(input.span) else { return }
            input.consume(length)
            end(.read(header, rest: takeInput()))
        } catch {
            withoutHeader(error.reason)
        }
    }

    private func withoutHeader(_ reason: StaticString) {
        if isOptional { end(.none(rest: takeInput())) } else { end(.refused(reason)) }
    }

    private func takeInput() -> ByteBuffer {
        var taken = ByteBuffer()
        swap(&taken, &input)
        return taken
    }

    private func end(_ outcome: consuming Outcome) {
        timer?.cancel()
        timer = nil
        if stream.isAlive {
            stream.pauseReading()
            stream.delegate = nil
        }
        let told = done
        done = nil
        told?(self, outcome)
    }

    override func channelEnded(_ channel: Channel) { giveUp() }

    override func channelFailed(_ channel: Channel, error: ChannelError) { end(.ended) }
}
