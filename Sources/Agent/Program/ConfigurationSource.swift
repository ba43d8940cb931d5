// Where an agent's configuration comes from: the command line and its file, at the start and at each reload; and the copy of the last
// file with which the agent reached its server, for a device whose file was spoiled where nobody can walk to.

internal import Config
internal import Glibc
internal import Reactor

/// Reads the configuration, and keeps the copy.
final class ConfigurationSource {
    /// A configuration, and the bytes of the file that it came from.
    struct Reading {
        var configuration: LoadedConfiguration<AgentConfig>
        var bytes: [UInt8]
        /// Why it is not the file's that is used; nil: it is.
        var whyNotTheFile: String?
    }

    private let invocation: Invocation
    private let environment: [String: String]

    init(_ invocation: Invocation, environment: [String: String]) {
        self.invocation = invocation
        self.environment = environment
    }

    /// Where the copy is; nil: none is kept.
    var lastGoodPath: String? { invocation.configPath == nil ? nil : invocation.lastGoodPath }

    /// What the command line and the file say now.
    func read() throws(ConfigError) -> Reading { try read(invocation) }

    /// What the command line and the copy say; `reason` is why the file is not used.
    func readLastGood(_ path: String, reason: String) throws(ConfigError) -> Reading {
        // Nobody is waited for.
        guard FileContents.isFileOrNothing(path) else { throw ConfigError("--config.last-good-path: \(path) is not a file") }
        var reading = try read(invocation.reading(path))
        reading.whyNotTheFile = reason
        return reading
    }

    private func read(_ invocation: Invocation) throws(ConfigError) -> Reading {
        var bytes: [UInt8] = []
        let configuration = try LoadedConfiguration<AgentConfig>(invocation, environment: environment) {
            (path: String, bytesMax: Int) throws(SystemError) in
            let contents = try FileContents.read(path, bytesMax: bytesMax)
            if path == invocation.configPath { bytes = contents }
            return contents
        }
        return Reading(configuration: configuration, bytes: bytes)
    }

    /// Makes these bytes the copy, unless they are. True if it was written.
    func keep(_ bytes: [UInt8]) throws(SystemError) -> Bool {
        guard let path = lastGoodPath else { return false }
        guard FileContents.isFileOrNothing(path) else { throw SystemError(code: EINVAL, call: "write \(path), which is not a file") }
        if let kept = try? FileContents.read(path, bytesMax: ConfigFile.bytesMax), kept == bytes { return false }
        try FileContents.replace(path, with: bytes)
        return true
    }
}
