// The keys that tokens are checked with, and which of them is asked for which token. A key serves the algorithms of its kind, or
// the fewer that it is configured for; what a token says about its algorithm only chooses among keys, and never how one is used.

public import Crypto

/// A key for tokens.
public struct TokenKey: Sendable {
    public let key: VerificationKey
    /// The `kid` of a key from a document; nil: it has none.
    public let identifier: [UInt8]?
    /// What it may be used for.
    public let algorithms: [SignatureAlgorithm]

    /// A key for those of the algorithms that its kind serves.
    public init(_ key: VerificationKey, identifier: [UInt8]? = nil, algorithms: [SignatureAlgorithm] = SignatureAlgorithm.allCases) {
        self.key = key
        self.identifier = identifier
        self.algorithms = algorithms.filter { key.serves($0) }
    }
}

/// All keys of a port.
public struct TokenKeys: Sendable {
    /// The most keys of a document.
    public static let keysMax = 100
    /// The most keys that one token is checked with.
    static let triesMax = 16

    /// Those of the configuration: any token may be signed with them, whatever key identifier it has.
    private var configured: [TokenKey] = []
    /// Those of documents: a token that names a key is checked with the keys of that name.
    private var published: [TokenKey] = []

    public init() {}

    /// Whether there are none: then nobody is let in.
    public var isEmpty: Bool { configured.isEmpty && published.isEmpty }

    /// How many there are.
    public var count: Int { configured.count + published.count }

    /// Adds the secret of `hmac_secret_key`.
    public mutating func add(secret: [UInt8]) throws(KeyError) {
        configured.append(TokenKey(try VerificationKey(secret: secret), algorithms: SignatureAlgorithm.hmac))
    }

    /// Adds the key of `rsa_public_key`.
    public mutating func add(rsaPEM: [UInt8]) throws(KeyError) {
        let key = try VerificationKey(pem: rsaPEM)
        guard key.kind == .rsa else { throw .unsupported }
        configured.append(TokenKey(key, algorithms: SignatureAlgorithm.rsa))
    }

    /// Adds the key of `ecdsa_public_key`.
    public mutating func add(ecdsaPEM: [UInt8]) throws(KeyError) {
        let key = try VerificationKey(pem: ecdsaPEM)
        guard [.p256, .p384, .p521].contains(key.kind) else { throw .unsupported }
        configured.append(TokenKey(key))
    }

    /// Adds the keys of a document.
    public mutating func add(_ document: KeyDocument) { published += document.keys }

    /// The keys that may have signed the token.
    func candidates(for token: CompactToken) throws(AuthenticationError) -> [TokenKey] {
        var found = configured.filter { $0.algorithms.contains(token.algorithm) }
        for key in published where key.algorithms.contains(token.algorithm) {
            if let identifier = token.keyIdentifier, key.identifier != identifier { continue }
            found.append(key)
        }
        guard !found.isEmpty else { throw .invalid(.noKey) }
        guard found.count <= Self.triesMax else { throw .invalid(.needsIdentifier) }
        return found
    }
}
