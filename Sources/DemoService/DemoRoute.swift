// Which answer a request of the demo service gets. Pure.

internal import Wire

/// What is done with a request.
enum DemoRoute: Equatable {
    /// A small text that names what arrived: any path that is not one of those below.
    case describe
    /// The body comes back as it came.
    case echo
    /// So many bytes of a pattern, with their length or (`?chunked`) in chunks.
    case bytes(UInt64, isChunked: Bool)
    /// The small text, after so many milliseconds.
    case slow(UInt64)
    /// Server-sent events, one a second, until the client goes.
    case events
    /// A WebSocket that sends every message back.
    case webSocket

    init(target: Span<UInt8>) {
        var path = ""
        var query = ""
        var isQuery = false
        for index in 0..<target.count {
            let scalar = Unicode.Scalar(target[index])
            if scalar == "?" && !isQuery {
                isQuery = true
            } else if isQuery {
                query.unicodeScalars.append(scalar)
            } else {
                path.unicodeScalars.append(scalar)
            }
        }
        switch path {
        case "/echo": self = .echo
        case "/events": self = .events
        case "/ws": self = .webSocket
        default:
            if let count = Self.number(path, after: "/bytes/") {
                self = .bytes(count, isChunked: query == "chunked")
            } else if let milliseconds = Self.number(path, after: "/slow/"), milliseconds <= 3_600_000 {
                self = .slow(milliseconds)
            } else {
                self = .describe
            }
        }
    }

    private static func number(_ path: String, after prefix: String) -> UInt64? {
        guard path.hasPrefix(prefix) else { return nil }
        let digits = path.utf8.dropFirst(prefix.utf8.count)
        guard (1...18).contains(digits.count), digits.allSatisfy({ $0 >= 48 && $0 <= 57 }) else { return nil }
        return digits.reduce(0) { $0 * 10 + UInt64($1 - 48) }
    }
}
