// From the files that a configuration names to certificates, keys and authorities. The program says how a file is read; only
// bytes come in. What is wrong is said with the setting's key and the file's path.
internal import CTLS

/// Why files can't be used, in one sentence that begins with the setting's key.
public struct TLSFileError: Error, Equatable, Sendable, CustomStringConvertible {
    public var description: String

    public init(description: String) { self.description = description }
}

/// A certificate's file and that of its key.
public struct TLSFilePair: Equatable, Sendable {
    public var certificate: String
    public var key: String

    public init(certificate: String, key: String) {
        self.certificate = certificate
        self.key = key
    }

    /// Most bytes of a file with certificates, or with a key.
    static let certificateBytesMax = 1 << 20
    static let authoritiesBytesMax = 8 << 20
    static let keyBytesMax = 1 << 16

    fileprivate func read<Failure: Error>(
        certificateSetting: String, keySetting: String, _ read: (_ path: String, _ bytesMax: Int) throws(Failure) -> [UInt8]
    ) throws(TLSFileError) -> TLSCertificate {
        let bytes = try contents(of: certificate, Self.certificateBytesMax, certificateSetting, read)
        var secret = try contents(of: key, Self.keyBytesMax, keySetting, read)
        return TLSCertificate(certificate: bytes, key: SecretBytes(taking: &secret))
    }
}

private func contents<Failure: Error>(
    of path: String, _ bytesMax: Int, _ setting: String, _ read: (_ path: String, _ bytesMax: Int) throws(Failure) -> [UInt8]
) throws(TLSFileError) -> [UInt8] {
    do throws(Failure) {
        return try read(path, bytesMax)
    } catch {
        throw TLSFileError(description: "\(setting): \(error)")
    }
}

/// The files of a port.
public struct TLSServerFiles: Equatable, Sendable {
    /// The key of the configuration under which they are: "proxy.tls".
    public var setting: String
    /// The first one is for clients that name no host, or an unknown one.
    public var pairs: [TLSFilePair]
    /// Who signs the certificates that clients must have; empty: they need none.
    public var clientAuthorities: String

    public init(setting: String, pairs: [TLSFilePair], clientAuthorities: String = "") {
        self.setting = setting
        self.pairs = pairs
        self.clientAuthorities = clientAuthorities
    }

    /// Reads them, and finds out whether they can be used.
    public func read<Failure: Error>(
        _ read: (_ path: String, _ bytesMax: Int) throws(Failure) -> [UInt8]
    ) throws(TLSFileError) -> TLSServerMaterial {
        var material = TLSServerMaterial(certificates: [])
        for index in pairs.indices {
            let certificate = try pairs[index].read(certificateSetting: name("cert", index), keySetting: name("key", index), read)
            material.certificates.append(certificate)
        }
        if !clientAuthorities.isEmpty {
            material.clientAuthorities = try contents(
                of: clientAuthorities, TLSFilePair.authoritiesBytesMax, "\(setting).client_cas", read)
        }
        do {
            _ = try material.context(name: setting)
        } catch {
            throw TLSFileError(description: "\(place(of: error)): \(error.description)")
        }
        return material
    }

    private func name(_ word: String, _ index: Int) -> String { "\(setting).\(index == 0 ? word : "certs")" }

    private func place(of error: TLSError) -> String {
        switch error.part {
        case .certificate: "\(name("cert", error.index)): \(pairs[error.index].certificate)"
        case .key: "\(name("key", error.index)): \(pairs[error.index].key)"
        case .authorities: "\(setting).client_cas: \(clientAuthorities)"
        case .library: setting
        }
    }
}

/// What the files of a port hold.
public struct TLSServerMaterial: Sendable {
    public var certificates: [TLSCertificate]
    public var clientAuthorities: [UInt8]?

    public init(certificates: [TLSCertificate], clientAuthorities: [UInt8]? = nil) {
        self.certificates = certificates
        self.clientAuthorities = clientAuthorities
    }

    /// The settings of the port with the name.
    public func context(name: String) throws(TLSError) -> TLSContext {
        try TLSContext(server: certificates, clientAuthorities: clientAuthorities, name: name)
    }

    public func isSame(as other: TLSServerMaterial) -> Bool {
        clientAuthorities == other.clientAuthorities && certificates.count == other.certificates.count
            && zip(certificates, other.certificates).allSatisfy { $0.isSame(as: $1) }
    }
}

extension TLSCertificate {
    public func isSame(as other: TLSCertificate) -> Bool {
        certificate == other.certificate && key.isSame(as: other.key)
    }
}

/// The files of a client, and whom it trusts.
public struct TLSClientFiles: Equatable, Sendable {
    /// The key of the configuration under which they are: "connect.tls".
    public var setting: String
    /// The client's own certificate, if it has one.
    public var pair: TLSFilePair?
    /// Whom it trusts; empty: whom the system trusts.
    public var rootAuthorities: String
    /// Whether it takes any certificate of any name.
    public var trustsEveryone: Bool

    public init(setting: String, pair: TLSFilePair? = nil, rootAuthorities: String = "", trustsEveryone: Bool = false) {
        self.setting = setting
        self.pair = pair
        self.rootAuthorities = rootAuthorities
        self.trustsEveryone = trustsEveryone
    }

    /// Reads them, and finds out whether they can be used.
    public func read<Failure: Error>(
        _ read: (_ path: String, _ bytesMax: Int) throws(Failure) -> [UInt8]
    ) throws(TLSFileError) -> TLSClientMaterial {
        var material = TLSClientMaterial(trust: trustsEveryone ? .everyone : .system)
        if let pair { material.certificate = try pair.read(certificateSetting: "\(setting).cert", keySetting: "\(setting).key", read) }
        if !rootAuthorities.isEmpty {
            let bytes = try contents(of: rootAuthorities, TLSFilePair.authoritiesBytesMax, "\(setting).root_cas", read)
            if !trustsEveryone { material.trust = .authorities(bytes) }
        }
        do {
            _ = try material.context()
        } catch {
            let place =
                switch error.part {
                case .certificate: "\(setting).cert: \(pair?.certificate ?? "")"
                case .key: "\(setting).key: \(pair?.key ?? "")"
                case .authorities: rootAuthorities.isEmpty ? setting : "\(setting).root_cas: \(rootAuthorities)"
                case .library: setting
                }
            throw TLSFileError(description: "\(place): \(error.description)")
        }
        return material
    }
}

/// What the files of a client hold.
public struct TLSClientMaterial: Sendable {
    public var trust: TLSTrust
    public var certificate: TLSCertificate?

    public init(trust: TLSTrust, certificate: TLSCertificate? = nil) {
        self.trust = trust
        self.certificate = certificate
    }

    public func context() throws(TLSError) -> TLSContext { try TLSContext(clientTrusting: trust, certificate: certificate) }

    public func isSame(as other: TLSClientMaterial) -> Bool {
        guard trust == other.trust else { return false }
        switch (certificate, other.certificate) {
        case (nil, nil): return true
        case (let left?, let right?): return left.isSame(as: right)
        default: return false
        }
    }
}

/// Where systems keep the certificates of those whom they trust, in one file.
public enum SystemAuthorities {
    /// Paths to try, the first one first.
    public static let paths: [String] = {
        var paths: [String] = []
        while let path = unsafe ctls_system_bundle(paths.count) { paths.append(unsafe String(cString: path)) }
        return paths
    }()
}
