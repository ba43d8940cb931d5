// Tokens for the tests of Authentication: made of any bytes and signed with a secret, whatever their header says.

import Crypto

@testable import Authentication

/// Base64url, for writing.
func encoded(_ bytes: some Sequence<UInt8>) -> String {
    let alphabet = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    var text = ""
    var bits: UInt32 = 0
    var count = 0
    for byte in bytes {
        bits = bits << 8 | UInt32(byte)
        count += 8
        while count >= 6 {
            count -= 6
            text.append(alphabet[Int(bits >> UInt32(count) & 63)])
        }
    }
    if count > 0 { text.append(alphabet[Int(bits << UInt32(6 - count) & 63)]) }
    return text
}

/// The secret of the tests.
let testSecret = Array("a secret of at least thirty-two bytes".utf8)
/// The time of the tests: 2030-01-01.
let testNow: UInt64 = 1_893_456_000

/// A token with an HMAC-SHA-256 for its signature.
func signed(header: String = #"{"alg":"HS256"}"#, _ claims: String, secret: [UInt8] = testSecret) -> String {
    let message = "\(encoded(header.utf8)).\(encoded(claims.utf8))"
    let bytes = Array(message.utf8)
    return "\(message).\(encoded(MessageAuthentication(key: secret).code(for: bytes.span)))"
}

/// A verifier with the secret.
func verifier(_ change: (inout TokenPolicy) -> Void = { _ in }) throws -> TokenVerifier {
    var keys = TokenKeys()
    try keys.add(secret: testSecret)
    var policy = TokenPolicy()
    change(&policy)
    return TokenVerifier(keys: keys, policy: policy)
}

extension TokenVerifier {
    /// The verdict, for comparing.
    func verdict(_ token: String, now: UInt64 = testNow) -> Result<TokenPermission, AuthenticationError> {
        let bytes = Array(token.utf8)
        do throws(AuthenticationError) { return .success(try verify(bytes.span, now: now)) } catch { return .failure(error) }
    }

    /// Why the token is refused; nil when it is not.
    func refusal(_ token: String, now: UInt64 = testNow) -> AuthenticationError? {
        if case .failure(let error) = verdict(token, now: now) { error } else { nil }
    }

    /// What was signed, as text; nil when the signature is not valid.
    func payload(_ token: String) -> String? {
        let bytes = Array(token.utf8)
        return (try? signedBytes(of: bytes.span)).map { String(decoding: $0, as: UTF8.self) }
    }
}

/// A verifier with the keys of a document.
func verifier(jwks: String, from source: KeyDocument.Source = .network) throws -> TokenVerifier {
    var keys = TokenKeys()
    let bytes = Array(jwks.utf8)
    keys.add(try KeyDocument(bytes.span, from: source))
    return TokenVerifier(keys: keys)
}
