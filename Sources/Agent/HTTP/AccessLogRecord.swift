// The access log's line of one request. The request's head is still there when the line is written; of the response's head,
// which is gone by then, the bytes and places of its fields are kept, in memory that is used again for the next.

internal import Base
internal import Memory
internal import Telemetry
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

    /// Adds the object `request`.
    func write(
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
