// The opening handshake of RFC 6455 section 4, both sides: what makes an HTTP request a proper WebSocket request, what makes
// a 101 the answer to ours, and the two values that prove it. Works on the values of the fields, wherever they were found;
// an empty span stands for a field that is not there. Finding the fields, and that each occurs once, is left to the caller.
//
// We speak no extension and no subprotocol: offers of a client are passed over, a server that selects one is refused.

public import Memory

/// The opening handshake of a WebSocket.
public enum WebSocketHandshake {
    /// Why a request is refused.
    public enum Refusal: Equatable, Sendable {
        /// Not a WebSocket request: `Upgrade: websocket` or `Connection: Upgrade` is missing.
        case notWebSocket
        /// A version other than 13. The answer carries `Sec-WebSocket-Version: 13`.
        case badVersion
        /// The key is not the encoding of sixteen bytes.
        case badKey
        /// A web page of another origin asks.
        case crossOrigin

        /// The status of the answer.
        public var status: Int {
            switch self {
            case .notWebSocket, .badVersion: 426
            case .badKey: 400
            case .crossOrigin: 403
            }
        }

        /// The text of the answer.
        public var reason: StaticString {
            switch self {
            case .notWebSocket: "websocket upgrade required"
            case .badVersion: "unsupported websocket version"
            case .badKey: "invalid websocket key"
            case .crossOrigin: "origin not allowed"
            }
        }
    }

    /// The length of a key, as a text.
    public static let keyLength = 24
    /// The number of random bytes that a key stands for.
    public static let keyRandomBytes = 16
    /// The length of the text that accepts a key.
    public static let acceptLength = 28

    /// Appends a new key (`Sec-WebSocket-Key`), made of sixteen fresh random bytes.
    public static func makeKey(random: Span<UInt8>, into buffer: inout ByteBuffer) {
        precondition(random.count == keyRandomBytes, "a WebSocket key is sixteen bytes")
        Base64.encode(random, into: &buffer)
    }

    /// Appends the text that accepts the key (`Sec-WebSocket-Accept`).
    public static func acceptKey(for key: Span<UInt8>, into buffer: inout ByteBuffer) {
        var text = ByteBuffer()
        text.append(key)
        text.append("258EAFA5-E914-47DA-95CA-C5AB0DC85B11")
        let digest = SecureHash1.digest(text.span)
        Base64.encode(digest.span, into: &buffer)
    }

    /// Whether the key is one that a client may send.
    public static func isValidKey(_ key: Span<UInt8>) -> Bool {
        Base64.isEncoding(key, ofByteCount: keyRandomBytes)
    }

    /// Judges a GET request for one of our own endpoints; nil when it is good. `hasUpgradeOption` says whether `Connection`
    /// names Upgrade.
    public static func checkRequest(
        upgrade: Span<UInt8>, hasUpgradeOption: Bool, version: Span<UInt8>, key: Span<UInt8>,
        origin: Span<UInt8>, host: Span<UInt8>
    ) -> Refusal? {
        guard hasUpgradeOption, names(upgrade, "websocket") else { return .notWebSocket }
        guard version.count == 2, version[0] == UInt8(ascii: "1"), version[1] == UInt8(ascii: "3") else {
            return .badVersion
        }
        guard isValidKey(key) else { return .badKey }
        guard origin.isEmpty || isSameOrigin(origin, host: host) else { return .crossOrigin }
        return nil
    }

    /// Whether a response with status 101 accepts the upgrade that was asked for with `key`.
    public static func checkResponse(
        upgrade: Span<UInt8>, hasUpgradeOption: Bool, accept: Span<UInt8>, extensions: Span<UInt8>,
        subprotocol: Span<UInt8>, key: Span<UInt8>
    ) -> Bool {
        guard hasUpgradeOption, isEqualIgnoringCase(upgrade, "websocket") else { return false }
        guard extensions.isEmpty, subprotocol.isEmpty else { return false }
        var expected = ByteBuffer()
        acceptKey(for: key, into: &expected)
        let wanted = expected.span
        guard accept.count == wanted.count else { return false }
        for index in 0..<wanted.count where accept[index] != wanted[index] { return false }
        return true
    }

    /// Whether `Origin` names the host and port that the request was sent to. A browser always sends it, so that pages of
    /// other sites cannot use the tunnel of a visitor; programs send none.
    public static func isSameOrigin(_ origin: Span<UInt8>, host: Span<UInt8>) -> Bool {
        guard !host.isEmpty else { return false }
        var start = 0
        while start < origin.count, origin[start] != UInt8(ascii: ":") { start += 1 }
        guard start > 0, start + 3 + host.count == origin.count, origin[start + 1] == UInt8(ascii: "/"),
            origin[start + 2] == UInt8(ascii: "/")
        else { return false }
        for index in 0..<host.count where lowercase(origin[start + 3 + index]) != lowercase(host[index]) { return false }
        return true
    }

    /// Whether the comma-separated list has the name as one of its elements, in any case.
    private static func names(_ list: Span<UInt8>, _ name: String) -> Bool {
        var start = 0
        while start <= list.count {
            var end = start
            while end < list.count, list[end] != UInt8(ascii: ",") { end += 1 }
            var (first, last) = (start, end)
            while first < last, isSpace(list[first]) { first += 1 }
            while last > first, isSpace(list[last - 1]) { last -= 1 }
            if isEqualIgnoringCase(list.extracting(first..<last), name) { return true }
            start = end + 1
        }
        return false
    }

    private static func isEqualIgnoringCase(_ text: Span<UInt8>, _ name: String) -> Bool {
        let wanted = name.utf8Span.span
        guard text.count == wanted.count else { return false }
        for index in 0..<wanted.count where lowercase(text[index]) != wanted[index] { return false }
        return true
    }

    private static func isSpace(_ byte: UInt8) -> Bool { byte == 32 || byte == 9 }

    private static func lowercase(_ byte: UInt8) -> UInt8 { byte >= 65 && byte <= 90 ? byte + 32 : byte }
}
