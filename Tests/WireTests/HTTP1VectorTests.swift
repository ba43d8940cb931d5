// The test cases of llhttp through our head parser, framing and chunk decoder: whole and byte by byte, and split at every offset.
//
// Where llhttp in its strict mode takes messages, we must take the same with the same parts; what it refuses, or takes only
// in a lenient mode, we must refuse. `exceptions` names each case in which we differ, and why.

import Foundation
import Memory
import Testing
import Wire

/// Reads one connection's messages as a shell would, from bytes that arrive in pieces.
struct VectorConnection {
    private enum Phase { case head, length(UInt64), chunks, untilClose, over }

    private(set) var messages: [VectorMessage] = []
    private(set) var refusal: HTTPError?
    /// All bytes as they were read, the Host lines put in included.
    var stream: [UInt8] { taken + buffer }
    private var taken: [UInt8] = []
    /// Whether the bytes ended within a head or a chunk.
    var isInsideMessage: Bool {
        switch phase {
        case .head: !buffer.isEmpty
        case .length, .chunks: true
        case .untilClose, .over: false
        }
    }
    private let addsHosts: Bool
    private let kind: HeadKind
    private let skipsBody: Bool
    private var parser: HeadParser
    private var head = Head()
    private var buffer: [UInt8] = []
    private var phase = Phase.head

    init(kind: HeadKind, skipsBody: Bool, addsHosts: Bool) {
        self.addsHosts = addsHosts
        self.kind = kind
        self.skipsBody = skipsBody
        parser = HeadParser(kind: kind)
    }

    mutating func receive(_ piece: ArraySlice<UInt8>, _ decoder: inout ChunkedDecoder) {
        guard refusal == nil else { return }
        buffer += piece
        do throws(HTTPError) {
            while try step(&decoder) {}
        } catch {
            refusal = error
        }
    }

    /// Takes what can be taken; false: more bytes are needed.
    private mutating func step(_ decoder: inout ChunkedDecoder) throws(HTTPError) -> Bool {
        switch phase {
        case .over:
            return false
        case .head:
            if addsHosts { addHost() }
            let bytes = buffer
            guard try parser.parse(bytes.span, into: &head) == .complete else { return false }
            parser.reset()
            var message = VectorMessage()
            message.fields = head.fields.map { [text(bytes.span, $0.name), text(bytes.span, $0.value)] }
                .filter { $0[0] != Self.addedHostName }
            if kind == .request {
                message.method = text(bytes.span, head.methodRange)
                message.target = text(bytes.span, head.target)
            } else {
                message.status = String(head.status)
            }
            messages.append(message)
            drop(head.length)
            decoder.reset()
            switch kind == .request ? BodyFraming.request(head) : try BodyFraming.response(head, to: skipsBody ? .head : .get) {
            case .none, .tunnel: finish()
            case .length(let length): phase = .length(length)
            case .chunked: phase = .chunks
            case .untilClose: phase = .untilClose
            }
            if kind == .request && skipsBody { finish() }
            return true
        case .length(let length):
            let count = Int(min(length, UInt64(buffer.count)))
            take(count)
            phase = .length(length - UInt64(count))
            if length > UInt64(count) { return false }
            finish()
            return true
        case .untilClose:
            take(buffer.count)
            return false
        case .chunks:
            return try stepChunks(&decoder)
        }
    }

    private mutating func stepChunks(_ decoder: inout ChunkedDecoder) throws(HTTPError) -> Bool {
        var offset = 0
        defer { drop(offset) }
        while true {
            switch try decoder.next(buffer.span, at: &offset) {
            case .needMore: return false
            case .data(let range): messages[messages.count - 1].body += text(buffer.span, range)
            case .end:
                finish()
                return true
            }
        }
    }

    private mutating func take(_ count: Int) {
        messages[messages.count - 1].body += text(buffer.span, 0..<count)
        drop(count)
    }

    private mutating func drop(_ count: Int) {
        taken += buffer.prefix(count)
        buffer.removeFirst(count)
    }

    private static let addedHost = "added.invalid"
    /// Spelt as nobody else does, to be known again.
    private static let addedHostName = "hOST"

    /// Most of their requests have no Host, which HTTP/1.1 demands and they don't. So that more than that is compared, the
    /// head at the start of the buffer gets one when it lacks only that.
    private mutating func addHost() {
        let rest = text(buffer.span, 0..<buffer.count)
        let head = rest.components(separatedBy: "\r\n\r\n")[0]
        guard kind == .request, let end = rest.range(of: " HTTP/1.1\r\n"), !head.lowercased().contains("\nhost:") else { return }
        let line = rest[..<end.lowerBound]
        guard !line.unicodeScalars.drop(while: { $0 == "\r" || $0 == "\n" }).contains("\n") else { return }
        var host = Substring(Self.addedHost)
        if let scheme = line.range(of: "http://") { host = line[scheme.upperBound...].prefix { $0 != "/" && $0 != "?" } }
        let place = rest.unicodeScalars.distance(from: rest.startIndex, to: end.upperBound)
        buffer.insert(contentsOf: latin1("\(Self.addedHostName): \(host)\r\n"), at: place)
    }

    private mutating func finish() {
        messages[messages.count - 1].isComplete = true
        let switches = head.method == .connect || head.upgradePresent && (kind == .request || head.status == 101)
        phase = head.isPersistent && !switches ? .head : .over
    }
}

@Suite struct HTTP1VectorTests {
    /// What differs on purpose.
    enum Difference {
        /// We refuse what llhttp takes.
        case stricter
        /// We take what llhttp refuses.
        case wider
        /// Both take it, and see other messages in it.
        case other
    }

    private static let overAfterClose = "what follows the last message of a connection is not looked at, in no mode"
    private static let otherProtocol = "not HTTP"
    private static let leadingZero = "two parsers may take a leading zero for octal"
    private static let emptyLine = "an empty line before a response, or a second one before a request, is a body that lost count"
    private static let coding = "we take no transfer coding but chunked, and none with it; llhttp takes such a body to go on until the end"
    private static let hostCharacters = "we take no sub-delimiters in hosts"
    private static let cleartext = "the upgrade to HTTP/2 in clear text is never ours, so its 101 answers nothing"
    private static let anyToken = "any token is a method (RFC 9110 section 9.1)"

    static let exceptions: [String: (Difference, String)] = [
        "request/connection: `keep-alive` / Resetting flags when keep-alive is off (1.0, lenient)": (.wider, overAfterClose),
        "request/connection: `close` / CRLF between requests, explicit `close` (lenient)": (.wider, overAfterClose),
        "response/connection: HTTP/1.1 with keep-alive disabled, content-length (lenient)": (.wider, overAfterClose),
        "response/connection: HTTP/1.1 with keep-alive disabled and 204 status (lenient)": (.wider, overAfterClose),
        "request/connection: `keep-alive` / CRLF between requests, implicit `keep-alive`": (.stricter, emptyLine),
        "response/connection: HTTP 304 with Content-Length": (.stricter, emptyLine),
        "response/connection: HTTP 100 first, then 400": (.stricter, emptyLine),
        "response/pipelining: Should parse multiple events": (.stricter, emptyLine),
        "response/sample: Response starting with CRLF": (.stricter, emptyLine),
        "request/content-length: `Content-Length` with zeroes": (.stricter, leadingZero),
        "request/content-length: `Content-Length` with follow-up headers": (.stricter, leadingZero),
        "request/invalid: HTTP protocol and ANNOUNCE method": (.wider, anyToken),
        "request/invalid: Invalid method": (.wider, anyToken),
        "request/method: CONNECT with body": (
            .other, "llhttp gives up the stream at the head; we frame the body first, and our shell refuses CONNECT"
        ),
        "request/method: M-SEARCH request": (.stricter, "`*` is for OPTIONS only (RFC 9112 section 3.2.4)"),
        "request/method: PRI request HTTP2": (.stricter, "we do not speak HTTP/2 on these ports"),
        "request/method: SOURCE request with ICE": (.stricter, otherProtocol),
        "request/method: OPTIONS request with RTSP": (.stricter, otherProtocol),
        "request/method: ANNOUNCE request with RTSP": (.stricter, otherProtocol),
        "request/sample: No HTTP version": (.stricter, "HTTP/0.9"),
        "response/sample: RTSP response": (.stricter, otherProtocol),
        "response/sample: ICE response": (.stricter, otherProtocol),
        "response/sample: HTTP version 0.9": (.stricter, "HTTP/0.9"),
        "request/sample: curl GET": (.stricter, hostCharacters),
        "request/sample: Firefox GET": (.stricter, hostCharacters),
        "request/uri: `host:port` and basic auth": (.stricter, "a host with user information deceives (RFC 9110 section 4.2.4)"),
        "request/uri: Disallow UTF-8 in URI path in strict mode": (
            .wider, "clients do send raw UTF-8 in targets; it goes through byte for byte, and no rule of ours reads it"
        ),
        "request/uri: Fragment in URI": (.stricter, "a fragment is no part of a target (RFC 9112 section 3.2)"),
        "request/transfer-encoding: POST with `chunked` as last transfer-encoding": (.stricter, coding),
        "request/transfer-encoding: POST with `chunked` as last transfer-encoding (multiple headers)": (.stricter, coding),
        "response/transfer-encoding: `chunked` before other transfer-encoding": (.stricter, coding),
        "response/transfer-encoding: multiple transfer-encoding where chunked is not the last one": (.stricter, coding),
        "response/transfer-encoding: `chunkedchunked` transfer-encoding does not enable chunked enconding": (.stricter, coding),
        "response/connection: HTTP 101 response with Upgrade and Content-Length header": (.stricter, cleartext),
        "response/connection: HTTP 101 response with Upgrade and Transfer-Encoding header": (.stricter, cleartext),
    ]

    @Test func agreesWithLLHTTP() throws {
        guard let directory = VectorReader.directory else {
            print("HTTP1VectorTests: skipped, as the vectors of llhttp are not here (set PIKO_HTTP_VECTORS)")
            return
        }
        let cases = try VectorReader.cases(in: directory)
        #expect(cases.count > 200)
        var used: Set<String> = []
        for vector in cases {
            let whole = Self.run(vector, vector.input, [vector.input.count], addsHosts: true)
            for arrival in arrivals(whole.stream.count) {
                let split = Self.run(vector, whole.stream, arrival, addsHosts: false)
                #expect(split.messages == whole.messages, "\(vector.key)")
                #expect(split.refusal?.description == whole.refusal?.description, "\(vector.key)")
            }
            let found = Self.difference(vector, whole)
            if found != Self.exceptions[vector.key]?.0 {
                let text = VectorReader.latin1(vector.input[...]).debugDescription
                Issue.record(
                    "\(vector.key) (\(vector.type)): \(found as Any)\n  input \(text)\n  theirs \(vector.error ?? "-") \(vector.messages)\n  ours \(whole.refusal?.description ?? "-") \(whole.messages)"
                )
            }
            used.insert(vector.key)
        }
        #expect(Set(Self.exceptions.keys).subtracting(used) == [], "exceptions without a case")
    }

    private static func difference(_ vector: VectorCase, _ ours: VectorConnection) -> Difference? {
        let mustRefuse = vector.error != nil || vector.isLenient
        var isRefused = ours.refusal != nil
        if mustRefuse && !isRefused && ours.isInsideMessage {
            // llhttp tells some errors in the middle of a line, we tell all at its end; some inputs end before that.
            let longer = vector.input + latin1("\r\n\r\n")
            isRefused = run(vector, longer, [longer.count], addsHosts: true).refusal != nil
        }
        if isRefused != mustRefuse { return mustRefuse ? .wider : .stricter }
        if mustRefuse { return nil }
        return ours.messages == vector.messages ? nil : .other
    }

    private static func run(_ vector: VectorCase, _ bytes: [UInt8], _ arrival: [Int], addsHosts: Bool) -> VectorConnection {
        let kind = vector.type.hasPrefix("request") ? HeadKind.request : .response
        var connection = VectorConnection(kind: kind, skipsBody: vector.skipsBody, addsHosts: addsHosts)
        var decoder = ChunkedDecoder()
        var start = 0
        for end in arrival {
            connection.receive(bytes[start..<end], &decoder)
            start = end
        }
        return connection
    }
}
