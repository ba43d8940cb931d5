// One client of the benchmark: a kept connection, one request after another, each timed from its first byte sent to the last
// byte of its answer. A connection that breaks is a failure; the next request gets a new one.

internal import Base
internal import Memory
internal import Reactor
internal import Wire

/// Asks until the program has no more to ask.
final class BenchClient: ChannelDelegate {
    private unowned let program: BenchProgram
    private var stream: Stream?
    private var parser = HeadParser(kind: .response, limits: HeadLimits())
    private var head = Head()
    private var input = ByteBuffer()
    private var started = Instant(nanoseconds: 0)
    /// Bytes of the answer's body that are still to come; nil: its head is.
    private var bodyLeft: UInt64?
    private var deadline: CallbackTimer?

    init(_ program: BenchProgram) {
        self.program = program
        super.init()
        deadline = CallbackTimer(program.loop) { [unowned self] in self.failed(.timedOut) }
    }

    /// Sends the next request, if there is one.
    func next() {
        guard let request = program.nextRequest() else {
            end()
            return
        }
        bodyLeft = nil
        parser.reset()
        started = SystemClock.now
        deadline?.schedule(after: program.requestTimeout)
        if stream == nil {
            do {
                let fresh = try Stream(program.loop, connectTo: program.address)
                fresh.delegate = self
                fresh.setNoDelay()
                stream = fresh
            } catch {
                failed(.connection)
                return
            }
        }
        stream?.write(request.span)
        let body = program.body
        stream?.write(body.span)
        stream?.resumeReading()
    }

    private func end() {
        deadline?.cancel()
        stream?.closeNow()
        stream = nil
        program.clientEnded()
    }

    private func failed(_ failure: BenchFailure) {
        deadline?.cancel()
        stream?.closeNow()
        stream = nil
        input.removeAll()
        program.requestFailed(failure)
        program.later(self)
    }

    override func channel(_ channel: Channel, received bytes: inout MutableSpan<UInt8>) {
        guard channel === stream else { return }
        input.append(bytes.span)
        if bodyLeft == nil {
            do {
                guard try parser.parse(input.span, into: &head) == .complete else { return }
            } catch {
                failed(.protocolViolation)
                return
            }
            input.consume(head.length)
            guard let length = head.contentLength else {
                failed(.protocolViolation)
                return
            }
            bodyLeft = length
        }
        let taken = min(bodyLeft ?? 0, UInt64(input.count))
        input.consume(Int(taken))
        bodyLeft = (bodyLeft ?? 0) - taken
        if bodyLeft == 0 { answered() }
    }

    private func answered() {
        deadline?.cancel()
        program.requestAnswered(status: head.status, latency: SystemClock.now - started)
        if !head.isPersistent || !input.isEmpty {
            stream?.closeNow()
            stream = nil
            input.removeAll()
        }
        next()
    }

    override func channelEnded(_ channel: Channel) {
        if channel === stream { failed(.connection) }
    }

    override func channelFailed(_ channel: Channel, error: ChannelError) {
        if channel === stream { failed(.connection) }
    }
}

/// Why a request got no answer.
enum BenchFailure: String, CaseIterable {
    case connection = "connection failed"
    case protocolViolation = "not an HTTP answer"
    case timedOut = "timed out"
}
