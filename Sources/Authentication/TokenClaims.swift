// What a token says (RFC 7519 section 4), read after its signature was found good. Every claim that we know must have its type,
// whether the configuration asks for it or not: a token that says something in a wrong way is refused, never read as one that
// says nothing. `docs/tokens.md` has the table of what becomes of which value.

public import Base
import Telemetry

/// The claims of a token.
public struct TokenClaims: Equatable, Sendable {
    /// Times beyond the year 9999 are errors: milliseconds in place of seconds, or numbers that don't fit.
    static let timeMax: Double = 253_402_300_799

    /// `exp`: the first second in which it is no longer good, rounded down.
    public let expiry: UInt64?
    /// `nbf`: the first second in which it is good, rounded up.
    public let notBefore: UInt64?
    /// `iat`: when it was made, rounded up.
    public let issuedAt: UInt64?
    /// `iss`
    public let issuer: [UInt8]?
    /// `sub`
    public let subject: [UInt8]?
    /// `aud`, of one or several.
    public let audiences: [[UInt8]]?
    /// `piko.endpoints`; nil when it is absent or empty.
    public let endpoints: EndpointPermission?
    /// `piko.limits`; without any when it is absent.
    public let limits: QuotaLimits

    /// Reads the JSON text.
    public init(_ bytes: Span<UInt8>) throws(AuthenticationError) {
        guard let claims = try? JSONValue.parse(bytes), case .object = claims else { throw .invalid(.claims) }
        expiry = try Self.time(claims["exp"], .down)
        notBefore = try Self.time(claims["nbf"], .up)
        issuedAt = try Self.time(claims["iat"], .up)
        issuer = try Self.text(claims["iss"])
        subject = try Self.text(claims["sub"])
        // Nobody asks for this one, but it has a type (RFC 7519 section 4.1.7).
        _ = try Self.text(claims["jti"])
        audiences = try Self.audiences(claims["aud"])
        endpoints = try Self.endpoints(claims["piko"])
        limits = try claims["piko"]?["limits"].map { value throws(AuthenticationError) in try QuotaLimits(claim: value) } ?? QuotaLimits()
    }

    /// The claims of a token that nobody has proven to be good: for whoever holds it and looks for a fault, and for nothing else.
    public static func unproven(of token: Span<UInt8>) throws(AuthenticationError) -> TokenClaims {
        let compact = try CompactToken(token)
        guard let bytes = Base64URL.decode(token.extracting(compact.claims)) else { throw .invalid(.form) }
        return try TokenClaims(bytes.span)
    }

    private static func time(_ value: JSONValue?, _ rule: FloatingPointRoundingRule) throws(AuthenticationError) -> UInt64? {
        switch value {
        case nil: return nil
        case .integer(let seconds)?:
            guard seconds >= 0, Double(seconds) <= timeMax else { throw .invalid(.claimType) }
            return UInt64(seconds)
        case .number(let seconds)?:
            guard seconds >= 0, seconds <= timeMax else { throw .invalid(.claimType) }
            return UInt64(seconds.rounded(rule))
        case .null?, .bool?, .string?, .array?, .object?: throw .invalid(.claimType)
        }
    }

    private static func text(_ value: JSONValue?) throws(AuthenticationError) -> [UInt8]? {
        guard let value else { return nil }
        guard let text = value.string else { throw .invalid(.claimType) }
        return [UInt8](text.utf8)
    }

    private static func texts(_ values: [JSONValue]) throws(AuthenticationError) -> [[UInt8]] {
        var texts: [[UInt8]] = []
        texts.reserveCapacity(values.count)
        for value in values {
            guard let text = value.string else { throw .invalid(.claimType) }
            texts.append([UInt8](text.utf8))
        }
        return texts
    }

    private static func audiences(_ value: JSONValue?) throws(AuthenticationError) -> [[UInt8]]? {
        guard let value else { return nil }
        if let list = value.array { return try texts(list) }
        return try text(value).map { [$0] }
    }

    private static func endpoints(_ value: JSONValue?) throws(AuthenticationError) -> EndpointPermission? {
        guard let value else { return nil }
        guard case .object = value else { throw .invalid(.claimType) }
        guard let list = value["endpoints"] else { return nil }
        guard let names = list.array, let permission = EndpointPermission(names: try texts(names)) else { throw .invalid(.claimType) }
        return names.isEmpty ? nil : permission
    }
}
