// The JSON body that all our errors have: `{"error":"MESSAGE"}`.

public import Memory

/// Writes and measures error bodies.
public enum ErrorBody {
    private static let frameBytes = 12

    /// The length of the body for a message of ours, which needs no escapes.
    public static func length(_ message: StaticString) -> Int { frameBytes + message.utf8CodeUnitCount }

    /// Writes the body for a message of ours, which needs no escapes.
    public static func write(_ message: StaticString, into output: inout ByteBuffer) {
        output.append("{\"error\":\"")
        let start = output.count
        output.append(message)
        assert(needsNoEscape(output.span, from: start), "an error message of ours that JSON would escape")
        output.append("\"}")
    }

    /// Writes the body for any text.
    public static func write(_ message: String, into output: inout ByteBuffer) {
        output.append("{\"error\":\"")
        let text = message.utf8Span.span
        for index in text.indices { writeEscaped(text[index], into: &output) }
        output.append("\"}")
    }

    private static func writeEscaped(_ byte: UInt8, into output: inout ByteBuffer) {
        switch byte {
        case 0x22: output.append("\\\"")
        case 0x5c: output.append("\\\\")
        case 0..<0x20, 0x7f:
            output.append(byte < 0x10 ? "\\u000" : "\\u00")
            output.appendHexadecimal(UInt64(byte))
        default: output.append(byte)
        }
    }

    private static func needsNoEscape(_ bytes: Span<UInt8>, from start: Int) -> Bool {
        for index in start..<bytes.count where bytes[index] < 0x20 || bytes[index] == 0x22 || bytes[index] == 0x5c { return false }
        return true
    }
}
