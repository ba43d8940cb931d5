// The exchange: a request goes to an upstream connection, its response comes back, both streamed with back-pressure.
//
// What is forwarded is what was understood: heads are rewritten, bodies are re-framed, and nothing behind a message's end is
// ever passed on. A response whose length is not known goes out in chunks, so that the client can tell its end from a cut.
// An upgrade becomes a byte stream only when the upstream has said 101 to a request that asked for it.
//
// A request may be sent again, on another upstream connection, as long as no byte of a response came and none of its
// body was sent, and only when its method is idempotent (RFC 9110 section 9.2.2).

internal import Base
internal import Memory
internal import Reactor
internal import Wire

extension HTTPConnection {
    // MARK: Request

    /// Sends the routed request to `upstream` and carries the exchange.
    ///
    /// `passage`: for whom it is.
    public final func proceed(with upstream: HTTPUpstream, as passage: Passage = .service) {
        precondition(state == .routing, "proceed outside of routing")
        state = .exchanging
        self.upstream = upstream
        upstream.connection = self
        self.passage = passage
        holdsBody = passage.holdsLongBodies && hasLongBody && !requestBody.isDone
        keepsBody = passage.mayBeDeclined && !requestBody.isDone && !bodyWasSent && !holdsBody
        summary.attempts += 1
        summary.outcome = .completed
        summary.firstByte = nil
        lastProgress = context.loop.now
        rateStart = context.loop.now
        rateBytes = summary.requestBodyBytes
        let isDoubtful = upstream.beginExchange()
        writeRequestHead(to: upstream)
        if !holdsBody { sayContinue() }
        sendWaitingBody()
        guard state == .exchanging else { return }
        upstream.channel.resumeReading()
        if !requestBody.isDone, !holdsBody { resumeClient() }
        let timeout = context.settings.responseTimeout
        if isDoubtful {
            setTimer(after: timeout == .zero ? HTTPUpstream.doubtTime : min(HTTPUpstream.doubtTime, timeout))
        } else {
            awaitHead()
        }
    }

    private func writeRequestHead(to upstream: HTTPUpstream) {
        var rewrite = RequestRewrite()
        let settings = context.settings
        rewrite.keepsAuthorization = settings.keepsAuthorization
        rewrite.keepsEndpoint = settings.keepsEndpoint
        rewrite.forwarding = forwarding
        rewrite.isSecure = isSecure
        if settings.makesTraces { rewrite.trace = trace }
        switch passage {
        case .service, .serviceAfterNode:
            rewrite.client = passage == .service ? clientHost : []
            rewrite.forward = settings.marksForwarded
        case .sibling(_, let fields):
            rewrite.keepsAuthorization = true
            rewrite.keepsEndpoint = true
            rewrite.keepsNode = true
            rewrite.fields = fields
        case .node(let fields):
            rewrite.client = clientHost
            rewrite.keepsEndpoint = true
            rewrite.fields = fields
        }
        if holdsBody { rewrite.fields += Self.expectField }
        rewrite.connection = wantsUpgrade ? .upgrade : .keepAlive
        rewrite.framing = requestFraming
        rewrite.targetPrefix = settings.targetPrefix
        HeadWriter.writeRequest(head, input.span.extracting(0..<head.length), rewrite: rewrite, into: &context.scratch)
        context.flush(to: upstream.channel)
    }

    private static let expectField = Array("x-piko-expect: 100-continue\r\n".utf8)

    /// Whether more of a body comes than is kept to be sent again.
    public final var hasLongBody: Bool { head.isChunked || head.contentLength ?? 0 > UInt64(context.settings.replayBytesMax) }

    /// Whether a node or process of ours holds the request's body back.
    final var isAskedToContinue: Bool { !requestBody.isDone && head.contains(.xPikoExpect) && comesFromOurs }

    /// Tells the node or process of ours that sent the request that it is served: the body, which it holds back, may come.
    private func sayContinue() {
        guard isAskedToContinue, !saidContinue, head.minorVersion >= 1 else { return }
        saidContinue = true
        context.scratch.append("HTTP/1.1 100 Continue\r\n\r\n")
        context.flush(to: channel)
    }

    /// Whoever has the request serves it.
    private func releaseBody() {
        holdsBody = false
        lastProgress = context.loop.now
        sayContinue()
        sendWaitingBody()
        guard state == .exchanging, !requestBody.isDone else { return }
        if inputEnded { clientEndedInExchange() } else { resumeClient() }
    }

    /// Forwards what came with the head.
    private func sendWaitingBody() {
        guard inputOffset < input.count, !requestBody.isDone, !holdsBody else { return }
        var waiting = ByteBuffer()
        swap(&waiting, &input)
        let used: Int
        do {
            used = try forwardBody(waiting.span.extracting(inputOffset..<waiting.count))
        } catch {
            swap(&waiting, &input)
            badRequestBody(error)
            return
        }
        swap(&waiting, &input)
        inputOffset += used
        if keepsBody { boundKeptBody() } else if inputOffset == input.count { dropHandledInput() }
    }

    private func dropHandledInput() {
        input.truncate(to: head.length)
        inputOffset = head.length
    }

    private func boundKeptBody() {
        if inputOffset - head.length > context.settings.replayBytesMax { forgetBody() }
    }

    /// The body can't be sent again.
    final func forgetBody() {
        guard keepsBody else { return }
        keepsBody = false
        if inputOffset == input.count { dropHandledInput() }
    }

    /// Makes ready to send the body from its beginning; false when some of it is gone.
    private func rewindBody() -> Bool {
        guard bodyWasSent else { return true }
        guard keepsBody else { return false }
        keepsBody = false
        inputOffset = head.length
        requestBody = Body(requestFraming)
        requestChunks.reset()
        summary.requestBodyBytes = 0
        bodyWasSent = false
        return true
    }

    /// Bytes from the client during an exchange.
    final func exchangeReceived(_ bytes: Span<UInt8>) {
        guard inputOffset == input.count, !requestBody.isDone, !holdsBody else {
            keep(bytes)
            return
        }
        do {
            let used = try forwardBody(bytes)
            if keepsBody, state == .exchanging {
                input.append(bytes.extracting(0..<used))
                inputOffset = input.count
                boundKeptBody()
            }
            if used < bytes.count { keep(bytes.extracting(used..<bytes.count)) }
        } catch {
            badRequestBody(error)
        }
    }

    /// Passes body bytes to the upstream and returns how many belonged to the body.
    private func forwardBody(_ bytes: Span<UInt8>) throws(HTTPError) -> Int {
        guard let upstream else { return 0 }
        var used = 0
        switch requestBody {
        case .length(let left):
            used = Int(min(left, UInt64(bytes.count)))
            upstream.channel.write(bytes.extracting(0..<used))
            requestBody = left == UInt64(used) ? .done : .length(left - UInt64(used))
            summary.requestBodyBytes &+= UInt64(used)
        case .chunked:
            let result = try Self.rechunk(
                bytes, decoder: &requestChunks, scratch: &context.scratch, asChunks: true, to: upstream.channel)
            used = result.used
            summary.requestBodyBytes &+= UInt64(result.data)
            if result.isWhole { requestBody = .done }
        case .none, .done, .untilClose:
            return 0
        }
        if used > 0 { bodyWasSent = true }
        lastProgress = context.loop.now
        pumpIfLong(requestBody, from: channel, to: upstream.channel)
        if !upstream.channel.isWritable, !isReadPaused {
            isReadPaused = true
            channel.pauseReading()
        }
        return used
    }

    /// Data of at least this many bytes is written where it lies; less is gathered in the scratch with its frame, so that many
    /// small chunks make one write.
    private static let gatherLimit = 4_096

    /// Writes one chunk of `data`, behind what the scratch holds already.
    private static func writeChunk(_ data: Span<UInt8>, scratch: inout ByteBuffer, to channel: Channel) {
        ChunkedEncoder.writeHeader(size: data.count, into: &scratch)
        if data.count < gatherLimit {
            scratch.append(data)
        } else {
            channel.write(scratch.span)
            scratch.removeAll()
            channel.write(data)
        }
        scratch.append("\r\n")
        if scratch.count > 32_768 {
            channel.write(scratch.span)
            scratch.removeAll()
        }
    }

    /// Decodes chunks and writes their data to `channel`, in chunks of ours or bare.
    private static func rechunk(
        _ bytes: Span<UInt8>, decoder: inout ChunkedDecoder, scratch: inout ByteBuffer, asChunks: Bool, to channel: Channel
    ) throws(HTTPError) -> (used: Int, data: Int, isWhole: Bool) {
        var offset = 0
        var data = 0
        defer { scratch.removeAll() }
        while true {
            switch try decoder.next(bytes, at: &offset) {
            case .needMore:
                if !scratch.isEmpty { channel.write(scratch.span) }
                return (offset, data, false)
            case .data(let range):
                data += range.count
                guard asChunks else {
                    channel.write(bytes.extracting(range))
                    continue
                }
                writeChunk(bytes.extracting(range), scratch: &scratch, to: channel)
            case .end:
                if asChunks { ChunkedEncoder.writeEnd(trailers: decoder.trailers.span, into: &scratch) }
                if !scratch.isEmpty { channel.write(scratch.span) }
                return (offset, data, true)
            }
        }
    }

    private func badRequestBody(_ error: HTTPError) {
        discardUpstream()
        keepsAlive = false
        if hasResponded {
            cut(by: .gateway)
        } else {
            respondError(status: error.status, error.reason)
        }
    }

    /// The client finished sending. A whole request still gets its answer (half-close).
    final func clientEndedInExchange() {
        // Whether it is whole is seen when it is sent on.
        if holdsBody { return }
        guard requestBody.isDone else {
            summary.wasCut = true
            summary.outcome = .client
            discardUpstream()
            exchangeFinished()
            die()
            channel.close()
            connectionClosed()
            return
        }
        if !keepsAlive || responseState == .complete || hasMoreInput { return }
        keepsAlive = false
    }

    // MARK: Response

    /// Bytes from the upstream.
    final func responseReceived(_ bytes: Span<UInt8>, from upstream: HTTPUpstream) {
        guard state == .exchanging, self.upstream === upstream else { return }
        if passage.isSibling, responseState == .head, upstream.input.isEmpty, bytes.count > 0, bytes[0] == Self.declinedMark {
            declined()
            return
        }
        do {
            if upstream.input.isEmpty {
                let used = try consumeResponse(bytes, upstream)
                if used < bytes.count, self.upstream === upstream {
                    upstream.input.append(bytes.extracting(used..<bytes.count))
                }
            } else {
                upstream.input.append(bytes)
                var waiting = ByteBuffer()
                swap(&waiting, &upstream.input)
                let used = try consumeResponse(waiting.span, upstream)
                waiting.consume(used)
                if self.upstream === upstream { swap(&waiting, &upstream.input) }
            }
        } catch {
            badResponse()
            return
        }
        if responseState == .complete, state == .exchanging { finishResponse() }
    }

    /// Handles as much of a response as `bytes` hold; returns what was used. A head that is not whole is not used.
    private func consumeResponse(_ bytes: Span<UInt8>, _ upstream: HTTPUpstream) throws(HTTPError) -> Int {
        var used = 0
        while responseState == .head {
            let rest = bytes.extracting(used..<bytes.count)
            if rest.isEmpty { return used }
            if summary.firstByte == nil { summary.firstByte = context.loop.now }
            guard try upstream.parser.parse(rest, into: &upstream.head) == .complete else { return used }
            let head = rest.extracting(0..<upstream.head.length)
            used += upstream.head.length
            upstream.parser.reset()
            if upstream.head.status < 200, upstream.head.status != 101 { summary.firstByte = nil }
            if upstream.head.status == 101 {
                guard wantsUpgrade, requestBody.isDone, upstream.head.upgradePresent else {
                    throw HTTPError(status: 502, reason: "upgrade that was not asked for")
                }
                startTunnel(head: head, leftover: bytes.extracting(used..<bytes.count))
                return bytes.count
            }
            if upstream.head.status == 100, holdsBody {
                releaseBody()
                guard self.upstream === upstream else { return bytes.count }
            } else if upstream.head.status < 200 {
                forwardInterim(head, upstream)
            } else if case .node = passage, upstream.head.status == 502, upstream.head.contains(.xPikoNode) {
                declined(keeping: upstream.head.contentLength == 0)
                return bytes.count
            } else {
                try beginResponse(head, upstream)
            }
        }
        guard responseState == .body else { return used }
        // A body that came whole with its head is not left to a pump.
        if used == bytes.count { pumpIfLong(responseBody, from: upstream.channel, to: channel) }
        return used + (try forwardResponse(bytes.extracting(used..<bytes.count)))
    }

    /// 100 (Continue), 103 (Early Hints) and the like go on to clients that know them (RFC 9110 section 15.2).
    private func forwardInterim(_ bytes: Span<UInt8>, _ upstream: HTTPUpstream) {
        lastProgress = context.loop.now
        guard head.minorVersion >= 1 else { return }
        HeadWriter.writeResponse(upstream.head, bytes, rewrite: ResponseRewrite(), into: &context.scratch)
        context.flush(to: channel)
        if !channel.isWritable { upstream.channel.pauseReading() }
    }

    private func beginResponse(_ bytes: Span<UInt8>, _ upstream: HTTPUpstream) throws(HTTPError) {
        let framing = try BodyFraming.response(upstream.head, to: head.method)
        responseBody = Body(framing)
        responseChunks.reset()
        isFramedByClose = framing == .untilClose
        responseState = responseBody.isDone ? .complete : .body
        responsePumpedBefore = nil
        sendsChunks = false
        var outgoing = framing
        switch framing {
        case .chunked, .untilClose:
            // HTTP/1.0 knows no chunks: the connection's end is the response's.
            if head.minorVersion >= 1 {
                sendsChunks = true
                outgoing = .chunked
            } else {
                keepsAlive = false
                outgoing = .untilClose
            }
        case .none, .length, .tunnel:
            break
        }
        decideOnConnection()
        hasResponded = true
        forgetBody()
        summary.status = upstream.head.status
        willRespond(status: upstream.head.status, head: upstream.head, bytes: bytes)
        var rewrite = ResponseRewrite()
        rewrite.framing = outgoing
        rewrite.connection = connectionMode
        HeadWriter.writeResponse(upstream.head, bytes, rewrite: rewrite, into: &context.scratch)
        context.flush(to: channel)
        scheduleProgress()
    }

    private func forwardResponse(_ bytes: Span<UInt8>) throws(HTTPError) -> Int {
        var used = bytes.count
        if used == 0 { return 0 }
        switch responseBody {
        case .length(let left):
            used = Int(min(left, UInt64(bytes.count)))
            channel.write(bytes.extracting(0..<used))
            responseBody = left == UInt64(used) ? .done : .length(left - UInt64(used))
            summary.responseBodyBytes &+= UInt64(used)
        case .chunked:
            let result = try Self.rechunk(
                bytes, decoder: &responseChunks, scratch: &context.scratch, asChunks: sendsChunks, to: channel)
            used = result.used
            summary.responseBodyBytes &+= UInt64(result.data)
            if result.isWhole { responseBody = .done }
        case .untilClose:
            summary.responseBodyBytes &+= UInt64(bytes.count)
            if sendsChunks {
                Self.writeChunk(bytes, scratch: &context.scratch, to: channel)
                context.flush(to: channel)
            } else {
                channel.write(bytes)
            }
        case .none, .done:
            return 0
        }
        if responseBody.isDone { responseState = .complete }
        guard let upstream else { return used }
        if !channel.isWritable { upstream.channel.pauseReading() }
        pumpIfLong(responseBody, from: upstream.channel, to: channel)
        return used
    }

    /// The upstream takes bytes again.
    final func upstreamDrained(_ upstream: HTTPUpstream) {
        guard state == .exchanging, self.upstream === upstream else { return }
        lastProgress = context.loop.now
        if !requestBody.isDone, !holdsBody { resumeClient() }
    }

    /// The upstream finished sending: the end of a response without a length, else a cut.
    final func upstreamEnded(_ upstream: HTTPUpstream) {
        guard state == .exchanging, self.upstream === upstream else { return }
        countPumpedResponse(upstream)
        if responseState == .body, case .untilClose = responseBody {
            if sendsChunks {
                ChunkedEncoder.writeEnd(into: &context.scratch)
                context.flush(to: channel)
            }
            responseBody = .done
            responseState = .complete
            finishResponse()
            return
        }
        if responseWasPumpedWhole() { finishResponse(isReusable: false) } else { upstreamLost() }
    }

    final func upstreamFailed(_ upstream: HTTPUpstream, error: ChannelError) {
        guard state == .exchanging, self.upstream === upstream else { return }
        countPumpedResponse(upstream)
        if responseWasPumpedWhole() { finishResponse(isReusable: false) } else { upstreamLost() }
    }

    private func upstreamLost() {
        discardUpstream()
        if hasResponded {
            cut(by: .service)
            return
        }
        summary.outcome = .service
        let repeatable = head.method.isIdempotent && summary.attempts < context.settings.attemptsMax && rewindBody()
        state = .routing
        setTimer(after: .zero)
        if upstreamBroke(repeatable: repeatable) { return }
        respondError(status: 502, "upstream unreachable")
    }

    /// What a process of ours answers to another that sent it a request which it can't serve. No response begins with it.
    static let declinedMark: UInt8 = 0x15

    /// Answers the routed request, which another process of ours sent, with the word that it is not served here and was not
    /// tried.
    public final func decline() {
        let mark: InlineArray<1, UInt8> = [Self.declinedMark]
        channel.write(mark.span)
        close()
    }

    /// The same to another node of ours, whose connection goes on.
    public final func declineForNode() {
        respond(status: 502, contentType: "application/json", fields: "x-piko-node: declined\r\n", body: Span())
    }

    /// Another process or node has not tried the request. `keeping`: its connection is good for the next one.
    private func declined(keeping: Bool = false) {
        if keeping, requestBody.isDone, requestPumpedBefore == nil, let upstream, upstream.head.isPersistent {
            self.upstream = nil
            upstream.release()
        } else {
            discardUpstream()
        }
        let isWhole = rewindBody()
        state = .routing
        setTimer(after: .zero)
        if !isWhole || !upstreamDeclined() { respondError(status: 502, "upstream unreachable") }
    }

    /// The upstream connection is of no more use, as somebody else found out: a request that waits on it for an answer, and may be
    /// sent again, is.
    final func upstreamGivenUp(_ upstream: HTTPUpstream) {
        guard state == .exchanging, self.upstream === upstream, responseState == .head, head.method.isIdempotent,
            !bodyWasSent || keepsBody
        else { return }
        upstreamLost()
    }

    private func badResponse() {
        discardUpstream()
        if hasResponded { cut(by: .service) } else { respondError(status: 502, "upstream unreachable", by: .service) }
    }

    /// The response can't be completed: the client must be able to tell.
    final func cut(by outcome: ExchangeOutcome) {
        summary.wasCut = true
        summary.outcome = outcome
        discardUpstream()
        let bodyEndsWithConnection = !sendsChunks && { if case .length = responseBody { false } else { true } }()
        exchangeFinished()
        die()
        if bodyEndsWithConnection { channel.abort() } else { channel.close() }
        connectionClosed()
    }

    /// The response went out whole. `isReusable`: whether its connection may serve another one.
    final func finishResponse(isReusable: Bool = true) {
        guard let upstream else { return }
        endRequestPump()
        let isWhole = requestBody.isDone
        self.upstream = nil
        if isWhole && isReusable && upstream.head.isPersistent && upstream.input.isEmpty && !isFramedByClose {
            upstream.release()
        } else if isWhole {
            upstream.close()
        } else {
            upstream.discard()
        }
        exchangeOver()
    }

    /// After a response: the next request, or first the rest of this one, or the end.
    final func exchangeOver() {
        setTimer(after: .zero)
        exchangeFinished()
        guard state != .dead else { return }
        if requestBody.isDone {
            if keepsAlive || lingers > .zero { next() } else { close() }
        } else {
            beginDraining()
        }
    }

    final func discardUpstream() {
        endRequestPump()
        if let upstream { countPumpedResponse(upstream) }
        let old = upstream
        upstream = nil
        old?.discard()
    }

    // MARK: Upgrade

    private func startTunnel(head bytes: Span<UInt8>, leftover: Span<UInt8>) {
        guard let upstream else { return }
        hasResponded = true
        summary.status = 101
        summary.wasUpgraded = true
        willRespond(status: 101, head: upstream.head, bytes: bytes)
        var rewrite = ResponseRewrite()
        rewrite.connection = .upgrade
        HeadWriter.writeResponse(upstream.head, bytes, rewrite: rewrite, into: &context.scratch)
        context.flush(to: channel)
        channel.write(leftover)
        let other = upstream.takeChannel()
        other.write(input.span.extracting(inputOffset..<input.count))
        let clientHasEnded = inputEnded
        let early = (request: UInt64(input.count - inputOffset), response: UInt64(leftover.count))
        self.upstream = nil
        setTimer(after: .zero)
        state = .dead
        let relay = Relay(channel, other) { outcome in
            self.summary.requestBodyBytes = outcome.leftBytes &+ early.request
            self.summary.responseBodyBytes = outcome.rightBytes &+ early.response
            self.summary.outcome = outcome.endedBy
            self.exchangeFinished()
            self.die()
            self.connectionClosed()
        }
        relayStarted(relay)
        relay.start()
        if clientHasEnded { relay.channelEnded(channel) }
    }

    // MARK: Time

    /// Watches that the bodies move, from the response's head on.
    private func scheduleProgress() {
        lastProgress = context.loop.now
        takenThen = nil
        let step = progressStep
        setTimer(after: step)
    }

    /// Until the response's head is due, or a body that still comes is to be judged, which is sooner.
    private func awaitHead() {
        let settings = context.settings
        let judged = requestBody.isDone || settings.readTimeout == .zero ? nil : context.loop.now + settings.readTimeout
        let due = settings.responseTimeout == .zero ? nil : lastProgress + settings.responseTimeout
        switch (judged, due) {
        case (let judged?, let due?): setTimer(at: min(judged, due))
        case (let only?, nil), (nil, let only?): setTimer(at: only)
        case (nil, nil): break
        }
    }

    private var progressStep: Duration {
        let settings = context.settings
        if settings.readTimeout == .zero { return settings.writeTimeout }
        if settings.writeTimeout == .zero { return settings.readTimeout }
        return min(settings.readTimeout, settings.writeTimeout)
    }

    final func exchangeTimer() {
        let now = context.loop.now
        if requestPumpedBefore != nil, let stream = channel as? Stream { lastProgress = max(lastProgress, stream.lastPumped) }
        let settings = context.settings
        // The client is not to blame while the upstream does not take what came.
        if requestPumpedBefore != nil, let service = upstream?.channel as? Stream, service.pendingBytes > 0 { lastBlocked = now }
        let stalled = !requestBody.isDone && !holdsBody && !isReadPaused && settings.readTimeout != .zero
            && now - max(lastProgress, lastBlocked) >= settings.readTimeout
        let isSlow = bodyIsTooSlow(now)
        if isSlow { requestIsTooSlow() }
        if responseState == .head {
            if stalled || isSlow {
                discardUpstream()
                keepsAlive = false
                respondError(status: 408, stalled ? "request body made no progress" : "request body came too slowly")
                return
            }
            if let upstream, now - lastProgress >= HTTPUpstream.doubtTime, upstream.isUnanswered {
                upstreamDiedUnnoticed(upstream)
                upstreamLost()
                return
            }
            if settings.responseTimeout == .zero || now < lastProgress + settings.responseTimeout {
                awaitHead()
                return
            }
            discardUpstream()
            if hasResponded { cut(by: .gateway) } else { respondError(status: 504, "upstream timeout") }
            return
        }
        if clientTakes(), !stalled, !isSlow {
            setTimer(after: progressStep)
            return
        }
        summary.wasCut = true
        summary.outcome = .gateway
        discardUpstream()
        exchangeFinished()
        die()
        channel.abort()
        connectionClosed()
    }
}
