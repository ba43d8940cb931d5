// Fuzz driver of tokens and of key documents. The tests of Authentication compile this file too (by a symbolic link) and replay the
// corpus through `TokenFuzz`.
//
// Input: a byte of what it is, then the text. 0: a token, as it comes. 1: header and claims, divided by a zero byte, which are signed
// here with the secret of the port, so that claims are reached. 2: a key document, from the network and from a file. 3: the value of
// an authorization field. Any bytes give a verdict, the same one twice; nothing unsigned is ever good, and what is good keeps to what
// the claims can say.

import Crypto

@testable import Authentication

enum TokenFuzz {
    private static let secret = Array("the secret of the port, unknown to the fuzzer".utf8)
    private static let now: UInt64 = 1_893_456_000

    /// What went wrong with this input; nil when nothing did.
    static func failure(of input: [UInt8]) -> String? {
        guard let kind = input.first else { return nil }
        let text = Array(input.dropFirst())
        return switch kind & 3 {
        case 0: failureOfToken(text, isSigned: false)
        case 1: failureOfToken(signed(text), isSigned: true)
        case 2: failureOfDocument(text)
        default: failureOfField(text)
        }
    }

    private static func failureOfToken(_ text: [UInt8], isSigned: Bool) -> String? {
        var keys = TokenKeys()
        guard (try? keys.add(secret: secret)) != nil else { return "the secret is none" }
        let verifier = TokenVerifier(keys: keys)
        let verdict = verdict(verifier, text)
        guard verdict == self.verdict(verifier, text) else { return "twice, it is not the same" }
        guard case .success(let permission) = verdict else { return nil }
        if !isSigned { return "a token that nobody signed" }
        if permission.hasExpired(at: now) { return "a token whose time is over" }
        // With one bit of the signature changed it is none.
        var changed = text
        changed[changed.count - 2] = changed[changed.count - 2] == UInt8(ascii: "A") ? UInt8(ascii: "B") : UInt8(ascii: "A")
        if case .success = self.verdict(verifier, changed) { return "a changed signature" }
        // And it names endpoints, or a port that requires it refuses it.
        var policy = TokenPolicy()
        policy.requiresEndpoints = true
        if case .success = self.verdict(TokenVerifier(keys: keys, policy: policy), text), permission.endpoints.isUnlimited {
            return "a token without endpoints where they are required"
        }
        return nil
    }

    private static func verdict(_ verifier: TokenVerifier, _ text: [UInt8]) -> Result<TokenPermission, AuthenticationError> {
        do throws(AuthenticationError) { return .success(try verifier.verify(text.span, now: now)) } catch { return .failure(error) }
    }

    private static func failureOfDocument(_ text: [UInt8]) -> String? {
        let fetched = try? KeyDocument(text.span, from: .network)
        let read = try? KeyDocument(text.span, from: .file)
        if let fetched {
            guard let read, read.keys.count >= fetched.keys.count else { return "a file has fewer keys" }
            if fetched.keys.contains(where: { $0.key.kind == .secret }) { return "a secret that was fetched" }
        }
        guard let read else { return nil }
        if read.keys.isEmpty || read.keys.count + read.skipped.count > TokenKeys.keysMax { return "\(read.keys.count) keys" }
        for key in read.keys where key.algorithms.isEmpty || !key.algorithms.allSatisfy(key.key.serves) { return "a key for another algorithm" }
        return nil
    }

    private static func failureOfField(_ value: [UInt8]) -> String? {
        guard let range = try? BearerToken.token(in: value.span) else { return nil }
        guard !range.isEmpty, range.lowerBound > 6, range.upperBound <= value.count else { return "a token outside of the field" }
        return value[range].contains(0x20) ? "a token with a space in it" : nil
    }

    private static func signed(_ text: [UInt8]) -> [UInt8] {
        let parts = text.split(separator: 0, maxSplits: 1, omittingEmptySubsequences: false)
        var message = encoded(parts[0])
        message.append(UInt8(ascii: "."))
        message += encoded(parts.count > 1 ? parts[1] : [])
        return message + [UInt8(ascii: ".")] + encoded(MessageAuthentication(key: secret).code(for: message.span)[...])
    }

    private static func encoded(_ bytes: ArraySlice<UInt8>) -> [UInt8] {
        let alphabet = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_".utf8)
        var text: [UInt8] = []
        var bits: UInt32 = 0
        var count: UInt32 = 0
        for byte in bytes {
            bits = bits << 8 | UInt32(byte)
            count += 8
            while count >= 6 {
                count -= 6
                text.append(alphabet[Int(bits >> count & 63)])
            }
        }
        if count > 0 { text.append(alphabet[Int(bits << (6 - count) & 63)]) }
        return text
    }
}

#if FUZZING
    @_cdecl("LLVMFuzzerTestOneInput")
    public func fuzzToken(_ bytes: UnsafePointer<UInt8>, _ count: Int) -> Int32 {
        if let failure = TokenFuzz.failure(of: Array(UnsafeBufferPointer(start: bytes, count: count))) { fatalError(failure) }
        return 0
    }
#endif
