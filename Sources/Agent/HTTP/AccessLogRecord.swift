// The access log's line of one request. The request's head is still there when the line is written; of the response's head,
// which is gone by then, the bytes and places of its fields are kept, in memory that is used again for the next.

internal import Base
internal import Memory
internal import Telemetry
internal import Transport
internal import Wire

/// What is kept of a response for the access log.
struct AccessLogRecord: ~Copyable {
    /// Whether the listener has an access log at all.
    var isWanted = false
    private var bytes = ByteBuffer()
    private var fields: [LoggedHeader] = []

    /// Keeps a response's fields.
    mutating func noteResponse(_ head: borrowing Head, _ headBytes: Span<UInt8>) {
        reset()
        guard isWanted, head.length > 0 else { return }
        bytes.append(headBytes)
        for field in head.fields { fields.append(LoggedHeader(name: field.name, value: field.value)) }
    }

    mutating func reset() {
        bytes.removeAll()
        fields.removeAll(keepingCapacity: true)
    }

    /// Writes the line, if it is wanted. `server`: who sent the request on.
    func write(
        to logger: Logger, settings: AccessLogSettings, endpoint: String, server: IPAddress?, trace: RequestTrace,
        summary: ExchangeSummary, duration: Duration, number: UInt64, request head: Head, _ headBytes: Span<UInt8>
    ) {
        let level = settings.level(status: summary.status)
        guard isWanted, logger.isEnabled(level, .proxyHTTPAccess),
            settings.wants(status: summary.status, isCompleted: summary.outcome == .completed, number: number)
        else { return }
        let status = summary.status == 0 ? AccessLogSettings.statusOfNone : summary.status
        let proto: StaticString = head.minorVersion == 0 ? "HTTP/1.0" : "HTTP/1.1"
        let client = server.flatMap { Self.client(head, headBytes, server: $0) }
        if settings.isCombined {
            let line = CombinedEntry(client: client, proto: proto, status: status, bytes: summary.responseBodyBytes)
            logger.combined(
                level, .proxyHTTPAccess, line, method: headBytes.extracting(head.methodRange),
                target: headBytes.extracting(head.originTarget), referer: headBytes.extracting(Self.shown(.referer, head, settings)),
                userAgent: headBytes.extracting(Self.shown(.userAgent, head, settings)))
            return
        }
        logger.log(level, .proxyHTTPAccess, "request") { line in
            if let client { line.field("client_addr", client) }
            line.field("endpoint-id", endpoint)
            line.field("bytes_in", summary.requestBodyBytes)
            line.field("bytes_out", summary.responseBodyBytes)
            if let first = summary.firstByte { line.field("ttfb", first - summary.started) }
            line.field("outcome", summary.outcome.name)
            if let requestID = trace.requestID { line.field("request_id", headBytes.extracting(requestID)) }
            if trace.isKnown {
                let id = trace.id
                line.field("trace_id", id.span)
            }
            write(to: &line, settings: settings, request: head, headBytes, status: status, duration: duration)
        }
    }

    /// The client, as the server that sent the request says: the last one of X-Forwarded-For.
    private static func client(_ head: Head, _ headBytes: Span<UInt8>, server: IPAddress) -> IPAddress? {
        var isServer = true
        return head.client(headBytes, peer: server) { _ in
            defer { isServer = false }
            return isServer
        }
    }

    /// Where the value of a header lies that the lists don't leave out; empty when there is none.
    private static func shown(_ known: KnownHeader, _ head: Head, _ settings: AccessLogSettings) -> Range<Int> {
        guard let value = head.firstValue(of: known), settings.requestHeaders.logs(known.name) else { return 0..<0 }
        return value
    }

    /// Adds the object `request`.
    private func write(
        to line: inout LogLine, settings: AccessLogSettings, request head: Head, _ headBytes: Span<UInt8>, status: Int,
        duration: Duration
    ) {
        line.beginObject("request")
        line.request(
            proto: head.minorVersion == 0 ? "HTTP/1.0" : "HTTP/1.1", method: headBytes.extracting(head.methodRange),
            host: headBytes.extracting(head.hostRange ?? 0..<0), target: headBytes.extracting(head.originTarget))
        line.headers("request_headers", settings.requestHeaders, in: headBytes, count: head.fields.count) { index in
            LoggedHeader(name: head.fields[index].name, value: head.fields[index].value)
        }
        line.headers("response_headers", settings.responseHeaders, in: bytes.span, count: fields.count) { fields[$0] }
        line.field("status", status)
        line.field("duration", duration)
        line.endObject()
    }
}
