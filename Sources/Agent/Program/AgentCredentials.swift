// The files of TLS that an agent's or `forward`'s configuration names, read and put to use: for the server with an https URL, and for
// each service with one.

internal import Config
internal import Crypto
internal import Reactor

/// The settings of TLS towards the server and the services.
struct AgentCredentials {
    /// nil: the server is talked to without TLS.
    var server: TLSContext?
    /// For each listener, in the configuration's order.
    var services: [TLSContext?] = []

    init(reading config: AgentConfig) throws(ConfigError) {
        if config.connect.url.isSecure { server = try Self.context("connect.tls", config.connect.tls) }
        for (index, listener) in config.listeners.enumerated() {
            services.append(listener.address.isSecure ? try Self.context("listeners.\(index).tls", listener.tls) : nil)
        }
    }

    init(reading config: ForwardConfig) throws(ConfigError) {
        if config.connect.url.isSecure { server = try Self.context("connect.tls", config.connect.tls) }
    }

    private static func context(_ setting: String, _ tls: ClientTLS) throws(ConfigError) -> TLSContext {
        let files = TLSClientFiles(
            setting: setting, pair: tls.certificate.isEmpty ? nil : TLSFilePair(certificate: tls.certificate, key: tls.key),
            rootAuthorities: tls.rootAuthorities, trustsEveryone: tls.skipsVerification)
        do throws(TLSFileError) {
            let material = try files.read(FileContents.read)
            do throws(TLSError) {
                return try material.context()
            } catch {
                throw TLSFileError(description: "\(setting): \(error.description)")
            }
        } catch {
            throw ConfigError(error.description)
        }
    }
}
