// A tool for Tests/AuthenticationTests/compare_pyjwt: says what we make of tokens, so that another implementation can be asked the
// same. One JSON object a line on standard input:
//
//     {"now": SECONDS, "token": TEXT, "secret": HEX?, "rsa": PEM?, "ecdsa": PEM?, "jwks": TEXT?, "audience": TEXT?, "issuer": TEXT?,
//      "require_endpoints": BOOL?, "endpoint": TEXT?}
//
// For each one line: `good EXPIRY` (`-` when it has none), or `bad WHY`.
import Authentication
import Telemetry

@main
enum TokenVerdictsMain {
    static func main() {
        while let line = readLine() { print(answer(to: line)) }
    }

    static func answer(to line: String) -> String {
        guard let question = try? JSONValue.parse(line.utf8Span.span), let now = question["now"]?.integer,
            let token = question["token"]?.string
        else { return "bad question" }
        do {
            var verifier = TokenVerifier(keys: try keys(question))
            verifier.policy.audience = question["audience"]?.string.map { Array($0.utf8) }
            verifier.policy.issuer = question["issuer"]?.string.map { Array($0.utf8) }
            verifier.policy.requiresEndpoints = question["require_endpoints"] == .bool(true)
            let permission = try verifier.verify(token.utf8Span.span, now: UInt64(now))
            if let endpoint = question["endpoint"]?.string, !permission.endpoints.permits(Array(endpoint.utf8)) {
                throw AuthenticationError.notPermitted
            }
            return "good \(permission.expiry.map(String.init) ?? "-")"
        } catch let error as AuthenticationError {
            return "bad \(error.detail)"
        } catch {
            return "bad keys: \(error)"
        }
    }

    static func keys(_ question: JSONValue) throws -> TokenKeys {
        var keys = TokenKeys()
        if let secret = question["secret"]?.string { try keys.add(secret: bytes(ofHexadecimal: secret)) }
        if let pem = question["rsa"]?.string { try keys.add(rsaPEM: Array(pem.utf8)) }
        if let pem = question["ecdsa"]?.string { try keys.add(ecdsaPEM: Array(pem.utf8)) }
        if let text = question["jwks"]?.string { keys.add(try KeyDocument(text.utf8Span.span, from: .file)) }
        return keys
    }

    static func bytes(ofHexadecimal text: String) -> [UInt8] {
        let digits = Array(text.utf8)
        return stride(from: 0, to: digits.count - 1, by: 2).compactMap { UInt8(String(decoding: digits[$0..<$0 + 2], as: UTF8.self), radix: 16) }
    }
}
