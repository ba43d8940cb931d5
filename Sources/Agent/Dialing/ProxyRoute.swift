// The way to the server: straight, or through the proxy that the configuration, its file, or the environment names.

internal import Config
internal import Reactor

/// Says for each connection which proxy is on the way.
struct ProxyRoute {
    private let config: ProxyConfig
    private let fromEnvironment: NamedProxy?

    /// Straight to the server.
    init() {
        config = ProxyConfig()
        fromEnvironment = nil
    }

    /// The way to the server with the URL.
    init(_ config: ProxyConfig, to url: ServerURL, environment: ProxyEnvironment) throws(ConfigError) {
        self.config = config
        let isOpen = config.setting == .environment && config.file.isEmpty
        fromEnvironment = isOpen ? try environment.proxy(for: url) : nil
    }

    /// The proxy for a connection that is made now; nil: none. What is in a file is read anew.
    func proxy() throws(ConfigError) -> NamedProxy? {
        guard config.file.isEmpty else { return try fileProxy() }
        switch config.setting {
        case .environment: return fromEnvironment
        case .direct: return nil
        case .through(let proxy): return NamedProxy(proxy, from: ProxyConfig.key)
        }
    }

    private func fileProxy() throws(ConfigError) -> NamedProxy? {
        let text = try SecretFile.read(config.file, ProxyConfig.fileKey, FileContents.read)
        do throws(SettingError) {
            guard case .through(let proxy) = try ProxySetting(settingText: text) else { return nil }
            return NamedProxy(proxy, from: ProxyConfig.fileKey)
        } catch {
            throw ConfigError("\(ProxyConfig.fileKey): \(config.file): the URL \(error.message)")
        }
    }
}
