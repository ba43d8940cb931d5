// The configuration of `piko test cluster`.

/// How many nodes a cluster for trying things out has, and where it is reached.
public struct TestClusterConfig: Configuration {
    public var nodes = 3
    public var proxy = BindAddress(host: "", port: 8000)
    public var upstream = BindAddress(host: "", port: 8001)
    public var admin = BindAddress(host: "", port: 8002)
    public var log = LogConfig()

    public init() {}

    public static let schema = Schema<TestClusterConfig>(
        [
            Setting("nodes", \.nodes, check: Rule.within(1...64), "How many nodes run."),
            Setting("proxy.bind_addr", \.proxy, "Where clients reach the nodes in turn."),
            Setting("upstream.bind_addr", \.upstream, "Where agents reach the nodes in turn."),
            Setting("admin.bind_addr", \.admin, "Where the nodes' admin ports are reached in turn."),
        ] + Setting.group("log", \.log, LogConfig.settings))

    public func validate() throws(ConfigError) {}
}
