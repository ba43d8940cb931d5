// The server side of an HTTP/1.x connection: reads request heads, asks its subclass for each where it goes, and then either
// carries the exchange to an upstream connection and back (HTTPConnection+Exchange.swift), answers by itself
// (HTTPConnection+Respond.swift), or hands the connection over (to a tunnel, a relay, another process). The worker's ports
// and the agent's streams are subclasses of it.
//
// One request is served at a time; what comes behind it waits in `input`, bounded, with reading paused beyond the bound.
//
//     readingHead ──head whole──► routing ──proceed──► exchanging ──response and request whole──► readingHead
//        ▲  │                      │  │ └──moveAway──► detaching ──► dead      │  └──101──► dead (a Relay owns both)
//        │  └── end, error, time   │  └──takeOver──► dead                      │
//        │        ▼                ▼                                           ▼
//        └──── draining ◄───── respond ◄────────────────────── response whole, request not
//                 └── too much, time ──► dead
//
// `input` holds, from its front: the head of the request that is served (kept until the exchange ends, for a retry and the
// access log), then what was not yet handled, from `inputOffset` on.

public import Base
public import Memory
public import Reactor
public import Wire

/// One accepted HTTP connection. Subclasses route its requests.
open class HTTPConnection: ChannelDelegate {
    enum State {
        case readingHead, routing, exchanging, draining, detaching, dead
    }

    /// Where a body stands.
    enum Body {
        case none
        case length(UInt64)
        case chunked
        case untilClose
        case done
    }

    enum ResponseState {
        case head
        case body
        case complete
    }

    public let context: HTTPContext
    public internal(set) final var channel: Channel
    /// The client's address as text, for X-Forwarded-For and logs.
    public final let clientHost: [UInt8]
    /// What becomes of what requests say about how they came.
    public final var forwarding = Forwarding.append
    /// Whether the client came over TLS, for what is said of that.
    public final var isSecure = false
    /// The request that is being served; valid from `requestArrived` to `exchangeFinished`.
    public internal(set) final var head = Head()
    /// What it is known by.
    public internal(set) final var trace = RequestTrace()
    /// What became of it so far.
    public internal(set) final var summary = ExchangeSummary()

    final var state = State.readingHead
    /// What it is at, for those who watch. Once its channel is a byte stream's, it is at nothing else.
    public final var stateName: String { state == .dead ? "stream" : "\(state)" }
    /// The client's address as text.
    public final var clientText: String { String(decoding: clientHost, as: UTF8.self) }
    final var input = ByteBuffer()
    final var inputOffset = 0
    final var parser: HeadParser
    final var requestFraming = BodyFraming.none
    final var requestBody = Body.none
    /// Whether the request has a body that has not been sent on as a whole.
    public final var hasBodyToSend: Bool { !requestBody.isDone }
    final var requestChunks = ChunkedDecoder()
    final var responseBody = Body.none
    final var responseChunks = ChunkedDecoder()
    final var responseState = ResponseState.head
    final var upstream: HTTPUpstream?
    /// Whether the client may get another response on this connection.
    final var keepsAlive = true
    /// Whether the response goes out in chunks of ours.
    final var sendsChunks = false
    /// Whether the response ends with the upstream's connection.
    final var isFramedByClose = false
    /// How long the client may still send its last request, after a response that did not say that the connection ends.
    final var lingers = Duration.zero
    final var wantsUpgrade = false
    /// Whether any byte of a final response was sent.
    final var hasResponded = false
    final var inputEnded = false
    /// Whether any of the request's body went to an upstream: it can't be sent again then.
    final var bodyWasSent = false
    /// For whom the request was written.
    final var passage = Passage.service
    /// Whether what was sent of the request's body stands in `input`, before `inputOffset`, for the case that it is declined.
    final var keepsBody = false
    /// Whether the request's body waits for the word of the node or process of ours that got the head: none of it was sent, all
    /// can go elsewhere.
    final var holdsBody = false
    /// Whether who holds the body back was told that it may come.
    final var saidContinue = false
    final var isReadPaused = false
    /// While a pump carries the rest of a body, what its source's pumps had taken before.
    final var requestPumpedBefore: UInt64?
    final var responsePumpedBefore: UInt64?
    /// Whether `startPumps` is going to be called.
    final var pumpsSoon = false
    final var drained = 0
    final var lastProgress = Instant(nanoseconds: 0)
    /// When the upstream was seen last not to take what a pump brought from the client.
    final var lastBlocked = Instant(nanoseconds: 0)
    /// Where the stretch began in which the request's body is measured, and what had come of it then.
    final var rateStart = Instant(nanoseconds: 0)
    final var rateBytes: UInt64 = 0
    /// When the client was last seen to take what waits for it, and how much it had taken in all; nil: nothing waited.
    final var lastTaken = Instant(nanoseconds: 0)
    final var takenThen: UInt64?
    /// Whether a request waits until the client has taken the answers to those before it.
    private final var isBlocked = false
    /// Whether an idle connection still has the buffers of its last request.
    private final var holdsMemory = false
    private final var isAdvancing = false
    /// Whether the connection leaves this loop before its next request.
    private final var movesAtBoundary = false
    private final var timer: CallbackTimer?

    /// Takes over the channel. `input`: bytes that were read from it before (a connection that moved here). `isFromOurs`: a process or
    /// node of ours is at its other end, which puts its own lines to heads that have passed the limits there.
    public init(
        _ context: HTTPContext, channel: Channel, clientHost: [UInt8], isFromOurs: Bool = false, input: consuming ByteBuffer = ByteBuffer()
    ) {
        self.context = context
        self.channel = channel
        self.clientHost = clientHost
        self.input = input
        let limits = context.settings.headLimits
        parser = HeadParser(kind: .request, limits: isFromOurs ? limits.withLinesOfOurs : limits)
        super.init()
        timer = CallbackTimer(context.loop) { [unowned self] in self.timerFired() }
        channel.delegate = self
    }

    /// Starts to serve. `isKept`: the connection has served requests elsewhere, and may be idle.
    public final func start(isKept: Bool = false) {
        lastProgress = context.loop.now
        channel.resumeReading()
        setTimer(after: isKept && input.isEmpty ? context.settings.idleTimeout : context.settings.headTimeout)
        if !input.isEmpty { advance() }
    }

    // MARK: For subclasses

    /// A request's head came whole. Must lead, now or later, to exactly one of `proceed`, `respond…`, `moveAway`,
    /// `takeOver` or `drop`.
    open func requestArrived() {}

    /// The request could not be parsed and was answered with `status`; the connection closes.
    open func requestRefused(status: Int) {}

    /// The request is about to be cut: its body comes more slowly than it may.
    open func requestIsTooSlow() {}

    /// The chosen upstream broke before it answered anything. `repeatable`: the request may be sent again; true means
    /// that the subclass routes it again, as in `requestArrived`. False: it is answered with 502.
    open func upstreamBroke(repeatable: Bool) -> Bool { false }

    /// The upstream connection was given up because nothing of the request arrived at its peer: it had died without a word.
    /// `upstreamBroke` follows.
    open func upstreamDiedUnnoticed(_ upstream: HTTPUpstream) {}

    /// A final response's head is about to be forwarded or was made here (`head` nil). For the access log.
    open func willRespond(status: Int, head: borrowing Head, bytes: Span<UInt8>) {}

    /// The exchange is over; `head`, `summary` and the head's bytes are still those of its request.
    open func exchangeFinished() {}

    /// The connection is over, by whatever way but `moveAway` and `takeOver`.
    open func connectionClosed() {}

    /// An upgrade was agreed to: `relay` carries the connection from now on; `exchangeFinished` and `connectionClosed` follow
    /// at its end.
    open func relayStarted(_ relay: Relay) {}

    /// `moveAway` or `moveSoon` is done: the socket and every byte read from it that was not yet served.
    open func movedAway(descriptor: consuming OwnedDescriptor, input: Span<UInt8>) {}

    /// Another process or node of ours could not serve the request and has not tried; true means that the subclass routes it
    /// again, as in `requestArrived`.
    open func upstreamDeclined() -> Bool { false }

    /// Whether another process or node of ours sent the request, which may hold its body back until it is told that it is served.
    open var comesFromOurs: Bool { false }

    /// The decision about the routed request takes a while: when it takes longer than the response's head may, the request is
    /// answered with 504.
    public final func limitRouting() {
        guard state == .routing, context.settings.responseTimeout != .zero else { return }
        setTimer(at: lastProgress + context.settings.responseTimeout)
    }

    /// The decision may take until then; `routingTimedOut` follows.
    public final func limitRouting(until deadline: Instant) {
        if state == .routing { setTimer(at: deadline) }
    }

    /// The time for the decision is over.
    open func routingTimedOut() { respondError(status: 504, "upstream timeout") }

    /// Bytes that were read and are kept.
    public final var keptBytes: Int { input.count }

    /// Whether a request waits for the subclass's decision.
    public final var isRouting: Bool { state == .routing }

    /// Whether the connection serves nothing at the moment and could be closed without loss.
    public final var isIdle: Bool { state == .readingHead && input.isEmpty }

    /// Whether anything came behind the request that is served.
    final var hasMoreInput: Bool { requestBody.isDone && inputOffset < input.count }

    /// Whether the connection is over.
    public final var isDead: Bool { state == .dead }

    /// Calls `body` with the bytes of the served request's head, to which `head`'s ranges refer.
    public final func withHeadBytes<Result, Failure: Error>(
        _ body: (Span<UInt8>) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        try input.withSpan(0..<head.length, body)
    }

    /// Whether the client has finished sending: whoever takes the channel over is not told that again.
    public final var clientHasEnded: Bool { inputEnded }

    /// Lets go of the channel: the caller owns it, and what was read behind the head, which is appended to `leftover`.
    public final func takeOver(leftover: inout ByteBuffer) -> Channel {
        precondition(state == .routing, "takeOver outside of routing")
        leftover.append(input.span.extracting(inputOffset..<input.count))
        channel.delegate = nil
        die()
        return channel
    }

    /// Takes the socket out of this loop, to be served elsewhere from the request on that is being routed.
    public final func moveAway() {
        precondition(state == .routing, "moveAway outside of routing")
        detach()
    }

    /// Whether the connection can go on in another process: the state of TLS can't.
    public final var canMove: Bool { channel is Stream }

    /// Takes the socket out of this loop at the next boundary between two requests: at once when none is served. A connection
    /// that can't move says `Connection: close` with its next response instead.
    public final func moveSoon() {
        guard canMove else {
            let idle = context.settings.idleTimeout
            return finishSoon(quiet: idle == .zero ? .seconds(86_400) : idle)
        }
        movesAtBoundary = true
        if state == .readingHead, !isAdvancing { detach() }
    }

    private func detach() {
        guard let stream = channel as? Stream else { preconditionFailure("only a socket can move") }
        state = .detaching
        // What is queued goes out first, for which the client has its usual time.
        takenThen = nil
        _ = clientTakes()
        setTimer(after: context.settings.writeTimeout)
        stream.detach()
    }

    /// Closes the connection, after what is queued was sent. A request in progress is cut.
    public final func close() {
        guard state != .dead else { return }
        if let upstream { upstream.discard() }
        upstream = nil
        die()
        channel.close()
        connectionClosed()
    }

    /// Ends the connection with a reset.
    public final func drop() {
        guard state != .dead else { return }
        if let upstream { upstream.discard() }
        upstream = nil
        die()
        channel.abort()
        connectionClosed()
    }

    /// The next response is the last: it says `Connection: close`. An idle connection closes once nothing has come for `quiet`:
    /// a request that is on its way meanwhile is served.
    public final func finishSoon(quiet: Duration) {
        let wasKept = keepsAlive
        keepsAlive = false
        guard isIdle else {
            // The response that goes out does not say it any more: the one to a request behind it will.
            if wasKept, hasResponded, state == .exchanging { lingers = quiet }
            return
        }
        let end = lastProgress + quiet
        if end <= context.loop.now { close() } else { setTimer(at: end) }
    }

    /// The same, and an idle connection closes at once.
    public final func finishSoon() { finishSoon(quiet: .zero) }

    final func die() {
        state = .dead
        timer?.cancel()
        timer = nil
        input = ByteBuffer()
        inputOffset = 0
    }

    // MARK: From the client's channel

    public override final func channel(_ channel: Channel, received bytes: inout MutableSpan<UInt8>) {
        switch state {
        case .readingHead:
            if input.isEmpty { setTimer(after: context.settings.headTimeout) }
            input.append(bytes.span)
            advance()
        case .routing, .detaching:
            keep(bytes.span)
        case .exchanging:
            exchangeReceived(bytes.span)
        case .draining:
            drain(bytes.span)
        case .dead:
            break
        }
    }

    /// Keeps what can't be handled yet, and stops reading when it is much.
    final func keep(_ bytes: Span<UInt8>) {
        input.append(bytes)
        if input.count - head.length > context.settings.pipelineBytesMax, !isReadPaused {
            isReadPaused = true
            channel.pauseReading()
        }
    }

    final func resumeClient() {
        guard isReadPaused else { return }
        isReadPaused = false
        lastBlocked = context.loop.now
        channel.resumeReading()
    }

    public override final func channelEnded(_ channel: Channel) {
        inputEnded = true
        switch state {
        case .readingHead where isBlocked:
            break
        case .readingHead, .draining:
            close()
        case .routing:
            break
        case .exchanging:
            clientEndedInExchange()
        case .detaching, .dead:
            break
        }
    }

    public override final func channelDrained(_ channel: Channel) {
        lastProgress = context.loop.now
        upstream?.channel.resumeReading()
        guard isBlocked else { return }
        isBlocked = false
        setTimer(after: context.settings.headTimeout)
        resumeClient()
        advance()
    }

    public override final func streamPumped(_ stream: Stream) { requestPumped() }

    public override final func channelFailed(_ channel: Channel, error: ChannelError) {
        guard state != .dead else { return }
        let wasServing = state == .exchanging || state == .routing
        discardUpstream()
        if wasServing {
            summary.wasCut = true
            summary.outcome = .client
            exchangeFinished()
        }
        die()
        connectionClosed()
    }

    public override final func streamDetached(_ stream: Stream, descriptor: consuming OwnedDescriptor, unsent: Span<UInt8>) {
        var moving = ByteBuffer()
        swap(&moving, &input)
        die()
        movedAway(descriptor: descriptor, input: moving.span)
    }

    // MARK: Reading heads

    /// Serves what waits in `input`, head after head. Not recursive: an exchange that ends within the call lets the loop
    /// go on.
    final func advance() {
        guard !isAdvancing else { return }
        isAdvancing = true
        defer { isAdvancing = false }
        while state == .readingHead {
            // Answers that the client does not take are not added to.
            guard input.isEmpty || channel.isWritable else {
                block()
                return
            }
            do {
                guard try parser.parse(input.span, into: &head) == .complete else {
                    if inputEnded { close() }
                    return
                }
            } catch {
                refuse(error)
                return
            }
            inputOffset = head.length
            beginRequest()
        }
    }

    private func block() {
        isBlocked = true
        if !isReadPaused {
            isReadPaused = true
            channel.pauseReading()
        }
        takenThen = nil
        _ = clientTakes()
        setTimer(after: context.settings.writeTimeout)
    }

    private func beginRequest() {
        summary = ExchangeSummary()
        summary.started = context.loop.now
        trace = RequestTrace(head, input.span.extracting(0..<head.length))
        if context.settings.makesTraces { trace.complete(using: &context.traceNumbers) }
        lastProgress = context.loop.now
        rateStart = context.loop.now
        rateBytes = 0
        hasResponded = false
        bodyWasSent = false
        keepsBody = false
        holdsBody = false
        saidContinue = false
        lingers = .zero
        responseState = .head
        requestPumpedBefore = nil
        responsePumpedBefore = nil
        requestChunks.reset()
        wantsUpgrade = head.upgradePresent
        keepsAlive = keepsAlive && head.isPersistent
        requestFraming = BodyFraming.request(head)
        requestBody = Body(requestFraming)
        state = .routing
        timer?.cancel()
        if input.count - head.length > context.settings.pipelineBytesMax, !isReadPaused {
            isReadPaused = true
            channel.pauseReading()
        }
        requestArrived()
    }

    /// The exchange is over and both its messages are whole: the next request may come.
    final func next() {
        input.consume(inputOffset)
        inputOffset = 0
        parser.reset()
        state = .readingHead
        if movesAtBoundary, keepsAlive, !inputEnded || !input.isEmpty {
            detach()
            return
        }
        if input.isEmpty {
            if inputEnded || !keepsAlive && lingers == .zero {
                close()
                return
            }
            lastProgress = context.loop.now
            holdsMemory = true
            setTimer(after: keepsAlive ? Self.memoryTime : lingers)
        } else {
            setTimer(after: context.settings.headTimeout)
        }
        resumeClient()
        advance()
    }

    // MARK: Time

    final func setTimer(after duration: Duration) {
        if duration == .zero { timer?.cancel() } else { timer?.schedule(after: duration) }
    }

    /// How long a connection without a request keeps its buffers for the next one.
    private static let memoryTime = Duration.seconds(1)

    /// Gives the buffers back: ten thousand idle clients hold nothing but their sockets.
    private func becomeIdle() {
        holdsMemory = false
        input.releaseIfEmpty()
        head = Head()
        let idleTimeout = context.settings.idleTimeout
        if idleTimeout != .zero { setTimer(at: max(lastProgress + idleTimeout, context.loop.now)) }
    }

    final func setTimer(at instant: Instant) {
        timer?.schedule(at: instant)
    }

    /// Whether the client took, within the time for it, some of what waits for it.
    final func clientTakes() -> Bool {
        let now = context.loop.now
        let taken = channel.sendingMark
        if taken == nil || taken != takenThen { lastTaken = now }
        takenThen = taken
        let time = context.settings.writeTimeout
        return time == .zero || now - lastTaken < time
    }

    private func timerFired() {
        switch state {
        case .readingHead:
            if isBlocked {
                if clientTakes() { setTimer(after: context.settings.writeTimeout) } else { drop() }
            } else if !input.isEmpty {
                refuse(HTTPError(status: 408, reason: "request head took too long"))
            } else if holdsMemory, keepsAlive {
                becomeIdle()
            } else {
                close()
            }
        case .draining:
            close()
        case .exchanging:
            exchangeTimer()
        case .routing:
            routingTimedOut()
        case .detaching:
            if clientTakes() { setTimer(after: context.settings.writeTimeout) } else { drop() }
        case .dead:
            break
        }
    }
}

extension HTTPConnection.Body {
    init(_ framing: BodyFraming) {
        switch framing {
        case .none, .tunnel: self = .done
        case .length(let length): self = length == 0 ? .done : .length(length)
        case .chunked: self = .chunked
        case .untilClose: self = .untilClose
        }
    }

    var isDone: Bool {
        if case .done = self { true } else { false }
    }
}
