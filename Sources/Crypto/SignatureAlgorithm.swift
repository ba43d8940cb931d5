// The algorithms that a token may be signed with (RFC 7518 section 3, RFC 8037), and which kinds of keys each of them is for.

/// How a token is signed. `none` is not among them.
public enum SignatureAlgorithm: String, CaseIterable, Sendable {
    case hs256 = "HS256"
    case hs384 = "HS384"
    case hs512 = "HS512"
    case rs256 = "RS256"
    case rs384 = "RS384"
    case rs512 = "RS512"
    case ps256 = "PS256"
    case ps384 = "PS384"
    case ps512 = "PS512"
    case es256 = "ES256"
    case es384 = "ES384"
    case es512 = "ES512"
    case edDSA = "EdDSA"

    /// What is done with key and message.
    enum Family { case hmac, rsa, rsaPSS, ecdsa, edDSA }

    var family: Family {
        switch self {
        case .hs256, .hs384, .hs512: .hmac
        case .rs256, .rs384, .rs512: .rsa
        case .ps256, .ps384, .ps512: .rsaPSS
        case .es256, .es384, .es512: .ecdsa
        case .edDSA: .edDSA
        }
    }

    /// Bits of the digest; 0 where the algorithm has none to choose.
    var digestBits: Int32 {
        switch self {
        case .hs256, .rs256, .ps256, .es256: 256
        case .hs384, .rs384, .ps384, .es384: 384
        case .hs512, .rs512, .ps512, .es512: 512
        case .edDSA: 0
        }
    }

    /// The algorithms of shared secrets.
    public static let hmac: [SignatureAlgorithm] = [.hs256, .hs384, .hs512]
    /// Those of RSA keys, in the older form.
    public static let rsa: [SignatureAlgorithm] = [.rs256, .rs384, .rs512]
    /// Those of RSA keys, in the newer form.
    public static let rsaPSS: [SignatureAlgorithm] = [.ps256, .ps384, .ps512]
}
