// The PROXY protocol, versions 1 and 2 (haproxy's doc/proxy-protocol.txt): what a load balancer says in front of a connection's
// own bytes about whom it comes from.
//
// Strict where two readers could differ: a line of version 1 has exactly one form, the lengths of version 2 must add up, and a
// checksum that is there must be right. What cannot become a header is refused at the first byte that shows it.

public import Base
public import Memory

/// Why bytes are no header.
public struct ProxyHeaderError: Error, Equatable {
    /// For a log.
    public let reason: StaticString

    init(_ reason: StaticString) { self.reason = reason }

    public static func == (left: ProxyHeaderError, right: ProxyHeaderError) -> Bool {
        left.reason.utf8CodeUnitCount == right.reason.utf8CodeUnitCount && "\(left.reason)" == "\(right.reason)"
    }
}

/// One end of a connection.
public struct ProxyEnd: Equatable, Sendable {
    public var address: IPAddress
    public var port: UInt16

    public init(_ address: IPAddress, _ port: UInt16) {
        self.address = address
        self.port = port
    }
}

/// The form in which a header is written.
public enum ProxyVersion: Sendable {
    case one, two
}

/// What a load balancer says of a connection.
public struct ProxyHeader: Equatable, Sendable {
    /// The client; nil: the load balancer itself, or somebody whose address can't be said.
    public var source: ProxyEnd?
    /// Where the client connected to; nil exactly when `source` is.
    public var destination: ProxyEnd?

    public init(source: ProxyEnd? = nil, destination: ProxyEnd? = nil) {
        self.source = source
        self.destination = destination
    }

    /// How far a header has come.
    public enum Progress: Equatable, Sendable {
        case incomplete
        /// The header has so many bytes; what follows are the connection's own.
        case complete(ProxyHeader, length: Int)
    }

    /// Bytes of the longest line of version 1.
    public static let lineBytesMax = 107
    /// Bytes of the longest header of version 2 that we take, its extensions included.
    public static let bytesMax = 4_096

    private static let signature: [12 of UInt8] = [0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a]
    private static let lineStart: [6 of UInt8] = [0x50, 0x52, 0x4f, 0x58, 0x59, 0x20]
    private static let fixedBytes = 16

    /// Parses from the start of `bytes`; after `.incomplete`, call again with the same bytes and more.
    public static func parse(_ bytes: Span<UInt8>) throws(ProxyHeaderError) -> Progress {
        guard !bytes.isEmpty else { return .incomplete }
        if bytes[0] == lineStart[0] { return try parseLine(bytes) }
        return try parseBinary(bytes)
    }

    // MARK: Version 1

    private static func parseLine(_ bytes: Span<UInt8>) throws(ProxyHeaderError) -> Progress {
        for index in 0..<min(lineStart.count, bytes.count) where bytes[index] != lineStart[index] { throw ProxyHeaderError("no PROXY header") }
        let bound = min(bytes.count, lineBytesMax)
        let end = firstIndex(of: 0x0a, in: bytes, range: 0..<bound)
        guard end < bound else {
            if bytes.count >= lineBytesMax { throw ProxyHeaderError("PROXY line too long") }
            return .incomplete
        }
        guard bytes[end - 1] == 0x0d else { throw ProxyHeaderError("PROXY line ends with a bare LF") }
        var words: [Range<Int>] = []
        var start = lineStart.count
        for index in start..<end {
            guard bytes[index] == 0x20 || index == end - 1 else { continue }
            words.append(start..<index)
            start = index + 1
        }
        let family = words[0]
        // Whatever follows is to be passed by.
        if equals(bytes, family, "UNKNOWN") { return .complete(ProxyHeader(), length: end + 1) }
        let isSix = equals(bytes, family, "TCP6")
        guard isSix || equals(bytes, family, "TCP4") else { throw ProxyHeaderError("unknown family in a PROXY line") }
        guard words.count == 5 else { throw ProxyHeaderError("PROXY line without two addresses and ports") }
        let header = ProxyHeader(
            source: try lineEnd(bytes, words[1], words[3], isSix: isSix), destination: try lineEnd(bytes, words[2], words[4], isSix: isSix))
        return .complete(header, length: end + 1)
    }

    private static func lineEnd(
        _ bytes: Span<UInt8>, _ address: Range<Int>, _ port: Range<Int>, isSix: Bool
    ) throws(ProxyHeaderError) -> ProxyEnd {
        let text = bytes.extracting(address)
        let hasColon = firstIndex(of: 0x3a, in: text, range: 0..<text.count) < text.count
        guard hasColon == isSix, let ip = IPAddress(text: text) else { throw ProxyHeaderError("invalid address in a PROXY line") }
        var number = 0
        guard (1...5).contains(port.count), port.count == 1 || bytes[port.lowerBound] != 0x30 else {
            throw ProxyHeaderError("invalid port in a PROXY line")
        }
        for index in port {
            guard CharacterClass.isDigit(bytes[index]) else { throw ProxyHeaderError("invalid port in a PROXY line") }
            number = number * 10 + Int(bytes[index] - 0x30)
        }
        guard number <= 65_535 else { throw ProxyHeaderError("invalid port in a PROXY line") }
        return ProxyEnd(ip, UInt16(number))
    }

    // MARK: Version 2

    private static func parseBinary(_ bytes: Span<UInt8>) throws(ProxyHeaderError) -> Progress {
        for index in 0..<min(signature.count, bytes.count) where bytes[index] != signature[index] { throw ProxyHeaderError("no PROXY header") }
        if bytes.count > 12 {
            guard bytes[12] >> 4 == 2 else { throw ProxyHeaderError("unknown version of a PROXY header") }
            guard bytes[12] & 15 <= 1 else { throw ProxyHeaderError("unknown command in a PROXY header") }
        }
        guard bytes.count >= fixedBytes else { return .incomplete }
        let length = fixedBytes + (Int(bytes[14]) << 8 | Int(bytes[15]))
        guard length <= bytesMax else { throw ProxyHeaderError("PROXY header too long") }
        // The load balancer itself, a health check say: nothing else in there counts.
        if bytes[12] & 15 == 0 { return bytes.count < length ? .incomplete : .complete(ProxyHeader(), length: length) }
        let addressBytes: Int
        switch bytes[13] {
        case 0x00: addressBytes = 0
        case 0x11: addressBytes = 12
        case 0x21: addressBytes = 36
        case 0x31: addressBytes = 216
        default: throw ProxyHeaderError("unknown family in a PROXY header")
        }
        guard length >= fixedBytes + addressBytes else { throw ProxyHeaderError("PROXY header shorter than its addresses") }
        guard bytes.count >= length else { return .incomplete }
        let header: ProxyHeader
        switch bytes[13] {
        case 0x11: header = ProxyHeader(source: four(bytes, 16, 24), destination: four(bytes, 20, 26))
        case 0x21: header = ProxyHeader(source: six(bytes, 16, 48), destination: six(bytes, 32, 50))
        default: header = ProxyHeader()
        }
        // Without a family nothing says where extensions begin: all of it is passed by.
        if bytes[13] != 0 { try checkExtensions(bytes.extracting(0..<length), from: fixedBytes + addressBytes) }
        return .complete(header, length: length)
    }

    private static func port(_ bytes: Span<UInt8>, _ place: Int) -> UInt16 { UInt16(bytes[place]) << 8 | UInt16(bytes[place + 1]) }

    private static func four(_ bytes: Span<UInt8>, _ place: Int, _ portPlace: Int) -> ProxyEnd {
        var number: UInt32 = 0
        for index in 0..<4 { number = number << 8 | UInt32(bytes[place + index]) }
        return ProxyEnd(IPAddress(ipv4: number), port(bytes, portPlace))
    }

    private static func six(_ bytes: Span<UInt8>, _ place: Int, _ portPlace: Int) -> ProxyEnd {
        ProxyEnd(IPAddress(bytes: bytes, at: place), port(bytes, portPlace))
    }

    private static let checksumType: UInt8 = 0x03

    /// Extensions must fill the header exactly. They are passed by, but for a checksum.
    private static func checkExtensions(_ header: Span<UInt8>, from start: Int) throws(ProxyHeaderError) {
        var place = start
        var hasChecksum = false
        while place < header.count {
            guard header.count - place >= 3 else { throw ProxyHeaderError("PROXY header with a cut extension") }
            let length = Int(header[place + 1]) << 8 | Int(header[place + 2])
            guard header.count - place - 3 >= length else { throw ProxyHeaderError("PROXY header with a cut extension") }
            if header[place] == checksumType {
                guard length == 4, !hasChecksum else { throw ProxyHeaderError("PROXY header with a malformed checksum") }
                hasChecksum = true
                var expected: UInt32 = 0
                for index in 0..<4 { expected = expected << 8 | UInt32(header[place + 3 + index]) }
                guard expected == checksum(header, zeroing: place + 3..<place + 7) else {
                    throw ProxyHeaderError("PROXY header with a wrong checksum")
                }
            }
            place += 3 + length
        }
    }

    /// CRC-32C (RFC 3720, appendix B.4), with zeros in place of the checksum itself.
    static func checksum(_ bytes: Span<UInt8>, zeroing range: Range<Int>) -> UInt32 {
        var rest = UInt32.max
        for index in bytes.indices {
            rest ^= range.contains(index) ? 0 : UInt32(bytes[index])
            for _ in 0..<8 { rest = rest & 1 == 0 ? rest >> 1 : rest >> 1 ^ 0x82f6_3b78 }
        }
        return ~rest
    }

    // MARK: Writing

    /// Appends the header.
    public func write(_ version: ProxyVersion, into buffer: inout ByteBuffer) {
        switch version {
        case .one: writeLine(into: &buffer)
        case .two: writeBinary(into: &buffer)
        }
    }

    /// Both ends are of one family on the wire: where they differ, IPv4 is written in IPv6's form.
    private var isFour: Bool { source?.address.isIPv4 ?? false && destination?.address.isIPv4 ?? false }

    private func writeLine(into buffer: inout ByteBuffer) {
        guard let source, let destination else { return buffer.append("PROXY UNKNOWN\r\n") }
        let isFour = isFour
        func text(_ address: IPAddress) -> String { !isFour && address.isIPv4 ? "::ffff:\(address)" : "\(address)" }
        buffer.append(isFour ? "PROXY TCP4 " : "PROXY TCP6 ")
        buffer.append("\(text(source.address)) \(text(destination.address)) \(source.port) \(destination.port)\r\n")
    }

    private func writeBinary(into buffer: inout ByteBuffer) {
        for index in Self.signature.indices { buffer.append(Self.signature[index]) }
        buffer.append(0x21)
        guard let source, let destination else {
            for _ in 0..<3 { buffer.append(UInt8(0)) }
            return
        }
        let isFour = isFour
        buffer.append(isFour ? 0x11 : 0x21)
        buffer.append(UInt8(0))
        buffer.append(isFour ? 12 : 36)
        for end in [source, destination] {
            let bytes = isFour ? Array(end.address.bytes.suffix(4)) : end.address.bytes
            buffer.append(bytes.span)
        }
        for end in [source, destination] {
            buffer.append(UInt8(truncatingIfNeeded: end.port >> 8))
            buffer.append(UInt8(truncatingIfNeeded: end.port))
        }
    }
}
