// What the TLS connections of a port, or to a server, have in common: certificates, whom to trust, the keys of tickets.
//
// Everything comes as PEM bytes: whoever may read files gives their contents. A context belongs to one thread, with the
// sessions that are made of it.

internal import CTLS

/// What is wrong with what a context was made of.
public struct TLSError: Error, Equatable, Sendable, CustomStringConvertible {
    /// Which part is at fault.
    public enum Part: Sendable, Equatable {
        case certificate, key, authorities
        /// OpenSSL itself.
        case library
    }

    public var part: Part
    /// Which of the certificates or keys, as they were given.
    public var index: Int
    public var description: String

    public init(part: Part, index: Int = 0, description: String) {
        self.part = part
        self.index = index
        self.description = description
    }
}

/// A certificate with its chain behind it, and its private key, both PEM.
public struct TLSCertificate: Sendable {
    public var certificate: [UInt8]
    public var key: SecretBytes

    public init(certificate: [UInt8], key: SecretBytes) {
        self.certificate = certificate
        self.key = key
    }
}

/// Whose certificates a client takes.
public enum TLSTrust: Sendable, Equatable {
    /// Those that the system trusts, which are read from its files.
    case system
    /// Those that are given (PEM), and what they signed.
    case authorities([UInt8])
    /// Any.
    case everyone
}

/// The settings of many connections.
@safe
public final class TLSContext {
    let core: OpaquePointer
    public let isServer: Bool

    /// The bytes of one key of tickets, and how many keys are used at most.
    public static let ticketKeyBytes = Int(CTLS_TICKET_KEY_BYTES)
    public static let ticketKeysMax = Int(CTLS_TICKET_KEYS_MAX)

    /// Lets OpenSSL read its files and take its memory now and not later.
    public static func prepare() { ctls_tls_prepare() }

    /// For servers. The first certificate is for clients that name no host or an unknown one. With `clientAuthorities` (PEM) a
    /// client must have a certificate that they signed. Sessions are resumed at ports of the same `name` and authorities only.
    public init(
        server certificates: [TLSCertificate], clientAuthorities: [UInt8]? = nil, name: String
    ) throws(TLSError) {
        precondition(!certificates.isEmpty, "a server needs a certificate")
        unsafe core = try Self.make(isServer: true)
        isServer = true
        for index in certificates.indices { try add(certificates[index], index) }
        if let clientAuthorities { try trust(clientAuthorities) }
        let identity = MessageAuthentication(key: Array("piko TLS sessions".utf8)).code(
            for: (Array(name.utf8) + [0] + (clientAuthorities ?? [])).span)
        unsafe identity.withUnsafeBufferPointer { unsafe ctls_context_identity(core, $0.baseAddress) }
    }

    /// For clients, with a certificate of their own or without.
    public init(clientTrusting trust: TLSTrust, certificate: TLSCertificate? = nil) throws(TLSError) {
        unsafe core = try Self.make(isServer: false)
        isServer = false
        if let certificate { try add(certificate, 0) }
        switch trust {
        case .system:
            var fault = ctls_fault()
            if unsafe !ctls_context_trust_system(core, &fault) { throw Self.error(fault) }
        case .authorities(let bytes): try self.trust(bytes)
        case .everyone: unsafe ctls_context_trust_everyone(core)
        }
    }

    deinit { unsafe ctls_context_free(core) }

    /// From now on tickets are made with the first of the keys, and opened with any. No key: there are no tickets.
    public func setTicketKeys(_ keys: [SecretBytes]) {
        var joined: [UInt8] = []
        joined.reserveCapacity(keys.count * Self.ticketKeyBytes)
        for key in keys.prefix(Self.ticketKeysMax) {
            precondition(key.count == Self.ticketKeyBytes, "a key of tickets of a wrong length")
            key.withSpan { span in for index in span.indices { joined.append(span[index]) } }
        }
        let count = joined.count / Self.ticketKeyBytes
        unsafe joined.withUnsafeBufferPointer { unsafe ctls_context_ticket_keys(core, $0.baseAddress, count) }
        SecretBytes.wipe(&joined)
    }

    /// Speaks TLS 1.2 and nothing newer: for tests.
    public func limitToTLS12() {
        let isTaken = unsafe ctls_context_limit_to_1_2(core)
        precondition(isTaken, "OpenSSL has no TLS 1.2")
    }

    private static func make(isServer: Bool) throws(TLSError) -> OpaquePointer {
        var fault = ctls_fault()
        guard let made = unsafe ctls_context_create(isServer, &fault) else { throw error(fault) }
        return unsafe made
    }

    private func add(_ pair: TLSCertificate, _ index: Int) throws(TLSError) {
        var fault = ctls_fault()
        let isTaken = unsafe pair.certificate.withUnsafeBufferPointer { certificate in
            pair.key.withSpan { key in
                unsafe key.withUnsafeBufferPointer { key in
                    unsafe ctls_context_add(core, certificate.baseAddress, certificate.count, key.baseAddress, key.count, &fault)
                }
            }
        }
        guard !isTaken else { return }
        var error = Self.error(fault)
        error.index = index
        throw error
    }

    private func trust(_ authorities: [UInt8]) throws(TLSError) {
        var fault = ctls_fault()
        let isTaken = unsafe authorities.withUnsafeBufferPointer {
            unsafe ctls_context_trust(core, $0.baseAddress, $0.count, &fault)
        }
        if !isTaken { throw Self.error(fault) }
    }

    private static func error(_ fault: ctls_fault) -> TLSError {
        let part: TLSError.Part =
            switch fault.part {
            case CTLS_PART_CERTIFICATE.rawValue: .certificate
            case CTLS_PART_KEY.rawValue: .key
            case CTLS_PART_AUTHORITIES.rawValue: .authorities
            default: .library
            }
        let text = unsafe withUnsafeBytes(of: fault.text) { bytes in
            unsafe String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
        }
        return TLSError(part: part, description: text)
    }
}
