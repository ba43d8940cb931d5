// Proof that bytes come from who holds a key: HMAC-SHA-256 (RFC 2104), by libcrypto.

internal import CTLS

/// A secret key and the codes that it makes.
public struct MessageAuthentication: Sendable {
    /// Bytes of a whole code.
    public static let codeBytes = Int(CTLS_SHA256_BYTES)

    private let key: [UInt8]

    /// Codes under this key, which should be 32 random bytes.
    public init(key: [UInt8]) {
        precondition(!key.isEmpty, "a key of no bytes proves nothing")
        self.key = key
    }

    /// Makes one code of nothing, so that libcrypto reads its files and takes its memory now and not later.
    public static func prepare() { _ = MessageAuthentication(key: [0]).code(for: [UInt8](repeating: 0, count: 1).span) }

    /// The code of the bytes.
    public func code(for bytes: Span<UInt8>) -> [UInt8] {
        unsafe [UInt8](unsafeUninitializedCapacity: Self.codeBytes) { code, count in
            let isMade = unsafe key.withUnsafeBufferPointer { key in
                unsafe bytes.withUnsafeBufferPointer { bytes in
                    unsafe ctls_hmac_sha256(key.baseAddress, key.count, bytes.baseAddress, bytes.count, code.baseAddress)
                }
            }
            precondition(isMade, "libcrypto makes no HMAC-SHA-256")
            count = Self.codeBytes
        }
    }

    /// Whether `code` is the beginning of the bytes' code, by a comparison whose time tells nothing. A code of less than 16
    /// bytes proves nothing.
    public func isValid(_ code: Span<UInt8>, for bytes: Span<UInt8>) -> Bool {
        guard code.count >= 16, code.count <= Self.codeBytes else { return false }
        let wanted = self.code(for: bytes)
        return unsafe code.withUnsafeBufferPointer { code in
            unsafe wanted.withUnsafeBufferPointer { wanted in
                unsafe ctls_equal(code.baseAddress, wanted.baseAddress, code.count)
            }
        }
    }
}
