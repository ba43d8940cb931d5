// `piko.limits`, with row 23 of the attacks of docs/tokens.md: what becomes of which value; and whom a token's use is counted for.

import Base
import Testing

@testable import Authentication

@Suite struct QuotaClaimTests {
    private static let wrongType = AuthenticationError.invalid(.claimType)

    /// The value of `piko.limits`, and the limits; nil: the token is refused.
    static let limits: [(String, QuotaLimits?)] = [
        ("{}", QuotaLimits()), (#"{"max_tunnels":3}"#, QuotaLimits(tunnels: 3)), (#"{"max_endpoints":2}"#, QuotaLimits(endpoints: 2)),
        (#"{"max_streams":0}"#, QuotaLimits(streams: 0)), (#"{"max_request_rate":50}"#, QuotaLimits(requestRate: 50)),
        (
            #"{"max_request_rate":1,"max_streams":2,"max_endpoints":3,"max_tunnels":4}"#,
            QuotaLimits(tunnels: 4, endpoints: 3, streams: 2, requestRate: 1)
        ), (#"{"max_streams":4294967294}"#, QuotaLimits(streams: QuotaLimits.most)),
        (#"{"max_streams":4294967295}"#, QuotaLimits(streams: QuotaLimits.most)),
        (#"{"max_streams":9223372036854775807}"#, QuotaLimits(streams: QuotaLimits.most)),
        ("null", nil), ("[]", nil), ("1", nil), (#""""#, nil), ("true", nil), (#"[{"max_streams":1}]"#, nil),
        (#"{"max_streams":"1"}"#, nil), (#"{"max_streams":-1}"#, nil), (#"{"max_streams":1.5}"#, nil), (#"{"max_streams":1.0}"#, nil),
        (#"{"max_streams":1e3}"#, nil), (#"{"max_streams":9223372036854775808}"#, nil), (#"{"max_streams":null}"#, nil),
        (#"{"max_streams":true}"#, nil), (#"{"max_streams":[1]}"#, nil), (#"{"max_streams":{}}"#, nil), (#"{"max_streams":""}"#, nil),
        (#"{"max_tunnels":1,"max_streams":"1"}"#, nil), (#"{"max_stream":1}"#, nil), (#"{"Max_streams":1}"#, nil), (#"{"":1}"#, nil),
        (#"{"max_streams":1,"max_more":1}"#, nil),
    ]

    @Test(arguments: limits)
    func row23Limits(_ value: String, _ limits: QuotaLimits?) throws {
        let verdict = try verifier().verdict(signed("{\"sub\":\"joe\",\"piko\":{\"limits\":\(value)}}"))
        guard let limits else {
            #expect(verdict == .failure(Self.wrongType))
            return
        }
        let quotas = try verdict.get().quotas
        #expect(limits.isNone ? quotas.isEmpty : quotas.map(\.limits) == [limits])
    }

    @Test func row23LimitsChangeNothingElse() throws {
        let permission = try verifier().verdict(signed(#"{"piko":{"endpoints":["a"],"limits":{"max_streams":1}}}"#)).get()
        #expect(permission.endpoints.permits(Array("a".utf8)) && !permission.endpoints.permits(Array("b".utf8)))
        // A name that is not ours, and one that is no limit of anything.
        for claims in ["{}", #"{"piko":{}}"#, #"{"limits":{"max_streams":"1"}}"#, #"{"piko":{"Limits":1}}"#] {
            #expect(try verifier().verdict(signed(claims)).get().quotas.isEmpty)
        }
        #expect(try verifier().refusal(signed(#"{"piko":{"limits":{"max_streams":1},"limits":{}}}"#)) == .invalid(.claims))
        #expect(try verifier().refusal(signed(#"{"piko":{"limits":{"max_streams":1,"max_streams":2}}}"#)) == .invalid(.claims))
    }

    private func subject(
        _ claims: String, header: String = #"{"alg":"HS256"}"#, _ change: (inout TokenPolicy) -> Void = { _ in }
    ) throws -> QuotaSubject {
        let limited = "{\(claims)\"piko\":{\"limits\":{\"max_streams\":1}}}"
        return try #require(try verifier(change).verdict(signed(header: header, limited)).get().quotas.first).subject
    }

    @Test func tokensOfOneSubjectAreOne() throws {
        let joe = try subject(#""sub":"joe","iss":"us","#)
        #expect(try joe == subject(#""iss":"us","sub":"joe","exp":1893456999,"#))
        let others = try [
            #""sub":"Joe","iss":"us","#, #""sub":"joe","iss":"them","#, #""sub":"joe","#, #""sub":"joe","iss":"","#, #""sub":"","iss":"us","#,
            #""sub":"usjoe","iss":"","#, #""iss":"us","#, "", #""exp":1893456999,"#,
        ].map { try subject($0) }
        #expect(Set(others + [joe]).count == 10)
        // What is used of one port is not used of another.
        #expect(try joe != subject(#""sub":"joe","iss":"us","#) { $0.port = 2 })
        #expect(try subject("") != subject("") { $0.port = 2 })
    }

    @Test func aTokenWithoutSubjectIsItsOwn() throws {
        let one = try subject("")
        #expect(try one == subject(""))
        #expect(try one != subject("", header: #"{"alg":"HS256","typ":"JWT"}"#))
        // How the signature is written makes no other token of it.
        let signed = Array("header.claims".utf8)
        #expect(TokenSubject(key: []).token(signed.span, tenant: [], port: 1) == TokenSubject(key: []).token(signed.span, tenant: [], port: 1))
    }

    @Test func tenantsAreApart() {
        let joe = Array("joe".utf8)
        let subjects = [
            TokenSubject(key: []).named(joe, issuer: nil, tenant: [], port: 1), TokenSubject(key: []).named(joe, issuer: nil, tenant: joe, port: 1),
            TokenSubject(key: []).token(joe.span, tenant: [], port: 1), TokenSubject(key: []).token(joe.span, tenant: joe, port: 1), TokenSubject(key: []).tenant(joe),
            TokenSubject(key: []).tenant([]),
        ]
        #expect(Set(subjects).count == subjects.count)
        #expect(QuotaSubject(hash: 5).key == 1 << 63 | 5 && QuotaSubject(hash: 65_536).key == 65_536)
        #expect(QuotaSubject(key: 65_535) == nil && QuotaSubject(key: 65_536) != nil)
    }
}
