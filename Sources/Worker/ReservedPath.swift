// The paths that are ours: `/_piko/…` on the proxy port, `/piko/v1/upstream/…` and `/piko/v1/data/…` on the upstream port. An
// endpoint's name is the path's last segment, percent-decoded once (RFC 3986 section 2.1).

import Wire

/// Reading our own paths.
enum ReservedPath {
    /// Bytes of an endpoint's name.
    static let endpointBytesMax = 255

    private static let reserved = Array("/_piko".utf8)
    private static let tcp = Array("/_piko/v1/tcp/".utf8)
    private static let session = Array("/piko/v1/upstream/".utf8)
    private static let data = Array("/piko/v1/data/".utf8)

    /// What an agent wants at the upstream port, and for which endpoint.
    enum Upstream: Equatable {
        case session(String)
        case data(String)
    }

    /// Whether the path on the proxy port belongs to us: `/_piko` and everything below it.
    static func isReserved(_ path: Span<UInt8>) -> Bool {
        guard hasPrefix(path, reserved) else { return false }
        return path.count == reserved.count || path[reserved.count] == 0x2F
    }

    /// The endpoint of `/_piko/v1/tcp/ENDPOINT`.
    static func tcpEndpoint(_ path: Span<UInt8>) throws(HTTPError) -> String {
        try endpoint(path, after: tcp)
    }

    /// `/piko/v1/upstream/ENDPOINT` or `/piko/v1/data/ENDPOINT`.
    static func upstream(_ path: Span<UInt8>) throws(HTTPError) -> Upstream {
        if hasPrefix(path, data) { return .data(try endpoint(path, after: data)) }
        return .session(try endpoint(path, after: session))
    }

    private static func endpoint(_ path: Span<UInt8>, after prefix: [UInt8]) throws(HTTPError) -> String {
        guard hasPrefix(path, prefix), path.count > prefix.count else { throw HTTPError(status: 404, reason: "not found") }
        var name: [UInt8] = []
        var index = prefix.count
        while index < path.count {
            var byte = path[index]
            index += 1
            if byte == 0x2F { throw HTTPError(status: 404, reason: "not found") }
            if byte == 0x25 {
                guard index + 2 <= path.count, let high = hexadecimal(path[index]), let low = hexadecimal(path[index + 1])
                else { throw HTTPError(status: 400, reason: "invalid endpoint id") }
                byte = high << 4 | low
                index += 2
            }
            guard byte > 0x20, byte != 0x7F, byte != EndpointName.separator, name.count < endpointBytesMax else {
                throw HTTPError(status: 400, reason: "invalid endpoint id")
            }
            name.append(byte)
        }
        guard let text = text(name.span) else { throw HTTPError(status: 400, reason: "invalid endpoint id") }
        return text
    }

    /// The bytes as text when they are UTF-8.
    static func text(_ bytes: Span<UInt8>) -> String? {
        do {
            return String(copying: try UTF8Span(validating: bytes))
        } catch {
            return nil
        }
    }

    private static func hasPrefix(_ bytes: Span<UInt8>, _ prefix: [UInt8]) -> Bool {
        guard bytes.count >= prefix.count else { return false }
        for index in prefix.indices where bytes[index] != prefix[index] { return false }
        return true
    }

    private static func hexadecimal(_ byte: UInt8) -> UInt8? {
        switch byte {
        case 0x30...0x39: byte - 0x30
        case 0x41...0x46: byte - 0x41 + 10
        case 0x61...0x66: byte - 0x61 + 10
        default: nil
        }
    }
}
