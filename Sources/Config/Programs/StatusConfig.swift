// The configuration of the commands that ask a server's admin port.

/// How an answer is printed.
public enum OutputFormat: String, Sendable, SettingWord {
    case yaml
    case json
    case table
}

/// Which server is asked, about what, and how the answer is printed.
public struct StatusConfig: Configuration {
    public var url = ServerURL(host: "localhost", port: 8002)
    /// For a server with an https URL.
    public var tls = ClientTLS()
    /// Sent to a server that asks for tokens; empty: none.
    public var token = ""
    /// The node that answers; empty: the one that is asked.
    public var forward = ""
    public var output = OutputFormat.yaml
    /// How often the question is asked again; zero: once.
    public var watch = Duration.zero
    /// Of `cluster nodes`: only nodes of this status; empty: all.
    public var status = ""

    public init() {}

    /// What all of the commands take.
    static let common: [Setting<StatusConfig>] =
        [
            Setting("server.url", \.url, "The server's admin port."),
            Setting(
                "server.token", \.token, check: StatusConfig.token,
                "The token for a server whose admin port asks for one. $PIKO_TOKEN is used when this is not given."),
            Setting(
                "forward", \.forward, check: ClusterRule.nodeID,
                "The name of another node of the cluster that is to answer. The server passes the question on."),
            Setting("output", \.output, "How the answer is printed."),
            Setting(
                "watch", \.watch, check: { $0 == .zero || $0 >= .milliseconds(100) ? nil : "is below 100ms" },
                "Ask again after that time, and again, until interrupted; 0 asks once. What is counted is shown per second then, too."),
        ] + Setting.group("server.tls", \.tls, ClientTLS.settings)

    /// What `cluster nodes` takes as well.
    static let ofNodes: [Setting<StatusConfig>] = [
        Setting(
            "status", \.status, placeholder: "active|draining|unreachable|left",
            check: { ["", "active", "draining", "unreachable", "left"].contains($0) ? nil : "is not a node's status (active, draining, unreachable or left)" },
            "Only nodes of this status: active, draining, unreachable or left.")
    ]

    public static let schema = Schema<StatusConfig>(common + ofNodes)

    /// The flags of a command.
    static func flags(_ settings: [Setting<StatusConfig>]) -> [FlagSpec] {
        let defaults = StatusConfig()
        return settings.map { FlagSpec(SettingKey($0, default: $0.texts(defaults))) }
    }

    @Sendable private static func token(_ text: String) -> String? {
        text.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7f } ? nil : "holds a byte that a token can't have"
    }

    public func validate() throws(ConfigError) { try tls.validate("server.tls") }
}
