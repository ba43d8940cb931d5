// What requests say about how they came: what is passed on of it, and who the client is.

import Base
import Memory
import Testing
import Wire

@Suite struct ForwardingTests {
    /// Field lines of a request, what becomes of them, and the field lines that are written.
    static let rewrites: [(String, Forwarding, String)] = [
        ("", .append, "X-Forwarded-For: 192.0.2.9\r\n"),
        (
            "X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: h\r\nForwarded: for=1.2.3.4\r\nX-Real-IP: 1.2.3.4\r\n", .append,
            "X-Forwarded-Proto: https\r\nX-Forwarded-Host: h\r\nForwarded: for=1.2.3.4\r\nX-Real-IP: 1.2.3.4\r\nX-Forwarded-For: 1.2.3.4, 192.0.2.9\r\n"
        ),
        (
            "", .replace,
            "X-Forwarded-For: 192.0.2.9\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a:80\r\nForwarded: for=192.0.2.9;host=\"a:80\";proto=http\r\n"
        ),
        (
            "X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: h\r\nForwarded: for=1.2.3.4\r\nX-Real-IP: 1.2.3.4\r\nA: 1\r\nX-Forwarded-For: 5\r\n",
            .replace,
            "A: 1\r\nX-Forwarded-For: 192.0.2.9\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a:80\r\nForwarded: for=192.0.2.9;host=\"a:80\";proto=http\r\n"
        ),
        ("", .extend, "X-Forwarded-For: 192.0.2.9\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a:80\r\n"),
        (
            "X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: h\r\nForwarded: for=1.2.3.4\r\nForwarded: for=5.6.7.8\r\nX-Real-IP: 1.2.3.4\r\nX-Forwarded-For: 5.6.7.8\r\n",
            .extend,
            "X-Forwarded-Proto: https\r\nX-Forwarded-Host: h\r\nX-Real-IP: 1.2.3.4\r\nX-Forwarded-For: 1.2.3.4, 5.6.7.8, 192.0.2.9\r\nForwarded: for=1.2.3.4, for=5.6.7.8, for=192.0.2.9;host=\"a:80\";proto=http\r\n"
        ),
    ]

    @Test(arguments: rewrites.indices)
    func rewritesFields(row: Int) throws {
        let (fields, forwarding, expected) = Self.rewrites[row]
        let written = HTTP1WriterTests.rewritten("GET / HTTP/1.1\r\nHost: a:80\r\n\(fields)\r\n") {
            $0.client = latin1("192.0.2.9")
            $0.forwarding = forwarding
        }
        #expect(written == "GET / HTTP/1.1\r\nHost: a:80\r\n\(expected)\r\n")
    }

    @Test func saysHowAnIPv6ClientCame() {
        let written = HTTP1WriterTests.rewritten("GET / HTTP/1.1\r\nHost: a\r\n\r\n") {
            $0.client = latin1("2001:db8::9")
            $0.forwarding = .replace
            $0.isSecure = true
        }
        #expect(
            written
                == "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 2001:db8::9\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: a\r\nForwarded: for=\"[2001:db8::9]\";host=\"a\";proto=https\r\n\r\n"
        )
    }

    /// What another node of ours wrote goes through as it is.
    @Test func leavesWhatANodeWrote() {
        let fields = "X-Forwarded-For: 1.2.3.4\r\nForwarded: for=1.2.3.4\r\nX-Forwarded-Proto: https\r\n"
        let written = HTTP1WriterTests.rewritten("GET / HTTP/1.1\r\nHost: a\r\n\(fields)\r\n") { $0.forwarding = .replace }
        #expect(written == "GET / HTTP/1.1\r\nHost: a\r\n\(fields)\r\n")
    }

    /// Who connects, the field lines of a request, and its client; nil: who connects. 10.0.0.0/8 and fd00::/8 are trusted.
    static let clients: [(String, String, String?)] = [
        ("10.0.0.1", "", nil), ("192.0.2.1", "X-Forwarded-For: 203.0.113.7\r\n", nil), ("10.0.0.1", "X-Forwarded-For: 203.0.113.7\r\n", "203.0.113.7"),
        ("10.0.0.1", "X-Forwarded-For: 6.6.6.6, 203.0.113.7\r\n", "203.0.113.7"), ("10.0.0.1", "X-Forwarded-For: 203.0.113.7, 10.0.0.2,10.0.0.3\r\n", "203.0.113.7"),
        ("10.0.0.1", "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 203.0.113.7\r\nX-Forwarded-For: 10.0.0.2\r\n", "203.0.113.7"),
        ("10.0.0.1", "X-Forwarded-For: 10.0.0.4, 10.0.0.3\r\n", "10.0.0.4"), ("10.0.0.1", "X-Forwarded-For: garbage\r\n", nil),
        ("10.0.0.1", "X-Forwarded-For: 6.6.6.6, unknown, 10.0.0.3\r\n", "10.0.0.3"), ("10.0.0.1", "X-Forwarded-For: , 203.0.113.7 , ,\r\n", "203.0.113.7"),
        ("10.0.0.1", "X-Forwarded-For: 203.0.113.7:4711\r\n", "203.0.113.7"), ("10.0.0.1", "X-Forwarded-For: [2001:db8::7]:4711\r\n", "2001:db8::7"),
        ("10.0.0.1", "X-Forwarded-For: [2001:db8::7]\r\n", "2001:db8::7"), ("10.0.0.1", "X-Forwarded-For: 2001:db8::7\r\n", "2001:db8::7"),
        ("10.0.0.1", "X-Forwarded-For: [203.0.113.7]\r\n", nil), ("10.0.0.1", "X-Forwarded-For: 203.0.113.7:x\r\n", nil),
        ("10.0.0.1", "X-Forwarded-For: [2001:db8::7]x\r\n", nil), ("10.0.0.1", "X-Forwarded-For: [2001:db8::7\r\n", nil), ("10.0.0.1", "X-Forwarded-For:\r\n", nil),
        ("fd00::1", "X-Forwarded-For: ::ffff:203.0.113.7\r\n", "203.0.113.7"), ("10.0.0.1", "Forwarded: for=203.0.113.7\r\n", "203.0.113.7"),
        ("10.0.0.1", "Forwarded: for=6.6.6.6, proto=http;FOR=\"203.0.113.7:80\";by=10.0.0.1\r\n", "203.0.113.7"),
        ("10.0.0.1", "Forwarded: for=\"[2001:db8::7]:80\", for=10.1.1.1\r\n", "2001:db8::7"), ("10.0.0.1", "Forwarded: for=unknown\r\n", nil),
        ("10.0.0.1", "Forwarded: for=_hidden, for=10.0.0.2\r\n", "10.0.0.2"), ("10.0.0.1", "Forwarded: by=10.0.0.2\r\n", nil),
        ("10.0.0.1", "Forwarded: for=1.1.1.1;for=2.2.2.2\r\n", nil), ("10.0.0.1", "Forwarded: for=\"a, for=6.6.6.6\"\r\n", nil),
        ("10.0.0.1", "Forwarded: for=203.0.113.7;\r\n", "203.0.113.7"), ("10.0.0.1", "Forwarded: junk;for=203.0.113.7\r\n", nil),
        ("10.0.0.1", "X-Forwarded-For: 203.0.113.8\r\nForwarded: for=203.0.113.7\r\n", "203.0.113.8"),
    ]

    @Test(arguments: clients.indices)
    func findsTheClient(row: Int) throws {
        let (peer, fields, expected) = Self.clients[row]
        let request = "GET / HTTP/1.1\r\nHost: a\r\n\(fields)\r\n"
        let head = try #require(parseHead(request).head)
        let trusted = AddressBlocks(checked: ["10.0.0.0/8", "fd00::/8"])
        let bytes = latin1(request)
        let client = head.client(bytes.span, peer: IPAddress(text: peer)!) { trusted.contains($0) }
        #expect(client?.description == expected)
    }
}
