// CONNECT: requests as bytes, and answers in rows, each whole, byte by byte and split at every place.

import Memory
import Testing

@testable import Wire

@Suite struct ConnectMessagesTests {
    @Test func requests() {
        var buffer = ByteBuffer()
        ConnectRequest(target: "piko.example.com:443").write(into: &buffer)
        #expect(text(buffer) == "CONNECT piko.example.com:443 HTTP/1.1\r\nHost: piko.example.com:443\r\n\r\n")
        buffer.removeAll()
        ConnectRequest(target: "[::1]:8001", credentials: "Aladdin:open sesame").write(into: &buffer)
        #expect(text(buffer) == "CONNECT [::1]:8001 HTTP/1.1\r\nHost: [::1]:8001\r\nProxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n\r\n")
    }

    private static func tunnel(_ early: String = "") -> ConnectAnswer.Outcome { .tunnel(early: latin1(early)) }

    static let answers: [(String, ConnectAnswer.Outcome?)] = [
        ("HTTP/1.1 200 OK\r\n\r\n", tunnel()), ("HTTP/1.0 200 Connection established\r\n\r\n", tunnel()), ("HTTP/1.1 200\r\n\r\n", tunnel()),
        ("HTTP/1.1 200 \r\nVia: 1.1 p\r\nProxy-Agent: x\r\n\r\n", tunnel()), ("HTTP/1.1 299 Odd\r\n\r\n", tunnel()), ("HTTP/1.1 204 No Content\r\n\r\n", tunnel()),
        ("HTTP/1.1 200 OK\r\n\r\nSSH-2.0-x\r\n", tunnel("SSH-2.0-x\r\n")), ("HTTP/1.1 200 OK\r\n\r\n\u{0}\u{ff}\r\n\r\n", tunnel("\u{0}\u{ff}\r\n\r\n")),
        // A length or a coding means nothing here (RFC 9110 section 9.3.6).
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", tunnel("hello")), ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", tunnel("0\r\n")),
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\nx", tunnel("x")),
        ("HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 102 P\r\n\r\nHTTP/1.1 407 P\r\n\r\n", .refused(status: 407, reason: "P")),
        ("HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"x\"\r\n\r\n", .refused(status: 407, reason: "Proxy Authentication Required")),
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nno!", .refused(status: 403, reason: "Forbidden")), ("HTTP/1.1 502\r\n\r\n", .refused(status: 502, reason: "")),
        ("HTTP/1.1 302 Found\r\nLocation: http://a\r\n\r\n", .refused(status: 302, reason: "Found")), ("HTTP/1.1 101 Switching\r\n\r\n", .refused(status: 101, reason: "Switching")),
        ("HTTP/1.1 500 " + String(repeating: "r", count: 200) + "\r\n\r\n", .refused(status: 500, reason: String(repeating: "r", count: 128))),
        ("", nil), ("H", nil), ("HTTP/1.1 200 OK\r\n", nil), ("HTTP/1.1 200 OK\r\nA: b\r\n\r", nil), ("HTTP/1.1 100 Continue\r\n\r\n", nil),
    ]

    @Test(arguments: answers.indices)
    func reads(row: Int) {
        let (answer, wanted) = Self.answers[row]
        let bytes = latin1(answer)
        for arrival in arrivals(bytes.count) {
            #expect(ConnectFuzz.read(bytes, ends: arrival) == .success(wanted), "arrival \(arrival) of \(answer.debugDescription)")
        }
    }

    static let malformed = [
        "SSH-2.0-OpenSSH\r\n", "\u{16}\u{3}\u{1}", "<html>\r\n", "\r\n", "HTTP/2 200\r\n\r\n", "HTTP/1.1 20 OK\r\n", "HTTP/1.1 999 OK\r\n", "HTTP/1.1  200 OK\r\n",
        "HTTP/1.1 200 OK\n\n", "HTTP/1.1 200 OK\r\nA b\r\n", "HTTP/1.1 200 OK\r\n A: b\r\n", "HTTP/1.1 200 O\u{0}K\r\n", "HTTP/1.1 200 OK\r\nA: b\u{0}\r\n",
        "HTTP/1.1 100 Continue\r\n\r\nhello\r\n", "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
    ]

    @Test(arguments: malformed)
    func refuses(answer: String) {
        let bytes = latin1(answer)
        let whole = ConnectFuzz.read(bytes, ends: [bytes.count])
        guard case .failure(.malformed) = whole else {
            Issue.record("\(answer.debugDescription) is \(whole)")
            return
        }
        for arrival in arrivals(bytes.count) { #expect(ConnectFuzz.read(bytes, ends: arrival) == whole, "arrival \(arrival) of \(answer.debugDescription)") }
    }

    @Test func headIsBounded() {
        let start = "HTTP/1.1 200 OK\r\n"
        /// An answer with a head of so many bytes.
        func head(_ count: Int, from start: String) -> String { start + "A: " + String(repeating: "b", count: count - start.utf8.count - 7) + "\r\n\r\n" }
        let interim = "HTTP/1.1 100 Continue\r\n\r\n"
        let most = ConnectAnswer.headBytesMax
        let rows: [(String, Bool)] = [
            (head(most, from: start) + "x", true), (head(most + 1, from: start), false), (start + String(repeating: "b", count: most), false),
            (start + String(repeating: "a:\r\n", count: most / 4), false), ("H" + String(repeating: "x", count: most), false),
            (head(most, from: interim + start), true), (head(most + 1, from: interim + start), false),
            (String(repeating: interim, count: most / interim.utf8.count + 1), false),
        ]
        for (answer, isTaken) in rows {
            let bytes = latin1(answer)
            let wanted: Result<ConnectAnswer.Outcome?, ConnectAnswerError> =
                isTaken ? .success(.tunnel(early: answer.hasSuffix("x") ? latin1("x") : [])) : .failure(.tooLong)
            for arrival in [[bytes.count], Array(0...bytes.count), [most - 1, bytes.count], [most, bytes.count]] {
                #expect(ConnectFuzz.read(bytes, ends: arrival) == wanted, "\(bytes.count) bytes, pieces to \(arrival.prefix(3))")
            }
        }
    }
}
