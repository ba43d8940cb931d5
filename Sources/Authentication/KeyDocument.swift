// A set of keys as it is published (JWK Set, RFC 7517 section 5, with RFC 7518 section 6 and RFC 8037). A key that can't be used
// here is left out and named in `skipped`, as section 5 asks; a text that is no key set is an error. Nothing in a document is ever
// followed anywhere (`x5u`), and certificates in it (`x5c`) are not looked at.

import Crypto
public import Telemetry

/// The keys of one document.
public struct KeyDocument: Sendable {
    /// The largest document.
    public static let bytesMax = 262_144

    /// Where a document comes from. Secrets are taken from files only: what is fetched is public.
    public enum Source: Sendable { case file, network }

    /// Why a text is no key set.
    public enum Problem: Error, Equatable, Sendable {
        case tooLarge
        case notJSON(JSONError)
        case notAKeySet
        case tooManyKeys
        /// None of its keys can be used; what was wrong with each.
        case noUsableKey([SkippedKey])

        /// For people.
        public var text: String {
            switch self {
            case .tooLarge: "larger than \(KeyDocument.bytesMax) bytes"
            case .notJSON(let error): "not JSON: at byte \(error.offset): \(error.reason)"
            case .notAKeySet: "not a key set: it has no list 'keys' of objects"
            case .tooManyKeys: "more than \(TokenKeys.keysMax) keys"
            case .noUsableKey(let skipped):
                skipped.isEmpty ? "it has no keys" : "no usable key: \(skipped.map(\.text).joined(separator: ", "))"
            }
        }
    }

    /// A key that was left out.
    public struct SkippedKey: Equatable, Sendable {
        /// Its place in the list, from 0.
        public let index: Int
        public let reason: String

        /// For people.
        public var text: String { "key \(index): \(reason)" }
    }

    public let keys: [TokenKey]
    public let skipped: [SkippedKey]

    /// Reads a document.
    public init(_ bytes: Span<UInt8>, from source: Source) throws(Problem) {
        guard bytes.count <= Self.bytesMax else { throw .tooLarge }
        let document: JSONValue
        do throws(JSONError) { document = try JSONValue.parse(bytes) } catch { throw .notJSON(error) }
        guard let list = document["keys"]?.array else { throw .notAKeySet }
        guard list.count <= TokenKeys.keysMax else { throw .tooManyKeys }
        var keys: [TokenKey] = []
        var skipped: [SkippedKey] = []
        for (index, entry) in list.enumerated() {
            guard case .object = entry else { throw .notAKeySet }
            do throws(Skip) {
                keys.append(try Self.key(entry, from: source))
            } catch {
                skipped.append(SkippedKey(index: index, reason: error.reason))
            }
        }
        guard !keys.isEmpty else { throw .noUsableKey(skipped) }
        self.keys = keys
        self.skipped = skipped
    }

    private struct Skip: Error {
        var reason: String
        init(_ reason: String) { self.reason = reason }
    }

    private static func key(_ entry: JSONValue, from source: Source) throws(Skip) -> TokenKey {
        guard let type = entry["kty"]?.string else { throw Skip("no 'kty'") }
        if let use = entry["use"] {
            guard let use = use.string, use.utf8.elementsEqual("sig".utf8) else { throw Skip("not for signatures") }
        }
        if let operations = entry["key_ops"] {
            guard let operations = operations.array,
                operations.contains(where: { $0.string?.utf8.elementsEqual("verify".utf8) ?? false })
            else { throw Skip("not for verifying") }
        }
        var identifier: [UInt8]?
        if let value = entry["kid"] {
            guard let text = value.string else { throw Skip("its 'kid' is no string") }
            identifier = [UInt8](text.utf8)
        }
        var algorithms = SignatureAlgorithm.allCases
        if let value = entry["alg"] {
            guard let name = value.string, let algorithm = SignatureAlgorithm(exactly: name) else { throw Skip("of another algorithm") }
            algorithms = [algorithm]
        }
        let key = TokenKey(try material(entry, type, from: source), identifier: identifier, algorithms: algorithms)
        guard !key.algorithms.isEmpty else { throw Skip("its 'alg' is for another kind of key") }
        return key
    }

    private static func material(_ entry: JSONValue, _ type: String, from source: Source) throws(Skip) -> VerificationKey {
        switch Array(type.utf8) {
        case Array("oct".utf8):
            guard source == .file else { throw Skip("a secret in a document that was fetched") }
            let secret = try number(entry, "k")
            return try made { () throws(KeyError) in try VerificationKey(secret: secret) }
        case Array("RSA".utf8):
            try refusePrivate(entry)
            let (modulus, exponent) = (try number(entry, "n"), try number(entry, "e"))
            return try made { () throws(KeyError) in try VerificationKey(modulus: modulus, exponent: exponent) }
        case Array("EC".utf8):
            try refusePrivate(entry)
            let kind: VerificationKey.Kind
            switch entry["crv"]?.string.map({ Array($0.utf8) }) {
            case Array("P-256".utf8): kind = .p256
            case Array("P-384".utf8): kind = .p384
            case Array("P-521".utf8): kind = .p521
            default: throw Skip("of another curve")
            }
            let (x, y) = (try number(entry, "x"), try number(entry, "y"))
            return try made { () throws(KeyError) in try VerificationKey(kind, x: x, y: y) }
        case Array("OKP".utf8):
            try refusePrivate(entry)
            guard entry["crv"]?.string.map({ Array($0.utf8) }) == Array("Ed25519".utf8) else { throw Skip("of another curve") }
            let x = try number(entry, "x")
            return try made { () throws(KeyError) in try VerificationKey(ed25519: x) }
        default: throw Skip("of another kind")
        }
    }

    private static func made(_ make: () throws(KeyError) -> VerificationKey) throws(Skip) -> VerificationKey {
        do throws(KeyError) { return try make() } catch { throw Skip(error.text) }
    }

    /// A private key that is published is anybody's.
    private static func refusePrivate(_ entry: JSONValue) throws(Skip) {
        guard entry["d"] == nil else { throw Skip(KeyError.isPrivate.text) }
    }

    /// The bytes of a member in base64url.
    private static func number(_ entry: JSONValue, _ name: String) throws(Skip) -> [UInt8] {
        guard let text = entry[name]?.string, let bytes = Base64URL.decode(text.utf8Span.span), !bytes.isEmpty else {
            throw Skip("no '\(name)' that is base64url")
        }
        return bytes
    }
}
