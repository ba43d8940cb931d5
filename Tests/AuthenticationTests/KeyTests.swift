// Keys in PEM and in documents: which are taken, which are left out and why, and that each algorithm is checked right.

import Crypto
import Testing

@testable import Authentication

@Suite struct KeyTests {
    @Test(arguments: Keys.tokens)
    func eachAlgorithm(_ row: (algorithm: String, token: String)) throws {
        let verifier = try verifier(jwks: Keys.document, from: .file)
        let wanted = TokenPermission(expiry: 1_900_000_000, endpoints: .any)
        #expect(verifier.verdict(row.token) == .success(wanted))
        let parts = row.token.split(separator: ".")
        for algorithm in SignatureAlgorithm.allCases where algorithm.rawValue != row.algorithm {
            let changed = "\(encoded("{\"alg\":\"\(algorithm.rawValue)\"}".utf8)).\(parts[1]).\(parts[2])"
            #expect(verifier.refusal(changed) == .invalid(algorithm == .es512 ? .noKey : .signature))
        }
        #expect(try self.verifier(jwks: Vectors.set(Vectors.ed25519)).refusal(row.token) != nil)
    }

    private func verifier(jwks: String, from source: KeyDocument.Source = .network) throws -> TokenVerifier {
        try AuthenticationTests.verifier(jwks: jwks, from: source)
    }

    @Test func formsOfPEM() throws {
        let token = try #require(Keys.tokens.first { $0.algorithm == "RS384" }).token
        for pem in [Keys.rsaPEM, Keys.rsaOlderPEM, Keys.rsaCertificate, "words before\n" + Keys.rsaPEM + "\nand behind", Keys.rsaPEM + "\n" + Keys.weakPEM] {
            var keys = TokenKeys()
            try keys.add(rsaPEM: Array(pem.utf8))
            #expect(TokenVerifier(keys: keys).refusal(token) == nil)
        }
        for (pem, algorithm) in [(Keys.p256PEM, "ES256"), (Keys.p384PEM, "ES384")] {
            var keys = TokenKeys()
            try keys.add(ecdsaPEM: Array(pem.utf8))
            for row in Keys.tokens {
                #expect((TokenVerifier(keys: keys).refusal(row.token) == nil) == (row.algorithm == algorithm))
            }
        }
    }

    @Test(arguments: [
        (Keys.weakPEM, KeyError.weak), (Keys.weakPrivatePEM, .isPrivate), (Keys.largePEM, .large), (Keys.pssPEM, .unsupported),
        (Keys.p256PEM, .unsupported), (Keys.secp256k1PEM, .unsupported), (Keys.ed25519PEM, .unsupported), ("", .malformed), ("key", .malformed),
        ("-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n", .malformed),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", .malformed),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", .malformed),
        ("-----BEGIN SOMETHING-----\nAAAA\n-----END SOMETHING-----\n", .malformed),
        (String(Keys.rsaPEM.dropLast(40)), .malformed),
    ])
    func keysThatAreNone(_ pem: String, _ error: KeyError) {
        #expect(throws: error) {
            var keys = TokenKeys()
            try keys.add(rsaPEM: Array(pem.utf8))
        }
    }

    @Test func exponentsThatProveNothing() throws {
        let modulus = [UInt8](repeating: 0xff, count: 256)
        for exponent: [UInt8] in [[1], [2], [0, 0, 1], [1, 0, 0]] {
            #expect(throws: KeyError.weak) { try VerificationKey(modulus: modulus, exponent: exponent) }
        }
        #expect(throws: KeyError.malformed) { try VerificationKey(modulus: modulus, exponent: [0]) }
        #expect(throws: KeyError.malformed) { try VerificationKey(modulus: [], exponent: [3]) }
        #expect(throws: KeyError.large) { try VerificationKey(modulus: modulus, exponent: [1] + [UInt8](repeating: 0, count: 8) + [1]) }
        #expect(throws: KeyError.large) { try VerificationKey(modulus: [UInt8](repeating: 0xff, count: 100_000), exponent: [3]) }
        #expect(throws: KeyError.weak) { try VerificationKey(modulus: [0x7f] + modulus.dropFirst(), exponent: [3]) }
        #expect(throws: KeyError.weak) { try VerificationKey(secret: []) }
    }

    static let sets: [(text: String, problem: String)] = [
        ("", "not JSON: at byte 0: a value is missing"),
        ("{}", "not a key set: it has no list 'keys' of objects"),
        ("[]", "not a key set: it has no list 'keys' of objects"),
        (#"{"keys":{}}"#, "not a key set: it has no list 'keys' of objects"),
        (#"{"keys":[1]}"#, "not a key set: it has no list 'keys' of objects"),
        (#"{"keys":[]}"#, "it has no keys"),
        (#"{"keys":[{}]}"#, "no usable key: key 0: no 'kty'"),
        (#"{"keys":[{"kty":1}]}"#, "no usable key: key 0: no 'kty'"),
        (#"{"keys":[{"kty":"XYZ"},{"kty":"rsa"}]}"#, "no usable key: key 0: of another kind, key 1: of another kind"),
        (#"{"keys":[{"kty":"oct","k":"AAAA"}]}"#, "no usable key: key 0: a secret in a document that was fetched"),
        (#"{"keys":[{"kty":"OKP","crv":"X25519","x":"AAAA"}]}"#, "no usable key: key 0: of another curve"),
        (#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AAAA"}]}"#, "no usable key: key 0: no public key"),
        (#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":5}]}"#, "no usable key: key 0: no 'x' that is base64url"),
        (#"{"keys":[{"kty":"EC","crv":"secp256k1","x":"AAAA","y":"AAAA"}]}"#, "no usable key: key 0: of another curve"),
        (#"{"keys":[{"kty":"EC","crv":"P-256","x":"AAAA","y":"AAAA"}]}"#, "no usable key: key 0: no public key"),
        (#"{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"}]}"#, "no usable key: key 0: too weak a key: RSA keys have at least 2048 bits and an odd exponent above 1"),
        (#"{"keys":[{"kty":"RSA","n":"AQ==","e":"AQAB"}]}"#, "no usable key: key 0: no 'n' that is base64url"),
        (#"{"keys":[{"kty":"RSA","n":"AQAB"}]}"#, "no usable key: key 0: no 'e' that is base64url"),
        (Vectors.set(Vectors.p256.replacing("{", with: #"{"use":"enc","#)), "no usable key: key 0: not for signatures"),
        (Vectors.set(Vectors.p256.replacing("{", with: #"{"use":null,"#)), "no usable key: key 0: not for signatures"),
        (Vectors.set(Vectors.p256.replacing("{", with: #"{"key_ops":["sign"],"#)), "no usable key: key 0: not for verifying"),
        (Vectors.set(Vectors.p256.replacing("{", with: #"{"key_ops":"verify","#)), "no usable key: key 0: not for verifying"),
        (Vectors.set(Vectors.p256.replacing("{", with: #"{"kid":7,"#)), "no usable key: key 0: its 'kid' is no string"),
        (Vectors.set(Vectors.p256.replacing("{", with: #"{"alg":"RSA-OAEP","#)), "no usable key: key 0: of another algorithm"),
        (Vectors.set(Vectors.p256.replacing("{", with: #"{"alg":"none","#)), "no usable key: key 0: of another algorithm"),
        (Vectors.set(Vectors.p256.replacing("{", with: #"{"alg":"ES384","#)), "no usable key: key 0: its 'alg' is for another kind of key"),
        (Vectors.set(Vectors.p256.replacing("{", with: #"{"d":"AAAA","#)), "no usable key: key 0: a private key, where the public key belongs"),
        (Vectors.set(Vectors.p256.replacing("{", with: #"{"crv":"P-256","#)), "not JSON: at byte 40: duplicate name"),
    ]

    @Test(arguments: sets)
    func row22DocumentsThatAreNone(_ row: (text: String, problem: String)) {
        let bytes = Array(row.text.utf8)
        do throws(KeyDocument.Problem) {
            let document = try KeyDocument(bytes.span, from: .network)
            Issue.record("taken: \(document.keys.count) keys")
        } catch {
            #expect(error.text == row.problem)
        }
    }

    @Test func row22LargeDocumentsAreRefused() {
        let bytes = Array("{\"keys\":[\(Vectors.p256)],\"x\":\"\(String(repeating: "x", count: KeyDocument.bytesMax))\"}".utf8)
        #expect(throws: KeyDocument.Problem.tooLarge) { try KeyDocument(bytes.span, from: .file) }
    }

    @Test func usableKeysAreTakenBesideOthers() throws {
        let bytes = Array(
            "{\"keys\":[{\"kty\":\"XYZ\"},\(Vectors.p256.replacing("{", with: #"{"use":"sig","key_ops":["verify"],"alg":"ES256","x5u":"http://127.0.0.1:1/","#))]}"
                .utf8)
        let document = try KeyDocument(bytes.span, from: .network)
        #expect(document.keys.count == 1 && document.skipped.map(\.index) == [0])
        #expect(document.keys[0].algorithms == [.es256])
    }

    @Test func row22RotationIsByKeyIdentifier() throws {
        func document(_ key: String, _ identifier: String) throws -> KeyDocument {
            let bytes = Array(Vectors.set(key.replacing("{", with: "{\"kid\":\"\(identifier)\",")).utf8)
            return try KeyDocument(bytes.span, from: .network)
        }
        var keys = TokenKeys()
        keys.add(try document(Vectors.p521, "new"))
        #expect(TokenVerifier(keys: keys).refusal(Vectors.es256) == .invalid(.noKey))
        keys.add(try document(Vectors.p256, "old"))
        #expect(TokenVerifier(keys: keys).payload(Vectors.es256) != nil)
        #expect(TokenVerifier(keys: keys).payload(Vectors.es512) != nil)
    }

    @Test func preparingNeedsNothing() { VerificationKey.prepare() }
}
