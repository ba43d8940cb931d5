// The whole check of a token: form, key, signature, claims, in this order, so that nothing but the header is read before the
// signature was found good. The time comes in, the permission comes out; no clock and no socket.

public import Base
import Crypto

/// What the configuration of a port asks of tokens.
public struct TokenPolicy: Equatable, Sendable {
    /// One of `aud` must be this; nil: not looked at.
    public var audience: [UInt8]?
    /// `iss` must be this; nil: not looked at.
    public var issuer: [UInt8]?
    /// A token that names no endpoints is for none, and not for all.
    public var requiresEndpoints = false
    /// Which port it is, so that what a subject uses of one is not taken for its use of another.
    public var port: UInt8 = 0
    /// What subjects of quotas are told apart with; secret.
    public var subjectKey: [UInt8] = []
    /// The tenant whose keys they are; empty: none.
    public var tenant: [UInt8] = []

    public init() {}
}

/// What a good token permits, and how long.
public struct TokenPermission: Equatable, Sendable {
    /// When it ends: seconds since 1970; nil: never.
    public var expiry: UInt64?
    public var endpoints: EndpointPermission
    /// The tenant whose keys it was checked with; empty: none.
    public var tenant: [UInt8]
    /// What each use of it draws from, and how much that may be; at most `Quota.countMax`. Most tokens have none.
    public var quotas: [Quota] = []

    public init(expiry: UInt64?, endpoints: EndpointPermission, tenant: [UInt8] = []) {
        self.expiry = expiry
        self.endpoints = endpoints
        self.tenant = tenant
    }

    /// Whether its time is over.
    public func hasExpired(at now: UInt64) -> Bool { expiry.map { $0 <= now } ?? false }
}

/// Checks tokens.
public struct TokenVerifier: Sendable {
    /// How far ahead the clock of who made a token may be, for `iat` alone: it is no limit of the token's life.
    public static let issuedAheadMax: UInt64 = 10

    public var keys: TokenKeys
    public var policy: TokenPolicy

    public init(keys: TokenKeys, policy: TokenPolicy = TokenPolicy()) {
        self.keys = keys
        self.policy = policy
    }

    /// What the token permits. `now`: seconds since 1970.
    public func verify(_ text: Span<UInt8>, now: UInt64) throws(AuthenticationError) -> TokenPermission {
        let bytes = try signedBytes(of: text)
        let claims = try TokenClaims(bytes.span)
        if let notBefore = claims.notBefore, now < notBefore { throw .invalid(.notYet) }
        if let issuedAt = claims.issuedAt, now + Self.issuedAheadMax < issuedAt { throw .invalid(.notYet) }
        if let issuer = policy.issuer, claims.issuer != issuer { throw .invalid(.issuer) }
        if let audience = policy.audience, !(claims.audiences ?? []).contains(audience) { throw .invalid(.audience) }
        guard claims.endpoints != nil || !policy.requiresEndpoints else { throw .invalid(.noEndpoints) }
        var permission = TokenPermission(expiry: claims.expiry, endpoints: claims.endpoints ?? .any, tenant: policy.tenant)
        guard !permission.hasExpired(at: now) else { throw .expired }
        permission.quotas = try quotas(claims, of: text, tenant: permission.tenant)
        return permission
    }

    /// What the token's limits are counted for.
    private func quotas(_ claims: TokenClaims, of text: Span<UInt8>, tenant: [UInt8]) throws(AuthenticationError) -> [Quota] {
        guard !claims.limits.isNone else { return [] }
        let subjects = TokenSubject(key: policy.subjectKey)
        guard let subject = claims.subject else {
            let signed = text.extracting(0..<(try CompactToken(text).signedCount))
            return [Quota(subject: subjects.token(signed, tenant: tenant, port: policy.port), limits: claims.limits)]
        }
        let named = subjects.named(subject, issuer: claims.issuer, tenant: tenant, port: policy.port)
        return [Quota(subject: named, limits: claims.limits)]
    }

    /// What was signed, decoded, when the signature is that of one of the keys.
    func signedBytes(of text: Span<UInt8>) throws(AuthenticationError) -> [UInt8] {
        let token = try CompactToken(text)
        let candidates = try keys.candidates(for: token)
        guard let signature = Base64URL.decode(text.extracting(token.signature)) else { throw .invalid(.form) }
        guard Self.isSigned(text.extracting(0..<token.signedCount), signature, by: token.algorithm, candidates) else {
            throw .invalid(.signature)
        }
        guard let bytes = Base64URL.decode(text.extracting(token.claims)) else { throw .invalid(.form) }
        return bytes
    }

    private static func isSigned(
        _ message: Span<UInt8>, _ signature: [UInt8], by algorithm: SignatureAlgorithm, _ candidates: [TokenKey]
    ) -> Bool {
        for candidate in candidates where candidate.key.isValid(signature, by: algorithm, for: message) { return true }
        return false
    }
}
