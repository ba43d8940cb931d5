// Heads as they are passed on, and responses of our own, byte for byte.

import Memory
import Testing
import Wire

@Suite struct HTTP1WriterTests {
    static func rewritten(_ request: String, _ change: (inout RequestRewrite) -> Void = { _ in }) -> String? {
        guard let head = parseHead(request).head else { return nil }
        var rewrite = RequestRewrite()
        rewrite.framing = BodyFraming.request(head)
        change(&rewrite)
        var output = ByteBuffer()
        HeadWriter.writeRequest(head, latin1(request).span, rewrite: rewrite, into: &output)
        return text(output)
    }

    @Test func passesOnWhatIsEndToEnd() {
        let request = """
            POST /a/b?c=d HTTP/1.1\r\nHost: one.example.com\r\nUser-Agent: x\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r
            X-Forwarded-For: 10.0.0.1\r\nAccept: */*\r\nx-piko-authorization: Bearer t\r\nTE: trailers\r\nContent-Length: 5\r
            X-Piko-Forward: true\r\nx-piko-endpoint: e\r\nX-Forwarded-For: 10.0.0.2\r\nTrailer: X-Sum\r\nExpect: 100-continue\r\n\r\n
            """
        let expected = """
            POST /a/b?c=d HTTP/1.1\r\nHost: one.example.com\r\nUser-Agent: x\r\nAccept: */*\r\nTrailer: X-Sum\r
            Expect: 100-continue\r\nX-Forwarded-For: 10.0.0.1, 10.0.0.2, 192.0.2.9\r\nx-piko-forward: true\r\nTE: trailers\r
            Content-Length: 5\r\nConnection: TE\r\n\r\n
            """
        let written = Self.rewritten(request) {
            $0.client = latin1("192.0.2.9")
            $0.forward = true
        }
        #expect(written == expected)
    }

    @Test(arguments: [
        ("GET http://a.b HTTP/1.1\r\nHost: a.b\r\n", "GET / HTTP/1.1\r\nHost: a.b\r\n"),
        ("GET http://a.b?q HTTP/1.1\r\nHost: A.B\r\n", "GET /?q HTTP/1.1\r\nHost: A.B\r\n"),
        ("GET http://a.b/p HTTP/1.0\r\n", "GET /p HTTP/1.1\r\nHost: a.b\r\n"),
        ("OPTIONS http://a.b HTTP/1.1\r\nHost: a.b\r\n", "OPTIONS * HTTP/1.1\r\nHost: a.b\r\n"),
        ("OPTIONS * HTTP/1.1\r\nHost: a.b\r\n", "OPTIONS * HTTP/1.1\r\nHost: a.b\r\n"),
        ("GET / HTTP/1.0\r\n", "GET / HTTP/1.1\r\nHost: \r\n"),
        (
            "\r\nPOST / HTTP/1.1\r\nHost: a\r\ntransfer-encoding:  CHUNKED\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
        ),
        (
            "POST / HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 0\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n"
        ),
        // Whatever Connection names, what we and services rely on goes through.
        (
            "GET / HTTP/1.1\r\nConnection: x-forwarded-for, host, x-real-ip, authorization, te\r\nHost: a\r\nX-Forwarded-For: 1\r\nX-Real-IP: 2\r\nAuthorization: 3\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1\r\nX-Real-IP: 2\r\nAuthorization: 3\r\n"
        ),
        // Every hop-by-hop field, first, last and in a row.
        (
            "GET / HTTP/1.1\r\nKeep-Alive: 1\r\nHost: a\r\nProxy-Connection: x\r\nProxy-Authorization: x\r\nUpgrade: websocket\r\nConnection: a,upgrade\r\nA: 1\r\nB: 2\r\na: 3\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nB: 2\r\n"
        ),
        ("GET / HTTP/1.1\r\nHost: a\r\nx-piko-node: x\r\nx-piko-tenant-id: t\r\n", "GET / HTTP/1.1\r\nHost: a\r\n"),
    ])
    func requests(_ request: String, _ expected: String) { #expect(Self.rewritten(request + "\r\n") == expected + "\r\n") }

    @Test(arguments: [
        ("GET /a?b HTTP/1.1", "GET /api/v1/a?b HTTP/1.1"),
        ("GET / HTTP/1.1", "GET /api/v1/ HTTP/1.1"),
        ("GET http://a/c HTTP/1.1", "GET /api/v1/c HTTP/1.1"),
        ("GET http://a?q HTTP/1.1", "GET /api/v1/?q HTTP/1.1"),
        ("GET http://a HTTP/1.1", "GET /api/v1/ HTTP/1.1"),
        ("OPTIONS * HTTP/1.1", "OPTIONS * HTTP/1.1"),
    ])
    func prefixes(_ line: String, _ expected: String) {
        let written = Self.rewritten(line + "\r\nHost: a\r\n\r\n") { $0.targetPrefix = latin1("/api/v1") }
        #expect(written == expected + "\r\nHost: a\r\n\r\n")
    }

    @Test func requestOptions() {
        let request =
            "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nx-piko-endpoint: e\r\nx-piko-authorization: t\r\n\r\n"
        let upgraded = Self.rewritten(request) {
            $0.connection = .upgrade
            $0.keepsEndpoint = true
            $0.keepsAuthorization = true
        }
        #expect(
            upgraded
                == "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nx-piko-endpoint: e\r\nx-piko-authorization: t\r\nConnection: Upgrade\r\n\r\n"
        )
        #expect(Self.rewritten(request) { $0.connection = .close } == "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        let both = "GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: close, TE\r\n\r\n"
        #expect(
            Self.rewritten(both) { $0.connection = .close } == "GET / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: close, TE\r\n\r\n")
        let first = Self.rewritten("GET / HTTP/1.1\r\nHost: a\r\n\r\n") { $0.client = latin1("::1") }
        #expect(first == "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: ::1\r\n\r\n")
    }

    static func rewrittenResponse(_ response: String, to method: Method = .get, _ connection: ConnectionMode = .keepAlive) throws -> String?
    {
        guard let head = parseHead(response, kind: .response).head else { return nil }
        var rewrite = ResponseRewrite()
        rewrite.framing = try BodyFraming.response(head, to: method)
        rewrite.connection = connection
        var output = ByteBuffer()
        HeadWriter.writeResponse(head, latin1(response).span, rewrite: rewrite, into: &output)
        return text(output)
    }

    @Test(arguments: [
        ("HTTP/1.0 200\r\n", Method.get, ConnectionMode.close, "HTTP/1.1 200 \r\nConnection: close\r\n"),
        (
            "HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\nConnection: x, close\r\nX: 1\r\nY: 2\r\n", .get, .keepAlive,
            "HTTP/1.1 404 Not Found\r\nY: 2\r\nContent-Length: 5\r\n"
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\nKeep-Alive: 5\r\n", .get, .keepAliveNamed,
            "HTTP/1.1 200 OK\r\nTrailer: X\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n"
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", .head, .keepAlive, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n"),
        ("HTTP/1.1 304 x\r\nContent-Length: 5\r\n", .get, .keepAlive, "HTTP/1.1 304 x\r\nContent-Length: 5\r\n"),
        ("HTTP/1.1 204 x\r\nContent-Length: 5\r\n", .get, .keepAlive, "HTTP/1.1 204 x\r\n"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n", .head, .keepAlive, "HTTP/1.1 200 OK\r\n"),
        ("HTTP/1.1 103 Early Hints\r\nLink: x\r\n", .get, .keepAlive, "HTTP/1.1 103 Early Hints\r\nLink: x\r\n"),
        (
            "HTTP/1.1 101 S P\r\nupgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Accept: x\r\n", .get, .upgrade,
            "HTTP/1.1 101 S P\r\nupgrade: websocket\r\nSec-WebSocket-Accept: x\r\nConnection: Upgrade\r\n"
        ),
        ("HTTP/1.1 426 x\r\nUpgrade: TLS/1.0\r\nContent-Length: 0\r\n", .get, .keepAlive, "HTTP/1.1 426 x\r\nContent-Length: 0\r\n"),
    ])
    func responses(_ response: String, _ method: Method, _ connection: ConnectionMode, _ expected: String) throws {
        #expect(try Self.rewrittenResponse(response + "\r\n", to: method, connection) == expected + "\r\n")
    }

    @Test func errorsOfOurOwn() {
        var output = ByteBuffer()
        var written: String
        let response = LocalResponse(status: 502, connection: .close, unixSeconds: 784_111_777, noSniff: true)
        HeadWriter.writeError("no available upstreams", response, into: &output)
        let head =
            "HTTP/1.1 502 Bad Gateway\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Type: application/json\r\nContent-Length: 34\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
        written = text(output)
        #expect(written == head + "{\"error\":\"no available upstreams\"}")
        output.removeAll()
        var toHead = response
        toHead.omitsBody = true
        HeadWriter.writeError("no available upstreams", toHead, into: &output)
        written = text(output)
        #expect(written == head)
        output.removeAll()
        HeadWriter.writeHead(
            LocalResponse(status: 101, connection: .upgrade, unixSeconds: 0, fields: "Upgrade: websocket\r\n"), bodyLength: nil,
            into: &output)
        written = text(output)
        #expect(
            written
                == "HTTP/1.1 101 Switching Protocols\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
        )
        output.removeAll()
        ErrorBody.write("a \"b\" \\ \n\u{1} \u{e4}" as String, into: &output)
        written = text(output)
        #expect(written == "{\"error\":\"a \\\"b\\\" \\\\ \\u000a\\u0001 \u{c3}\u{a4}\"}")
        #expect(parseHead(head, kind: .response).head?.contentLength == 34)
    }

    @Test(
        arguments: [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"), (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_399, "Mon, 28 Feb 2000 23:59:59 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"), (951_868_800, "Wed, 01 Mar 2000 00:00:00 GMT"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
            (1_735_689_599, "Tue, 31 Dec 2024 23:59:59 GMT"), (253_402_300_799, "Fri, 31 Dec 9999 23:59:59 GMT"),
            (.max, "Fri, 31 Dec 9999 23:59:59 GMT"), (-1, "Thu, 01 Jan 1970 00:00:00 GMT"),
        ] as [(Int64, String)])
    func dates(_ seconds: Int64, _ expected: String) {
        var output = ByteBuffer()
        HTTPDate.write(seconds, into: &output)
        let written = text(output)
        #expect(written == expected)
        #expect(written.utf8.count == HTTPDate.byteCount)
        #expect(HTTPDate.seconds(of: written) == min(max(seconds, 0), 253_402_300_799))
    }

    @Test(arguments: ["", "Sun, 06 Nov 1994 08:49:37", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun, 06 Nov 1994 24:49:37 GMT", "Sun, 32 Nov 1994 08:49:37 GMT"])
    func noDates(_ text: String) {
        #expect(HTTPDate.seconds(of: text) == nil)
    }
}
