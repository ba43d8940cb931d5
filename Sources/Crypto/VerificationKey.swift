// Keys that signatures are checked with: public ones, and secrets shared with who signs. The key decides which algorithms it
// serves; one that is not among them finds no signature valid, whatever bytes it is shown (so a public key is never taken for a
// secret). By libcrypto.

internal import CTLS

/// Why bytes are no key that may be used.
public enum KeyError: Error, Equatable, Sendable {
    /// Not the form that was asked for.
    case malformed
    /// A private key, where a public one belongs.
    case isPrivate
    /// A key of a kind that tokens are not checked with here.
    case unsupported
    /// RSA of less than 2048 bits, an exponent that proves nothing, or a secret of no bytes.
    case weak
    /// RSA of more than 8192 bits.
    case large

    /// For people: what is wrong.
    public var text: String {
        switch self {
        case .malformed: "no public key"
        case .isPrivate: "a private key, where the public key belongs"
        case .unsupported: "a key of another kind"
        case .weak: "too weak a key: RSA keys have at least 2048 bits and an odd exponent above 1"
        case .large: "too large a key: RSA keys have at most 8192 bits"
        }
    }

    fileprivate init(_ code: Int32) {
        self =
            switch code {
            case Int32(CTLS_KEY_PRIVATE): .isPrivate
            case Int32(CTLS_KEY_UNSUPPORTED): .unsupported
            case Int32(CTLS_KEY_WEAK): .weak
            case Int32(CTLS_KEY_LARGE): .large
            default: .malformed
            }
    }
}

/// A key that signatures are checked with. Made once, and then only read.
public struct VerificationKey: Sendable {
    /// What the key is.
    public enum Kind: Equatable, Sendable { case secret, rsa, p256, p384, p521, ed25519 }

    public let kind: Kind
    private let material: Material

    private enum Material: Sendable {
        case secret([UInt8])
        case publicKey(PublicKey)
    }

    /// A secret shared with who signs.
    public init(secret: [UInt8]) throws(KeyError) {
        guard !secret.isEmpty else { throw .weak }
        kind = .secret
        material = .secret(secret)
    }

    /// A public key from PEM: `PUBLIC KEY`, `RSA PUBLIC KEY` or `CERTIFICATE`.
    public init(pem: [UInt8]) throws(KeyError) {
        try unsafe self.init { made in unsafe pem.withUnsafeBufferPointer { unsafe ctls_key_from_pem($0.baseAddress, $0.count, made) } }
    }

    /// An RSA key from modulus and exponent, big-endian.
    public init(modulus: [UInt8], exponent: [UInt8]) throws(KeyError) {
        try unsafe self.init { made in
            unsafe modulus.withUnsafeBufferPointer { modulus in
                unsafe exponent.withUnsafeBufferPointer { exponent in
                    unsafe ctls_key_from_rsa(modulus.baseAddress, modulus.count, exponent.baseAddress, exponent.count, made)
                }
            }
        }
    }

    /// A key of a curve from a point's coordinates, each as long as the curve's field.
    public init(_ kind: Kind, x: [UInt8], y: [UInt8]) throws(KeyError) {
        let curve: Int32
        switch kind {
        case .p256: curve = Int32(CTLS_KEY_P256)
        case .p384: curve = Int32(CTLS_KEY_P384)
        case .p521: curve = Int32(CTLS_KEY_P521)
        case .secret, .rsa, .ed25519: throw .unsupported
        }
        try unsafe self.init { made in
            unsafe x.withUnsafeBufferPointer { x in
                unsafe y.withUnsafeBufferPointer { y in
                    unsafe ctls_key_from_point(curve, x.baseAddress, x.count, y.baseAddress, y.count, made)
                }
            }
        }
    }

    /// An Ed25519 key from its 32 bytes.
    public init(ed25519 bytes: [UInt8]) throws(KeyError) {
        try unsafe self.init { made in unsafe bytes.withUnsafeBufferPointer { unsafe ctls_key_from_ed25519($0.baseAddress, $0.count, made) } }
    }

    private init(_ make: (UnsafeMutablePointer<OpaquePointer?>) -> Int32) throws(KeyError) {
        var pointer: OpaquePointer?
        let code = unsafe make(&pointer)
        guard let pointer = unsafe pointer else { throw KeyError(code) }
        switch code {
        case Int32(CTLS_KEY_RSA): kind = .rsa
        case Int32(CTLS_KEY_P256): kind = .p256
        case Int32(CTLS_KEY_P384): kind = .p384
        case Int32(CTLS_KEY_P521): kind = .p521
        case Int32(CTLS_KEY_ED25519): kind = .ed25519
        default: preconditionFailure("a key of no kind")
        }
        material = .publicKey(unsafe PublicKey(pointer))
    }

    /// Whether the key's kind serves the algorithm.
    public func serves(_ algorithm: SignatureAlgorithm) -> Bool {
        switch algorithm {
        case .hs256, .hs384, .hs512: kind == .secret
        case .rs256, .rs384, .rs512, .ps256, .ps384, .ps512: kind == .rsa
        case .es256: kind == .p256
        case .es384: kind == .p384
        case .es512: kind == .p521
        case .edDSA: kind == .ed25519
        }
    }

    /// Whether the signature is this key's, by this algorithm, over the message.
    public func isValid(_ signature: [UInt8], by algorithm: SignatureAlgorithm, for message: Span<UInt8>) -> Bool {
        guard serves(algorithm), !signature.isEmpty, !message.isEmpty else { return false }
        switch material {
        case .publicKey(let key): return key.isValid(signature, by: algorithm, for: message)
        case .secret(let secret):
            return unsafe secret.withUnsafeBufferPointer { secret in
                unsafe signature.withUnsafeBufferPointer { code in
                    unsafe message.withUnsafeBufferPointer { message in
                        unsafe ctls_hmac_valid(
                            algorithm.digestBits, secret.baseAddress, secret.count, message.baseAddress, message.count,
                            code.baseAddress, code.count)
                    }
                }
            }
        }
    }

    /// Checks one signature of each kind with nothing right about it, so that libcrypto reads its files, finds its algorithms and
    /// takes its memory now and not later.
    public static func prepare() {
        let nothing: [UInt8] = [0]
        _ = try? VerificationKey(secret: nothing).isValid(nothing, by: .hs256, for: nothing.span)
        _ = try? VerificationKey(ed25519: [UInt8](repeating: 1, count: 32)).isValid([UInt8](repeating: 1, count: 64), by: .edDSA, for: nothing.span)
        let modulus = [UInt8](repeating: 0xff, count: 256)
        let key = try? VerificationKey(modulus: modulus, exponent: [1, 0, 1])
        _ = key?.isValid([UInt8](repeating: 1, count: 256), by: .rs256, for: nothing.span)
        _ = key?.isValid([UInt8](repeating: 1, count: 256), by: .ps256, for: nothing.span)
        _ = try? VerificationKey(.p256, x: p256Base.x, y: p256Base.y).isValid([UInt8](repeating: 1, count: 64), by: .es256, for: nothing.span)
        _ = try? VerificationKey(pem: Array("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n".utf8))
    }

    /// A point that certainly is on its curve: the base point of P-256 (FIPS 186-4 D.1.2.3).
    private static let p256Base: (x: [UInt8], y: [UInt8]) = (
        [
            0x6b, 0x17, 0xd1, 0xf2, 0xe1, 0x2c, 0x42, 0x47, 0xf8, 0xbc, 0xe6, 0xe5, 0x63, 0xa4, 0x40, 0xf2,
            0x77, 0x03, 0x7d, 0x81, 0x2d, 0xeb, 0x33, 0xa0, 0xf4, 0xa1, 0x39, 0x45, 0xd8, 0x98, 0xc2, 0x96,
        ],
        [
            0x4f, 0xe3, 0x42, 0xe2, 0xfe, 0x1a, 0x7f, 0x9b, 0x8e, 0xe7, 0xeb, 0x4a, 0x7c, 0x0f, 0x9e, 0x16,
            0x2b, 0xce, 0x33, 0x57, 0x6b, 0x31, 0x5e, 0xce, 0xcb, 0xb6, 0x40, 0x68, 0x37, 0xbf, 0x51, 0xf5,
        ]
    )
}

/// The owner of libcrypto's key: frees it, once. libcrypto only reads a key when it checks with it.
@safe private final class PublicKey: @unchecked Sendable {
    private let pointer: OpaquePointer

    init(_ pointer: OpaquePointer) { unsafe self.pointer = pointer }

    deinit { unsafe ctls_key_free(pointer) }

    func isValid(_ signature: [UInt8], by algorithm: SignatureAlgorithm, for message: Span<UInt8>) -> Bool {
        let method: Int32
        switch algorithm.family {
        case .hmac: return false
        case .rsa: method = Int32(CTLS_RSA_PKCS1)
        case .rsaPSS: method = Int32(CTLS_RSA_PSS)
        case .ecdsa: method = Int32(CTLS_ECDSA)
        case .edDSA: method = Int32(CTLS_EDDSA)
        }
        return unsafe signature.withUnsafeBufferPointer { signature in
            unsafe message.withUnsafeBufferPointer { message in
                unsafe ctls_signature_valid(
                    pointer, method, algorithm.digestBits, message.baseAddress, message.count, signature.baseAddress, signature.count)
            }
        }
    }
}
