// `piko server check`: reads a configuration as the server would, and prints what would run.
internal import Config
internal import Crypto
internal import Reactor

enum ServerCheck {
    /// The effective configuration as YAML, with what its automatic values come to on this machine.
    static func run(_ invocation: Invocation) throws(CommandFailure) -> String {
        let environment = ProgramEnvironment.variables
        let config = try ConfigurationFile.load(ServerConfig.self, invocation, environment: environment)
        try checkFiles(config)
        var text = "# The configuration is valid. The server would run with these settings:\n"
        text += YAML.write(config.yaml)
        if config.server.workers == 0 {
            text += "# server.workers: 0 means \(System.processorCount) here, one for each processor\n"
        }
        if config.server.controlSocket.isEmpty {
            let paths = ControlSocketPath.candidates(environment: environment, userID: ProgramEnvironment.userIdentifier)
            text += "# server.control_socket: by default \(paths.joined(separator: ", else "))\n"
        }
        return text
    }
}

extension ServerCheck {
    /// Whether the files of TLS can be used.
    static func checkFiles(_ config: ServerConfig) throws(CommandFailure) {
        do throws(TLSFileError) {
            for (setting, tls) in [("proxy.tls", config.proxy.tls), ("upstream.tls", config.upstream.tls), ("admin.tls", config.admin.tls)]
            where tls.isEnabled {
                let pairs = tls.pairs.map { TLSFilePair(certificate: $0.certificate, key: $0.key) }
                _ = try TLSServerFiles(setting: setting, pairs: pairs, clientAuthorities: tls.clientAuthorities).read(FileContents.read)
            }
            _ = try TLSClientFiles("proxy.tls.client", config.proxy.nodeTLS).read(FileContents.read)
        } catch {
            throw CommandFailure("config: \(error.description)")
        }
    }
}

extension TLSClientFiles {
    /// The files that the keys name.
    init(_ setting: String, _ tls: ClientTLS) {
        self.init(
            setting: setting,
            pair: tls.certificate.isEmpty ? nil : TLSFilePair(certificate: tls.certificate, key: tls.key),
            rootAuthorities: tls.rootAuthorities, trustsEveryone: tls.skipsVerification)
    }
}

/// Reading the configuration file that an invocation names.
enum ConfigurationFile {
    static func load<Value: Configuration>(
        _ type: Value.Type, _ invocation: Invocation, environment: [String: String]
    ) throws(CommandFailure) -> Value {
        do throws(ConfigError) {
            return try Value(invocation, environment: environment, read: FileContents.read)
        } catch {
            throw CommandFailure(error.description)
        }
    }
}
