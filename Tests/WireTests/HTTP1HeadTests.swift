// Heads, row by row. `parseHead` feeds each row whole, byte by byte and split at every offset.

import Memory
import Testing
import Wire

/// A head and the status it is refused with; 0: accepted; -1: not complete.
struct HeadRow: Sendable, CustomTestStringConvertible {
    let text: String
    let status: Int
    init(_ status: Int, _ text: String) {
        self.text = text
        self.status = status
    }
    var testDescription: String { "\(status) \(text.debugDescription)" }
    func check(_ kind: HeadKind, sourceLocation: SourceLocation = #_sourceLocation) {
        let outcome = parseHead(text, kind: kind)
        let expected: Int? = status > 0 ? status : nil
        #expect(outcome.status == expected, "\(outcome)", sourceLocation: sourceLocation)
        if status == 0 { #expect(outcome.head != nil, sourceLocation: sourceLocation) }
        if status == -1 { #expect(outcome == .incomplete, sourceLocation: sourceLocation) }
    }
}

/// A request with these lines after the request line.
private func get(_ status: Int, _ lines: String) -> HeadRow { HeadRow(status, "GET / HTTP/1.1\r\n\(lines)\r\n") }
private func post(_ status: Int, _ lines: String) -> HeadRow { HeadRow(status, "POST / HTTP/1.1\r\nHost: a.b\r\n\(lines)\r\n") }
private func line(_ status: Int, _ line: String) -> HeadRow { HeadRow(status, "\(line)\r\nHost: a.b\r\n\r\n") }
private func response(_ status: Int, _ lines: String) -> HeadRow { HeadRow(status, "HTTP/1.1 200 OK\r\n\(lines)\r\n") }

@Suite struct HTTP1HeadTests {
    @Test(arguments: [
        line(0, "GET / HTTP/1.1"),
        line(0, "GET / HTTP/1.0"),
        line(0, "get / HTTP/1.1"),
        line(0, "M-SEARCH / HTTP/1.1"),
        line(0, "GET /%00%ff?a=b|c{}\"<>\\^` HTTP/1.1"),
        line(0, "GET /\u{e4}\u{ff} HTTP/1.1"),
        line(0, "OPTIONS * HTTP/1.1"),
        line(0, "GET http://a.b HTTP/1.1"),
        line(0, "GET http://a.b? HTTP/1.1"),
        line(0, "GET HTTPS://A.B/x?y HTTP/1.1"),
        HeadRow(0, "\r\nGET / HTTP/1.1\r\nHost: a.b\r\n\r\n"),
        HeadRow(0, "CONNECT a.b:443 HTTP/1.1\r\nHost: a.b:443\r\n\r\n"),
        HeadRow(0, "GET http://a.b:80/ HTTP/1.0\r\n\r\n"),
        HeadRow(0, "GET / HTTP/1.0\r\n\r\n"),
        HeadRow(-1, ""),
        HeadRow(-1, "\r\n"),
        HeadRow(-1, "GET / HTTP/1.1\r\nHost: a.b\r\n\r"),
        // Request lines that are not one.
        HeadRow(400, "\r\n\r\nGET / HTTP/1.1\r\nHost: a.b\r\n\r\n"),
        HeadRow(400, "\nGET / HTTP/1.1\r\nHost: a.b\r\n\r\n"),
        HeadRow(400, "\rGET / HTTP/1.1\r\nHost: a.b\r\n\r\n"),
        HeadRow(400, " GET / HTTP/1.1\r\nHost: a.b\r\n\r\n"),
        HeadRow(400, "\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}"),
        line(400, "GET"), line(400, "GET "), line(400, "GET /"), line(400, "GET / "), line(400, "GET  / HTTP/1.1"),
        line(400, "GET /  HTTP/1.1"), line(400, "GET / HTTP/1.1 "), line(400, "GET\t/ HTTP/1.1"), line(400, "GET / a HTTP/1.1"),
        line(400, "GET /\tHTTP/1.1"), line(400, "G(T / HTTP/1.1"), line(400, "G\u{e4}T / HTTP/1.1"), line(400, "GET /\r HTTP/1.1"),
        HeadRow(400, "GET / HTTP/1.1\nHost: a.b\n\n"),
        HeadRow(400, "GET / HTTP/1.1\rHost: a.b\r\n\r\n"),
        // Versions.
        line(400, "GET / HTTP/1"), line(400, "GET / HTTP/1.11"), line(400, "GET / HTTP/01.1"), line(400, "GET / http/1.1"),
        line(400, "GET / HTTP/1,1"), line(400, "GET / HTTPS/1.1"), line(400, "GET / ICE/1.0"), line(400, "GET / HTTP/a.b"),
        line(505, "GET / HTTP/2.0"), line(505, "GET / HTTP/1.2"), line(505, "GET / HTTP/0.9"), line(505, "PRI * HTTP/2.0"),
        // Targets.
        line(400, "GET * HTTP/1.1"), line(400, "GET a.b HTTP/1.1"), line(400, "GET a.b:80 HTTP/1.1"), line(400, "GET ?x HTTP/1.1"),
        line(400, "GET /a#b HTTP/1.1"), line(400, "GET /a\u{7f} HTTP/1.1"), line(400, "GET /a\u{0} HTTP/1.1"),
        line(400, "GET ftp://a.b/ HTTP/1.1"), line(400, "GET http:/a.b/ HTTP/1.1"), line(400, "GET http:///x HTTP/1.1"),
        line(400, "GET http:// HTTP/1.1"), line(400, "GET http: HTTP/1.1"), line(400, "GET http://u@a.b/ HTTP/1.1"),
        line(400, "GET http://a.c/ HTTP/1.1"), line(400, "GET http://a.b:80/ HTTP/1.1"), line(400, "GET //a.b HTTP/1.1 x"),
        line(400, "CONNECT / HTTP/1.1"), line(400, "CONNECT a.b HTTP/1.1"), line(400, "CONNECT a.b:1 HTTP/1.1"),
        line(501, String(repeating: "M", count: 65) + " / HTTP/1.1"),
        line(400, "PRI / HTTP/1.1"), line(0, "PRIX / HTTP/1.1"),
        // Percent-encoding is whole in a path; a query may hold a bare sign.
        line(0, "GET /a%2Fb?c=100%&d=%zz HTTP/1.1"), line(0, "GET http://a.b?% HTTP/1.1"), line(400, "GET /% HTTP/1.1"), line(400, "GET /%4 HTTP/1.1"),
        line(400, "GET /%zz HTTP/1.1"), line(400, "GET /%4g?a HTTP/1.1"), line(400, "GET /%?41 HTTP/1.1"), line(400, "GET http://a.b/%% HTTP/1.1"),
        HeadRow(0, "TRACE / HTTP/1.1\r\nHost: a.b\r\nContent-Length: 0\r\n\r\n"),
        HeadRow(400, "TRACE / HTTP/1.1\r\nHost: a.b\r\nContent-Length: 1\r\n\r\n"),
        HeadRow(400, "TRACE / HTTP/1.1\r\nHost: a.b\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ])
    func requestLines(_ row: HeadRow) { row.check(.request) }

    @Test(arguments: [
        post(0, "X:\r\n"), post(0, "X: \t \r\n"), post(0, "X:1\r\n"), post(0, "X:  a b\tc \r\n"), post(0, "X: \u{80}\u{ff}\r\n"),
        post(0, "!#$%&'*+-.^_`|~: x\r\n"), post(0, "X_Y: 1\r\n"),
        post(400, " X: 1\r\n"), post(400, "X: 1\r\n 2\r\n"), post(400, "X: 1\r\n\t2\r\n"), post(400, " \r\n"),
        post(400, "X : 1\r\n"), post(400, "X\t: 1\r\n"), post(400, ": 1\r\n"), post(400, "X\r\n"), post(400, "X(: 1\r\n"),
        post(400, "X\u{0}: 1\r\n"), post(400, "X\u{80}: 1\r\n"), post(400, "X: 1\n"), post(400, "X: 1\rY: 2\r\n"),
        post(400, "X: \r\r\n"), post(400, "X: a\u{0}b\r\n"), post(400, "X: a\u{b}b\r\n"), post(400, "X: a\u{7f}b\r\n"),
        post(400, "X: \u{1f}\r\n"), post(400, "X: 1\r\n\n"),
        // Names that CGI would take for others.
        post(400, "Content_Length: 5\r\n"), post(400, "transfer_encoding: chunked\r\n"), post(400, "x_forwarded-for: 1\r\n"),
        post(400, "X-Piko_Endpoint: e\r\n"), post(400, "HOST_: x\r\nx_piko_forward: true\r\n"),
    ])
    func fieldLines(_ row: HeadRow) { row.check(.request) }

    @Test(arguments: [
        post(0, "Content-Length: 0\r\n"), post(0, "Content-Length: 5\r\n"), post(0, "Content-Length: 9223372036854775807\r\n"),
        post(400, "Content-Length: 5\r\nContent-Length: 6\r\n"), post(400, "Content-Length: 5\r\ncontent-length: 5\r\n"),
        post(400, "Content-Length: 5, 5\r\n"), post(400, "Content-Length: +5\r\n"), post(400, "Content-Length: -1\r\n"),
        post(400, "Content-Length: +1_0\r\n"), post(400, "Content-Length: 5 6\r\n"), post(400, "Content-Length:\r\n"),
        post(400, "Content-Length: 0x5\r\n"), post(400, "Content-Length: 05\r\n"), post(400, "Content-Length: 00\r\n"),
        post(400, "Content-Length: 9223372036854775808\r\n"), post(400, "Content-Length: 18446744073709551621\r\n"),
        post(400, "Content-Length: 99999999999999999999999999\r\n"), post(400, "Content-Length: 5;\r\n"),
        post(400, "Content-Length: 5.0\r\n"), post(400, "Content-Length: \"5\"\r\n"), post(400, "Content-Length : 5\r\n"),
        post(0, "Transfer-Encoding: chunked\r\n"), post(0, "Transfer-Encoding: \t ChunKed \r\n"),
        post(400, "Transfer-Encoding: chunked\r\nContent-Length: 6\r\n"),
        post(400, "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n"),
        post(400, "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
        post(501, "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n"),
        post(501, "Transfer-Encoding: xchunked\r\n"), post(501, "Transfer-Encoding: gzip, chunked\r\n"),
        post(501, "Transfer-Encoding: identity\r\n"), post(501, "Transfer-Encoding: gzip\r\n"),
        post(400, "Transfer-Encoding: chunked, identity\r\n"), post(400, "Transfer-Encoding: chunked, chunked\r\n"),
        post(400, "Transfer-Encoding: , chunked\r\n"), post(400, "Transfer-Encoding: chunked,\r\n"),
        post(400, "Transfer-Encoding: chunked;a=b\r\n"), post(400, "Transfer-Encoding: \"chunked\"\r\n"),
        post(400, "Transfer-Encoding:\r\n"), post(400, "Transfer-Encoding: \u{b}chunked\r\n"),
        post(400, "Transfer-Encoding: \u{a0}chunked\u{a0}\r\n"), post(400, "Transfer-Encoding:\r\n chunked\r\n"),
        post(400, "Transfer-Encoding: chunked\r\n , identity\r\n"), post(400, "Transfer-Encoding : chunked\r\n"),
        post(400, "Transfer-Encoding: gzip chunked\r\n"),
        HeadRow(400, "POST / HTTP/1.0\r\nHost: a.b\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ])
    func framingFields(_ row: HeadRow) { row.check(.request) }

    @Test(arguments: [
        get(400, ""), get(400, "Host: a.b\r\nHost: a.b\r\n"), get(400, "Host: a.b\r\nHost: c.d\r\n"), get(0, "Host:\r\n"),
        get(0, "Host: A.b\r\n"), get(0, "Host: a.b.\r\n"), get(0, "Host: a.b:8000\r\n"), get(0, "Host: localhost\r\n"),
        get(0, "Host: 127.0.0.1:1\r\n"), get(0, "Host: [::1]:8000\r\n"), get(0, "Host: [::1]\r\n"), get(0, "Host: a_b.c\r\n"),
        get(0, "Host: [2001:db8::192.0.2.1]\r\n"), get(0, "Host: xn--nxasmq6b.example\r\n"), get(0, "Host: a.b:65535\r\n"),
        get(0, "Host: \(String(repeating: "a", count: 253)).b\r\n"),
        get(400, "Host: \(String(repeating: "a", count: 300)).b\r\n"),
        get(400, "Host: a.b@evil\r\n"), get(400, "Host: a.b:\r\n"), get(400, "Host: a.b:x\r\n"), get(400, "Host: a.b:65536\r\n"),
        get(400, "Host: a.b:080000\r\n"), get(400, "Host: a.b:80:80\r\n"), get(400, "Host: a.b, c.d\r\n"), get(400, "Host: a b\r\n"),
        get(400, "Host: a.b/\r\n"), get(400, "Host: http://a.b\r\n"), get(400, "Host: \u{fc}.b\r\n"), get(400, "Host: a%2eb\r\n"),
        get(400, "Host: :80\r\n"), get(400, "Host: [::1\r\n"), get(400, "Host: [::1]x\r\n"), get(400, "Host: ::1\r\n"),
        get(400, "Host: [1:2]\r\n"), get(400, "Host: [::1::]\r\n"), get(400, "Host: [fe80::1%25eth0]\r\n"),
        get(400, "Host: [v1.a]\r\n"), get(400, "Host: []\r\n"), get(400, "Host: [1:2:3:4:5:6:7:8:9]\r\n"),
        get(400, "Host: [:1]\r\n"), get(400, "Host: [1:]\r\n"), get(400, "Host: [12345::]\r\n"), get(400, "Host: [1.2.3.4::]\r\n"),
        get(0, "Host: [::]\r\n"), get(0, "Host: [1::]\r\n"), get(0, "Host: [1:2:3:4:5:6:7:8]\r\n"),
        get(0, "Host: [1:2:3:4:5:6:1.2.3.4]\r\n"),
        HeadRow(400, "GET / HTTP/1.0\r\nHost: a.b\r\nHost: a.b\r\n\r\n"),
        HeadRow(400, "GET http://a.b/ HTTP/1.1\r\n\r\n"),
        HeadRow(400, "GET http://a.b/ HTTP/1.1\r\nHost:\r\n\r\n"),
    ])
    func hosts(_ row: HeadRow) { row.check(.request) }

    @Test(arguments: [
        post(0, "Connection: ,close,, x-a ,\r\n"), post(400, "Connection: a b\r\n"), post(400, "Connection: \"close\"\r\n"),
        post(0, "Connection:\r\n"),
        post(400, "Connection: \(String(repeating: "a,", count: 65))\r\n"),
        post(0, "Expect: 100-continue\r\n"), post(0, "Expect: 100-Continue\r\n"), post(417, "Expect: 200-ok\r\n"), post(417, "Expect:\r\n"),
        HeadRow(0, "POST / HTTP/1.0\r\nExpect: 200-ok\r\n\r\n"),
        post(400, "Authorization: a\r\nAuthorization: b\r\n"), post(400, "x-piko-authorization: a\r\nX-Piko-Authorization: a\r\n"),
        post(0, "Authorization: a\r\nx-piko-authorization: b\r\n"), post(400, "x-piko-tenant-id: a\r\nx-piko-tenant-id: a\r\n"),
    ])
    func otherFields(_ row: HeadRow) { row.check(.request) }

    @Test(arguments: [
        response(0, ""), response(0, "Content-Length: 5\r\n"), response(0, "Host: x y\r\n"), response(0, "Expect: x\r\n"),
        response(502, "Content_Length: 5\r\n"),
        response(502, "Content-Length: 5\r\nContent-Length: 5\r\n"), response(502, "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
        response(502, "Transfer-Encoding: gzip\r\n"), response(502, "X: 1\n"), response(502, "X: a\u{0}\r\n"),
        response(502, "X: 1\r\n 2\r\n"),
        HeadRow(0, "HTTP/1.1 200\r\n\r\n"), HeadRow(0, "HTTP/1.1 200 \r\n\r\n"), HeadRow(0, "HTTP/1.0 404 Not  \tFound\u{e4}\r\n\r\n"),
        HeadRow(0, "HTTP/1.1 100 Continue\r\n\r\n"), HeadRow(0, "HTTP/1.1 599 x\r\n\r\n"), HeadRow(-1, "HTTP/1.1 200 OK\r\n"),
        HeadRow(-1, "H"),
        HeadRow(502, "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        HeadRow(502, "\r\nHTTP/1.1 200 OK\r\n\r\n"), HeadRow(502, "HTTP/1.1 200 OK\n\n"), HeadRow(502, "HTTP/1.1  200 OK\r\n\r\n"),
        HeadRow(502, "HTTP/1.1 20 OK\r\n\r\n"), HeadRow(502, "HTTP/1.1 2000 OK\r\n\r\n"), HeadRow(502, "HTTP/1.1 099 OK\r\n\r\n"),
        HeadRow(502, "HTTP/1.1 600 OK\r\n\r\n"), HeadRow(502, "HTTP/1.1 2x0 OK\r\n\r\n"), HeadRow(502, "HTTP/1.1 200OK\r\n\r\n"),
        HeadRow(502, "HTTP/2.0 200 OK\r\n\r\n"), HeadRow(502, "HTTP/1.2 200 OK\r\n\r\n"), HeadRow(502, "HTTP/1.1 200 O\u{0}K\r\n\r\n"),
        HeadRow(502, "HTTP/1.1 200 O\rK\r\n\r\n"), HeadRow(502, "SSH-2.0-x\r\n"), HeadRow(502, "http/1.1 200 OK\r\n\r\n"),
        HeadRow(502, "HTTP/1.1\t200 OK\r\n\r\n"), HeadRow(502, "HTTP/1.1 200\tOK\r\n\r\n"),
    ])
    func responses(_ row: HeadRow) { row.check(.response) }

    /// An error is told as soon as its line has ended, or before, not when the head has.
    @Test(arguments: [
        "GET / HTTP/1.1\n", "GET / HTTP/3.0\r\n", "GET / HTTP/1.1\r\nX: 1\n", "GET / HTTP/1.1\r\nHost: a b\r\n", "\u{16}", "(ET",
    ])
    func errorsComeEarly(_ text: String) { #expect(parseHead(text).status != nil) }

    @Test func limits() {
        let limits = HeadLimits(bytesMax: 100, fieldsMax: 3, targetBytesMax: 10)
        func status(_ text: String) -> Int? { parseHead(text, limits: limits).status }
        #expect(status("GET /123456789 HTTP/1.1\r\nHost: a\r\n\r\n") == nil)
        #expect(status("GET /1234567890 HTTP/1.1\r\nHost: a\r\n\r\n") == 414)
        #expect(status("GET /" + String(repeating: "a", count: 90)) == 414)
        #expect(status("GET / HTTP/1.1\r\nHost: a\r\nA:\r\nB:\r\n\r\n") == nil)
        #expect(status("GET / HTTP/1.1\r\nHost: a\r\nA:\r\nB:\r\nC:\r\n\r\n") == 431)
        let head = "GET / HTTP/1.1\r\nHost: a\r\nX: "
        let fits = head + String(repeating: "x", count: 100 - head.utf8.count - 4) + "\r\n\r\n"
        #expect(fits.utf8.count == 100)
        #expect(parseHead(fits, limits: limits).head?.length == 100)
        #expect(status(head + String(repeating: "x", count: 100 - head.utf8.count - 3) + "\r\n\r\n") == 431)
        #expect(status(head + String(repeating: "x", count: 100 - head.utf8.count)) == 431)
        #expect(parseHead("HTTP/1.1 200 " + String(repeating: "x", count: 100), kind: .response, limits: limits).status == 502)
    }

    @Test func factsOfARequest() throws {
        let text = """
            \r\nPUT http://One.example:80/p?q HTTP/1.1\r\nHost: one.Example:80\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r
            connection: X-A, host,x-piko-forward, keep-alive\r\nX-A: 1\r\nx-b:  two words \t\r\nTE: gzip;q=0.5, Trailers\r
            Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\nrest
            """
        let head = try #require(parseHead(text).head)
        let bytes = latin1(text)
        func at(_ range: Range<Int>?) -> String? { range.map { WireTests.text(bytes.span, $0) } }
        #expect(head.length == bytes.count - 4)
        #expect(head.method == .put && head.minorVersion == 1 && head.targetForm == .absolute)
        #expect(at(head.methodRange) == "PUT" && at(head.target) == "http://One.example:80/p?q" && at(head.originTarget) == "/p?q")
        #expect(at(head.hostRange) == "one.Example:80")
        #expect(head.connectionClose && head.connectionKeepAlive && head.connectionUpgrade && head.upgradePresent)
        #expect(head.isChunked && head.contentLength == nil && head.expectContinue && head.acceptsTrailers && !head.isPersistent)
        #expect(
            head.fields.map { at($0.name) } == [
                "Host", "Connection", "Upgrade", "connection", "X-A", "x-b", "TE", "Transfer-Encoding", "Expect",
            ])
        #expect(at(head.fields[5].value) == "two words")
        #expect(head.fields.indices.filter { head.isConnectionNamed($0) } == [4])
        #expect(head.count(of: .connection) == 2 && head.firstIndex(of: .connection) == 1 && head.firstIndex(of: .origin) == nil)
    }

    @Test(arguments: [
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n", true), ("GET / HTTP/1.1\r\nHost:\r\nConnection: Close\r\n\r\n", false),
        ("GET / HTTP/1.0\r\n\r\n", false), ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", true),
        ("GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n", false), ("GET / HTTP/1.1\r\nHost:\r\nConnection: closed\r\n\r\n", true),
    ])
    func persistence(_ text: String, _ expected: Bool) { #expect(parseHead(text).head?.isPersistent == expected) }

    @Test(arguments: [
        ("HTTP/1.1 204 x\r\n\r\n", true), ("HTTP/1.1 204 x\r\nContent-Length: 0\r\n\r\n", true),
        ("HTTP/1.1 204 x\r\nContent-Length: 5\r\n\r\n", false), ("HTTP/1.1 204 x\r\nTransfer-Encoding: chunked\r\n\r\n", false),
        ("HTTP/1.1 304 x\r\nContent-Length: 5\r\n\r\n", true), ("HTTP/1.0 200 x\r\n\r\n", false),
    ])
    func persistenceOfResponses(_ text: String, _ expected: Bool) {
        #expect(parseHead(text, kind: .response).head?.isPersistent == expected)
    }

    @Test func upgradesNeedConnectionVersionAndAProtocolWeCarry() {
        func upgrades(_ version: String, _ fields: String) -> Bool? {
            parseHead("GET / HTTP/1.\(version)\r\nHost:\r\n\(fields)\r\n").head?.upgradePresent
        }
        #expect(upgrades("1", "Upgrade: websocket\r\nConnection: keep-alive, upgrade\r\n") == true)
        #expect(upgrades("1", "Upgrade: websocket\r\n") == false)
        #expect(upgrades("1", "Connection: upgrade\r\n") == false)
        #expect(upgrades("0", "Upgrade: websocket\r\nConnection: upgrade\r\n") == false)
        #expect(upgrades("1", "Upgrade: h2c\r\nConnection: upgrade, HTTP2-Settings\r\nHTTP2-Settings: x\r\n") == false)
        #expect(upgrades("1", "Upgrade: websocket, H2C\r\nConnection: upgrade\r\n") == false)
    }

    @Test func parserAndHeadServeOneMessageAfterTheOther() throws {
        var parser = HeadParser(kind: .request)
        var head = Head()
        for (text, fields) in [
            ("GET /a HTTP/1.1\r\nHost: a\r\nX: 1\r\n\r\n", 2), ("GET /b HTTP/1.0\r\n\r\n", 0), ("HEAD /c HTTP/1.1\r\nHost:\r\n\r\n", 1),
        ] {
            #expect(!parser.isInsideHead)
            #expect(try parser.parse(latin1("GE").span, into: &head) == .incomplete)
            #expect(parser.isInsideHead)
            parser.reset()
            #expect(try parser.parse(latin1(text).span, into: &head) == .complete)
            #expect(head.fields.count == fields && !parser.isInsideHead)
            #expect(try parser.parse(latin1(text).span, into: &head) == .complete)
            parser.reset()
        }
        #expect(head.method == .head && head.contentLength == nil)
    }

    @Test func knownHeadersAreFoundByNameInAnyCase() {
        for known in KnownHeader.allCases where known != .other {
            let name = "\(known.name)"
            for spelling in [name, name.uppercased()] {
                let text = "HTTP/1.1 200 OK\r\n\(spelling): \(known == .contentLength ? "1" : "chunked")\r\n\r\n"
                #expect(parseHead(text, kind: .response).head?.fields.first?.known == known, "\(name)")
            }
            let longer = "HTTP/1.1 200 OK\r\n\(name)x: 1\r\n\r\n"
            #expect(parseHead(longer, kind: .response).head?.fields.first?.known == .other)
        }
        #expect(KnownHeader.allCases.count <= 64)
    }

    @Test func methodsAreFoundByTheirExactNames() {
        for method in Method.allCases where method != .other && method != .connect {
            #expect(parseHead("\(method.name) / HTTP/1.1\r\nHost:\r\n\r\n").head?.method == method)
            #expect(parseHead("\(method.name)X / HTTP/1.1\r\nHost:\r\n\r\n").head?.method == .other)
        }
    }

    /// A head that comes byte by byte costs no more than a small multiple of one that comes whole.
    @Test func arrivalByteByByteIsLinear() throws {
        let text = latin1("GET / HTTP/1.1\r\nHost:\r\nX: \(String(repeating: "x", count: 60_000))\r\n\r\n")
        var parser = HeadParser(kind: .request)
        var head = Head()
        let clock = ContinuousClock()
        let time = try clock.measure {
            for end in 1..<text.count { _ = try parser.parse(text.span.extracting(0..<end), into: &head) }
        }
        // Quadratic work would be 2 * 10^9 steps; this is some hundred thousand calls' worth even in a debug build.
        #expect(time < .seconds(2))
    }
}
