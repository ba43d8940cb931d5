// Where bodies end, and which endpoint a request is for.

import Memory
import Testing
import Wire

@Suite struct HTTP1FramingTests {
    @Test(arguments: [
        ("GET", "", BodyFraming.none), ("POST", "", .none), ("POST", "Content-Length: 0\r\n", .length(0)),
        ("GET", "Content-Length: 5\r\n", .length(5)), ("POST", "Transfer-Encoding: chunked\r\n", .chunked),
        ("POST", "Content-Length: 5\r\nUpgrade: x\r\nConnection: Upgrade\r\n", .length(5)),
    ])
    func requests(_ method: String, _ fields: String, _ expected: BodyFraming) {
        #expect(parseHead("\(method) / HTTP/1.1\r\nHost:\r\n\(fields)\r\n").head.map(BodyFraming.request) == expected)
    }

    @Test(arguments: [
        ("200", "", Method.get, BodyFraming.untilClose), ("200", "Content-Length: 7\r\n", .get, .length(7)),
        ("200", "Content-Length: 0\r\n", .post, .length(0)), ("200", "Transfer-Encoding: chunked\r\n", .get, .chunked),
        ("200", "Content-Length: 7\r\n", .head, .none), ("200", "Transfer-Encoding: chunked\r\n", .head, .none),
        ("204", "Content-Length: 7\r\n", .get, .none), ("304", "Content-Length: 7\r\n", .get, .none), ("103", "", .get, .none),
        ("100", "Transfer-Encoding: chunked\r\n", .post, .none), ("404", "", .connect, .untilClose), ("200", "", .connect, .tunnel),
        ("101", "Connection: upgrade\r\nUpgrade: websocket\r\n", .get, .tunnel),
        ("101", "Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n", .get, .tunnel),
    ])
    func responses(_ status: String, _ fields: String, _ method: Method, _ expected: BodyFraming) throws {
        let head = try #require(parseHead("HTTP/1.1 \(status) x\r\n\(fields)\r\n", kind: .response).head)
        #expect(try BodyFraming.response(head, to: method) == expected)
    }

    @Test func aSwitchOfProtocolsNamesOne() throws {
        for fields in ["", "Connection: upgrade\r\n", "Upgrade: x\r\n"] {
            let head = try #require(parseHead("HTTP/1.1 101 x\r\n\(fields)\r\n", kind: .response).head)
            #expect(throws: HTTPError.self) { try BodyFraming.response(head, to: .get) }
        }
    }
}

@Suite struct HTTP1EndpointTests {
    /// The endpoint, nil for none, or `400`.
    static func endpoint(_ fields: String) -> String? {
        let text = "GET / HTTP/1.1\r\n\(fields)\r\n"
        guard let head = parseHead(text).head else { return "head refused" }
        let bytes = latin1(text)
        do throws(HTTPError) {
            return try EndpointName.endpoint(from: head, bytes: bytes.span).map { WireTests.text(bytes.span, $0) }
        } catch {
            return "\(error.status)"
        }
    }

    @Test(
        arguments: [
            ("Host: one.example.com\r\n", "one"), ("Host: one.example.com:8000\r\n", "one"), ("Host: One.example.com\r\n", "One"),
            ("Host: one.\r\n", "one"), ("Host: localhost\r\n", nil), ("Host: localhost:8000\r\n", nil), ("Host:\r\n", nil),
            ("Host: 127.0.0.1\r\n", nil), ("Host: 127.0.0.1:8000\r\n", nil), ("Host: [::1]:8000\r\n", nil), ("Host: [::1.2.3.4]\r\n", nil),
            ("Host: 1.2.3\r\n", "1"), ("Host: 1.2.3.4.5\r\n", "1"), ("Host: 256.1.1.1\r\n", "256"), ("Host: 01.2.3.4\r\n", "01"),
            ("Host: .example.com\r\n", nil), ("Host: my-app_1.x\r\n", "my-app_1"),
            ("Host: one.x\r\nx-piko-endpoint: two\r\n", "two"), ("X-PIKO-ENDPOINT: Two\r\nHost: one.x\r\n", "Two"),
            ("Host: one.x\r\nx-piko-endpoint:\r\n", "one"), ("Host: 127.0.0.1\r\nx-piko-endpoint: a.b\r\n", "a.b"),
            ("Host: one.x\r\nx-piko-endpoint: two\r\nConnection: x-piko-endpoint\r\n", "two"),
            ("Host: one.x\r\nx-piko-endpoint: two\r\nx-piko-endpoint: two\r\n", "400"),
            ("Host: one.x\r\nx-piko-endpoint:\r\nx-piko-endpoint: two\r\n", "400"),
            ("Host: one.x\r\nx-piko-endpoint: a/b\r\n", "400"), ("Host: one.x\r\nx-piko-endpoint: /\r\n", "400"),
            ("Host: one.x\r\nx-piko-endpoint: a, b\r\n", "400"), ("Host: one.x\r\nx-piko-endpoint: a\tb\r\n", "400"),
            ("Host: one.x\r\nx-piko-endpoint: \(String(repeating: "e", count: 255))\r\n", String(repeating: "e", count: 255)),
            ("Host: one.x\r\nx-piko-endpoint: \(String(repeating: "e", count: 256))\r\n", "400"),
        ] as [(String, String?)])
    func rows(_ fields: String, _ expected: String?) { #expect(Self.endpoint(fields) == expected) }

    /// What follows a host's first label.
    @Test(
        arguments: [
            ("one.example.com", "example.com"), ("one.example.com:8000", "example.com"), ("One.Example.com", "Example.com"), ("one.x", "x"),
            ("one.x.", "x."), ("one.", nil), ("one", nil), ("127.0.0.1", nil), ("[::1]", nil), (".example.com", "example.com"),
        ] as [(String, String?)])
    func domains(_ host: String, _ expected: String?) throws {
        let text = "GET / HTTP/1.1\r\nHost: \(host)\r\n\r\n"
        let head = try #require(parseHead(text).head)
        let bytes = latin1(text)
        #expect(EndpointName.domain(from: head, bytes: bytes.span).map { WireTests.text(bytes.span, $0) } == expected)
    }
}
