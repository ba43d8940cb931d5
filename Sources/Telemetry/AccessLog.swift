// The access log's line: one field `request` with what was asked and answered. The keys and their shape (headers as lists
// under their canonical names, the duration as Go writes it) are those that log queries for this protocol know; what we
// add stands beside `request`, not in it.
//
// Invariant: values of headers that carry credentials are not written, whatever the lists say, unless that was asked for; and
// never those by which our own programs prove themselves to each other.

public import Base

/// Which headers are logged.
public struct HeaderFilter: Equatable, Sendable {
    private enum Rule: Equatable { case all, allow, block }
    private var rule: Rule
    private var names: [[UInt8]]
    private let showsSecrets: Bool

    /// Only those of `allow` when there are any; else all but those of `block`. Case does not matter. `showsSecrets`: credentials are
    /// written as they are.
    public init(allow: [String] = [], block: [String] = [], showsSecrets: Bool = false) {
        self.showsSecrets = showsSecrets
        rule = !allow.isEmpty ? .allow : !block.isEmpty ? .block : .all
        names = (allow.isEmpty ? block : allow).map { $0.utf8.map(HeaderFilter.lowercased) }
    }

    /// Whether the header of that name is logged.
    public func logs(_ name: Span<UInt8>) -> Bool {
        switch rule {
        case .all: true
        case .allow: names.contains { HeaderFilter.equal($0, name) }
        case .block: !names.contains { HeaderFilter.equal($0, name) }
        }
    }

    /// Whether the header of that name is logged.
    public func logs(_ name: StaticString) -> Bool { logs(Array("\(name)".utf8).span) }

    /// Headers that are credentials, or carry them.
    private static let secrets: [[UInt8]] = [
        "authorization", "proxy-authorization", "x-piko-authorization", "cookie", "set-cookie",
    ].map { Array($0.utf8) }

    /// Those of our own programs.
    private static let proofs: [[UInt8]] = ["x-piko-node", "x-piko-credential"].map { Array($0.utf8) }

    /// A bit for each length that these names have.
    private static let lengths = (secrets + proofs).reduce(UInt64(0)) { $0 | 1 << UInt64($1.count) }

    /// Whether values of that header are not written.
    func isSecret(_ name: Span<UInt8>) -> Bool {
        // Most names have none of their lengths.
        guard name.count < 64, HeaderFilter.lengths & (1 << UInt64(name.count)) != 0 else { return false }
        return HeaderFilter.proofs.contains { HeaderFilter.equal($0, name) }
            || !showsSecrets && HeaderFilter.secrets.contains { HeaderFilter.equal($0, name) }
    }

    static func lowercased(_ byte: UInt8) -> UInt8 {
        byte >= 65 && byte <= 90 ? byte | 0x20 : byte
    }

    /// `lower` is in lower case already.
    static func equal(_ lower: [UInt8], _ name: Span<UInt8>) -> Bool {
        guard lower.count == name.count else { return false }
        for index in lower.indices where lower[index] != lowercased(name[index]) { return false }
        return true
    }
}

/// What the access log of a port is to hold.
public struct AccessLogSettings: Sendable {
    public var isDisabled: Bool
    public var level: LogLevel
    public var requestHeaders: HeaderFilter
    public var responseHeaders: HeaderFilter
    /// Whether requests are lines of Apache's combined format.
    public var isCombined: Bool
    /// Of 2^56 numbers, those from this one on are chosen.
    private let threshold: UInt64

    /// `sample`: the share of requests that is written.
    public init(
        isDisabled: Bool = false, level: LogLevel = .info, requestHeaders: HeaderFilter = HeaderFilter(),
        responseHeaders: HeaderFilter = HeaderFilter(), isCombined: Bool = false, sample: Double = 1
    ) {
        self.isDisabled = isDisabled
        self.level = level
        self.requestHeaders = requestHeaders
        self.responseHeaders = responseHeaders
        self.isCombined = isCombined
        threshold = UInt64((1 - min(max(sample, 0), 1)) * Double(AccessLogSettings.numbers))
    }

    /// How many numbers a request may have: so many bits of a trace's number are said to come by chance.
    private static let numbers: UInt64 = 1 << 56

    /// Whether a request is written: the share's, which the lowest 56 bits of the trace's number choose, in every program the same;
    /// and all that failed, or did not come to their end.
    public func wants(status: Int, isCompleted: Bool, number: UInt64) -> Bool {
        status >= 500 || !isCompleted || number & (AccessLogSettings.numbers - 1) >= threshold
    }

    /// The status of a request whose client left before it got one: nobody else uses it but for this.
    public static let statusOfNone = 499

    /// The level of a line: failures of the server are warnings at least.
    public func level(status: Int) -> LogLevel {
        status >= 500 ? max(level, .warn) : level
    }
}

/// Where a header field lies in the bytes of its head.
public struct LoggedHeader: Sendable {
    public var name: Range<Int>
    public var value: Range<Int>

    public init(name: Range<Int>, value: Range<Int>) {
        self.name = name
        self.value = value
    }
}

extension LogLine {
    /// Adds the fields of a request line's object, for use between `beginObject("request")` and `endObject()`. The path's
    /// query is left out.
    public mutating func request(proto: StaticString, method: Span<UInt8>, host: Span<UInt8>, target: Span<UInt8>) {
        field("proto", proto)
        field("method", method)
        field("host", host)
        var end = 0
        while end < target.count, target[end] != 0x3f { end += 1 }
        field("path", target.extracting(0..<end))
    }

    /// Adds an object of headers: `count` of them, whose place in `bytes` the closure tells. Fields of one name make one list.
    public mutating func headers(
        _ name: StaticString, _ filter: HeaderFilter, in bytes: Span<UInt8>, count: Int, at place: (Int) -> LoggedHeader
    ) {
        beginObject(name)
        beginHeaders()
        for index in 0..<count {
            let header = place(index)
            let headerName = bytes.extracting(header.name)
            guard filter.logs(headerName), !isRepeated(headerName, before: index, in: bytes, at: place) else { continue }
            guard hasRoom(min(headerName.count, 256) + 64) else { break }
            appendHeader(headerName, isSecret: filter.isSecret(headerName), from: index, in: bytes, count: count, at: place)
        }
        endHeaders()
        endObject()
    }

    private mutating func appendHeader(
        _ name: Span<UInt8>, isSecret: Bool, from first: Int, in bytes: Span<UInt8>, count: Int, at place: (Int) -> LoggedHeader
    ) {
        beginList(header: name)
        var isFirst = true
        for index in first..<count {
            let header = place(index)
            guard LogLine.sameName(bytes.extracting(header.name), name) else { continue }
            let added =
                isSecret
                ? listItem(LogLine.redacted.span, isFirst: isFirst)
                : listItem(bytes.extracting(header.value), isFirst: isFirst)
            if !added { break }
            isFirst = false
        }
        endList()
    }

    private static let redacted = Array("***".utf8)

    private func isRepeated(
        _ name: Span<UInt8>, before index: Int, in bytes: Span<UInt8>, at place: (Int) -> LoggedHeader
    ) -> Bool {
        for earlier in 0..<index where LogLine.sameName(bytes.extracting(place(earlier).name), name) { return true }
        return false
    }

    private static func sameName(_ left: Span<UInt8>, _ right: Span<UInt8>) -> Bool {
        guard left.count == right.count else { return false }
        for index in 0..<left.count
        where HeaderFilter.lowercased(left[index]) != HeaderFilter.lowercased(right[index]) { return false }
        return true
    }
}
