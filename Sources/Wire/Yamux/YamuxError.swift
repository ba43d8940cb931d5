// Why a yamux session ends before its time, and the codes of the go-away frame.

/// The code of a go-away frame: why no more streams may be opened. A peer may send a code that has no name here.
public struct YamuxGoAwayCode: RawRepresentable, Hashable, Sendable {
    public var rawValue: UInt32

    public init(rawValue: UInt32) { self.rawValue = rawValue }

    /// No new streams, please; those that run go on.
    public static let normal = YamuxGoAwayCode(rawValue: 0)
    /// You broke the protocol; the session is over.
    public static let protocolError = YamuxGoAwayCode(rawValue: 1)
    /// Something broke here; the session is over.
    public static let internalError = YamuxGoAwayCode(rawValue: 2)
}

/// Why a session is over.
public enum YamuxError: Error, Equatable, CaseIterable, Sendable {
    /// A frame of a version other than 0.
    case unsupportedVersion
    /// A frame of a type that does not exist.
    case unknownType
    /// Flags that do not exist, that the frame's type does not have, or that contradict each other.
    case badFlags
    /// A session frame with a stream's number, or a stream frame without one.
    case badStreamNumber
    /// A reset that carries bytes or window.
    case badLength
    /// The peer opened a stream with a number of our parity.
    case wrongParity
    /// The peer opened a stream with a number that it had used before.
    case numberReused
    /// The peer ended its half of a stream twice.
    case endedTwice
    /// More data than the window allows.
    case receiveWindowExceeded
    /// The peer's window updates add up to more than a window can be.
    case sendWindowOverflow
    /// More frames than an honest peer sends that are legal but of no use.
    case oddFramesExceeded
    /// More pings than an honest peer sends.
    case pingsExceeded
    /// The peer opened and reset more streams than an honest peer does.
    case churnExceeded
    /// A ping had no answer in time, nor did anything else come.
    case keepAliveTimeout
    /// A stream that we opened was neither accepted nor refused in time.
    case openTimeout

    /// The code that tells the peer.
    public var code: YamuxGoAwayCode {
        switch self {
        case .unsupportedVersion, .unknownType, .badFlags, .badStreamNumber, .badLength, .wrongParity, .numberReused,
            .endedTwice, .receiveWindowExceeded, .sendWindowOverflow, .oddFramesExceeded, .pingsExceeded, .churnExceeded:
            .protocolError
        case .keepAliveTimeout, .openTimeout:
            .internalError
        }
    }

    /// A few words for a log line.
    public var reason: StaticString {
        switch self {
        case .unsupportedVersion: "yamux: unsupported version"
        case .unknownType: "yamux: unknown frame type"
        case .badFlags: "yamux: bad flags"
        case .badStreamNumber: "yamux: bad stream number"
        case .badLength: "yamux: reset with a length"
        case .wrongParity: "yamux: stream opened with our parity"
        case .numberReused: "yamux: stream number used twice"
        case .endedTwice: "yamux: stream ended twice"
        case .receiveWindowExceeded: "yamux: data beyond the window"
        case .sendWindowOverflow: "yamux: window overflow"
        case .oddFramesExceeded: "yamux: too many useless frames"
        case .pingsExceeded: "yamux: too many pings"
        case .churnExceeded: "yamux: too many streams opened and reset"
        case .keepAliveTimeout: "yamux: keep-alive timeout"
        case .openTimeout: "yamux: stream not accepted in time"
        }
    }
}
