// What a command is: its words, flags, arguments and help. A tree of these describes each program; the parser and the help
// text know nothing else.

/// Every command that does something, named by what it does.
public enum Command: Equatable, Sendable {
    /// `piko server`
    case serverRun
    /// `piko server check`
    case serverCheck
    /// `piko server diagnose`
    case serverDiagnose
    /// `piko server info`
    case serverInfo
    /// `piko server workers`
    case serverWorkers
    /// `piko server reload`
    case serverReload
    /// `piko server upgrade`
    case serverUpgrade
    /// `piko server drain`
    case serverDrain
    /// `piko server status upstream endpoints`
    case serverStatusUpstreamEndpoints
    /// `piko server status node`
    case serverStatusNode
    /// `piko server status workers`
    case serverStatusWorkers
    /// `piko server status upstream tunnels`
    case serverStatusUpstreamTunnels
    /// `piko server status upstream traffic`
    case serverStatusUpstreamTraffic
    /// `piko server status cluster summary`
    case serverStatusClusterSummary
    /// `piko server status cluster nodes`
    case serverStatusClusterNodes
    /// `piko server status cluster node NODE`
    case serverStatusClusterNode
    /// `piko server status gossip nodes`
    case serverStatusGossipNodes
    /// `piko server status gossip node NODE`
    case serverStatusGossipNode
    /// `piko agent start`
    case agentStart
    /// `piko agent http ENDPOINT ADDR`
    case agentHTTP
    /// `piko agent tcp ENDPOINT ADDR`
    case agentTCP
    /// `piko agent diagnose`
    case agentDiagnose
    /// `piko agent diagnose http ENDPOINT ADDR`
    case agentDiagnoseHTTP
    /// `piko agent diagnose tcp ENDPOINT ADDR`
    case agentDiagnoseTCP
    /// `piko forward start`
    case forwardStart
    /// `piko forward tcp ADDR ENDPOINT`, and `piko forward ADDR ENDPOINT`
    case forwardTCP
    /// `piko bench http`
    case benchHTTP
    /// `piko test cluster`
    case testCluster
    /// `piko completion SHELL`
    case completion
    /// `piko man PAGE`
    case manual
}

/// A flag that a command takes.
public struct FlagSpec: Equatable, Sendable {
    /// The name without dashes.
    public var name: String
    /// What help calls the value.
    public var placeholder: String
    /// Whether it is true when given without a value.
    public var isTruth: Bool
    /// Whether it may be given several times, or with commas.
    public var isList: Bool
    /// The default as help shows it; empty when there is nothing to show.
    public var defaultText: String
    public var help: String

    public init(
        name: String, placeholder: String, isTruth: Bool = false, isList: Bool = false, defaultText: String = "",
        help: String
    ) {
        self.name = name
        self.placeholder = placeholder
        self.isTruth = isTruth
        self.isList = isList
        self.defaultText = defaultText
        self.help = help
    }

    init(_ key: SettingKey) {
        self.init(
            name: key.flag, placeholder: key.placeholder, isTruth: key.isTruth, isList: key.isList,
            defaultText: key.isTruth ? "" : key.defaultTexts.joined(separator: ","), help: key.help)
    }
}

/// An argument that a command needs.
public struct ArgumentSpec: Equatable, Sendable {
    /// In capitals: "ENDPOINT".
    public var name: String
    public var help: String
    /// The only words that it can be; empty: whatever the command understands.
    public var values: [String]

    public init(name: String, help: String, values: [String] = []) {
        self.name = name
        self.help = help
        self.values = values
    }
}

/// A command line that help shows, and what it does.
public struct ExampleSpec: Equatable, Sendable {
    public var line: String
    public var help: String

    public init(_ line: String, _ help: String) {
        self.line = line
        self.help = help
    }
}

/// A command and those below it.
public struct CommandSpec: Equatable, Sendable {
    /// The word that selects it.
    public var name: String
    /// One line, for the list in the help of the command above.
    public var summary: String
    /// Paragraphs for its own help, separated by empty lines.
    public var details: String
    /// What it does when no subcommand is named; nil when a subcommand must be named.
    public var command: Command?
    public var arguments: [ArgumentSpec]
    public var flags: [FlagSpec]
    public var examples: [ExampleSpec]
    public var subcommands: [CommandSpec]

    public init(
        name: String, summary: String, details: String, command: Command? = nil, arguments: [ArgumentSpec] = [],
        flags: [FlagSpec] = [], examples: [ExampleSpec] = [], subcommands: [CommandSpec] = []
    ) {
        self.name = name
        self.summary = summary
        self.details = details
        self.command = command
        self.arguments = arguments
        self.flags = flags
        self.examples = examples
        self.subcommands = subcommands
    }
}
