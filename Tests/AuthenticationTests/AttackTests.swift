// The attacks of docs/tokens.md on the form, the keys and the signature of a token; each test has its number in its name.

import Crypto
import Testing

@testable import Authentication

@Suite struct AttackTests {
    @Test(arguments: ["none", "None", "NONE", "NoNe", "nonE", "", "HS256 ", "hs256", "HS257", "ES256K", "Ed25519"])
    func row19AlgorithmNone(_ name: String) throws {
        let verifier = try verifier()
        for signature in ["", "AA", encoded([UInt8](repeating: 0, count: 32))] {
            let token = "\(encoded("{\"alg\":\"\(name)\"}".utf8)).\(encoded("{}".utf8)).\(signature)"
            #expect(verifier.refusal(token) == .invalid(signature.isEmpty ? .form : .algorithm))
        }
    }

    @Test(arguments: ["{}", #"{"alg":null}"#, #"{"alg":["HS256"]}"#, #"{"alg":1}"#, #"{"alg":{"a":1}}"#, #"{"alg":true}"#])
    func row19NoAlgorithm(_ header: String) throws {
        #expect(try verifier().refusal(signed(header: header, "{}")) == .invalid(.algorithm))
    }

    @Test func row19EmptyAndShortSignatures() throws {
        let verifier = try verifier()
        let token = signed("{}")
        #expect(verifier.refusal(token) == nil)
        let parts = token.split(separator: ".")
        #expect(verifier.refusal("\(parts[0]).\(parts[1]).") == .invalid(.form))
        for count in 1..<43 { #expect(verifier.refusal(String(token.dropLast(count))) != nil) }
        // The whole code and more.
        #expect(verifier.refusal(token + "AAAA") != nil)
    }

    @Test func row20PublicKeysAreNoSecrets() throws {
        var keys = TokenKeys()
        try keys.add(rsaPEM: Array(Keys.rsaPEM.utf8))
        try keys.add(ecdsaPEM: Array(Keys.p256PEM.utf8))
        let verifier = TokenVerifier(keys: keys)
        for pem in [Keys.rsaPEM, Keys.p256PEM] {
            var forms = [pem, String(pem.dropLast()), pem.split(separator: "\n").dropFirst().dropLast().joined()]
            forms.append(pem.replacing("\n", with: "\r\n"))
            for form in forms {
                #expect(verifier.refusal(signed("{}", secret: Array(form.utf8))) == .invalid(.noKey))
            }
        }
        let published = try self.published()
        #expect(published.refusal(signed("{}", secret: Array(Vectors.rsa.utf8))) == .invalid(.noKey))
        // A key with `alg` of another kind is no key at all.
        let confused = Vectors.rsa.replacing(#"{"kty""#, with: #"{"alg":"HS256","kty""#)
        #expect(throws: KeyDocument.Problem.self) { try document(Vectors.set(confused)) }
    }

    private func published() throws -> TokenVerifier {
        try verifier(jwks: "{\"keys\":[\(Vectors.rsa),\(Vectors.p256),\(Vectors.p521),\(Vectors.ed25519)]}")
    }

    private func document(_ text: String) throws -> KeyDocument {
        let bytes = Array(text.utf8)
        return try KeyDocument(bytes.span, from: .file)
    }

    @Test func row21SignaturesOfNothing() throws {
        let verifier = try published()
        for (name, size) in [("ES256", 32), ("ES512", 66)] {
            let zero = [UInt8](repeating: 0, count: size)
            let one = [UInt8](repeating: 0, count: size - 1) + [1]
            let most = [UInt8](repeating: 0xff, count: size)
            for r in [zero, one, most] {
                for s in [zero, one, most] {
                    let token = "\(encoded("{\"alg\":\"\(name)\"}".utf8)).\(Vectors.joe).\(encoded(r + s))"
                    #expect(verifier.refusal(token) == .invalid(.signature))
                }
            }
        }
        let zeros = encoded([UInt8](repeating: 0, count: 64))
        #expect(verifier.refusal("\(encoded(#"{"alg":"EdDSA"}"#.utf8)).\(Vectors.joe).\(zeros)") == .invalid(.signature))
        for name in ["RS256", "PS256"] {
            for byte: UInt8 in [0, 1] {
                let signature = encoded([UInt8](repeating: 0, count: 255) + [byte])
                #expect(verifier.refusal("\(encoded("{\"alg\":\"\(name)\"}".utf8)).\(Vectors.joe).\(signature)") == .invalid(.signature))
            }
        }
    }

    @Test func row21LengthsAreExact() throws {
        let verifier = try published()
        let parts = Vectors.es256.split(separator: ".").map(String.init)
        let text = Array(parts[2].utf8)
        let decoded = Base64URL.decode(text.span)
        let signature = try #require(decoded)
        for changed in [signature.dropLast() + [], signature + [0], [0] + signature, signature[..<32] + [0] + signature[32...]] {
            #expect(verifier.payload("\(parts[0]).\(parts[1]).\(encoded(changed))") == nil)
        }
        // The DER form of the same numbers (r and s begin with a byte below and above 0x80).
        let der = [0x30, 0x45, 0x02, 0x20] + signature[..<32] + [0x02, 0x21, 0x00] + signature[32...]
        #expect(verifier.payload("\(parts[0]).\(parts[1]).\(encoded(der))") == nil)
        #expect(verifier.payload(Vectors.es256) != nil)
    }

    @Test func row21KeysServeTheirAlgorithmsOnly() throws {
        let verifier = try published()
        for (token, own) in [(Vectors.rs256, "RS256"), (Vectors.es256, "ES256"), (Vectors.es512, "ES512"), (Vectors.edDSA, "EdDSA")] {
            let parts = token.split(separator: ".")
            for algorithm in SignatureAlgorithm.allCases {
                let changed = "\(encoded("{\"alg\":\"\(algorithm.rawValue)\"}".utf8)).\(parts[1]).\(parts[2])"
                #expect((verifier.payload(changed) != nil) == (algorithm.rawValue == own), "\(own) as \(algorithm)")
            }
        }
        // A configured RSA key serves RS256 and its like, and not PS256.
        var keys = TokenKeys()
        try keys.add(rsaPEM: Array(Keys.rsaPEM.utf8))
        let token = "\(encoded(#"{"alg":"PS256"}"#.utf8)).\(Vectors.joe).\(encoded([UInt8](repeating: 1, count: 256)))"
        #expect(TokenVerifier(keys: keys).refusal(token) == .invalid(.noKey))
    }

    @Test func row21CurvesMustFit() throws {
        // The point of P-256 is none of P-384, and one that is not on its curve is no key.
        for (from, to) in [("P-256", "P-384"), ("P-256", "P-521"), ("P-256", "secp256k1"), ("f83O", "f83P")] {
            #expect(throws: KeyDocument.Problem.self) { try document(Vectors.set(Vectors.p256.replacing(from, with: to))) }
        }
        #expect(throws: KeyError.unsupported) {
            var keys = TokenKeys()
            try keys.add(ecdsaPEM: Array(Keys.rsaPEM.utf8))
        }
        #expect(throws: KeyError.unsupported) {
            var keys = TokenKeys()
            try keys.add(rsaPEM: Array(Keys.p256PEM.utf8))
        }
    }

    @Test(arguments: [
        "../../../../etc/passwd", "' OR '1'='1", "http://127.0.0.1:1/", "\\u0000", "two\\u0000", "Two", "tw\\u006f ", "",
    ])
    func row22KeyIdentifiersAreOnlyCompared(_ identifier: String) throws {
        let key = Vectors.secret.replacing("{", with: #"{"kid":"two","#)
        let verifier = try verifier(jwks: Vectors.set(key), from: .file)
        let parts = Vectors.hs256.split(separator: ".")
        let text = Array(Vectors.secret.split(separator: "\"")[7].utf8)
        let decoded = Base64URL.decode(text.span)
        let secret = try #require(decoded)
        #expect(parts.count == 3)
        #expect(verifier.refusal(signed(header: #"{"alg":"HS256","kid":"two"}"#, "{}", secret: secret)) == nil)
        #expect(verifier.refusal(signed(header: #"{"alg":"HS256","kid":"tw\u006f"}"#, "{}", secret: secret)) == nil)
        #expect(verifier.refusal(signed(header: "{\"alg\":\"HS256\",\"kid\":\"\(identifier)\"}", "{}", secret: secret)) == .invalid(.noKey))
    }

    @Test func row22KeyIdentifierOfAMegabyte() throws {
        let token = signed(header: "{\"alg\":\"HS256\",\"kid\":\"\(String(repeating: "k", count: 1_000_000))\"}", "{}")
        #expect(try verifier().refusal(token) == .invalid(.tooLarge))
        let shorter = signed(header: "{\"alg\":\"HS256\",\"kid\":\"\(String(repeating: "k", count: 8_000))\"}", "{}")
        #expect(try verifier().refusal(shorter) == .invalid(.tooLarge))
    }

    @Test(arguments: ["null", "1", "[\"two\"]", "{}", "true"])
    func row22KeyIdentifiersAreTexts(_ identifier: String) throws {
        #expect(try verifier().refusal(signed(header: "{\"alg\":\"HS256\",\"kid\":\(identifier)}", "{}")) == .invalid(.header))
    }

    @Test func row22ManyKeysAndNoIdentifier() throws {
        func documentOf(_ count: Int) -> String {
            "{\"keys\":[\((0..<count).map { "{\"kid\":\"\($0)\",\(Vectors.p256.dropFirst())" }.joined(separator: ","))]}"
        }
        #expect(throws: KeyDocument.Problem.tooManyKeys) { try document(documentOf(1_000)) }
        let most = try verifier(jwks: documentOf(100))
        #expect(most.refusal(Vectors.es256) == .invalid(.needsIdentifier))
        #expect(try verifier(jwks: documentOf(16)).payload(Vectors.es256) == Vectors.joeText)
        #expect(try verifier(jwks: documentOf(17)).payload(Vectors.es256) == nil)
    }

    @Test func row22KeysInTheHeaderAreIgnored() throws {
        let secret = encoded(Array("the attacker's own secret, of 32 bytes".utf8))
        let header =
            #"{"alg":"HS256","jku":"http://127.0.0.1:1/k","x5u":"http://127.0.0.1:1/c","jwk":{"kty":"oct","k":""#
            + secret + #""},"x5c":["AAAA"]}"#
        let verifier = try verifier()
        #expect(verifier.refusal(signed(header: header, "{}", secret: Array("the attacker's own secret, of 32 bytes".utf8))) == .invalid(.signature))
        #expect(verifier.refusal(signed(header: header, "{}")) == nil)
    }

    @Test(arguments: [#""crit":["exp"]"#, #""crit":[]"#, #""crit":null"#, #""crit":"x""#, #""b64":false"#, #""b64":false,"crit":["b64"]"#])
    func row22ExtensionsAreRefused(_ member: String) throws {
        #expect(try verifier().refusal(signed(header: "{\"alg\":\"HS256\",\(member)}", "{}")) == .invalid(.critical))
    }

    @Test func row24DotsAndGiants() throws {
        let verifier = try verifier()
        #expect(verifier.refusal(String(repeating: ".", count: 1_000_000)) == .invalid(.tooLarge))
        for count in [0, 1, 2, 3, 4, 100, 16_384] { #expect(verifier.refusal(String(repeating: ".", count: count)) == .invalid(.form)) }
        for token in ["a", "a.b", "a.b.c.d", ".a.b", "a..b", "a.b.", "A.A.A", "a b.c.d", "AA==.AA.AA"] {
            #expect(verifier.refusal(token) == .invalid(.form), "\(token)")
        }
        let large = signed("{\"sub\":\"\(String(repeating: "s", count: 12_000))\"}")
        #expect(large.utf8.count < 16_384 && verifier.refusal(large) == nil)
        #expect(verifier.refusal(signed("{\"sub\":\"\(String(repeating: "s", count: 13_000))\"}")) == .invalid(.tooLarge))
    }

    @Test(arguments: [
        "", "x", "[]", "null", "\"HS256\"", "{", #"{"alg":"HS256"}x"#, #"{"alg":"HS256","alg":"HS256"}"#, #"{"alg":"none","alg":"HS256"}"#,
        #"{"alg":"HS256","x":NaN}"#, #"{"alg":"HS256",}"#, #"{'alg':'HS256'}"#, "\u{feff}{\"alg\":\"HS256\"}", #"{"alg":"HS256","x":1e999}"#,
        "{\"alg\":\"HS256\",\"x\":\(String(repeating: "[", count: 40))\(String(repeating: "]", count: 40))}",
    ])
    func row24HeadersThatAreNone(_ header: String) throws {
        #expect(try verifier().refusal(signed(header: header, "{}")) == .invalid(header.isEmpty ? .form : .header))
    }

    @Test func base64HasOneForm() throws {
        let verifier = try verifier()
        let token = signed(#"{"sub":"xx"}"#)
        #expect(verifier.refusal(token) == nil)
        for changed in [token + "=", token + "\n", " " + token, token.replacing(".", with: "=."), token + " "] {
            #expect(verifier.refusal(changed) != nil, "\(changed)")
        }
        // 32 bytes leave two bits in the last letter: with them set it would decode to the same bytes.
        let last = try #require(token.last)
        let alphabet = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
        let at = try #require(alphabet.firstIndex(of: last))
        for bits in 1...3 { #expect(verifier.refusal(String(token.dropLast()) + String(alphabet[at + bits])) == .invalid(.form)) }
        for text in ["A", "AAAAA", "AB", "AAB", "A=", "AA==", "+A", "/A", "A A", "é"] {
            let bytes = Array(text.utf8)
            let decoded = Base64URL.decode(bytes.span)
            #expect(decoded == nil, "\(text)")
        }
    }
}
