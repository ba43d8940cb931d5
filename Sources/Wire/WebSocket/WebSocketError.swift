// Why a WebSocket connection fails, with the code of the Close frame that tells the peer (RFC 6455 section 7.4).

/// What the peer did wrong.
public enum WebSocketError: Error, Equatable, CaseIterable, Sendable {
    /// A reserved bit is set, and no extension was agreed on.
    case reservedBits
    /// An opcode that does not exist.
    case reservedOpcode
    /// A client's frame is not masked, or a server's is.
    case badMasking
    /// A length that a shorter form could say, or above 2^63 - 1.
    case badLength
    /// A control frame in several pieces, or with more than 125 bytes.
    case badControlFrame
    /// A continuation of nothing, or a new message within one.
    case badContinuation
    /// A Close frame with half a code, or a code that must not be sent.
    case badCloseCode
    /// The reason in a Close frame is not UTF-8.
    case badCloseReason
    /// A text message: our endpoints carry bytes.
    case textMessage
    /// A frame larger than the limit.
    case frameTooLarge

    /// The code that tells the peer.
    public var code: UInt16 {
        switch self {
        case .reservedBits, .reservedOpcode, .badMasking, .badLength, .badControlFrame, .badContinuation, .badCloseCode:
            1002
        case .badCloseReason: 1007
        case .textMessage: 1003
        case .frameTooLarge: 1009
        }
    }

    /// A few words for a log line.
    public var reason: StaticString {
        switch self {
        case .reservedBits: "websocket: reserved bits"
        case .reservedOpcode: "websocket: reserved opcode"
        case .badMasking: "websocket: wrong masking"
        case .badLength: "websocket: bad length"
        case .badControlFrame: "websocket: bad control frame"
        case .badContinuation: "websocket: bad continuation"
        case .badCloseCode: "websocket: bad close code"
        case .badCloseReason: "websocket: bad close reason"
        case .textMessage: "websocket: text message"
        case .frameTooLarge: "websocket: frame too large"
        }
    }
}

/// The bounds of one WebSocket connection.
public struct WebSocketLimits: Sendable {
    /// The payload of one frame. Payloads are handed on in pieces and never held, so this is only a sanity check.
    public var frameBytesMax: UInt64 = 1 << 32

    /// The defaults.
    public init() {}
}

/// What a frame is (RFC 6455 section 5.2).
public enum WebSocketOpcode: UInt8, Sendable {
    case continuation = 0
    case text = 1
    case binary = 2
    case close = 8
    case ping = 9
    case pong = 10

    /// Whether it is about the connection rather than a message.
    var isControl: Bool { rawValue >= 8 }
}
