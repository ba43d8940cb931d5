// Why somebody is not let in. Clients are told one of a few texts (`docs/tokens.md`), which are those of Piko v0.9; what exactly
// was wrong with a token is for the log of who runs the node, not for who sent the token.

/// Why a request is refused.
public enum AuthenticationError: Error, Equatable, Sendable {
    /// It has no token.
    case missingAuthorization
    /// It has a field for the token with something else in it, or several.
    case invalidAuthorization
    /// It has credentials that are no bearer token.
    case unsupportedType
    /// It has a token that proves nothing.
    case invalid(TokenProblem)
    /// It has a token that was good once.
    case expired
    /// It names no tenant that there is.
    case unknownTenant
    /// It has a good token, for something else.
    case notPermitted

    /// What the client is told, with status 401.
    public var text: StaticString {
        switch self {
        case .missingAuthorization: "missing authorization"
        case .invalidAuthorization: "invalid authorization"
        case .unsupportedType: "unsupported auth type"
        case .invalid: "invalid token"
        case .expired: "expired token"
        case .unknownTenant: "unknown tenant"
        case .notPermitted: "endpoint not permitted"
        }
    }

    /// What the log says: the same, or which problem the token has.
    public var detail: String {
        if case .invalid(let problem) = self { problem.rawValue } else { "\(text)" }
    }
}

/// What is wrong with a token.
public enum TokenProblem: String, Equatable, Sendable, CaseIterable {
    case tooLarge = "token too large"
    case form = "not of the form header.claims.signature"
    case header = "its header is no JSON object that we read"
    case algorithm = "its algorithm is none that we know"
    case critical = "its header asks for an extension"
    case noKey = "no key fits its algorithm and key identifier"
    case needsIdentifier = "it names no key, and too many fit"
    case signature = "its signature is not valid"
    case claims = "its claims are no JSON object"
    case claimType = "a claim has a wrong type or an impossible value"
    case notYet = "its time has not come"
    case issuer = "another issuer"
    case audience = "another audience"
    case noEndpoints = "it names no endpoints"
}
