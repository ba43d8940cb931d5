// Row 23 of the attacks of docs/tokens.md: what becomes of which claim. The tables there and here are the same.

import Testing

@testable import Authentication

@Suite struct ClaimTests {
    private static let wrongType = AuthenticationError.invalid(.claimType)
    private static let early = AuthenticationError.invalid(.notYet)

    /// The value of `exp`, and the verdict: nil is good.
    static let expiries: [(String, AuthenticationError?)] = [
        ("1893456001", nil), ("1893456000", .expired), ("1893455999", .expired), ("0", .expired), ("1893456001.0", nil),
        ("1893456000.9", .expired), ("1893456001.5", nil), ("1.893456001e9", nil), ("1893456001E0", nil), ("253402300799", nil),
        ("253402300800", wrongType), ("1893456001000", wrongType), ("9223372036854775807", wrongType), ("18446744073709551616", wrongType),
        ("1e300", wrongType), ("-1", wrongType), ("-0.5", wrongType), ("-1893456001", wrongType), ("\"1893456001\"", wrongType),
        ("\"\"", wrongType), ("null", wrongType), ("true", wrongType), ("[]", wrongType), ("[1893456001]", wrongType), ("{}", wrongType),
        ("1e999", .invalid(.claims)), ("NaN", .invalid(.claims)), ("0x70dbd880", .invalid(.claims)), ("01893456001", .invalid(.claims)),
        ("1893456001,\"exp\":1893456002", .invalid(.claims)),
    ]

    @Test(arguments: expiries)
    func row23Expiry(_ value: String, _ verdict: AuthenticationError?) throws {
        #expect(try verifier().refusal(signed("{\"exp\":\(value)}")) == verdict)
    }

    @Test func row23ExpiryIsRoundedDown() throws {
        let permission = try verifier().verdict(signed(#"{"exp":1893456001.9}"#)).get()
        #expect(permission.expiry == 1_893_456_001)
        #expect(!permission.hasExpired(at: 1_893_456_000) && permission.hasExpired(at: 1_893_456_001))
        let forEver = try verifier().verdict(signed("{}")).get()
        #expect(forEver.expiry == nil && !forEver.hasExpired(at: .max))
    }

    static let beginnings: [(String, AuthenticationError?)] = [
        ("1893456000", nil), ("1893455999", nil), ("0", nil), ("1893456001", early), ("1893456000.1", early), ("1893455999.9", nil),
        ("1e300", wrongType), ("-1", wrongType), ("\"1\"", wrongType), ("null", wrongType), ("false", wrongType), ("[]", wrongType), ("{}", wrongType),
    ]

    @Test(arguments: beginnings)
    func row23NotBefore(_ value: String, _ verdict: AuthenticationError?) throws {
        #expect(try verifier().refusal(signed("{\"nbf\":\(value)}")) == verdict)
    }

    static let issues: [(String, AuthenticationError?)] = [
        ("1893456000", nil), ("1893456010", nil), ("1893456010.1", early), ("1893456011", early), ("1893459600", early), ("0", nil),
        ("1e300", wrongType), ("-1", wrongType), ("\"1\"", wrongType), ("null", wrongType), ("true", wrongType), ("[1]", wrongType), ("{}", wrongType),
    ]

    @Test(arguments: issues)
    func row23IssuedAt(_ value: String, _ verdict: AuthenticationError?) throws {
        #expect(try verifier().refusal(signed("{\"iat\":\(value)}")) == verdict)
    }

    /// The claims; the verdict of a port that asks for no audience, and of one that asks for "a".
    static let audiences: [(String, AuthenticationError?, AuthenticationError?)] = [
        (#"{"aud":"a"}"#, nil, nil), (#"{"aud":["a"]}"#, nil, nil), (#"{"aud":["b","a"]}"#, nil, nil), (#"{"aud":"\u0061"}"#, nil, nil),
        ("{}", nil, .invalid(.audience)), (#"{"aud":"b"}"#, nil, .invalid(.audience)), (#"{"aud":"A"}"#, nil, .invalid(.audience)),
        (#"{"aud":""}"#, nil, .invalid(.audience)), (#"{"aud":[]}"#, nil, .invalid(.audience)), (#"{"aud":"a b"}"#, nil, .invalid(.audience)),
        (#"{"aud":"a,b"}"#, nil, .invalid(.audience)), (#"{"aud":["ab"]}"#, nil, .invalid(.audience)), (#"{"aud":null}"#, wrongType, wrongType),
        (#"{"aud":1}"#, wrongType, wrongType), (#"{"aud":true}"#, wrongType, wrongType), (#"{"aud":{"a":"a"}}"#, wrongType, wrongType),
        (#"{"aud":["a",1]}"#, wrongType, wrongType), (#"{"aud":["a",null]}"#, wrongType, wrongType), (#"{"aud":[["a"]]}"#, wrongType, wrongType),
    ]

    @Test(arguments: audiences)
    func row23Audience(_ claims: String, _ unasked: AuthenticationError?, _ asked: AuthenticationError?) throws {
        #expect(try verifier().refusal(signed(claims)) == unasked)
        #expect(try verifier { $0.audience = Array("a".utf8) }.refusal(signed(claims)) == asked)
    }

    static let issuers: [(String, AuthenticationError?, AuthenticationError?)] = [
        (#"{"iss":"joe"}"#, nil, nil), ("{}", nil, .invalid(.issuer)), (#"{"iss":"Joe"}"#, nil, .invalid(.issuer)),
        (#"{"iss":"joe "}"#, nil, .invalid(.issuer)), (#"{"iss":""}"#, nil, .invalid(.issuer)), (#"{"iss":["joe"]}"#, wrongType, wrongType),
        (#"{"iss":null}"#, wrongType, wrongType), (#"{"iss":1}"#, wrongType, wrongType), (#"{"iss":{}}"#, wrongType, wrongType),
    ]

    @Test(arguments: issuers)
    func row23Issuer(_ claims: String, _ unasked: AuthenticationError?, _ asked: AuthenticationError?) throws {
        #expect(try verifier().refusal(signed(claims)) == unasked)
        #expect(try verifier { $0.issuer = Array("joe".utf8) }.refusal(signed(claims)) == asked)
    }

    @Test(arguments: ["sub", "jti"], ["null", "1", "[]", "{}", "true"])
    func row23OtherClaimsHaveTheirTypes(_ name: String, _ value: String) throws {
        #expect(try verifier().refusal(signed("{\"\(name)\":\(value)}")) == Self.wrongType)
        #expect(try verifier().refusal(signed("{\"\(name)\":\"\",\"other\":\(value)}")) == nil)
    }

    /// The value of `piko`, and which of the endpoints a, A, team-a-web, team-b-web it permits; nil: the token is refused.
    static let endpoints: [(String, [String]?)] = [
        ("{}", ["a", "A", "team-a-web", "team-b-web", "*"]), (#"{"endpoints":[]}"#, ["a", "A", "team-a-web", "team-b-web", "*"]),
        (#"{"Endpoints":["a"]}"#, ["a", "A", "team-a-web", "team-b-web", "*"]),
        (#"{"endpoints":["a"]}"#, ["a"]), (#"{"endpoints":["A"]}"#, ["A"]), (#"{"endpoints":["a","A"]}"#, ["a", "A"]),
        (#"{"endpoints":["team-a-*"]}"#, ["team-a-web"]), (#"{"endpoints":["team-*","a"]}"#, ["a", "team-a-web", "team-b-web"]),
        (#"{"endpoints":["Team-a-*"]}"#, []), (#"{"endpoints":["team-a-web*"]}"#, ["team-a-web"]), (#"{"endpoints":["team-a"]}"#, []),
        (#"{"endpoints":["*"]}"#, ["a", "A", "team-a-web", "team-b-web", "*"]), (#"{"endpoints":["\u0061"]}"#, ["a"]),
        (#"{"endpoints":["b"]}"#, []),
        ("null", nil), ("[]", nil), (#""""#, nil), (#""a""#, nil), ("1", nil), ("true", nil), (#"["a"]"#, nil),
        (#"{"endpoints":null}"#, nil), (#"{"endpoints":""}"#, nil), (#"{"endpoints":"a"}"#, nil), (#"{"endpoints":"*"}"#, nil),
        (#"{"endpoints":{"a":true}}"#, nil), (#"{"endpoints":1}"#, nil), (#"{"endpoints":false}"#, nil), (#"{"endpoints":["a",1]}"#, nil),
        (#"{"endpoints":["a",null]}"#, nil), (#"{"endpoints":[["a"]]}"#, nil), (#"{"endpoints":[""]}"#, nil), (#"{"endpoints":["a*b"]}"#, nil),
        (#"{"endpoints":["**"]}"#, nil), (#"{"endpoints":["*a"]}"#, nil),
    ]

    @Test(arguments: endpoints)
    func row23Endpoints(_ value: String, _ permitted: [String]?) throws {
        let verdict = try verifier().verdict(signed("{\"piko\":\(value)}"))
        guard let permitted else {
            #expect(verdict == .failure(Self.wrongType))
            return
        }
        let permission = try verdict.get().endpoints
        #expect(["a", "A", "team-a-web", "team-b-web", "*"].filter { permission.permits(Array($0.utf8)) } == permitted)
    }

    @Test func row23NamesAreBytes() throws {
        // Two spellings of one letter, which Swift's strings take for the same.
        let permission = try verifier().verdict(signed("{\"piko\":{\"endpoints\":[\"caf\u{e9}\",\"k\u{212a}\"]}}")).get().endpoints
        #expect(permission.permits(Array("caf\u{e9}".utf8)) && !permission.permits(Array("cafe\u{301}".utf8)))
        #expect(!permission.permits(Array("kK".utf8)))
        // Nor does a prefix reach a letter that an accent makes another.
        let prefix = try verifier().verdict(signed(#"{"piko":{"endpoints":["cafe*"]}}"#)).get().endpoints
        #expect(prefix.permits(Array("cafe-1".utf8)) && !prefix.permits(Array("cafe\u{301}".utf8)))
        let asked = try verifier { $0.issuer = Array("K".utf8) }
        #expect(asked.refusal(signed("{\"iss\":\"\u{212a}\"}")) == .invalid(.issuer))
        #expect(asked.refusal(signed(#"{"iss":"K"}"#)) == nil)
    }

    @Test func row23EndpointsCanBeRequired() throws {
        let asked = try verifier { $0.requiresEndpoints = true }
        for claims in ["{}", #"{"piko":{}}"#, #"{"piko":{"endpoints":[]}}"#] {
            #expect(asked.refusal(signed(claims)) == .invalid(.noEndpoints))
        }
        #expect(asked.refusal(signed(#"{"piko":{"endpoints":["a"]}}"#)) == nil)
        #expect(try asked.verdict(signed(#"{"piko":{"endpoints":["*"]}}"#)).get().endpoints.isUnlimited == false)
    }

    @Test(arguments: ["", "[]", "null", "1", "\"a\"", "{", "{}{}", "{\"exp\":1,}", "{\"piko\":{},\"piko\":{}}", "\u{feff}{}", "{\"a\":\"\\ud800\"}"])
    func row23ClaimsAreAnObject(_ text: String) throws {
        #expect(try verifier().refusal(signed(text)) == .invalid(text.isEmpty ? .form : .claims))
    }

    @Test func row23DeepAndBrokenTextIsRefused() throws {
        let deep = "{\"a\":\(String(repeating: "[", count: 3_000))\(String(repeating: "]", count: 3_000))}"
        #expect(try verifier().refusal(signed(deep)) == .invalid(.claims))
        let message = "\(encoded(#"{"alg":"HS256"}"#.utf8)).\(encoded([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d]))"
        #expect(try verifier().refusal(message + ".AAAA") == .invalid(.signature))
    }

    @Test func nothingIsReadBeforeTheSignature() throws {
        let other = Array("another secret, also of thirty-two bytes".utf8)
        #expect(try verifier().refusal(signed(#"{"exp":1}"#, secret: other)) == .invalid(.signature))
        #expect(try verifier().refusal(signed("not JSON", secret: other)) == .invalid(.signature))
    }

    static let fields: [(String, Result<String, AuthenticationError>)] = [
        ("Bearer abc", .success("abc")), ("bearer abc", .success("abc")), ("BEARER   abc ", .success("abc")), ("", .failure(.missingAuthorization)),
        ("Bearer", .failure(.invalidAuthorization)), ("Bearer ", .failure(.invalidAuthorization)), ("abc", .failure(.invalidAuthorization)),
        ("Basic abc", .failure(.unsupportedType)), ("Bearers abc", .failure(.unsupportedType)), ("Beare abc", .failure(.unsupportedType)),
        (" Bearer abc", .failure(.unsupportedType)), ("Bearer abc, Bearer def", .failure(.invalidAuthorization)),
        ("Bearer abc def", .failure(.invalidAuthorization)), ("Bearer\tabc", .failure(.invalidAuthorization)), ("\u{22}earer abc", .failure(.unsupportedType)),
    ]

    @Test(arguments: fields)
    func authorizationFields(_ field: String, _ verdict: Result<String, AuthenticationError>) {
        let bytes = Array(field.utf8)
        do throws(AuthenticationError) {
            let range = try BearerToken.token(in: bytes.span)
            #expect(verdict == .success(String(decoding: bytes[range], as: UTF8.self)))
        } catch {
            #expect(verdict == .failure(error))
        }
    }

    @Test func whatClientsAreTold() {
        let texts = [.missingAuthorization, .invalidAuthorization, .unsupportedType, .invalid(.signature), .expired, .unknownTenant, .notPermitted]
            .map { (error: AuthenticationError) in "\(error.text)" }
        #expect(
            texts == [
                "missing authorization", "invalid authorization", "unsupported auth type", "invalid token", "expired token", "unknown tenant",
                "endpoint not permitted",
            ])
        #expect(AuthenticationError.invalid(.audience).detail == "another audience" && AuthenticationError.expired.detail == "expired token")
    }
}
