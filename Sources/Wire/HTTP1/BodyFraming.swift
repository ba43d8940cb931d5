// Where a body ends (RFC 9112 section 6): decided in one place, from a head that has passed all checks.

import Memory

/// How long a message's body is.
public enum BodyFraming: Equatable, Sendable {
    /// There is no body.
    case none
    /// Exactly so many bytes.
    case length(UInt64)
    /// Chunks, then trailers.
    case chunked
    /// All bytes until the sender ends the connection; of responses only.
    case untilClose
    /// No body: the connection turns into a byte stream both ways.
    case tunnel

    /// The framing of a request's body. An upgrade changes nothing here: the body comes first, and the stream begins only
    /// when the other side has answered 101.
    public static func request(_ head: Head) -> BodyFraming {
        if head.isChunked { return .chunked }
        if let length = head.contentLength { return .length(length) }
        return .none
    }

    /// The framing of a response's body, which depends on the method of the request that it answers. Refuses a switch of
    /// protocols that names none.
    public static func response(_ head: Head, to method: Method) throws(HTTPError) -> BodyFraming {
        if head.status == 101 {
            guard head.upgradePresent else { throw HTTPError(status: 502, reason: "101 without an upgrade") }
            return .tunnel
        }
        if method == .connect && head.status >= 200 && head.status <= 299 { return .tunnel }
        if method == .head || !head.statusAllowsBody { return .none }
        if head.isChunked { return .chunked }
        if let length = head.contentLength { return .length(length) }
        return .untilClose
    }

    /// The value of a Content-Length field: digits, no leading zero, at most Int64.max. A list, a sign, a space or a radix
    /// prefix is none (RFC 9110 section 8.6).
    static func parseLength(_ bytes: Span<UInt8>, _ value: Range<Int>) throws(HTTPError) -> UInt64 {
        guard !value.isEmpty, value.count <= 19, value.count == 1 || bytes[value.lowerBound] != 0x30 else {
            throw .malformed("invalid Content-Length field")
        }
        var length: UInt64 = 0
        for index in value {
            guard CharacterClass.isDigit(bytes[index]) else { throw .malformed("invalid Content-Length field") }
            length = length * 10 + UInt64(bytes[index] - 0x30)
        }
        guard length <= UInt64(Int64.max) else { throw .malformed("invalid Content-Length field") }
        return length
    }

    /// Refuses every Transfer-Encoding but a single `chunked`: other codings are unknown to us (501), and what is no list
    /// of codings at all, or a list in which `chunked` is not last and alone, is malformed.
    static func checkCoding(_ bytes: Span<UInt8>, _ value: Range<Int>) throws(HTTPError) {
        if equalsIgnoringCase(bytes, value, "chunked") { return }
        var position = value.lowerBound
        var chunkedSeen = false
        while true {
            let comma = firstIndex(of: 0x2c, in: bytes, range: position..<value.upperBound)
            let coding = CharacterClass.trim(bytes, position..<comma)
            guard CharacterClass.isToken(bytes, coding), !chunkedSeen else {
                throw .malformed("invalid Transfer-Encoding field")
            }
            chunkedSeen = equalsIgnoringCase(bytes, coding, "chunked")
            if comma == value.upperBound { break }
            position = comma + 1
        }
        throw HTTPError(status: 501, reason: "unknown transfer coding")
    }
}
