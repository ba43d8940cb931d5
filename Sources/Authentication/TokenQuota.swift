// What a token says of how much its bearer may use, and whom that is counted for. `docs/tokens.md` has the table.
//
// A member of `piko.limits` that we don't know refuses the token: it is a limit that we would not keep, or a slip of the pen.

public import Base
import Crypto
import Memory
import Telemetry

extension QuotaLimits {
    /// Reads the value of `piko.limits`.
    init(claim: JSONValue) throws(AuthenticationError) {
        guard case .object(let members) = claim else { throw .invalid(.claimType) }
        self.init()
        for member in members {
            let limit = try Self.limit(member.value)
            switch member.name {
            case "max_tunnels": tunnels = limit
            case "max_endpoints": endpoints = limit
            case "max_streams": streams = limit
            case "max_request_rate": requestRate = limit
            default: throw .invalid(.claimType)
            }
        }
    }

    private static func limit(_ value: JSONValue) throws(AuthenticationError) -> UInt32 {
        guard let number = value.integer, number >= 0 else { throw .invalid(.claimType) }
        return UInt32(min(number, Int64(QuotaLimits.most)))
    }
}

/// Whom a token's use is counted for. The key is the node's: who knows it can find subjects that share a place in the table of use.
public struct TokenSubject {
    private let code: MessageAuthentication

    public init(key: [UInt8]) { code = MessageAuthentication(key: Array("piko: subject of a quota".utf8) + key) }

    /// The subject `sub` of the issuer: all tokens with these are one, on one port.
    public func named(_ subject: [UInt8], issuer: [UInt8]?, tenant: [UInt8], port: UInt8) -> QuotaSubject {
        hash([[1, port], tenant, issuer ?? [], issuer == nil ? [0] : [1], subject])
    }

    /// A token without `sub`: each is its own. `signed` is what was signed of it, since the rest can be written in several ways.
    public func token(_ signed: Span<UInt8>, tenant: [UInt8], port: UInt8) -> QuotaSubject {
        hash([[0, port], tenant, [UInt8](copying: signed)])
    }

    /// A tenant as a whole, over all its tokens and ports.
    public func tenant(_ name: [UInt8]) -> QuotaSubject { hash([[2], name]) }

    private func hash(_ parts: [[UInt8]]) -> QuotaSubject {
        var bytes: [UInt8] = []
        for part in parts {
            for shift in 0..<4 { bytes.append(UInt8(truncatingIfNeeded: part.count >> (8 * shift))) }
            bytes += part
        }
        let digest = code.code(for: bytes.span)
        return QuotaSubject(hash: digest.prefix(8).reduce(0) { $0 << 8 | UInt64($1) })
    }
}
