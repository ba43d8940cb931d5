// Values that several programs configure, each with its table of keys, and the rules that many keys share.

public import Base

/// Which of the kernel's interfaces the event loop uses.
public enum IOBackend: String, Sendable, SettingWord {
    /// io_uring where the kernel and its limits allow it, else epoll.
    case auto
    case ioUring = "io_uring"
    case epoll

    static let help = """
        Which of the kernel's interfaces carries the connections. auto tries io_uring and takes epoll where the \
        kernel, a container's rules or a limit refuse it; the log says at start which one it is and why. The other \
        two force one, and refuse to start without it.
        """
}

/// How the bytes of streams travel between an agent, or `forward`, and a server.
public enum TransportChoice: String, Sendable, SettingWord {
    /// `direct` where the server takes it, else `mux`.
    case auto
    /// One TCP connection for each stream; a server that does not take it is refused.
    case direct
    /// WebSocket, as every server speaks it.
    case mux
}

/// Which log lines are written.
public struct LogConfig: Equatable, Sendable {
    /// The least severe level that is written.
    public var level = LogLevel.info
    /// Subsystems of which every level is written.
    public var subsystems: [String] = []

    public init() {}

    static let settings: [Setting<LogConfig>] = [
        Setting("level", \.level, "The least severe log lines to write."),
        Setting(
            "subsystems", list: \.subsystems, placeholder: "NAME",
            """
            Subsystems (as the log lines name them, such as proxy or upstream) of which every line is written, \
            whatever its level.
            """),
    ]
}

/// Which headers an access log shows: all, only those listed, or all but those listed.
public struct HeaderFilter: Equatable, Sendable {
    /// Names of the only headers that are logged; empty means that this list says nothing.
    public var allowList: [String] = []
    /// Names of the headers that are not logged.
    public var blockList: [String] = []

    public init() {}

    static let settings: [Setting<HeaderFilter>] = [
        Setting(
            "allow_list", list: \.allowList, placeholder: "HEADER",
            "Log only these headers. Excludes the block list."),
        Setting(
            "block_list", list: \.blockList, placeholder: "HEADER",
            "Log every header but these. Excludes the allow list."),
    ]

    func validate(_ path: String) throws(ConfigError) {
        if !allowList.isEmpty && !blockList.isEmpty {
            throw ConfigError("\(path): allow_list and block_list can't both be set")
        }
    }
}

/// How lines of the log of requests look.
public enum AccessLogForm: String, SettingWord {
    /// One JSON object a line, or what a person at a terminal reads.
    case json
    /// Apache's combined format.
    case combined
}

/// The log of requests.
public struct AccessLogConfig: Equatable, Sendable {
    /// The level of its lines.
    public var level = LogLevel.info
    /// Whether it is not written at all.
    public var isDisabled = false
    public var form = AccessLogForm.json
    /// The share of requests that is logged, beside those that fail.
    public var sample = 1.0
    /// Whether credentials are written as they came.
    public var showsSecrets = false
    public var requestHeaders = HeaderFilter()
    public var responseHeaders = HeaderFilter()

    public init() {}

    static let settings: [Setting<AccessLogConfig>] =
        [
            Setting(
                "level", \.level,
                "The level at which requests are logged. Responses with a status of 500 and above are at least warn."),
            Setting("disable", \.isDisabled, "Log no requests."),
            Setting(
                "format", \.form,
                """
                json: one object a line with all that is known. combined: the combined log format of Apache, which has less; paths \
                without their query. TCP connections are always json.
                """),
            Setting(
                "sample", \.sample, check: ClusterRule.within(0...1),
                """
                The share of requests that is logged, from 0 to 1. Chosen by the trace's number, so that server, agent and every node \
                log the same ones. Always logged are: statuses of 500 and above, what the client, we or the service ended early, \
                and TCP connections.
                """),
            Setting(
                "show_secrets", \.showsSecrets,
                "Write Authorization, Cookie, Set-Cookie and X-Piko-Authorization as they came, and not as ***. For a moment's search only."),
        ]
        + Setting.group("request_headers", \.requestHeaders, HeaderFilter.settings)
        + Setting.group("response_headers", \.responseHeaders, HeaderFilter.settings)

    func validate(_ path: String) throws(ConfigError) {
        try requestHeaders.validate("\(path).request_headers")
        try responseHeaders.validate("\(path).response_headers")
    }
}

/// Rules for one value, for `Setting`'s `check`: what is wrong with it, or nil.
enum Rule {
    @Sendable static func notNegative(_ duration: Duration) -> String? {
        duration < .zero ? "must not be negative" : nil
    }

    @Sendable static func positive(_ duration: Duration) -> String? {
        duration <= .zero ? "must be longer than zero" : nil
    }

    /// A whole number within bounds.
    static func within(_ range: ClosedRange<Int>) -> @Sendable (Int) -> String? {
        { range.contains($0) ? nil : "is not between \(range.lowerBound) and \(range.upperBound)" }
    }

    /// The URL of a server.
    @Sendable static func serverURL(_ text: String) -> String? {
        do throws(SettingError) {
            _ = try ServerURL(settingText: text)
            return nil
        } catch {
            return error.message
        }
    }

    /// The name of an endpoint, which is a segment of a URL's path.
    @Sendable static func endpoint(_ name: String) -> String? {
        if name.isEmpty { return "is empty; an endpoint needs a name" }
        if name.utf8.count > 255 { return "is longer than 255 bytes" }
        return name.utf8.allSatisfy(AddressText.isSegmentByte) ? nil : "is not an endpoint's name (letters, digits, - . _ ~)"
    }

    /// A user, or a user and a group, or nothing. Whether they exist is found out at start.
    @Sendable static func account(_ text: String) -> String? {
        if text.isEmpty { return nil }
        let parts = text.split(separator: ":", omittingEmptySubsequences: false)
        let isSound = parts.count <= 2 && parts.allSatisfy { part in
            !part.isEmpty && part.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7f && $0 != UInt8(ascii: "/") }
        }
        return isSound ? nil : "is not of the form USER or USER:GROUP"
    }

    /// The path of a Unix socket, or nothing.
    @Sendable static func socketPath(_ path: String) -> String? {
        if path.isEmpty { return nil }
        if path.utf8.count > 107 { return "is longer than 107 bytes, the most that a Unix socket's path can have" }
        return path.utf8.contains(0) ? "holds a zero byte" : nil
    }
}
