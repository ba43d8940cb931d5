// A client's side of CONNECT (RFC 9110 section 9.3.6): what a proxy is asked, and what it answers. Pure: bytes in, values out.
//
// Invariant: the outcome is the same for every way in which the answer's bytes are split over calls.

public import Memory

/// What a proxy is asked.
public struct ConnectRequest: Sendable {
    /// "host:port", an IPv6 address in brackets. The proxy looks names up.
    public var target: String
    /// The user and the password with a colon between them; nil: none are shown.
    public var credentials: String?

    public init(target: String, credentials: String? = nil) {
        self.target = target
        self.credentials = credentials
    }

    /// Appends the request.
    public func write(into buffer: inout ByteBuffer) {
        buffer.append("CONNECT \(target) HTTP/1.1\r\nHost: \(target)\r\n")
        if let credentials {
            buffer.append("Proxy-Authorization: Basic ")
            Base64.encode(Array(credentials.utf8).span, into: &buffer)
            buffer.append("\r\n")
        }
        buffer.append("\r\n")
    }
}

/// Why an answer is none.
public enum ConnectAnswerError: Error, Equatable, Sendable {
    /// It is not HTTP: what is wrong with it.
    case malformed(String)
    /// Its head has more than `ConnectAnswer.headBytesMax` bytes.
    case tooLong
}

/// Reads a proxy's answer.
public struct ConnectAnswer: ~Copyable {
    /// What a proxy answered.
    public enum Outcome: Equatable, Sendable {
        /// The tunnel is there. What came behind the head is of the tunnel.
        case tunnel(early: [UInt8])
        /// Another status than 2xx, and the words that came with it.
        case refused(status: Int, reason: String)
    }

    /// The bytes of the head, those of interim answers (1xx) before it included.
    public static let headBytesMax = 16_384
    /// The bytes of a status line's words that are passed on.
    private static let reasonBytesMax = 128

    // The parser never meets its own bounds: it is shown no more than `headBytesMax` bytes.
    private var parser = HeadParser(kind: .response, limits: HeadLimits(bytesMax: headBytesMax + 1, fieldsMax: headBytesMax))
    private var head = Head()
    private var input = ByteBuffer()
    /// The bytes that the head may still have.
    private var bytesLeft = headBytesMax

    public init() {}

    /// Takes the next bytes; nil: there is more to come. Not to be called after an outcome or an error.
    public mutating func take(_ bytes: Span<UInt8>) throws(ConnectAnswerError) -> Outcome? {
        input.append(bytes)
        while try isHeadComplete() {
            // No protocol was asked for, so 101 is no interim answer here.
            guard head.status < 200, head.status != 101 else { return outcome() }
            bytesLeft -= head.length
            input.consume(head.length)
            parser.reset()
        }
        if input.count >= bytesLeft { throw .tooLong }
        return nil
    }

    private mutating func isHeadComplete() throws(ConnectAnswerError) -> Bool {
        // Apart from the rest, which is changed while the bytes are looked at.
        var bytes = ByteBuffer()
        swap(&bytes, &input)
        defer { swap(&bytes, &input) }
        do throws(HTTPError) {
            return try parser.parse(bytes.span.extracting(0..<min(bytes.count, bytesLeft)), into: &head) == .complete
        } catch {
            throw .malformed("\(error.reason)")
        }
    }

    private borrowing func outcome() -> Outcome {
        input.withSpan(0..<input.count) { bytes in
            if (200...299).contains(head.status) {
                return .tunnel(early: [UInt8](copying: bytes.extracting(head.length..<bytes.count)))
            }
            let reason = bytes.extracting(head.reason.prefix(Self.reasonBytesMax))
            return .refused(status: head.status, reason: String(decoding: [UInt8](copying: reason), as: UTF8.self))
        }
    }
}
