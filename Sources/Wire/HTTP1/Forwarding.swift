// What a request says about the way that it came: X-Forwarded-For, X-Forwarded-Proto, X-Forwarded-Host, Forwarded (RFC 7239) and
// X-Real-IP. Anybody can write anything there, so what becomes of it depends on who sent the request; and who the client is
// is found by walking back from the right, over those proxies whose word counts.

public import Base
import Memory

/// What becomes of what a request says about how it came.
public enum Forwarding: Sendable {
    /// Nobody is judged: the client is added to X-Forwarded-For, the others go through as they came.
    case append
    /// The sender's word does not count: what it says is replaced by what we know.
    case replace
    /// The sender is a proxy whose word counts: what it says is kept, and what we know is added.
    case extend

    /// Whether lines of this name go through as they are. Those that get something added do not.
    func keeps(_ known: KnownHeader) -> Bool {
        switch self {
        case .append: known != .xForwardedFor
        case .replace: false
        case .extend: known != .xForwardedFor && known != .forwarded
        }
    }
}

/// Writes what a request says about how it came.
enum ForwardedFields {
    static func write(_ head: Head, _ bytes: Span<UInt8>, _ rewrite: RequestRewrite, into output: inout ByteBuffer) {
        writeList(
            "X-Forwarded-For: ", .xForwardedFor, keeping: rewrite.forwarding != .replace, head, bytes, into: &output)
        output.append(rewrite.client.span)
        output.append("\r\n")
        if rewrite.forwarding == .append { return }
        let isTrusted = rewrite.forwarding == .extend
        if !isTrusted || !head.contains(.xForwardedProto) {
            output.append(rewrite.isSecure ? "X-Forwarded-Proto: https\r\n" : "X-Forwarded-Proto: http\r\n")
        }
        if let host = head.hostRange, !host.isEmpty, !isTrusted || !head.contains(.xForwardedHost) {
            output.append("X-Forwarded-Host: ")
            output.append(bytes.extracting(host))
            output.append("\r\n")
        }
        // A proxy that does not speak of it would stand there as the client.
        guard !isTrusted || head.contains(.forwarded) else { return }
        writeList("Forwarded: ", .forwarded, keeping: isTrusted, head, bytes, into: &output)
        writeElement(head, bytes, rewrite, into: &output)
    }

    /// Begins a line with the values of all fields of a name, in their order.
    private static func writeList(
        _ name: StaticString, _ known: KnownHeader, keeping: Bool, _ head: Head, _ bytes: Span<UInt8>, into output: inout ByteBuffer
    ) {
        output.append(name)
        guard keeping, head.contains(known) else { return }
        for field in head.fields where field.known == known && !field.value.isEmpty {
            output.append(bytes.extracting(field.value))
            output.append(", ")
        }
    }

    /// RFC 7239 sections 4 and 6: an IPv6 address stands in brackets, and what holds a colon in quotes.
    private static func writeElement(_ head: Head, _ bytes: Span<UInt8>, _ rewrite: RequestRewrite, into output: inout ByteBuffer) {
        let client = rewrite.client.span
        let isSix = Memory.firstIndex(of: 0x3a, in: client, range: 0..<client.count) < client.count
        output.append(isSix ? "for=\"[" : "for=")
        output.append(client)
        if isSix { output.append("]\"") }
        if let host = head.hostRange, !host.isEmpty {
            output.append(";host=\"")
            output.append(bytes.extracting(host))
            output.append("\"")
        }
        output.append(rewrite.isSecure ? ";proto=https\r\n" : ";proto=http\r\n")
    }
}

extension Head {
    /// Who sent the request: the last of those who are said to have passed it on, from `peer` back, who is no proxy whose word
    /// counts. X-Forwarded-For says so, or Forwarded where there is none. Where that is no address, it is whoever wrote it. Nil:
    /// `peer` itself, of whom nothing else is known.
    public func client(_ bytes: Span<UInt8>, peer: IPAddress, isTrusted: (IPAddress) -> Bool) -> IPAddress? {
        var client: IPAddress?
        let known = contains(.xForwardedFor) ? KnownHeader.xForwardedFor : .forwarded
        guard isTrusted(peer), contains(known) else { return nil }
        for field in fields.reversed() where field.known == known {
            var end = field.value.upperBound
            while end > field.value.lowerBound {
                var start = end
                while start > field.value.lowerBound, bytes[start - 1] != 0x2c { start -= 1 }
                let element = CharacterClass.trim(bytes, start..<end)
                end = max(start - 1, field.value.lowerBound)
                if element.isEmpty { continue }
                let address = known == .forwarded ? Self.forwardedFor(bytes, element) : Self.node(bytes, element)
                guard let address else { return client }
                client = address
                if !isTrusted(address) { return client }
            }
        }
        return client
    }

    /// The address of the `for` of one element of Forwarded. A comma within quotes has torn the element: then there is none.
    private static func forwardedFor(_ bytes: Span<UInt8>, _ element: Range<Int>) -> IPAddress? {
        var found: IPAddress?
        var start = element.lowerBound
        while start < element.upperBound {
            let end = Memory.firstIndex(of: 0x3b, in: bytes, range: start..<element.upperBound)
            let pair = CharacterClass.trim(bytes, start..<end)
            start = end + 1
            let equal = Memory.firstIndex(of: 0x3d, in: bytes, range: pair)
            guard equal < pair.upperBound else { return nil }
            guard equalsIgnoringCase(bytes, pair.lowerBound..<equal, "for") else { continue }
            var value = equal + 1..<pair.upperBound
            if value.count >= 2, bytes[value.lowerBound] == 0x22, bytes[value.upperBound - 1] == 0x22 {
                value = value.lowerBound + 1..<value.upperBound - 1
            }
            guard found == nil, let address = node(bytes, value) else { return nil }
            found = address
        }
        return found
    }

    /// An address, with a port or without: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]:80`.
    private static func node(_ bytes: Span<UInt8>, _ range: Range<Int>) -> IPAddress? {
        var address = range
        if let first = range.first, bytes[first] == 0x5b {
            let close = Memory.firstIndex(of: 0x5d, in: bytes, range: range)
            guard close < range.upperBound, isPort(bytes, close + 1..<range.upperBound) else { return nil }
            address = first + 1..<close
            guard Memory.firstIndex(of: 0x3a, in: bytes, range: address) < address.upperBound else { return nil }
        } else {
            let colon = Memory.firstIndex(of: 0x3a, in: bytes, range: range)
            let isOnly = colon < range.upperBound && Memory.firstIndex(of: 0x3a, in: bytes, range: colon + 1..<range.upperBound) == range.upperBound
            if isOnly {
                guard isPort(bytes, colon..<range.upperBound) else { return nil }
                address = range.lowerBound..<colon
            }
        }
        return IPAddress(text: bytes.extracting(address))
    }

    /// Nothing, or a colon and a number.
    private static func isPort(_ bytes: Span<UInt8>, _ range: Range<Int>) -> Bool {
        guard let first = range.first else { return true }
        return bytes[first] == 0x3a && (2...6).contains(range.count) && range.dropFirst().allSatisfy { CharacterClass.isDigit(bytes[$0]) }
    }
}
