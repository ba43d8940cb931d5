// From an invocation, and the file that it names, to the configuration. The program says how a file is read; only its bytes
// come in.

extension Configuration {
    /// The configuration that the invocation asks for, with the file that it names, if it names one, read by `read` (path,
    /// most bytes). One place for all programs, so that each says the same about a file that can't be read.
    public init<Failure: Error>(
        _ invocation: Invocation, environment: [String: String],
        read: (_ path: String, _ bytesMax: Int) throws(Failure) -> [UInt8]
    ) throws(ConfigError) {
        try self.init(invocation, file: try Self.file(invocation, read), environment: environment)
        try readFiles(read)
        try validate()
    }

    /// The file that the invocation names.
    static func file<Failure: Error>(
        _ invocation: Invocation, _ read: (_ path: String, _ bytesMax: Int) throws(Failure) -> [UInt8]
    ) throws(ConfigError) -> ConfigFile? {
        guard let path = invocation.configPath else { return nil }
        do throws(Failure) {
            return ConfigFile(name: path, bytes: try read(path, ConfigFile.bytesMax))
        } catch {
            throw ConfigError("--config.path: \(error)")
        }
    }

    /// The configuration that the invocation asks for: defaults, then the file, then flags, then the command's arguments.
    /// `file` is the one that `invocation.configPath` names, if it names one.
    public init(
        _ invocation: Invocation, file: ConfigFile?, environment: [String: String]
    ) throws(ConfigError) {
        self.init()
        try apply(invocation, file: file, environment: environment)
        try Self.apply(invocation.flags, Self.schema.settings, to: &self)
        try complete(invocation)
        try validate()
    }
}

extension Configuration {
    /// Takes what the file says, if there is one.
    fileprivate mutating func apply(
        _ invocation: Invocation, file: ConfigFile?, environment: [String: String]
    ) throws(ConfigError) {
        guard let file else { return }
        try apply(invocation.expandsEnvironment ? EnvironmentExpansion.expand(file, environment: environment) : file)
    }
}

/// A configuration, and what its file alone says: a program that reads its file again compares them.
public struct LoadedConfiguration<Value: Configuration>: Sendable {
    public let value: Value
    /// Defaults and the file, without flags.
    private let file: Value
    private let flags: Set<String>

    /// Reads the file that the invocation names, if it names one; the rest is as for the configuration.
    public init<Failure: Error>(
        _ invocation: Invocation, environment: [String: String],
        read: (_ path: String, _ bytesMax: Int) throws(Failure) -> [UInt8]
    ) throws(ConfigError) {
        let bytes = try Value.file(invocation, read)
        var value = try Value(invocation, file: bytes, environment: environment)
        try value.readFiles(read)
        try value.validate()
        self.value = value
        var file = Value()
        try file.apply(invocation, file: bytes, environment: environment)
        self.file = file
        flags = Set(invocation.flags.map(\.name))
    }

    /// Keys of which the file says something else than it did `before`, to no effect, because a flag fixes them.
    public func keysFixedByFlags(since before: LoadedConfiguration) -> [String] {
        Value.schema.settings.filter { flags.contains($0.flag) && $0.texts(file) != $0.texts(before.file) }.map(\.path)
    }
}

extension AgentConfig {
    /// Makes the one listener that `agent http` and `agent tcp` have, or checks that the file named some.
    public mutating func complete(_ invocation: Invocation) throws(ConfigError) {
        switch invocation.command {
        case .agentHTTP, .agentTCP, .agentDiagnoseHTTP, .agentDiagnoseTCP:
            let isTCP = invocation.command == .agentTCP || invocation.command == .agentDiagnoseTCP
            var listener = ListenerConfig()
            listener.protocol = isTCP ? .tcp : .http
            try ListenerConfig.assign("endpoint_id", "ENDPOINT", invocation.arguments[0], to: &listener)
            try ListenerConfig.assign("addr", "ADDR", invocation.arguments[1], to: &listener)
            let settings = isTCP ? ListenerConfig.tcpOptionSettings : ListenerConfig.optionSettings
            try Self.apply(invocation.flags, settings, to: &listener)
            listeners = [listener]
        default:
            if listeners.isEmpty {
                throw ConfigError("no listeners configured; name a file with --config.path, or use \(invocation.command == .agentDiagnose ? "agent diagnose http or agent diagnose tcp" : "agent http or agent tcp")")
            }
        }
    }
}

extension ForwardConfig {
    /// Makes the one port that `forward tcp` has, or checks that the file named some.
    public mutating func complete(_ invocation: Invocation) throws(ConfigError) {
        switch invocation.command {
        case .forwardTCP:
            var port = Port()
            try Port.assign("addr", "ADDR", invocation.arguments[0], to: &port)
            try Port.assign("endpoint_id", "ENDPOINT", invocation.arguments[1], to: &port)
            ports = [port]
        default:
            if ports.isEmpty {
                throw ConfigError("no ports configured; name a file with --config.path, or use forward tcp")
            }
        }
    }
}

/// An element of a list that a command can also make from its arguments.
protocol ArgumentElement {
    static var settings: [Setting<Self>] { get }
}

extension ArgumentElement {
    /// Sets a key from the argument with the name.
    static func assign(
        _ path: String, _ argument: String, _ text: String, to element: inout Self
    ) throws(ConfigError) {
        guard let setting = settings.first(where: { $0.path == path }) else { preconditionFailure("no key \(path)") }
        do throws(SettingError) {
            try setting.assign(&element, text)
        } catch {
            throw ConfigError("\(argument): \"\(text)\" \(error.message)")
        }
    }
}

extension ListenerConfig: ArgumentElement {}
extension ForwardConfig.Port: ArgumentElement {}
