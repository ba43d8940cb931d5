// Fuzz driver of keys: those of documents, and those in PEM. The tests of Authentication compile this file too (by a symbolic link)
// and replay the corpus through `KeySetFuzz`.
//
// Input: a byte of what it is, then the bytes. 0: a document as it comes. 1: the material of a key, which is put into a document here:
// a byte of its kind, one of how long its first part is, then the parts. 2: PEM. 3: a document, a zero byte, and a token that is
// checked with its keys. A document from a file has all keys that it has from the network, in the same order, and secrets besides;
// each entry of the list is a key or named as left out; no key takes a signature that nobody made, and none is asked twice and says
// another thing.

import Crypto
import Telemetry

@testable import Authentication

enum KeySetFuzz {
    /// What went wrong with this input; nil when nothing did.
    static func failure(of input: [UInt8]) -> String? {
        guard let kind = input.first else { return nil }
        let rest = Array(input.dropFirst())
        switch kind & 3 {
        case 0: return failureOfDocument(rest)
        case 1: return failureOfDocument(document(rest))
        case 2: return failureOfPEM(rest)
        default:
            let parts = rest.split(separator: 0, maxSplits: 1, omittingEmptySubsequences: false)
            return failureOfToken(Array(parts[0]), Array(parts.count > 1 ? parts[1] : []))
        }
    }

    // MARK: Documents

    private static func failureOfDocument(_ text: [UInt8]) -> String? {
        let read = result(text, from: .file)
        let fetched = result(text, from: .network)
        switch (read, fetched) {
        case (.success(let read), .success(let fetched)):
            return failure(of: read, text) ?? failure(of: fetched, text) ?? difference(read, fetched)
        case (.success(let read), .failure(.noUsableKey(let skipped))):
            if read.keys.contains(where: { $0.key.kind != .secret }) { return "a public key that is taken from files alone" }
            return skipped.count == read.keys.count + read.skipped.count ? failure(of: read, text) : "\(skipped.count) left out when fetched"
        case (.failure(let one), .failure(let other)): return failure(of: one, other)
        default: return "from a file \(read), fetched \(fetched)"
        }
    }

    private static func result(_ text: [UInt8], from source: KeyDocument.Source) -> Result<KeyDocument, KeyDocument.Problem> {
        do throws(KeyDocument.Problem) { return .success(try KeyDocument(text.span, from: source)) } catch { return .failure(error) }
    }

    /// The same is wrong with it wherever it comes from, but for what is wrong with its secrets.
    private static func failure(of one: KeyDocument.Problem, _ other: KeyDocument.Problem) -> String? {
        if one.text.isEmpty || other.text.isEmpty { return "no word why" }
        if case .noUsableKey(let some) = one, case .noUsableKey(let others) = other {
            return some.map(\.index) == others.map(\.index) ? nil : "others are left out"
        }
        return one == other ? nil : "\(one), and \(other)"
    }

    private static func failure(of document: KeyDocument, _ text: [UInt8]) -> String? {
        let count = (try? JSONValue.parse(text.span))?["keys"]?.array?.count ?? 0
        let places = document.skipped.map(\.index)
        if document.keys.count + places.count != count || count > TokenKeys.keysMax { return "\(document.keys.count) of \(count) keys" }
        if places != Set(places).sorted() || places.contains(where: { !(0..<count).contains($0) }) { return "left out at \(places)" }
        if document.skipped.contains(where: \.reason.isEmpty) { return "left out, and no word why" }
        return document.keys.lazy.compactMap(failure(of:)).first
    }

    private static func difference(_ read: KeyDocument, _ fetched: KeyDocument) -> String? {
        if fetched.keys.contains(where: { $0.key.kind == .secret }) { return "a secret that was fetched" }
        let open = read.keys.filter { $0.key.kind != .secret }
        let isSame = open.elementsEqual(fetched.keys) {
            $0.key.kind == $1.key.kind && $0.identifier == $1.identifier && $0.algorithms == $1.algorithms
        }
        return isSame ? nil : "from a file it has other keys"
    }

    private static func failure(of key: TokenKey) -> String? {
        if key.algorithms.isEmpty || !key.algorithms.allSatisfy(key.key.serves) { return "a key for another algorithm" }
        return failure(of: key.key)
    }

    /// Signatures that nobody made, of every length that counts.
    private static func failure(of key: VerificationKey) -> String? {
        let message = Array("a message that nobody signed".utf8)
        let lengths = [1, 32, 64, 96, 132, 256]
        for algorithm in SignatureAlgorithm.allCases {
            for length in key.serves(algorithm) ? lengths : [64] {
                let signature = [UInt8](repeating: 0x5a, count: length)
                if key.isValid(signature, by: algorithm, for: message.span) { return "\(algorithm): a signature of nobody" }
            }
        }
        return nil
    }

    /// A document with one key of this material.
    private static func document(_ material: [UInt8]) -> [UInt8] {
        guard material.count >= 2 else { return material }
        let parts = Array(material.dropFirst(2))
        // Moduli have more bytes than a byte counts.
        let cut = min(parts.count, Int(material[1]) << (material[0] % 7 == 1 ? 2 : 0))
        let (one, other) = (encoded(parts[..<cut]), encoded(parts[cut...]))
        let members =
            switch material[0] % 7 {
            case 0: #""kty":"oct","k":"\#(one)""#
            case 1: #""kty":"RSA","n":"\#(one)","e":"\#(other)""#
            case 2: #""kty":"EC","crv":"P-256","x":"\#(one)","y":"\#(other)""#
            case 3: #""kty":"EC","crv":"P-384","x":"\#(one)","y":"\#(other)""#
            case 4: #""kty":"EC","crv":"P-521","x":"\#(one)","y":"\#(other)""#
            case 5: #""kty":"OKP","crv":"Ed25519","x":"\#(one)""#
            default: #""kty":"EC","crv":"P-256","x":"\#(one)","y":"\#(other)","alg":"ES384""#
            }
        return Array("{\"keys\":[{\(members)}]}".utf8)
    }

    private static func encoded(_ bytes: ArraySlice<UInt8>) -> String {
        let alphabet = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_".utf8)
        var text: [UInt8] = []
        var (bits, count): (UInt32, UInt32) = (0, 0)
        for byte in bytes {
            bits = bits << 8 | UInt32(byte)
            count += 8
            while count >= 6 {
                count -= 6
                text.append(alphabet[Int(bits >> count & 63)])
            }
        }
        if count > 0 { text.append(alphabet[Int(bits << (6 - count) & 63)]) }
        return String(decoding: text, as: UTF8.self)
    }

    // MARK: PEM, and tokens

    private static func failureOfPEM(_ text: [UInt8]) -> String? {
        let first = key(text)
        guard case .success(let key) = first else {
            if case .failure(let error) = first, error.text.isEmpty { return "no word why" }
            return nil
        }
        if key.kind == .secret { return "a secret in PEM" }
        guard case .success(let again) = self.key(text), again.kind == key.kind else { return "twice, it is not the same" }
        var keys = TokenKeys()
        let isRSA = (try? keys.add(rsaPEM: text)) != nil
        let isECDSA = (try? keys.add(ecdsaPEM: text)) != nil
        if isRSA != (key.kind == .rsa) || isRSA && isECDSA || keys.count > 1 { return "taken for another kind" }
        return failure(of: key)
    }

    private static func key(_ text: [UInt8]) -> Result<VerificationKey, KeyError> {
        do throws(KeyError) { return .success(try VerificationKey(pem: text)) } catch { return .failure(error) }
    }

    private static func failureOfToken(_ document: [UInt8], _ token: [UInt8]) -> String? {
        guard let document = try? KeyDocument(document.span, from: .network) else { return nil }
        var keys = TokenKeys()
        keys.add(document)
        let verifier = TokenVerifier(keys: keys)
        let verdict = verdict(verifier, token)
        return verdict == self.verdict(verifier, token) ? nil : "twice, it is not the same"
    }

    private static func verdict(_ verifier: TokenVerifier, _ text: [UInt8]) -> Result<TokenPermission, AuthenticationError> {
        do throws(AuthenticationError) { return .success(try verifier.verify(text.span, now: 1_893_456_000)) } catch { return .failure(error) }
    }
}

#if FUZZING
    @_cdecl("LLVMFuzzerTestOneInput")
    public func fuzzKeySet(_ bytes: UnsafePointer<UInt8>, _ count: Int) -> Int32 {
        if let failure = KeySetFuzz.failure(of: Array(UnsafeBufferPointer(start: bytes, count: count))) { fatalError(failure) }
        return 0
    }
#endif
