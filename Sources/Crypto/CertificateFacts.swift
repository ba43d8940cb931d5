// What certificates say about themselves, for people who look for a fault. Nothing is decided by it.

internal import CTLS

/// One certificate.
public struct CertificateFacts: Equatable, Sendable {
    public var subject: String
    public var issuer: String
    /// Host names and addresses, with commas between them.
    public var names: String
    /// Seconds since 1970.
    public var notBefore: Int64
    public var notAfter: Int64

    /// More of a file, or of a peer, are not looked at.
    public static let countMax = 16

    public init(subject: String, issuer: String, names: String, notBefore: Int64, notAfter: Int64) {
        self.subject = subject
        self.issuer = issuer
        self.names = names
        self.notBefore = notBefore
        self.notAfter = notAfter
    }

    /// Those of a file (PEM).
    public static func read(_ pem: [UInt8]) -> [CertificateFacts] {
        unsafe collect { list, max in
            unsafe pem.withUnsafeBufferPointer { unsafe ctls_certificates_read($0.baseAddress, $0.count, list, max) }
        }
    }

    static func collect(_ fill: (UnsafeMutablePointer<ctls_certificate>, Int) -> Int) -> [CertificateFacts] {
        unsafe withUnsafeTemporaryAllocation(of: ctls_certificate.self, capacity: countMax) { buffer in
            unsafe buffer.initialize(repeating: ctls_certificate())
            let count = unsafe fill(buffer.baseAddress!, countMax)
            return (0..<count).map { index in unsafe CertificateFacts(buffer[index]) }
        }
    }

    private init(_ facts: ctls_certificate) {
        subject = unsafe withUnsafeBytes(of: facts.subject) { unsafe Self.text($0) }
        issuer = unsafe withUnsafeBytes(of: facts.issuer) { unsafe Self.text($0) }
        names = unsafe withUnsafeBytes(of: facts.names) { unsafe Self.text($0) }
        notBefore = facts.not_before
        notAfter = facts.not_after
    }

    private static func text(_ bytes: UnsafeRawBufferPointer) -> String {
        unsafe String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
    }
}

extension TLSSession {
    /// What the server sent to this client, its own certificate first, whether it was found good or not.
    public var presented: [CertificateFacts] {
        unsafe CertificateFacts.collect { list, max in unsafe ctls_session_chain(core, list, max) }
    }
}
