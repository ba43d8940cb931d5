// HTTP connections between a client's socket and a service's, as tables of what goes in and what comes out, each row whole and
// byte by byte.
import Base
import Memory
import Reactor
import TestKit
import Testing
import Transport
import Wire

/// A connection whose requests all go to one service.
private final class OneServiceConnection: HTTPConnection {
    let makeUpstream: () -> HTTPUpstream?
    var summaries: [ExchangeSummary] = []
    var retries = 0
    var refusals: [Int] = []
    var isClosed = false
    var passage = Passage.service
    var isFromOurs = false

    override var comesFromOurs: Bool { isFromOurs }

    init(_ context: HTTPContext, channel: Channel, makeUpstream: @escaping () -> HTTPUpstream?) {
        self.makeUpstream = makeUpstream
        super.init(context, channel: channel, clientHost: Array("192.0.2.7".utf8))
    }

    override func requestArrived() {
        if let upstream = makeUpstream() {
            proceed(with: upstream, as: passage)
        } else {
            respondError(status: 502, "no available upstreams")
        }
    }

    override func upstreamBroke(repeatable: Bool) -> Bool {
        guard repeatable else { return false }
        retries += 1
        requestArrived()
        return true
    }

    override func upstreamDeclined() -> Bool {
        retries += 1
        requestArrived()
        return true
    }

    override func exchangeFinished() { summaries.append(summary) }
    override func requestRefused(status: Int) { refusals.append(status) }
    override func connectionClosed() { isClosed = true }
}

/// A client, the connection under test, and the services it dialled.
private final class Bench {
    let loop: Loop
    let client: Stream
    let clientUser = RecordingDelegate()
    var services: [(stream: Stream, user: RecordingDelegate)] = []
    private(set) var connection: OneServiceConnection!
    let pool: UpstreamPool
    var hasService = true

    init(_ configure: (inout HTTPSettings) -> Void = { _ in }) throws {
        loop = try Loop(backend: .epoll)
        var settings = HTTPSettings()
        configure(&settings)
        let context = HTTPContext(loop, settings: settings)
        pool = UpstreamPool(loop, idleMax: 4, idleTimeout: .seconds(30))
        let (outer, inner) = try streamPair(loop)
        client = outer
        client.delegate = clientUser
        client.resumeReading()
        connection = OneServiceConnection(context, channel: inner) { [unowned self] in self.dial() }
        connection.start()
    }

    private func dial() -> HTTPUpstream? {
        guard hasService else { return nil }
        if let idle = pool.take() { return idle }
        guard let (near, far) = try? streamPair(loop) else { return nil }
        let user = RecordingDelegate()
        far.delegate = user
        far.resumeReading()
        services.append((far, user))
        return HTTPUpstream(near, pool: pool)
    }

    func send(_ text: String) { client.write(Array(text.utf8).span) }
    func answer(_ text: String, from service: Int = 0) { services[service].stream.write(Array(text.utf8).span) }

    /// Sends text in one piece or byte by byte, turning the loop after each.
    func send(_ text: String, split: Bool, to stream: Stream) {
        let bytes = Array(text.utf8)
        if !split {
            stream.write(bytes.span)
            return
        }
        for index in bytes.indices {
            stream.write(bytes.span.extracting(index..<index + 1))
            loop.runTurn(until: SystemClock.now + .microseconds(200))
            loop.runTurn(until: SystemClock.now)
        }
    }
}

/// One exchange: what the client sends, what the service must get, what it answers, what the client must get.
struct ExchangeRow: CustomTestStringConvertible, Sendable {
    var name: String
    var request: String
    var forwarded: String
    var response: String
    var received: String
    var testDescription: String { name }
}

private let forwardedFor = "X-Forwarded-For: 192.0.2.7\r\nx-piko-forward: true\r\n"

private let exchangeRows = [
    ExchangeRow(
        name: "GET with a length", request: "GET /a?b HTTP/1.1\r\nHost: e.example.com\r\n\r\n",
        forwarded: "GET /a?b HTTP/1.1\r\nHost: e.example.com\r\n\(forwardedFor)\r\n",
        response: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        received: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
    ExchangeRow(
        name: "POST with a length",
        request: "POST / HTTP/1.1\r\nHost: e.example.com\r\nContent-Length: 4\r\n\r\nbody",
        forwarded: "POST / HTTP/1.1\r\nHost: e.example.com\r\n\(forwardedFor)Content-Length: 4\r\n\r\nbody",
        response: "HTTP/1.1 204 No Content\r\n\r\n", received: "HTTP/1.1 204 No Content\r\n\r\n"),
    ExchangeRow(
        name: "interim responses go before the final one",
        request: "GET / HTTP/1.1\r\nHost: e.example.com\r\n\r\n",
        forwarded: "GET / HTTP/1.1\r\nHost: e.example.com\r\n\(forwardedFor)\r\n",
        response: "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        received: "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    ExchangeRow(
        name: "HEAD has no body", request: "HEAD / HTTP/1.1\r\nHost: e.example.com\r\n\r\n",
        forwarded: "HEAD / HTTP/1.1\r\nHost: e.example.com\r\n\(forwardedFor)\r\n",
        response: "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", received: "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"),
    ExchangeRow(
        name: "what is ours stays here",
        request:
            "GET / HTTP/1.1\r\nHost: x\r\nx-piko-endpoint: e\r\nx-piko-authorization: Bearer t\r\nx-piko-forward: true\r\n\r\n",
        forwarded: "GET / HTTP/1.1\r\nHost: x\r\n\(forwardedFor)\r\n",
        response: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", received: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
]

@Suite struct HTTPConnectionTests {
    @Test(arguments: exchangeRows, [false, true]) func carriesAnExchange(_ row: ExchangeRow, split: Bool) throws {
        let bench = try Bench()
        for round in 0..<3 {
            bench.send(row.request, split: split, to: bench.client)
            #expect(bench.loop.turn { bench.services.first?.user.text == row.forwarded })
            bench.send(row.response, split: split, to: bench.services[0].stream)
            #expect(bench.loop.turn { bench.clientUser.text == row.received })
            #expect(bench.loop.turn { bench.connection.summaries.count == round + 1 })
            bench.clientUser.forget()
            bench.services[0].user.forget()
        }
        #expect(bench.services.count == 1, "the service's connection is used again")
        bench.client.close()
        #expect(bench.loop.turn { bench.connection.isClosed })
    }

    @Test func chunksKeepTheirTrailers() throws {
        let bench = try Bench()
        bench.send("POST / HTTP/1.1\r\nHost: e.f\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n3\r\nabc\r\n")
        bench.send("2;x=y\r\nde\r\n0\r\nX-Sum: 5\r\n\r\n")
        #expect(bench.loop.turn { bench.services.first?.user.text.hasSuffix("0\r\nX-Sum: 5\r\n\r\n") == true })
        let text = bench.services[0].user.text
        let body = text[text.firstRange(of: "\r\n\r\n")!.upperBound...]
        #expect(body == "3\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 5\r\n\r\n")
        bench.answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX-Out: 1\r\n\r\n")
        #expect(bench.loop.turn { bench.clientUser.text.hasSuffix("1\r\nx\r\n0\r\nX-Out: 1\r\n\r\n") })
        #expect(bench.loop.turn { bench.pool.count == 1 })
    }

    @Test func pipelinedRequestsAreServedInOrder() throws {
        let bench = try Bench()
        bench.send("GET /1 HTTP/1.1\r\nHost: e.f\r\n\r\nPOST /2 HTTP/1.1\r\nHost: e.f\r\nContent-Length: 1\r\n\r\nxGET /3 HTTP/1.1\r\nHost: e.f\r\n\r\n")
        for number in 1...3 {
            #expect(bench.loop.turn { bench.services.first?.user.text.contains("/\(number) HTTP/1.1") == true })
            #expect(bench.services[0].user.text.contains("/\(number + 1) HTTP") == false)
            bench.answer("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n\(number)")
        }
        #expect(bench.loop.turn { bench.clientUser.text.hasSuffix("3") && bench.connection.summaries.count == 3 })
    }

    @Test func responseFramedByCloseGoesOutInChunks() throws {
        let bench = try Bench()
        bench.send("GET / HTTP/1.1\r\nHost: e.f\r\n\r\n")
        #expect(bench.loop.turn { bench.services.first?.user.text.isEmpty == false })
        bench.answer("HTTP/1.0 200 OK\r\n\r\nabc")
        bench.services[0].stream.close()
        #expect(bench.loop.turn { bench.clientUser.text.hasSuffix("0\r\n\r\n") })
        #expect(bench.clientUser.text == "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
    }

    @Test func oldClientsGetNoChunks() throws {
        let bench = try Bench()
        bench.send("GET / HTTP/1.0\r\nHost: e.f\r\n\r\n")
        #expect(bench.loop.turn { bench.services.first?.user.text.isEmpty == false })
        bench.answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
        #expect(bench.loop.turn { bench.clientUser.hasEnded })
        #expect(bench.clientUser.text == "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc")
    }

    @Test func aCutResponseIsSeenAsCut() throws {
        let bench = try Bench()
        bench.send("GET / HTTP/1.1\r\nHost: e.f\r\n\r\n")
        #expect(bench.loop.turn { bench.services.first?.user.text.isEmpty == false })
        bench.answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        #expect(bench.loop.turn { bench.clientUser.text.hasSuffix("abc\r\n") })
        bench.services[0].stream.abort()
        #expect(bench.loop.turn { bench.clientUser.hasEnded || bench.clientUser.failure != nil })
        #expect(!bench.clientUser.text.hasSuffix("0\r\n\r\n"))
        #expect(bench.connection.summaries.first?.wasCut == true)
    }

    /// Who ended an exchange, and whether the service's first byte has a time.
    @Test func saysWhoEndedIt() throws {
        let get = "GET / HTTP/1.1\r\nHost: e.f\r\n\r\n"
        func outcome(_ request: String, _ configure: (inout HTTPSettings) -> Void = { _ in }, _ act: (Bench) throws -> Void) throws -> ExchangeSummary {
            let bench = try Bench(configure)
            bench.send(request)
            try act(bench)
            #expect(bench.loop.turn { bench.connection.summaries.count == 1 })
            return try #require(bench.connection.summaries.first)
        }
        func arrived(_ bench: Bench) { #expect(bench.loop.turn { bench.services.first?.user.text.isEmpty == false }) }

        let whole = try outcome(get) { bench in
            arrived(bench)
            bench.answer("HTTP/1.1 103 Early Hints\r\n\r\n")
            #expect(bench.loop.turn { !bench.clientUser.text.isEmpty })
            #expect(bench.connection.summary.firstByte == nil)
            bench.answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
            #expect(bench.loop.turn { bench.connection.summary.firstByte != nil })
            bench.answer("k")
        }
        #expect(whole.outcome == .completed && whole.status == 200)
        #expect(try #require(whole.firstByte) >= whole.started)

        let half = try outcome("POST / HTTP/1.1\r\nHost: e.f\r\nContent-Length: 9\r\n\r\nhalf") { bench in
            arrived(bench)
            bench.client.finish()
        }
        #expect(half.outcome == .client && half.status == 0 && half.requestBodyBytes == 4 && half.firstByte == nil)

        let broke = try outcome("POST / HTTP/1.1\r\nHost: e.f\r\nContent-Length: 2\r\n\r\nhi") { bench in
            arrived(bench)
            bench.services[0].stream.abort()
        }
        #expect(broke.outcome == .service && broke.status == 502 && broke.firstByte == nil)

        let cut = try outcome(get) { bench in
            arrived(bench)
            bench.answer("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
            #expect(bench.loop.turn { bench.clientUser.text.hasSuffix("half") })
            bench.services[0].stream.abort()
        }
        #expect(cut.outcome == .service && cut.status == 200 && cut.responseBodyBytes == 4 && cut.firstByte != nil)

        let garbage = try outcome(get) { bench in
            arrived(bench)
            bench.answer("HTTP/1.1 2\r\n\r\n")
        }
        #expect(garbage.outcome == .service && garbage.status == 502 && garbage.firstByte == nil)

        let late = try outcome(get, { $0.responseTimeout = .milliseconds(20) }, arrived)
        #expect(late.outcome == .gateway && late.status == 504 && late.firstByte == nil)

        let again = try outcome(get) { bench in
            arrived(bench)
            bench.services[0].stream.abort()
            #expect(bench.loop.turn { bench.services.count == 2 && !bench.services[1].user.text.isEmpty })
            bench.answer("HTTP/1.1 204 No Content\r\n\r\n", from: 1)
        }
        #expect(again.outcome == .completed && again.attempts == 2)

        let bench = try Bench()
        bench.hasService = false
        bench.send(get)
        #expect(bench.loop.turn { bench.connection.summaries.first?.outcome == .gateway })
    }

    @Test func repeatableRequestsAreTriedAgain() throws {
        let bench = try Bench()
        bench.send("GET / HTTP/1.1\r\nHost: e.f\r\n\r\n")
        #expect(bench.loop.turn { bench.services.first?.user.text.isEmpty == false })
        bench.services[0].stream.abort()
        #expect(bench.loop.turn { bench.services.count == 2 && !bench.services[1].user.text.isEmpty })
        bench.answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", from: 1)
        #expect(bench.loop.turn { bench.clientUser.text.hasSuffix("ok") })
        #expect(bench.connection.retries == 1)
    }

    @Test func othersAreNot() throws {
        let bench = try Bench()
        bench.send("POST / HTTP/1.1\r\nHost: e.f\r\nContent-Length: 2\r\n\r\nhi")
        #expect(bench.loop.turn { bench.services.first?.user.text.hasSuffix("hi") == true })
        bench.services[0].stream.abort()
        #expect(bench.loop.turn { bench.clientUser.text.hasSuffix(#"{"error":"upstream unreachable"}"#) })
        #expect(bench.clientUser.text.hasPrefix("HTTP/1.1 502 Bad Gateway\r\n"))
        #expect(bench.services.count == 1)
    }

    @Test func aLongBodyWaitsForTheWordOfWhoServesIt() throws {
        let bench = try Bench { $0.replayBytesMax = 10 }
        bench.connection.passage = .sibling(saysContinue: true)
        let head = "POST / HTTP/1.1\r\nHost: e\r\n"
        let body = "Content-Length: 11\r\n\r\nhello world"
        bench.send(head + body)
        #expect(bench.loop.turn { !bench.services.isEmpty && !bench.services[0].user.text.isEmpty })
        for _ in 0..<5 { bench.loop.runTurn(until: SystemClock.now + .milliseconds(1)) }
        #expect(bench.services[0].user.text == head + "x-piko-expect: 100-continue\r\nContent-Length: 11\r\n\r\n")
        // Not here: it goes to the next one whole.
        bench.answer("\u{15}")
        #expect(bench.loop.turn { bench.services.count == 2 && !bench.services[1].user.text.isEmpty })
        bench.answer("HTTP/1.1 100 Continue\r\n\r\n", from: 1)
        #expect(bench.loop.turn { bench.services[1].user.text.hasSuffix("hello world") })
        bench.answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", from: 1)
        #expect(bench.loop.turn { bench.clientUser.text.hasSuffix("ok") })
        // The client did not ask for 100 (Continue).
        #expect(bench.clientUser.text == "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        #expect(bench.connection.retries == 1)
    }

    @Test func whoHoldsABodyBackIsToldThatItMayCome() throws {
        let bench = try Bench()
        bench.connection.isFromOurs = true
        bench.send("POST / HTTP/1.1\r\nHost: e\r\nx-piko-expect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        #expect(bench.loop.turn { bench.clientUser.text == "HTTP/1.1 100 Continue\r\n\r\n" })
        bench.send("hello")
        #expect(bench.loop.turn { !bench.services.isEmpty && bench.services[0].user.text.hasSuffix("hello") })
        #expect(bench.services[0].user.text == "POST / HTTP/1.1\r\nHost: e\r\n\(forwardedFor)Content-Length: 5\r\n\r\nhello")
    }

    @Test func nobodyElseIs() throws {
        let bench = try Bench()
        bench.send("POST / HTTP/1.1\r\nHost: e\r\nx-piko-expect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        #expect(bench.loop.turn { bench.services.first?.user.text.isEmpty == false })
        bench.answer("HTTP/1.1 204 No Content\r\n\r\n")
        #expect(bench.loop.turn { !bench.clientUser.text.isEmpty })
        #expect(bench.clientUser.text.hasPrefix("HTTP/1.1 204 No Content\r\n"))
    }

    /// A client that ends its direction while its body is held back: a whole request is answered, another is cut.
    @Test(arguments: [true, false]) func theEndOfTheClientWhileItsBodyIsHeld(isWhole: Bool) throws {
        let bench = try Bench()
        bench.connection.passage = .node([])
        bench.send("POST / HTTP/1.1\r\nHost: e\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n" + (isWhole ? "0\r\n\r\n" : ""))
        bench.client.finish()
        #expect(bench.loop.turn { bench.services.first?.user.text.hasSuffix("\r\n\r\n") == true })
        for _ in 0..<5 { bench.loop.runTurn(until: SystemClock.now + .milliseconds(1)) }
        bench.answer("HTTP/1.1 100 Continue\r\n\r\n")
        guard isWhole else {
            #expect(bench.loop.turn { bench.connection.isClosed })
            #expect(bench.connection.summaries.first?.wasCut == true)
            return
        }
        #expect(bench.loop.turn { bench.services[0].user.text.hasSuffix("0\r\n\r\n") })
        bench.answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        #expect(bench.loop.turn { bench.clientUser.text.hasSuffix("ok") })
    }

    @Test func aLastRequestBehindAnAnswerThatDidNotSaySo() throws {
        let bench = try Bench()
        bench.send("GET / HTTP/1.1\r\nHost: e\r\n\r\n")
        #expect(bench.loop.turn { bench.services.first?.user.text.isEmpty == false })
        bench.answer("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nha")
        #expect(bench.loop.turn { bench.clientUser.text.hasSuffix("ha") })
        bench.connection.finishSoon(quiet: .seconds(1))
        bench.answer("lf")
        #expect(bench.loop.turn { bench.clientUser.text.hasSuffix("half") })
        bench.clientUser.forget()
        bench.services[0].user.forget()
        bench.send("POST / HTTP/1.1\r\nHost: e\r\nContent-Length: 2\r\n\r\nhi")
        #expect(bench.loop.turn { bench.services.last?.user.text.hasSuffix("hi") == true })
        bench.answer("HTTP/1.1 204 No Content\r\n\r\n", from: bench.services.count - 1)
        #expect(bench.loop.turn { bench.clientUser.hasEnded })
        #expect(bench.clientUser.text == "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
    }

    @Test func anEndAfterSilence() throws {
        let bench = try Bench()
        bench.connection.finishSoon(quiet: .milliseconds(20))
        #expect(!bench.connection.isClosed)
        #expect(bench.loop.turn { bench.connection.isClosed })
    }

    @Test func theLastAnswerSaysSo() throws {
        let bench = try Bench()
        bench.send("GET / HTTP/1.1\r\nHost: e\r\n\r\n")
        #expect(bench.loop.turn { !bench.services.isEmpty && !bench.services[0].user.text.isEmpty })
        bench.connection.context.endsConnections = true
        bench.answer("HTTP/1.1 204 No Content\r\n\r\n")
        #expect(bench.loop.turn { bench.clientUser.hasEnded })
        #expect(bench.clientUser.text == "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
    }

    @Test func slowServiceIsATimeout() throws {
        let bench = try Bench { $0.responseTimeout = .milliseconds(30) }
        bench.send("GET / HTTP/1.1\r\nHost: e.f\r\n\r\n")
        #expect(bench.loop.turn { bench.clientUser.text.hasSuffix(#"{"error":"upstream timeout"}"#) })
        #expect(bench.clientUser.text.hasPrefix("HTTP/1.1 504 Gateway Timeout\r\n"))
        bench.clientUser.forget()
        bench.hasService = false
        bench.send("GET / HTTP/1.1\r\nHost: e.f\r\n\r\n")
        #expect(bench.loop.turn { bench.clientUser.text.contains("no available upstreams") })
    }

    @Test func earlyAnswerDropsTheRestOfTheBody() throws {
        let bench = try Bench()
        bench.hasService = false
        bench.send("POST / HTTP/1.1\r\nHost: e.f\r\nContent-Length: 40\r\n\r\nGET /smuggled HTTP/1.1\r\n")
        #expect(bench.loop.turn { bench.clientUser.text.contains("no available upstreams") })
        bench.hasService = true
        bench.send("Host: e.f\r\n\r\n---")
        bench.send("GET /next HTTP/1.1\r\nHost: e.f\r\n\r\n")
        #expect(bench.loop.turn { bench.services.first?.user.text.contains("GET /next") == true })
        #expect(bench.services[0].user.text.contains("smuggled") == false)
    }

    @Test func upgradeBecomesBytesOnlyAfter101() throws {
        let bench = try Bench()
        bench.send("GET / HTTP/1.1\r\nHost: e.f\r\nConnection: Upgrade\r\nUpgrade: thing\r\n\r\nearly")
        #expect(bench.loop.turn { bench.services.first?.user.text.isEmpty == false })
        #expect(bench.services[0].user.text.hasSuffix("\r\n\r\n"))
        bench.answer("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: thing\r\n\r\nhello")
        #expect(bench.loop.turn { bench.clientUser.text.hasSuffix("hello") })
        #expect(bench.loop.turn { bench.services[0].user.text.hasSuffix("early") })
        bench.send("question")
        bench.client.finish()
        #expect(bench.loop.turn { bench.services[0].user.hasEnded })
        bench.answer("answer")
        bench.services[0].stream.finish()
        #expect(bench.loop.turn { bench.clientUser.hasEnded && bench.clientUser.text.hasSuffix("helloanswer") })
        #expect(bench.connection.summaries.first?.status == 101)
    }

    @Test func refusedUpgradeIsAnOrdinaryAnswer() throws {
        let bench = try Bench()
        bench.send("GET /u HTTP/1.1\r\nHost: e.f\r\nConnection: Upgrade\r\nUpgrade: thing\r\n\r\nGET /2 HTTP/1.1\r\nHost: e.f\r\n\r\n")
        #expect(bench.loop.turn { bench.services.first?.user.text.contains("/u") == true })
        bench.answer("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        #expect(bench.loop.turn { bench.services.contains { $0.user.text.contains("GET /2 ") } })
    }

    @Test func malformedHeadsAreRefusedAndClosed() throws {
        let bench = try Bench()
        bench.send("GET / HTTP/1.1\r\nHost: e.f\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
        #expect(bench.loop.turn { bench.clientUser.hasEnded })
        #expect(bench.clientUser.text.hasPrefix("HTTP/1.1 400 Bad Request\r\n"))
        #expect(bench.services.isEmpty)
        #expect(bench.connection.refusals == [400])
    }

    @Test func halfClosedClientGetsItsAnswer() throws {
        let bench = try Bench()
        bench.send("GET / HTTP/1.1\r\nHost: e.f\r\n\r\n")
        bench.client.finish()
        #expect(bench.loop.turn { bench.services.first?.user.text.isEmpty == false })
        bench.answer("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        #expect(bench.loop.turn { bench.clientUser.text.hasSuffix("ok") && bench.clientUser.hasEnded })
    }
}
