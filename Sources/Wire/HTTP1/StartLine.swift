// Request lines and status lines (RFC 9112 sections 3 and 4).

import Memory

/// The rules of the first line of a head, and of the target that a request line carries.
enum StartLine {
    /// `METHOD SP TARGET SP HTTP/1.x`, with exactly one space at each place.
    static func parseRequest(
        _ bytes: Span<UInt8>, _ line: Range<Int>, limits: HeadLimits, methodBytesMax: Int, into head: inout Head
    ) throws(HTTPError) {
        let methodEnd = firstIndex(of: 0x20, in: bytes, range: line)
        guard methodEnd < line.upperBound, CharacterClass.isToken(bytes, line.lowerBound..<methodEnd) else {
            throw .malformed("invalid request line")
        }
        guard methodEnd - line.lowerBound <= methodBytesMax else {
            throw HTTPError(status: 501, reason: "unknown method")
        }
        let targetEnd = firstIndex(of: 0x20, in: bytes, range: methodEnd + 1..<line.upperBound)
        guard targetEnd < line.upperBound, targetEnd > methodEnd + 1 else { throw .malformed("invalid request line") }
        try parseVersion(bytes, targetEnd + 1..<line.upperBound, into: &head)
        // The preface of HTTP/2, which no request begins with (RFC 9113 section 3.4).
        guard !equals(bytes, line.lowerBound..<methodEnd, "PRI") else { throw .malformed("invalid request line") }
        head.methodRange = line.lowerBound..<methodEnd
        head.method = Method(bytes, head.methodRange)
        head.target = methodEnd + 1..<targetEnd
        guard head.target.count <= limits.targetBytesMax else {
            throw HTTPError(status: 414, reason: "request target too long")
        }
        try parseTarget(bytes, into: &head)
    }

    /// `HTTP/1.x SP STATUS SP REASON`; many servers leave out a space before an empty reason, which harms nobody.
    static func parseStatus(_ bytes: Span<UInt8>, _ line: Range<Int>, into head: inout Head) throws(HTTPError) {
        let start = line.lowerBound
        guard line.count >= 12, bytes[start + 8] == 0x20 else { throw .malformed("invalid status line") }
        try parseVersion(bytes, start..<start + 8, into: &head)
        var status = 0
        for index in start + 9..<start + 12 {
            guard CharacterClass.isDigit(bytes[index]) else { throw .malformed("invalid status") }
            status = status * 10 + Int(bytes[index] - 0x30)
        }
        guard status >= 100 && status <= 599 else { throw .malformed("invalid status") }
        head.status = status
        if line.count == 12 {
            head.reason = line.upperBound..<line.upperBound
            return
        }
        guard bytes[start + 12] == 0x20 else { throw .malformed("invalid status line") }
        head.reason = start + 13..<line.upperBound
        guard firstControl(in: bytes, range: head.reason) == line.upperBound else {
            throw .malformed("control character in the reason phrase")
        }
    }

    /// Exactly `HTTP/1.0` or `HTTP/1.1`; other versions of HTTP are 505.
    private static func parseVersion(_ bytes: Span<UInt8>, _ range: Range<Int>, into head: inout Head) throws(HTTPError) {
        let start = range.lowerBound
        guard range.count == 8, equals(bytes, start..<start + 5, "HTTP/"), CharacterClass.isDigit(bytes[start + 5]),
            bytes[start + 6] == 0x2e, CharacterClass.isDigit(bytes[start + 7])
        else { throw .malformed("invalid HTTP version") }
        guard bytes[start + 5] == 0x31, bytes[start + 7] <= 0x31 else {
            throw HTTPError(status: 505, reason: "HTTP version not supported")
        }
        head.minorVersion = Int(bytes[start + 7] - 0x30)
    }

    /// Splits the target by its form. Raw bytes above ASCII are let through, as clients do send them; a fragment is not,
    /// for it is no part of a target (RFC 9112 section 3.2) and services differ in what they make of it. So do they of a `%` in a path
    /// that no two digits follow (RFC 3986 section 2.1); in a query clients leave it lying about.
    private static func parseTarget(_ bytes: Span<UInt8>, into head: inout Head) throws(HTTPError) {
        let target = head.target
        var isPath = true
        for index in target {
            let byte = bytes[index]
            guard byte > 0x20, byte != 0x7f, byte != 0x23 else { throw .malformed("invalid character in the request target") }
            if byte == 0x3f { isPath = false }
            guard byte == 0x25, isPath else { continue }
            guard index + 2 < target.upperBound, CharacterClass.hexadecimal(bytes[index + 1]) != nil,
                CharacterClass.hexadecimal(bytes[index + 2]) != nil
            else { throw .malformed("invalid percent-encoding in the request target") }
        }
        if head.method == .connect {
            guard let host = HostName(bytes, target), host.hasPort else { throw .malformed("invalid CONNECT target") }
            head.targetForm = .authority
            head.originTarget = target.upperBound..<target.upperBound
        } else if bytes[target.lowerBound] == 0x2f {
            head.targetForm = .origin
            head.originTarget = target
        } else if target.count == 1, bytes[target.lowerBound] == 0x2a, head.method == .options {
            head.targetForm = .asterisk
            head.originTarget = target
        } else {
            let authority = try absoluteAuthority(bytes, target)
            guard HostName(bytes, authority) != nil else { throw .malformed("invalid host in the request target") }
            head.targetForm = .absolute
            head.originTarget = authority.upperBound..<target.upperBound
        }
    }

    /// The authority in `http://authority/path`.
    private static func absoluteAuthority(_ bytes: Span<UInt8>, _ target: Range<Int>) throws(HTTPError) -> Range<Int> {
        let colon = firstIndex(of: 0x3a, in: bytes, range: target)
        let scheme = target.lowerBound..<colon
        guard equalsIgnoringCase(bytes, scheme, "http") || equalsIgnoringCase(bytes, scheme, "https"),
            target.upperBound - colon >= 3, bytes[colon + 1] == 0x2f, bytes[colon + 2] == 0x2f
        else { throw .malformed("invalid request target") }
        var end = colon + 3
        while end < target.upperBound, bytes[end] != 0x2f, bytes[end] != 0x3f { end += 1 }
        return colon + 3..<end
    }

    /// One host, and one only (RFC 9112 sections 3.2 and 3.2.2). An absolute target would override Host; we refuse a
    /// request in which the two differ, so that nothing depends on which one somebody behind us looks at.
    static func checkHost(_ bytes: Span<UInt8>, _ head: inout Head) throws(HTTPError) {
        if head.hostRange == nil && head.minorVersion >= 1 { throw .malformed("missing Host field") }
        let authority: Range<Int>
        switch head.targetForm {
        case .origin, .asterisk: return
        case .authority: authority = head.target
        case .absolute:
            let schemeEnd = firstIndex(of: 0x3a, in: bytes, range: head.target)
            authority = schemeEnd + 3..<head.originTarget.lowerBound
        }
        guard let host = head.hostRange else {
            head.hostRange = authority
            return
        }
        guard equalIgnoringCase(bytes, host, authority) else { throw .malformed("Host differs from the request target") }
    }
}
