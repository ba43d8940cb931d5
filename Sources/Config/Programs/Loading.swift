// From an invocation, and the file that it names, to the configuration. The program says how a file is read; only its bytes
// come in.

extension Configuration {
    /// The configuration that the invocation asks for, with the file that it names, if it names one, read by `read` (path,
    /// most bytes). One place for all programs, so that each says the same about a file that can't be read.
    public init<Failure: Error>(
        _ invocation: Invocation, environment: [String: String],
        read: (_ path: String, _ bytesMax: Int) throws(Failure) -> [UInt8]
    ) throws(ConfigError) {
        var file: ConfigFile?
        if let path = invocation.configPath {
            do throws(Failure) {
                file = ConfigFile(name: path, bytes: try read(path, ConfigFile.bytesMax))
            } catch {
                throw ConfigError("--config.path: \(error)")
            }
        }
        try self.init(invocation, file: file, environment: environment)
    }

    /// The configuration that the invocation asks for: defaults, then the file, then flags, then the command's arguments.
    /// `file` is the one that `invocation.configPath` names, if it names one.
    public init(
        _ invocation: Invocation, file: ConfigFile?, environment: [String: String]
    ) throws(ConfigError) {
        self.init()
        if let file {
            try apply(
                invocation.expandsEnvironment
                    ? EnvironmentExpansion.expand(file, environment: environment) : file)
        }
        try Self.apply(invocation.flags, Self.schema.settings, to: &self)
        try complete(invocation)
        try validate()
    }
}

extension AgentConfig {
    /// Makes the one listener that `agent http` and `agent tcp` have, or checks that the file named some.
    public mutating func complete(_ invocation: Invocation) throws(ConfigError) {
        switch invocation.command {
        case .agentHTTP, .agentTCP:
            let isTCP = invocation.command == .agentTCP
            var listener = ListenerConfig()
            listener.protocol = isTCP ? .tcp : .http
            try ListenerConfig.assign("endpoint_id", "ENDPOINT", invocation.arguments[0], to: &listener)
            try ListenerConfig.assign("addr", "ADDR", invocation.arguments[1], to: &listener)
            let settings = isTCP ? ListenerConfig.tcpOptionSettings : ListenerConfig.optionSettings
            try Self.apply(invocation.flags, settings, to: &listener)
            listeners = [listener]
        default:
            if listeners.isEmpty {
                throw ConfigError("no listeners configured; name a file with --config.path, or use agent http or agent tcp")
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
