// Message heads (RFC 9112 sections 2 to 6), strictly: whatever two parsers could read in two ways is refused.
//
// The unit of work is a line. A line is looked at only once it is whole; the search for its end goes on where the last
// call stopped. So each byte is scanned once and parsed once, however it arrives, a head that comes byte by byte costs
// time in proportion to its length, and an error is reported as soon as its line has ended.
//
//     start line -> field -> ... -> field -> empty line (finished)
//
// Invariants: lineStart <= scanned <= the bytes seen; [0, lineStart) is parsed; [lineStart, scanned) holds no LF. The result
// is the same for every way in which the bytes are split over calls.

import Memory

/// Bounds of one head.
public struct HeadLimits: Sendable {
    /// Bytes of the whole head, its empty line included; beyond: 431.
    public var bytesMax: Int
    /// Field lines; beyond: 431.
    public var fieldsMax: Int
    /// Bytes of the request target; beyond: 414.
    public var targetBytesMax: Int

    public init(bytesMax: Int = 65_536, fieldsMax: Int = 200, targetBytesMax: Int = 16_384) {
        precondition(bytesMax > 0 && bytesMax <= 1 << 30 && fieldsMax > 0 && targetBytesMax > 0, "HeadLimits out of range")
        self.bytesMax = bytesMax
        self.fieldsMax = fieldsMax
        self.targetBytesMax = targetBytesMax
    }

    /// Those for a head that kept these limits when it came, and that a process or node of ours put its own lines to.
    public var withLinesOfOurs: HeadLimits {
        HeadLimits(bytesMax: min(bytesMax + 65_536, 1 << 30), fieldsMax: fieldsMax + 16, targetBytesMax: targetBytesMax)
    }
}

/// Parses one head after the other.
public struct HeadParser: Sendable {
    /// How far a head has come.
    public enum Progress: Sendable { case incomplete, complete }

    private enum Phase { case startLine, fields, finished }

    /// Bytes of a method name; longer ones name nothing that anybody implements.
    private static let methodBytesMax = 64
    /// The version, two spaces and CRLF: what a request line has beside method and target.
    private static let requestLineRestBytes = 12
    /// Elements of all Connection fields together: each is compared with every field.
    private static let connectionOptionsMax = 64

    private let kind: HeadKind
    private let limits: HeadLimits
    private var phase = Phase.startLine
    private var isFresh = true
    private var lineStart = 0
    private var scanned = 0

    public init(kind: HeadKind, limits: HeadLimits = HeadLimits()) {
        self.kind = kind
        self.limits = limits
    }

    /// Forgets the head at hand; the next call begins another.
    public mutating func reset() {
        phase = .startLine
        isFresh = true
        lineStart = 0
        scanned = 0
    }

    /// Whether bytes of a head have been seen that is not complete yet. An empty line before a request counts as nothing.
    public var isInsideHead: Bool { phase != .finished && scanned > 0 && !(phase == .startLine && scanned == lineStart) }

    /// Parses from the start of `bytes`, which must begin at the head's first byte; after `.incomplete`, call again with
    /// the same bytes and more. After `.complete` the head is whole and its body begins at `head.length`; call `reset`
    /// before the next. After an error the connection is of no more use for reading.
    public mutating func parse(_ bytes: Span<UInt8>, into head: inout Head) throws(HTTPError) -> Progress {
        guard kind == .response else { return try advance(bytes, into: &head) }
        do {
            return try advance(bytes, into: &head)
        } catch {
            // A service that answers wrongly is our upstream's failure, not the client's.
            throw HTTPError(status: 502, reason: error.reason)
        }
    }

    private mutating func advance(_ bytes: Span<UInt8>, into head: inout Head) throws(HTTPError) -> Progress {
        if isFresh {
            head.clear(kind: kind)
            isFresh = false
        }
        while phase != .finished {
            let bound = min(bytes.count, lineBound)
            if scanned == lineStart, scanned < bound, phase == .startLine { try checkFirstByte(bytes[scanned]) }
            let end = firstIndex(of: 0x0a, in: bytes, range: scanned..<max(bound, scanned))
            if end >= bound {
                scanned = max(bound, scanned)
                if bytes.count >= lineBound { throw tooLong() }
                return .incomplete
            }
            guard end > lineStart, bytes[end - 1] == 0x0d else { throw .malformed("line ends with a bare LF") }
            let line = lineStart..<end - 1
            lineStart = end + 1
            scanned = lineStart
            try parseLine(bytes, line, into: &head)
        }
        return .complete
    }

    /// The count of bytes at which the line at hand is too long when it has not ended before.
    private var lineBound: Int {
        guard phase == .startLine, kind == .request else { return limits.bytesMax }
        return min(limits.bytesMax, lineStart + limits.targetBytesMax + Self.methodBytesMax + Self.requestLineRestBytes)
    }

    private func tooLong() -> HTTPError {
        phase == .startLine && kind == .request
            ? HTTPError(status: 414, reason: "request target too long")
            : HTTPError(status: 431, reason: "request header fields too large")
    }

    /// Refuses at once what can't be HTTP, such as a TLS handshake on a plain port, which may hold no LF for long.
    private func checkFirstByte(_ byte: UInt8) throws(HTTPError) {
        switch kind {
        case .request:
            guard CharacterClass.isToken(byte) || byte == 0x0d || byte == 0x0a else { throw .malformed("invalid request line") }
        case .response:
            guard byte == 0x48 else { throw .malformed("invalid status line") }
        }
    }

    private mutating func parseLine(_ bytes: Span<UInt8>, _ line: Range<Int>, into head: inout Head) throws(HTTPError) {
        switch phase {
        case .startLine:
            if line.isEmpty {
                // One empty line before a request is passed by: old clients send one after a body (RFC 9112 section 2.2).
                guard kind == .request, line.lowerBound == 0 else { throw .malformed("empty line before the start line") }
                return
            }
            switch kind {
            case .request: try StartLine.parseRequest(bytes, line, limits: limits, methodBytesMax: Self.methodBytesMax, into: &head)
            case .response: try StartLine.parseStatus(bytes, line, into: &head)
            }
            phase = .fields
        case .fields:
            if line.isEmpty {
                head.length = lineStart
                try finish(bytes, &head)
                phase = .finished
                return
            }
            let field = try FieldLine(bytes, line)
            guard head.fields.count < limits.fieldsMax else {
                throw HTTPError(status: 431, reason: "too many request header fields")
            }
            head.fields.append(HeaderField(name: field.name, value: field.value, known: field.known))
            if field.known != .other { try note(bytes, field, into: &head) }
        case .finished:
            break
        }
    }

    /// Draws the facts from a field that we know.
    private func note(_ bytes: Span<UInt8>, _ field: FieldLine, into head: inout Head) throws(HTTPError) {
        let isRepeated = head.contains(field.known)
        head.presence |= 1 &<< UInt64(field.known.rawValue)
        switch field.known {
        case .host:
            guard kind == .request else { return }
            if isRepeated { throw .malformed("more than one Host field") }
            guard field.value.isEmpty || HostName(bytes, field.value) != nil else { throw .malformed("invalid Host field") }
            head.hostRange = field.value
        case .contentLength:
            // Even equal ones: whoever sends two means to find out which one counts.
            if isRepeated { throw .malformed("more than one Content-Length field") }
            head.contentLength = try BodyFraming.parseLength(bytes, field.value)
        case .transferEncoding:
            if isRepeated { throw .malformed("more than one Transfer-Encoding field") }
            try BodyFraming.checkCoding(bytes, field.value)
            head.isChunked = true
        case .connection:
            try noteConnection(bytes, field.value, into: &head)
        case .te:
            var elements = ListElements(field.value)
            while let element = elements.next(bytes) {
                if equalsIgnoringCase(bytes, element, "trailers") { head.acceptsTrailers = true }
            }
        case .expect:
            // An HTTP/1.0 client can't know what it expects (RFC 9110 section 10.1.1).
            guard kind == .request, head.minorVersion >= 1 else { return }
            guard equalsIgnoringCase(bytes, field.value, "100-continue") else {
                throw HTTPError(status: 417, reason: "unknown expectation")
            }
            head.expectContinue = true
        case .upgrade:
            // HTTP/2 without TLS would carry requests past us that nobody has authorised; RFC 9113 took that upgrade out.
            var elements = ListElements(field.value)
            while let element = elements.next(bytes) {
                if equalsIgnoringCase(bytes, element, "h2c") { head.upgradeIsRefused = true }
            }
        case .authorization, .xPikoAuthorization, .xPikoTenant, .xPikoNode, .xPikoCredential:
            if kind == .request && isRepeated { throw .malformed("repeated authorization field") }
        default:
            break
        }
    }

    private func noteConnection(_ bytes: Span<UInt8>, _ value: Range<Int>, into head: inout Head) throws(HTTPError) {
        var elements = ListElements(value)
        while let element = elements.next(bytes) {
            head.connectionOptionCount += 1
            guard head.connectionOptionCount <= Self.connectionOptionsMax else { throw .malformed("too many connection options") }
            if equalsIgnoringCase(bytes, element, "close") {
                head.connectionClose = true
            } else if equalsIgnoringCase(bytes, element, "keep-alive") {
                head.connectionKeepAlive = true
            } else if equalsIgnoringCase(bytes, element, "upgrade") {
                head.connectionUpgrade = true
            } else {
                guard CharacterClass.isToken(bytes, element) else { throw .malformed("invalid Connection field") }
                head.hasNamedOptions = true
            }
        }
    }

    /// The checks that need the whole head.
    private func finish(_ bytes: Span<UInt8>, _ head: inout Head) throws(HTTPError) {
        if head.isChunked {
            guard head.contentLength == nil else { throw .malformed("both Content-Length and Transfer-Encoding") }
            guard head.minorVersion >= 1 else { throw .malformed("Transfer-Encoding in an HTTP/1.0 message") }
        }
        // RFC 9110 section 9.3.8.
        if head.method == .trace, kind == .request, head.isChunked || head.contentLength ?? 0 > 0 {
            throw .malformed("content in a TRACE request")
        }
        head.upgradePresent =
            head.contains(.upgrade) && head.connectionUpgrade && head.minorVersion >= 1 && !head.upgradeIsRefused
        if head.hasNamedOptions { markNamedFields(bytes, &head) }
        if kind == .request { try StartLine.checkHost(bytes, &head) }
    }

    private func markNamedFields(_ bytes: Span<UInt8>, _ head: inout Head) {
        for index in head.fields.indices where head.fields[index].known == .connection {
            var elements = ListElements(head.fields[index].value)
            while let element = elements.next(bytes) {
                for other in head.fields.indices where equalIgnoringCase(bytes, element, head.fields[other].name) {
                    let known = head.fields[other].known
                    if !known.isProtected && !known.isHopByHop { head.fields[other].isConnectionNamed = true }
                }
            }
        }
    }
}
