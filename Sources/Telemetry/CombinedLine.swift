// A request as a line of Apache's combined log format:
//
//     192.0.2.1 - - [22/Nov/2026:10:11:12 +0000] "GET /path HTTP/1.1" 200 5 "https://example.com/" "curl/8.0"
//
// Why an escape of its own: this format's readers know `\"`, `\\`, `\n` and `\xhh`, as Apache writes them, and no JSON.
//
// Invariants: whatever the values are, the line is one line of printable ASCII, each value ends where its quote does, and it is not
// longer than a pipe takes whole.

public import Base
internal import Memory

/// One line, from its parts.
struct CombinedLine: ~Copyable {
    private var buffer = ByteBuffer()

    /// The most of a value, escaped. A longer one is cut and ends in `...`.
    private static let valueBytesMax = 1_024
    private static let methodBytesMax = 64

    /// Makes the line, its newline included. The target's query is left out.
    mutating func fill(_ entry: CombinedEntry, method: Span<UInt8>, target: Span<UInt8>, referer: Span<UInt8>, userAgent: Span<UInt8>) {
        buffer.removeAll()
        buffer.append(entry.client?.description ?? "-")
        buffer.append(" - - [" as StaticString)
        Timestamp.appendCommon(unixNanoseconds: entry.unixNanoseconds, into: &buffer)
        buffer.append("] \"" as StaticString)
        append(method, max: Self.methodBytesMax)
        buffer.append(" " as StaticString)
        var end = 0
        while end < target.count, target[end] != 0x3f { end += 1 }
        append(target.extracting(0..<end), max: Self.valueBytesMax)
        buffer.append(" " as StaticString)
        buffer.append(entry.proto)
        buffer.append("\" " as StaticString)
        buffer.appendDecimal(UInt64(max(0, entry.status)))
        buffer.append(" " as StaticString)
        if entry.bytes == 0 { buffer.append("-" as StaticString) } else { buffer.appendDecimal(entry.bytes) }
        appendQuoted(referer)
        appendQuoted(userAgent)
        buffer.append("\n" as StaticString)
    }

    /// The finished line.
    func write(_ sink: LogSink) -> Bool { sink.write(buffer.span) }

    private mutating func appendQuoted(_ value: Span<UInt8>) {
        buffer.append(" \"" as StaticString)
        if value.isEmpty { buffer.append("-" as StaticString) } else { append(value, max: Self.valueBytesMax) }
        buffer.append("\"" as StaticString)
    }

    private mutating func append(_ value: Span<UInt8>, max: Int) {
        let limit = buffer.count + max
        for index in 0..<value.count {
            let byte = value[index]
            guard buffer.count + 4 <= limit else {
                buffer.append("..." as StaticString)
                return
            }
            if TextEscape.appendShort(byte, into: &buffer) { continue }
            buffer.append("\\x" as StaticString)
            if byte < 16 { buffer.append("0" as StaticString) }
            buffer.appendHexadecimal(UInt64(byte))
        }
    }
}

/// What a line in the combined format says beside what came as text.
public struct CombinedEntry: Sendable {
    /// nil: not known.
    public var client: IPAddress?
    public var proto: StaticString
    public var status: Int
    /// Of the response's body.
    public var bytes: UInt64
    /// The time.
    var unixNanoseconds: UInt64 = 0

    public init(client: IPAddress?, proto: StaticString, status: Int, bytes: UInt64) {
        self.client = client
        self.proto = proto
        self.status = status
        self.bytes = bytes
    }
}
