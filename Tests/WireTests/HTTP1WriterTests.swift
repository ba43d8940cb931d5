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
}
