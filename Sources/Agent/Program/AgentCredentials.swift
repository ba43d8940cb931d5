// What an agent's or `forward`'s configuration says about the way to the server and the services, read and put to use: the files of
// TLS, for the server with an https URL and for each service with one, and the proxy.

internal import Config
internal import Crypto
internal import Reactor

/// The settings of TLS towards the server and the services, and the proxy towards the server.
struct AgentCredentials {
    /// For the servers with an https URL; nil: there is none.
    var server: TLSContext?
    /// For each listener, in the configuration's order.
    var services: [TLSContext?] = []
    /// For each server, in the configuration's order.
    var routes: [ProxyRoute]

    init(reading config: AgentConfig, environment: ProxyEnvironment) throws(ConfigError) {
        let servers = config.connect.servers
        routes = []
        for url in servers { routes.append(try ProxyRoute(config.connect.proxy, to: url, environment: environment)) }
        if servers.contains(where: \.isSecure) { server = try Self.context("connect.tls", config.connect.tls) }
        for (index, listener) in config.listeners.enumerated() {
            services.append(listener.address.isSecure ? try Self.context("listeners.\(index).tls", listener.tls) : nil)
        }
    }

    init(reading config: ForwardConfig, environment: ProxyEnvironment) throws(ConfigError) {
        routes = [try ProxyRoute(config.connect.proxy, to: config.connect.url, environment: environment)]
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
