// Answers made here: errors, admin pages, upgrades of our own. And what follows an answer that came before its request was
// whole: the rest is read and dropped within a bound, or the connection closes; it is never taken for a request.

internal import Base
internal import Memory
internal import Reactor
internal import Wire

extension HTTPConnection {
    /// Answers the routed request with a JSON error: `{"error":"MESSAGE"}`. `by`: whose failure it is.
    public final func respondError(status: Int, _ message: StaticString, by outcome: ExchangeOutcome = .gateway) {
        if summary.outcome == .completed { summary.outcome = outcome }
        var body = ByteBuffer()
        ErrorBody.write(message, into: &body)
        respond(
            status: status, contentType: "application/json", fields: Self.fields(of: status), body: body.span)
    }

    /// Answers the routed request.
    public final func respond(
        status: Int, contentType: StaticString, fields: StaticString = "", body: Span<UInt8>
    ) {
        guard state == .routing || state == .exchanging else { return }
        discardUpstream()
        decideOnConnection()
        // More of the body is to come than is worth dropping: the client is told, and the connection closes.
        if case .length(let left) = requestBody, left > UInt64(context.settings.drainBytesMax) { keepsAlive = false }
        hasResponded = true
        responseState = .complete
        if summary.outcome == .completed { summary.outcome = .gateway }
        summary.firstByte = nil
        summary.status = status
        summary.responseBodyBytes = head.method == .head ? 0 : UInt64(body.count)
        willRespond(status: status, head: Head(), bytes: Span())
        writeLocal(status: status, contentType: contentType, fields: fields, body: body, omitsBody: head.method == .head)
        state = .exchanging
        exchangeOver()
    }

    /// Answers a request that could not be understood, and closes.
    final func refuse(_ error: HTTPError) {
        var body = ByteBuffer()
        ErrorBody.write(error.reason, into: &body)
        keepsAlive = false
        writeLocal(
            status: error.status, contentType: "application/json", fields: Self.fields(of: error.status), body: body.span,
            omitsBody: false)
        requestRefused(status: error.status)
        close()
    }

    /// Fields that go with a status of ours.
    private static func fields(of status: Int) -> StaticString {
        switch status {
        case 401: "WWW-Authenticate: Bearer\r\n"
        case 405: "Allow: GET\r\n"
        case 429: "Retry-After: 1\r\n"
        case 426: "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        default: ""
        }
    }

    /// Whether the connection goes on behind the response whose head is about to go out.
    final func decideOnConnection() {
        // A client that waits for 100 (Continue) and gets a final status may or may not send its body: with neither a
        // promise kept, the next bytes could be body or request (RFC 9110 section 10.1.1).
        if !requestBody.isDone && head.expectContinue || isAskedToContinue && !saidContinue { keepsAlive = false }
        if inputEnded && !hasMoreInput { keepsAlive = false }
        if context.endsConnections { keepsAlive = false }
    }

    /// How the response's head speaks of the connection.
    final var connectionMode: ConnectionMode {
        keepsAlive ? (head.minorVersion == 0 ? .keepAliveNamed : .keepAlive) : .close
    }

    private func writeLocal(
        status: Int, contentType: StaticString, fields: StaticString, body: Span<UInt8>, omitsBody: Bool
    ) {
        let response = LocalResponse(
            status: status, connection: connectionMode, unixSeconds: Int64(SystemClock.unixNanoseconds / 1_000_000_000), omitsBody: omitsBody,
            noSniff: status >= 500, contentType: contentType, fields: fields)
        HeadWriter.writeResponse(response, body: body, into: &context.scratch)
        context.flush(to: channel)
    }

    // MARK: The rest of a request that was answered early

    final func beginDraining() {
        guard keepsAlive, !inputEnded else {
            close()
            return
        }
        if case .length(let left) = requestBody, left > UInt64(context.settings.drainBytesMax) {
            close()
            return
        }
        state = .draining
        drained = 0
        setTimer(after: .seconds(5))
        resumeClient()
        guard inputOffset < input.count else { return }
        var waiting = ByteBuffer()
        waiting.append(input.span.extracting(inputOffset..<input.count))
        input.truncate(to: inputOffset)
        drain(waiting.span)
    }

    /// Drops what belongs to the body; what follows it is the next request.
    final func drain(_ bytes: Span<UInt8>) {
        var offset = 0
        do {
            switch requestBody {
            case .length(let left):
                offset = Int(min(left, UInt64(bytes.count)))
                requestBody = left == UInt64(offset) ? .done : .length(left - UInt64(offset))
            case .chunked:
                chunks: while true {
                    switch try requestChunks.next(bytes, at: &offset) {
                    case .needMore: break chunks
                    case .data: continue
                    case .end:
                        requestBody = .done
                        break chunks
                    }
                }
            case .none, .done, .untilClose:
                break
            }
        } catch {
            close()
            return
        }
        drained += offset
        if requestBody.isDone {
            inputOffset = input.count
            input.append(bytes.extracting(offset..<bytes.count))
            next()
        } else if drained > context.settings.drainBytesMax {
            close()
        }
    }
}
