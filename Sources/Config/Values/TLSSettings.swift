// The keys of TLS: the certificates of a port and who may connect to it; what a client shows and whom it trusts. All of them
// are paths of PEM files, which the programs read; a key or certificate is never in the configuration itself.

/// TLS on a port.
public struct PortTLS: Equatable, Sendable {
    /// The certificate, and the chain behind it.
    public var certificate = ""
    public var key = ""
    /// Further pairs, "CERT:KEY", for other names.
    public var certificates: [String] = []
    public var clientAuthorities = ""

    public init() {}

    /// Whether the port speaks TLS.
    public var isEnabled: Bool { !certificate.isEmpty || !key.isEmpty }

    /// The files of each certificate and its key, the default first.
    public var pairs: [(certificate: String, key: String)] {
        [(certificate, key)] + certificates.compactMap(Self.split)
    }

    static let settings: [Setting<PortTLS>] = [
        Setting(
            "cert", \.certificate, placeholder: "FILE",
            """
            The port's certificate, with its chain behind it (PEM). The port speaks TLS if it is set. Read at start and at each \
            reload, and again when the file changes.
            """),
        Setting("key", \.key, placeholder: "FILE", "The certificate's private key (PEM, without a passphrase)."),
        Setting(
            "certs", list: \.certificates, placeholder: "CERT:KEY", check: pairRule,
            """
            Further certificates with their keys, for clients that ask for a host of theirs (SNI). Names may begin with *. \
            Others get the one of cert.
            """),
        Setting(
            "client_cas", \.clientAuthorities, placeholder: "FILE",
            "Authorities (PEM). Whoever connects must have a certificate that they signed."),
    ]

    static func split(_ text: String) -> (certificate: String, key: String)? {
        let parts = text.split(separator: ":", omittingEmptySubsequences: false)
        guard parts.count == 2, !parts[0].isEmpty, !parts[1].isEmpty else { return nil }
        return (String(parts[0]), String(parts[1]))
    }

    @Sendable static func pairRule(_ text: String) -> String? {
        split(text) == nil ? "is not of the form CERT:KEY (two paths without colons)" : nil
    }

    func validate(_ path: String) throws(ConfigError) {
        if certificate.isEmpty != key.isEmpty {
            throw ConfigError("\(path): \(certificate.isEmpty ? "key is set, and cert is not" : "cert is set, and key is not")")
        }
        guard !isEnabled else { return }
        if !certificates.isEmpty { throw ConfigError("\(path).certs: needs cert and key, for clients that ask for no host of theirs") }
        if !clientAuthorities.isEmpty { throw ConfigError("\(path).client_cas: needs cert and key") }
    }
}

/// TLS towards a server.
public struct ClientTLS: Equatable, Sendable {
    public var certificate = ""
    public var key = ""
    public var rootAuthorities = ""
    public var skipsVerification = false
    /// Whom servers must prove to be; empty: whom the client connects to.
    public var serverName = ""

    public init() {}

    /// The keys for other nodes, which are known by their addresses.
    static let nodeSettings: [Setting<ClientTLS>] =
        settings + [
            Setting(
                "server_name", \.serverName, placeholder: "NAME",
                "The name that the certificates of other nodes must be for. By default the address at which the node is reached.")
        ]

    static let settings: [Setting<ClientTLS>] = [
        Setting("cert", \.certificate, placeholder: "FILE", "A certificate to show to the server, with its chain behind it (PEM)."),
        Setting("key", \.key, placeholder: "FILE", "The certificate's private key (PEM, without a passphrase)."),
        Setting(
            "root_cas", \.rootAuthorities, placeholder: "FILE",
            "Authorities (PEM) that sign servers' certificates. By default those that the system trusts."),
        Setting(
            "insecure_skip_verify", \.skipsVerification,
            "Take any certificate of any name: whoever is in between can read and change everything."),
    ]

    func validate(_ path: String) throws(ConfigError) {
        if certificate.isEmpty != key.isEmpty {
            throw ConfigError("\(path): \(certificate.isEmpty ? "key is set, and cert is not" : "cert is set, and key is not")")
        }
    }
}
