// One client of the demo service: HTTP/1.1 with keep-alive and pipelining, one request after the other.
//
// Back-pressure both ways: while an answer can't be written, nothing is read, and a source of many bytes (`/bytes/N`)
// writes only while the socket takes them. What came in early waits in `input`, which is bounded by what the kernel had
// already delivered when reading stopped.
//
//     head ──► body ──► delaying (/slow) ──► sending (/bytes, /events) ──► head …
//       └──► tunnel (/ws)                                any ──► dead
//
// The answers themselves are in DemoConnection+Answer.swift.

internal import Base
internal import Memory
internal import Reactor
internal import Wire

/// A connection from a client.
final class DemoConnection: ChannelDelegate {
    enum Phase {
        case head
        case body
        case delaying
        case sending(Source)
        case tunnel
        case dead
    }

    /// An answer's body that is made while it is sent.
    enum Source {
        case bytes(remaining: UInt64)
        case events(next: UInt64)
    }

    /// How the request's body is framed; `length` counts down.
    enum Body {
        case none
        case length(remaining: UInt64)
        case chunked
    }

    let loop: Loop
    let stream: Stream
    var phase = Phase.head
    var input = ByteBuffer()
    var output = ByteBuffer()
    var parser = HeadParser(kind: .request)
    var head = Head()
    var route = DemoRoute.describe
    /// The small text that names what arrived.
    var text = ByteBuffer()
    /// The answer's body goes out in chunks.
    var isChunked = false
    /// Another request may follow on this connection.
    var isPersistent = true
    private(set) var timer: CallbackTimer?
    private var body = Body.none
    private var decoder = ChunkedDecoder()
    private var webSocket = WebSocketEcho()
    private var hasPeerEnded = false
    /// Guards `process` against being entered again by what it calls.
    private var isProcessing = false

    init(loop: Loop, stream: Stream) {
        self.loop = loop
        self.stream = stream
        super.init()
        timer = CallbackTimer(loop) { [unowned self] in self.timerFired() }
        stream.delegate = self
        stream.setNoDelay()
        stream.resumeReading()
    }

    // MARK: From the socket

    override func channel(_ channel: Channel, received bytes: inout MutableSpan<UInt8>) {
        if case .tunnel = phase {
            echoFrames(&bytes)
            return
        }
        input.append(bytes.span)
        process()
    }

    override func channelDrained(_ channel: Channel) {
        switch phase {
        case .sending:
            pump()
            process()
        case .tunnel: stream.resumeReading()
        case .head, .body: process()
        case .delaying, .dead: break
        }
    }

    override func channelEnded(_ channel: Channel) {
        hasPeerEnded = true
        isPersistent = false
        switch phase {
        case .head, .body: process()
        case .sending(.events), .tunnel: end()
        case .delaying, .sending, .dead: break
        }
    }

    override func channelFailed(_ channel: Channel, error: ChannelError) {
        die()
    }

    // MARK: Requests

    /// Works through `input` as far as it goes, then says whether more is wanted.
    func process() {
        if isProcessing { return }
        isProcessing = true
        defer { isProcessing = false }
        var bytes = ByteBuffer()
        swap(&bytes, &input)
        do {
            while try step(&bytes) {}
        } catch {
            refuse(error)
        }
        swap(&bytes, &input)
        switch phase {
        case .head, .body:
            if !stream.isWritable {
                stream.pauseReading()
            } else if hasPeerEnded {
                // What is missing can't come any more.
                end()
            } else {
                stream.resumeReading()
            }
        case .delaying:
            stream.pauseReading()
        case .sending(.bytes):
            stream.pauseReading()
        case .sending(.events), .tunnel, .dead:
            break
        }
        input.releaseIfEmpty()
    }

    /// One step; false when nothing more can be done now.
    private func step(_ bytes: inout ByteBuffer) throws(HTTPError) -> Bool {
        switch phase {
        case .head:
            if bytes.isEmpty || !stream.isWritable { return false }
            guard try parser.parse(bytes.span, into: &head) == .complete else { return false }
            try begin(&bytes)
            return true
        case .body:
            return stream.isWritable ? try readBody(&bytes) : false
        case .delaying, .sending, .tunnel, .dead:
            return false
        }
    }

    /// The head is whole: choose the answer, and begin it where it does not wait for the body.
    private func begin(_ bytes: inout ByteBuffer) throws(HTTPError) {
        parser.reset()
        route = DemoRoute(target: bytes.span.extracting(head.originTarget))
        isPersistent = !hasPeerEnded && head.isPersistent
        if route == .webSocket, head.upgradePresent {
            try acceptWebSocket(&bytes)
            return
        }
        describe(bytes.span)
        switch BodyFraming.request(head) {
        case .length(let count) where count > 0: body = .length(remaining: count)
        case .chunked:
            body = .chunked
            decoder.reset()
        case .none, .length, .untilClose, .tunnel: body = .none
        }
        if head.expectContinue && head.minorVersion == 1 {
            HeadWriter.writeContinue(into: &output)
            flush()
        }
        if route == .echo { beginEcho() }
        phase = .body
        bytes.consume(head.length)
    }

    /// Reads what is there of the body; `/echo` writes it back, the others drop it.
    private func readBody(_ bytes: inout ByteBuffer) throws(HTTPError) -> Bool {
        switch body {
        case .none:
            bodyEnded()
        case .length(let remaining):
            if bytes.isEmpty { return false }
            let count = Int(min(UInt64(bytes.count), remaining))
            if route == .echo { stream.write(bytes.span.extracting(0..<count)) }
            bytes.consume(count)
            let left = remaining - UInt64(count)
            body = left == 0 ? .none : .length(remaining: left)
        case .chunked:
            return try readChunks(&bytes)
        }
        return true
    }

    private func readChunks(_ bytes: inout ByteBuffer) throws(HTTPError) -> Bool {
        if bytes.isEmpty { return false }
        var offset = 0
        var isOver = false
        reading: while true {
            switch try decoder.next(bytes.span, at: &offset) {
            case .needMore:
                break reading
            case .data(let range):
                if route == .echo { writeChunk(bytes.span.extracting(range)) }
            case .end:
                isOver = true
                break reading
            }
        }
        bytes.consume(offset)
        if isOver {
            if route == .echo { ChunkedEncoder.writeEnd(trailers: decoder.trailers.span, into: &output) }
            body = .none
        }
        flush()
        return isOver
    }

    /// The request is whole.
    private func bodyEnded() {
        switch route {
        case .describe, .webSocket:
            answerText()
        case .echo:
            exchangeEnded()
        case .slow(let milliseconds):
            phase = .delaying
            timer?.schedule(after: .milliseconds(Int64(milliseconds)))
        case .bytes(let count, let chunked):
            beginBytes(count, chunked: chunked)
        case .events:
            beginEvents()
        }
    }

    /// The answer is written whole: on to the next request, or the end.
    func exchangeEnded() {
        phase = .head
        if !isPersistent { end() }
    }

    // MARK: WebSocket

    /// Any origin may connect: behind a tunnel the host that a page was asked for is not known here.
    private func acceptWebSocket(_ bytes: inout ByteBuffer) throws(HTTPError) {
        let key = place(of: .secWebSocketKey)
        let refusal = WebSocketHandshake.checkRequest(
            upgrade: bytes.span.extracting(place(of: .upgrade)), hasUpgradeOption: head.connectionUpgrade,
            version: bytes.span.extracting(place(of: .secWebSocketVersion)), key: bytes.span.extracting(key), origin: Span(),
            host: Span())
        if let refusal { throw HTTPError(status: refusal.status, reason: refusal.reason) }
        output.append("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ")
        WebSocketHandshake.acceptKey(for: bytes.span.extracting(key), into: &output)
        output.append("\r\n\r\n")
        flush()
        phase = .tunnel
        bytes.consume(head.length)
        guard !bytes.isEmpty else { return }
        var early = bytes.mutableSpan
        echoFrames(&early)
        bytes.removeAll()
    }

    /// Where the value of a field of the request at hand lies; empty without one.
    private func place(of name: KnownHeader) -> Range<Int> { head.firstValue(of: name) ?? 0..<0 }

    private func echoFrames(_ bytes: inout MutableSpan<UInt8>) {
        let isOpen = webSocket.receive(&bytes, into: &output)
        flush()
        if !isOpen {
            end()
        } else if !stream.isWritable {
            stream.pauseReading()
        }
    }

    // MARK: Ends

    /// Sends what waits to be sent.
    func flush() {
        if output.isEmpty { return }
        stream.write(output.span)
        output.removeAll()
        output.releaseIfEmpty()
    }

    private func refuse(_ error: HTTPError) {
        isPersistent = false
        guard case .head = phase else {
            // An answer may have begun: the client must see that it is cut.
            stream.abort()
            die()
            return
        }
        writeRefusal(error)
        end()
    }

    /// Closes in good order.
    func end() {
        stream.close()
        die()
    }

    private func die() {
        phase = .dead
        timer?.cancel()
        timer = nil
    }
}
