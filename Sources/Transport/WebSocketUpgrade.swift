// The WebSocket handshake (RFC 6455 section 4) between our HTTP heads and `WebSocketHandshake`, which judges bare values.

public import Memory
public import Wire

/// Upgrades to WebSocket on our own endpoints, both sides.
public enum WebSocketUpgrade {
    /// Why the request can't be upgraded; nil when it can.
    public static func problem(_ head: borrowing Head, _ bytes: Span<UInt8>) -> HTTPError? {
        guard head.method == .get else { return HTTPError(status: 405, reason: "method not allowed") }
        guard !head.isChunked, (head.contentLength ?? 0) == 0 else {
            return HTTPError(status: 400, reason: "a websocket upgrade has no body")
        }
        guard head.count(of: .secWebSocketKey) <= 1, head.count(of: .secWebSocketVersion) <= 1, head.count(of: .origin) <= 1
        else { return HTTPError(status: 400, reason: "repeated websocket header") }
        let refusal = WebSocketHandshake.checkRequest(
            upgrade: bytes.extracting(head.firstValue(of: .upgrade) ?? 0..<0), hasUpgradeOption: head.upgradePresent,
            version: bytes.extracting(head.firstValue(of: .secWebSocketVersion) ?? 0..<0),
            key: bytes.extracting(head.firstValue(of: .secWebSocketKey) ?? 0..<0),
            origin: bytes.extracting(head.firstValue(of: .origin) ?? 0..<0), host: bytes.extracting(head.hostRange ?? 0..<0))
        return refusal.map { HTTPError(status: $0.status, reason: $0.reason) }
    }

    /// Appends the 101 that accepts a request without a problem, but for its last, empty line: the caller may add fields.
    public static func writeAcceptance(_ head: borrowing Head, _ bytes: Span<UInt8>, into buffer: inout ByteBuffer) {
        buffer.append("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ")
        WebSocketHandshake.acceptKey(
            for: bytes.extracting(head.firstValue(of: .secWebSocketKey) ?? 0..<0), into: &buffer)
        buffer.append("\r\n")
    }

    /// Whether a 101 accepts what was asked for with `key`.
    static func isAccepted(_ head: borrowing Head, _ bytes: Span<UInt8>, key: Span<UInt8>) -> Bool {
        WebSocketHandshake.checkResponse(
            upgrade: bytes.extracting(head.firstValue(of: .upgrade) ?? 0..<0), hasUpgradeOption: head.connectionUpgrade,
            accept: bytes.extracting(head.firstValue(of: .secWebSocketAccept) ?? 0..<0),
            extensions: bytes.extracting(head.firstValue(of: .secWebSocketExtensions) ?? 0..<0),
            subprotocol: bytes.extracting(head.firstValue(of: .secWebSocketProtocol) ?? 0..<0), key: key)
    }
}

extension Head {
    /// Where the path lies in the request's bytes, without the query. Empty for an absolute target without a path.
    public func path(in bytes: Span<UInt8>) -> Range<Int> {
        for index in originTarget where bytes[index] == UInt8(ascii: "?") { return originTarget.lowerBound..<index }
        return originTarget
    }
}

/// Upgrades to bytes without framing, on our own endpoints.
public enum RawUpgrade {
    /// Whether the request offers the protocol.
    public static func isOffered(_ head: borrowing Head, _ bytes: Span<UInt8>, _ name: StaticString) -> Bool {
        head.upgradePresent && Direct.names(head, bytes, .upgrade, name)
    }

    /// Why the request that offers it can't be upgraded; nil when it can.
    public static func problem(_ head: borrowing Head, _ bytes: Span<UInt8>) -> HTTPError? {
        guard head.method == .get else { return HTTPError(status: 405, reason: "method not allowed") }
        guard !head.isChunked, (head.contentLength ?? 0) == 0 else {
            return HTTPError(status: 400, reason: "an upgrade has no body")
        }
        // A web page of another origin asks.
        if let origin = head.firstValue(of: .origin),
            !WebSocketHandshake.isSameOrigin(bytes.extracting(origin), host: bytes.extracting(head.hostRange ?? 0..<0))
        {
            return HTTPError(status: 403, reason: "origin not allowed")
        }
        return nil
    }

    /// Appends the 101 that accepts it, but for its last, empty line: the caller may add fields.
    public static func writeAcceptance(_ name: StaticString, into buffer: inout ByteBuffer) {
        buffer.append("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: ")
        buffer.append(name)
        buffer.append("\r\n")
    }
}
