// A token in its compact form (RFC 7515 section 7.1), taken apart and not yet believed:
//
//     BASE64URL(header) . BASE64URL(claims) . BASE64URL(signature)
//
// Of the header three members count: `alg`, `kid`, and `crit`, which nothing may have. Others are ignored, above all those that
// name or hold a key (`jku`, `jwk`, `x5u`, `x5c`): where keys come from is for the configuration to say.

public import Crypto
import Memory
import Telemetry

/// A token whose signature is to be checked.
public struct CompactToken: Sendable {
    /// The longest token.
    public static let bytesMax = 16_384
    /// The longest header, encoded: it is read before anything is proven.
    static let headerBytesMax = 4_096

    /// How it says that it was signed.
    public let algorithm: SignatureAlgorithm
    /// Which key it says it was signed with.
    public let keyIdentifier: [UInt8]?
    /// How many bytes of the token are signed, from its beginning.
    let signedCount: Int
    let claims: Range<Int>
    let signature: Range<Int>

    /// Takes the token apart.
    public init(_ text: Span<UInt8>) throws(AuthenticationError) {
        guard text.count <= Self.bytesMax else { throw .invalid(.tooLarge) }
        let dot = UInt8(ascii: ".")
        let first = firstIndex(of: dot, in: text, range: 0..<text.count)
        guard first > 0, first < text.count else { throw .invalid(.form) }
        let second = firstIndex(of: dot, in: text, range: first + 1..<text.count)
        guard second > first + 1, second + 1 < text.count,
            firstIndex(of: dot, in: text, range: second + 1..<text.count) == text.count
        else { throw .invalid(.form) }
        guard first <= Self.headerBytesMax else { throw .invalid(.tooLarge) }
        guard let bytes = Base64URL.decode(text.extracting(0..<first)) else { throw .invalid(.form) }
        guard let header = try? JSONValue.parse(bytes.span), case .object = header else { throw .invalid(.header) }
        // RFC 7515 section 4.1.11: extensions that must be understood. We understand none. `b64` (RFC 7797) changes what is signed.
        guard header["crit"] == nil, header["b64"] == nil else { throw .invalid(.critical) }
        guard let name = header["alg"]?.string, let algorithm = SignatureAlgorithm(exactly: name) else { throw .invalid(.algorithm) }
        if let identifier = header["kid"] {
            guard let text = identifier.string else { throw .invalid(.header) }
            keyIdentifier = [UInt8](text.utf8)
        } else {
            keyIdentifier = nil
        }
        self.algorithm = algorithm
        signedCount = second
        claims = first + 1..<second
        signature = second + 1..<text.count
    }
}

extension SignatureAlgorithm {
    /// The algorithm of that name, byte for byte: Swift's own comparison would take other code points for the same.
    init?(exactly name: String) {
        guard let found = SignatureAlgorithm.allCases.first(where: { $0.rawValue.utf8.elementsEqual(name.utf8) }) else { return nil }
        self = found
    }
}
