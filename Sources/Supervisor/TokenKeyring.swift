// The keys that tokens are checked with, for all ports of one configuration: from the configuration's own text, and from the files
// that it names, which are read again now and then. Workers can read no file; they are told (`ControlMessage.tokenKeys`).
//
// A port whose keys can't be had at start or at a reload is an error of the configuration. Later, the keys from before go on.

import Authentication
import Config
import Control
import Crypto
import Reactor
import Telemetry

/// Keys of all ports.
final class TokenKeyring {
    /// How often files are looked at.
    static let refreshEvery = Duration.seconds(2)

    /// A key as workers are told of it.
    private struct Source: Equatable {
        var kind: TokenKeyKind
        var bytes: [UInt8]
    }

    private final class Port {
        let port: TokenPort
        /// The path of its settings: "proxy.auth".
        let path: String
        let auth: AuthConfig
        var sources: [Source] = []
        /// What workers were told of a key set that is fetched.
        var toldDocuments: [[UInt8]] = []
        /// What was wrong when they were read last; nil: nothing.
        var problem: String?

        init(_ port: TokenPort, _ path: String, _ auth: AuthConfig) {
            self.port = port
            self.path = path
            self.auth = auth
        }

        var hasFiles: Bool {
            !auth.hmacSecretKeyFile.isEmpty || !auth.rsaPublicKeyFile.isEmpty || !auth.ecdsaPublicKeyFile.isEmpty
                || auth.jwks.filePath != nil
        }
    }

    private let ports: [Port]

    /// The keys of the configuration, whose files were read; a key set's is read here.
    init(_ config: ServerConfig) {
        ports = config.tokenPorts.map { Port($0.port, $0.path, $0.auth) }
        for port in ports {
            do throws(ConfigError) {
                port.sources = try Self.sources(port, port.auth, log: nil)
            } catch {
                port.problem = error.description
            }
        }
    }

    /// What is wrong with the keys of the first port that has none; nil: nothing.
    var problem: String? { ports.lazy.compactMap(\.problem).first }

    /// What a worker is told.
    func messages(_ keySets: KeySets) -> [ControlMessage] { ports.flatMap { Self.messages($0, keySets) } }

    /// The URL of the key set of a port's tokens; nil: it is not fetched.
    func fetchedURL(_ port: TokenPort) -> String? {
        ports.first { $0.port == port && $0.auth.jwks.httpURL != nil }?.auth.jwks.endpoint
    }

    /// Reads the files again; what workers are to be told.
    func refresh(_ log: Logger, _ keySets: KeySets) -> [ControlMessage] {
        var messages: [ControlMessage] = []
        for port in ports where port.auth.jwks.httpURL != nil {
            let documents = keySets.documents(port.auth.jwks.endpoint)
            if documents != port.toldDocuments { messages += Self.messages(port, keySets) }
        }
        for port in ports where port.hasFiles {
            var fresh = port.auth
            if !fresh.hmacSecretKeyFile.isEmpty { fresh.hmacSecretKey = "" }
            if !fresh.rsaPublicKeyFile.isEmpty { fresh.rsaPublicKey = "" }
            if !fresh.ecdsaPublicKeyFile.isEmpty { fresh.ecdsaPublicKey = "" }
            do throws(ConfigError) {
                try fresh.readFiles(port.path, FileContents.read)
                let sources = try Self.sources(port, fresh, log: nil)
                if port.problem != nil { log.info(.server, "the keys for tokens can be read again") { $0.field("port", port.path) } }
                port.problem = nil
                guard sources != port.sources else { continue }
                // Once more, to say what is left out of it.
                port.sources = try Self.sources(port, fresh, log: log)
                log.info(.server, "the keys for tokens have changed") { $0.field("port", port.path) }
                messages += Self.messages(port, keySets)
            } catch {
                guard port.problem != error.description else { continue }
                port.problem = error.description
                log.error(.server, "the keys for tokens can't be read; those from before go on") {
                    $0.field("port", port.path)
                    $0.field("err", error.description)
                }
            }
        }
        return messages
    }

    /// The keys of a port, each found to be one.
    private static func sources(_ port: Port, _ auth: AuthConfig, log: Logger?) throws(ConfigError) -> [Source] {
        var sources: [Source] = []
        var keys = TokenKeys()
        for (name, text, kind) in [
            ("hmac_secret_key", auth.hmacSecretKey, TokenKeyKind.secret), ("rsa_public_key", auth.rsaPublicKey, .rsa),
            ("ecdsa_public_key", auth.ecdsaPublicKey, .ecdsa),
        ] where !text.isEmpty {
            let bytes = Array(text.utf8)
            do throws(KeyError) {
                switch kind {
                case .rsa: try keys.add(rsaPEM: bytes)
                case .ecdsa: try keys.add(ecdsaPEM: bytes)
                default: try keys.add(secret: bytes)
                }
            } catch {
                throw ConfigError("\(port.path).\(name): \(error.text)")
            }
            sources.append(Source(kind: kind, bytes: bytes))
        }
        guard let path = auth.jwks.filePath else { return sources }
        let bytes: [UInt8]
        do throws(SystemError) {
            bytes = try FileContents.read(path, bytesMax: KeyDocument.bytesMax)
        } catch {
            throw ConfigError("\(port.path).jwks.endpoint: \(error)")
        }
        do throws(KeyDocument.Problem) {
            let document = try KeyDocument(bytes.span, from: .file)
            for skipped in document.skipped {
                log?.warn(.server, "a key of a key set is not used") {
                    $0.field("port", port.path)
                    $0.field("key", skipped.text)
                }
            }
        } catch {
            throw ConfigError("\(port.path).jwks.endpoint: \(path): \(error.text)")
        }
        sources.append(Source(kind: .fileDocument, bytes: bytes))
        return sources
    }

    private static func messages(_ port: Port, _ keySets: KeySets) -> [ControlMessage] {
        var messages = [ControlMessage.tokenKeys(port: port.port, kind: .begin, bytes: [])]
        port.toldDocuments = port.auth.jwks.httpURL == nil ? [] : keySets.documents(port.auth.jwks.endpoint)
        for source in port.sources + port.toldDocuments.map({ Source(kind: .fetchedDocument, bytes: $0) }) {
            var rest = source.bytes[...]
            while rest.count > ControlLimits.tokenKeyBytesMax {
                messages.append(
                    .tokenKeys(port: port.port, kind: .piece, bytes: Array(rest.prefix(ControlLimits.tokenKeyBytesMax))))
                rest = rest.dropFirst(ControlLimits.tokenKeyBytesMax)
            }
            messages.append(.tokenKeys(port: port.port, kind: source.kind, bytes: Array(rest)))
        }
        messages.append(.tokenKeys(port: port.port, kind: .end, bytes: []))
        return messages
    }
}

extension ServerConfig {
    /// The ports, and the tenants at them, that ask for tokens.
    var tokenPorts: [(port: TokenPort, path: String, auth: AuthConfig)] {
        var ports: [(port: TokenPort, path: String, auth: AuthConfig)] = [
            (TokenPort(.proxy), "proxy.auth", proxy.auth),
            (TokenPort(.upstream), "upstream.auth", upstream.auth),
            (TokenPort(.admin), "admin.auth", admin.auth),
        ]
        for (index, tenant) in upstream.tenants.enumerated() {
            let path = "upstream.tenants.\(index)"
            ports.append((TokenPort(.upstream, tenant: tenant.id), "\(path).auth", tenant.auth))
            ports.append((TokenPort(.proxy, tenant: tenant.id), "\(path).proxy_auth", tenant.proxyAuth))
        }
        return ports.filter { $0.auth.isEnabled }
    }
}

extension Node {
    /// Reads files with keys again, now and then, and tells the workers of the configuration what has changed.
    func refreshTokenKeys() {
        keySets.tick()
        let changes = setup.tokenKeys.refresh(log, keySets)
        for process in processes.workers where process.generation == machine.currentGeneration && process.isLinked {
            for message in changes { process.link.send(message) }
        }
    }
}
