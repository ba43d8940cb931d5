// The configuration of the commands that ask a server's admin port.

/// Which server is asked.
public struct StatusConfig: Configuration {
    public var url = ServerURL(host: "localhost", port: 8002)

    public init() {}

    public static let schema = Schema<StatusConfig>([
        Setting("server.url", \.url, "The server's admin port.")
    ])

    public func validate() throws(ConfigError) {}
}
