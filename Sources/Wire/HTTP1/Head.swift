// A parsed message head: where its parts lie, and the facts that decide routing, framing and persistence.
//
// A head holds offsets, not bytes: the bytes stay in the buffer they arrived in, and whoever uses a head passes the same
// bytes, beginning at the head's first byte. One value per connection is used again for every message, so that parsing
// allocates nothing once `fields` has grown to its usual size. Only HeadParser writes it.

/// Request or response.
public enum HeadKind: UInt8, Sendable { case request, response }

/// The four shapes of a request target (RFC 9112 section 3.2).
public enum TargetForm: UInt8, Sendable {
    /// `/path?query`
    case origin
    /// `http://host/path?query`
    case absolute
    /// `host:port`, of CONNECT only
    case authority
    /// `*`, of OPTIONS only
    case asterisk
}

/// One field line of a head.
public struct HeaderField: Sendable {
    private let nameStart: UInt32
    private let nameLength: UInt32
    private let valueStart: UInt32
    private let valueLength: UInt32
    /// What the name means to us.
    public let known: KnownHeader
    /// Whether Connection names this field, so that it ends here; never set for a field that Connection can't have dropped,
    /// nor for one that ends here anyway.
    public internal(set) var isConnectionNamed = false

    init(name: Range<Int>, value: Range<Int>, known: KnownHeader) {
        nameStart = UInt32(name.lowerBound)
        nameLength = UInt32(name.count)
        valueStart = UInt32(value.lowerBound)
        valueLength = UInt32(value.count)
        self.known = known
    }

    /// Where the name lies; also where the field's line begins.
    public var name: Range<Int> { Int(nameStart)..<Int(nameStart) + Int(nameLength) }

    /// Where the value lies, without white space around it.
    public var value: Range<Int> { Int(valueStart)..<Int(valueStart) + Int(valueLength) }
}

/// The parts and facts of one head.
public struct Head: Sendable {
    public internal(set) var kind = HeadKind.request
    /// The field lines, in the order of arrival.
    public internal(set) var fields: [HeaderField] = []
    /// Bytes of the head: an empty line before it, the start line, the fields and the empty line after them.
    public internal(set) var length = 0
    /// 0 or 1: the message is HTTP/1.0 or HTTP/1.1.
    public internal(set) var minorVersion = 1

    // Of requests.
    public internal(set) var method = Method.other
    public internal(set) var methodRange = 0..<0
    public internal(set) var target = 0..<0
    public internal(set) var targetForm = TargetForm.origin
    /// The path and query in the target. Of an absolute target it may be empty or begin with `?`: a `/` belongs before it.
    public internal(set) var originTarget = 0..<0
    /// The host that is asked for, with its port when one was sent: the value of Host or, in an HTTP/1.0 request without
    /// one, the authority of an absolute target. Valid as a host; may be empty. When both are present they are equal.
    public internal(set) var hostRange: Range<Int>?
    /// The client waits for 100 Continue before it sends the body.
    public internal(set) var expectContinue = false
    /// The client takes trailers (`TE: trailers`).
    public internal(set) var acceptsTrailers = false

    // Of responses.
    public internal(set) var status = 0
    public internal(set) var reason = 0..<0

    // Of both.
    public internal(set) var connectionClose = false
    public internal(set) var connectionKeepAlive = false
    public internal(set) var connectionUpgrade = false
    /// The value of Content-Length, at most `Int64.max`.
    public internal(set) var contentLength: UInt64?
    /// The body is chunked, the only transfer coding that we take.
    public internal(set) var isChunked = false
    /// Upgrade is there, Connection names it, the version knows it, and it does not ask for HTTP/2 (`h2c`), which we take for
    /// not asked: a request is then served as any other.
    public internal(set) var upgradePresent = false

    /// One bit for each known header that is present.
    var presence: UInt64 = 0
    /// Elements of all Connection fields, and whether one is none of close, keep-alive and upgrade.
    var connectionOptionCount = 0
    var hasNamedOptions = false
    var upgradeIsRefused = false

    public init() {}

    /// Whether a field of this name is present.
    public func contains(_ known: KnownHeader) -> Bool { presence & (1 &<< UInt64(known.rawValue)) != 0 }

    /// How many fields of this name there are.
    public func count(of known: KnownHeader) -> Int {
        guard contains(known) else { return 0 }
        var count = 0
        for field in fields where field.known == known { count += 1 }
        return count
    }

    /// The index of the first field of this name.
    public func firstIndex(of known: KnownHeader) -> Int? {
        guard contains(known) else { return nil }
        return fields.firstIndex { $0.known == known }
    }

    /// The value of the first field of this name.
    public func firstValue(of known: KnownHeader) -> Range<Int>? {
        guard let index = firstIndex(of: known) else { return nil }
        return fields[index].value
    }

    /// Whether Connection names the field at `index` (RFC 9110 section 7.6.1), and may.
    public func isConnectionNamed(_ index: Int) -> Bool { fields[index].isConnectionNamed }

    /// Whether the connection may carry another message after this one (RFC 9112 section 9.3). A response that announces a
    /// body which its status does not allow may be followed by that body all the same, so it ends its connection.
    public var isPersistent: Bool {
        if connectionClose { return false }
        if kind == .response && !statusAllowsBody && (isChunked || (contentLength ?? 0) > 0) && status != 304 { return false }
        return minorVersion >= 1 || connectionKeepAlive
    }

    /// Whether a response with this status may have a body, the request's method aside.
    public var statusAllowsBody: Bool { status >= 200 && status != 204 && status != 304 }

    /// Makes the head ready for the next message; keeps the memory of `fields`.
    mutating func clear(kind: HeadKind) {
        self.kind = kind
        fields.removeAll(keepingCapacity: true)
        length = 0
        minorVersion = 1
        method = .other
        methodRange = 0..<0
        target = 0..<0
        targetForm = .origin
        originTarget = 0..<0
        hostRange = nil
        expectContinue = false
        acceptsTrailers = false
        status = 0
        reason = 0..<0
        connectionClose = false
        connectionKeepAlive = false
        connectionUpgrade = false
        contentLength = nil
        isChunked = false
        upgradePresent = false
        presence = 0
        connectionOptionCount = 0
        hasNamedOptions = false
        upgradeIsRefused = false
    }
}
