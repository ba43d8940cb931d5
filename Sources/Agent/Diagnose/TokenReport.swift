// What the agent's token says about itself, judged by this machine's clock. Nobody proves here that it is good: that is the server's to
// do. The token itself is never shown.

internal import Authentication
internal import Telemetry

/// A look at a token.
enum TokenReport {
    /// The checks of a token, for listeners on the endpoints. `now`: seconds since 1970.
    static func checks(_ token: String, endpoints: [String], now: UInt64) -> [Diagnosis.Check] {
        guard !token.isEmpty else { return [.init("token", .note, "none is configured; a server that asks for one answers 401")] }
        let claims: TokenClaims
        do throws(AuthenticationError) {
            claims = try TokenClaims.unproven(of: Array(token.utf8).span)
        } catch {
            return [.init("token", .fail, "it can't be read: \(error.detail)", hint: "it must be a signed JWT (docs/tokens.md), whole and on one line")]
        }
        var checks = [times(claims, now)]
        if let names = claims.endpoints?.names {
            let missing = endpoints.filter { claims.endpoints?.permits(Array($0.utf8)) == false }
            checks.append(
                missing.isEmpty
                    ? .init("token endpoints", .ok, names.joined(separator: ", "))
                    : .init(
                        "token endpoints", .fail, "\(names.joined(separator: ", ")): not \(missing.joined(separator: ", "))",
                        hint: "get a token whose claim piko.endpoints names them, or change endpoint_id"))
        } else {
            checks.append(.init("token endpoints", .ok, "every endpoint (it has no claim piko.endpoints)"))
        }
        return checks
    }

    private static func times(_ claims: TokenClaims, _ now: UInt64) -> Diagnosis.Check {
        var facts: [String] = []
        if let issuer = claims.issuer { facts.append("iss \(String(decoding: issuer, as: UTF8.self))") }
        if let audiences = claims.audiences {
            facts.append("aud " + audiences.map { String(decoding: $0, as: UTF8.self) }.joined(separator: " "))
        }
        for (name, time) in [("iat", claims.issuedAt), ("nbf", claims.notBefore), ("exp", claims.expiry)] {
            if let time { facts.append("\(name) \(Timestamp.text(unixSeconds: time))") }
        }
        let text = facts.isEmpty ? "without iss, aud and times" : facts.joined(separator: ", ")
        if let expiry = claims.expiry, expiry <= now {
            return .init("token", .fail, "\(text): expired \(Diagnosis.span(now - expiry)) ago", hint: "get a new token, or set the clock of this machine")
        }
        if let start = claims.notBefore, start > now {
            return .init("token", .fail, "\(text): good only in \(Diagnosis.span(start - now))", hint: "set the clock of this machine, if it is slow; or wait")
        }
        if let issued = claims.issuedAt, issued > now {
            return .init("token", .warn, "\(text): made \(Diagnosis.span(issued - now)) in the future", hint: "the clock of this machine is slow, or that of the issuer fast")
        }
        guard let expiry = claims.expiry else { return .init("token", .ok, "\(text): it never expires") }
        return .init("token", .ok, "\(text): good for \(Diagnosis.span(expiry - now))")
    }
}
