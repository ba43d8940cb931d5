// What the demo service answers.

internal import Base
internal import Memory
internal import Reactor
internal import Wire

extension DemoConnection {
    /// 251 is prime to every buffer size, so that a byte out of place shows.
    static let patternPeriod = 251
    /// The pattern of `/bytes/N`: byte i is i modulo 251. A whole number of periods.
    static let pattern: [UInt8] = (0..<patternPeriod * 64).map { UInt8($0 % patternPeriod) }

    /// Notes what arrived; `bytes` begin with the head.
    func describe(_ bytes: Span<UInt8>) {
        text.removeAll()
        text.append("Hello from the demo service.\n")
        append("method", bytes.extracting(head.methodRange))
        append("path", bytes.extracting(head.target))
        if let host = head.hostRange { append("host", bytes.extracting(host)) }
        for field in head.fields where field.known == .xForwardedFor {
            append("x-forwarded-for", bytes.extracting(field.value))
        }
    }

    private func append(_ name: StaticString, _ value: Span<UInt8>) {
        text.append(name)
        text.append(": ")
        text.append(value)
        text.append("\n")
    }

    // MARK: Heads

    private func writeHead(_ status: StaticString, type: StaticString) {
        output.append("HTTP/1.1 ")
        output.append(status)
        output.append("\r\nContent-Type: ")
        output.append(type)
        output.append("\r\n")
        if !isPersistent {
            output.append("Connection: close\r\n")
        } else if head.minorVersion == 0 {
            output.append("Connection: keep-alive\r\n")
        }
    }

    private func writeLength(_ length: UInt64) {
        output.append("Content-Length: ")
        output.appendDecimal(length)
        output.append("\r\n\r\n")
    }

    /// Chunks where the client knows them; else the connection's end is the body's.
    private func writeChunkedOrClose(type: StaticString) {
        isChunked = head.minorVersion == 1
        if !isChunked { isPersistent = false }
        writeHead("200 OK", type: type)
        output.append(isChunked ? "Transfer-Encoding: chunked\r\n\r\n" : "\r\n")
    }

    func writeRefusal(_ error: HTTPError) {
        let response = LocalResponse(
            status: error.status, connection: .close, unixSeconds: Int64(SystemClock.unixNanoseconds / 1_000_000_000),
            fields: error.status == 426 ? "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" : "")
        HeadWriter.writeError(error.reason, response, into: &output)
        flush()
    }

    // MARK: Answers

    func answerText() {
        writeHead("200 OK", type: "text/plain; charset=utf-8")
        writeLength(UInt64(text.count))
        if head.method != .head { output.append(text.span) }
        text.removeAll()
        text.releaseIfEmpty()
        flush()
        exchangeEnded()
    }

    /// The head of an echo: framed as the request was.
    func beginEcho() {
        switch BodyFraming.request(head) {
        case .length(let count):
            writeHead("200 OK", type: "application/octet-stream")
            writeLength(count)
        case .chunked:
            writeHead("200 OK", type: "application/octet-stream")
            output.append("Transfer-Encoding: chunked\r\n\r\n")
        case .none, .untilClose, .tunnel:
            writeHead("200 OK", type: "application/octet-stream")
            writeLength(0)
        }
        flush()
    }

    func writeChunk(_ bytes: Span<UInt8>) {
        ChunkedEncoder.writeHeader(size: bytes.count, into: &output)
        output.append(bytes)
        ChunkedEncoder.writeChunkEnd(into: &output)
    }

    func beginBytes(_ count: UInt64, chunked: Bool) {
        if chunked {
            writeChunkedOrClose(type: "application/octet-stream")
        } else {
            isChunked = false
            writeHead("200 OK", type: "application/octet-stream")
            writeLength(count)
        }
        flush()
        phase = .sending(.bytes(remaining: head.method == .head ? 0 : count))
        pump()
    }

    func beginEvents() {
        writeChunkedOrClose(type: "text/event-stream")
        flush()
        if head.method == .head {
            exchangeEnded()
            return
        }
        phase = .sending(.events(next: 1))
        // Reading goes on, to notice when the client leaves.
        stream.resumeReading()
        timerFired()
    }

    /// Writes while the socket takes bytes.
    func pump() {
        guard case .sending(.bytes(var remaining)) = phase else { return }
        while remaining > 0 && stream.isWritable {
            let count = Int(min(remaining, UInt64(Self.pattern.count)))
            let piece = Self.pattern.span.extracting(0..<count)
            if isChunked {
                writeChunk(piece)
                flush()
            } else {
                stream.write(piece)
            }
            remaining -= UInt64(count)
        }
        phase = .sending(.bytes(remaining: remaining))
        guard remaining == 0 else { return }
        if isChunked && head.method != .head {
            ChunkedEncoder.writeEnd(into: &output)
            flush()
        }
        exchangeEnded()
    }

    /// `/slow` has waited long enough, or the next event is due.
    func timerFired() {
        switch phase {
        case .delaying:
            answerText()
            process()
        case .sending(.events(let number)):
            if stream.isWritable {
                var event = ByteBuffer()
                event.append("data: event ")
                event.appendDecimal(number)
                event.append("\n\n")
                if isChunked { writeChunk(event.span) } else { output.append(event.span) }
                flush()
                phase = .sending(.events(next: number + 1))
            }
            timer?.schedule(after: .seconds(1))
        case .head, .body, .sending(.bytes), .tunnel, .dead:
            break
        }
    }
}
