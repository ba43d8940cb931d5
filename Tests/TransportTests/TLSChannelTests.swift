// TLS channels talking to each other: bytes whole and split, back-pressure, ends, certificates, SNI, tickets, and what a
// stranger may send.
import Base
import Crypto
import Foundation
import Memory
import Reactor
import TestKit
import Testing
import Transport
import Wire

/// One way of carrying a connection.
struct TLSWay: CustomTestStringConvertible, Sendable {
    var backend: BackendChoice
    var isOld: Bool
    /// Bytes that the cable passes on at a time; nil: there is no cable.
    var piece: Int?
    var testDescription: String { "\(backend.rawValue), TLS 1.\(isOld ? 2 : 3), \(piece.map { "\($0) bytes at a time" } ?? "whole")" }

    static let all = tlsBackends.flatMap { backend in
        [true, false].flatMap { isOld in [nil, 1, 1_000].map { TLSWay(backend: backend, isOld: isOld, piece: $0) } }
    }
    static let whole = all.filter { $0.piece == nil }
}

@Suite(.enabled(if: Programs.openssl != nil, "needs the openssl command"), .serialized) struct TLSChannelTests {
    let certificates: Certificates

    init() throws { certificates = try Certificates.shared.get() }

    private func bench(_ way: TLSWay, reading: Bool = true) throws -> TLSBench {
        let server = try certificates.server("server")
        if way.isOld { server.limitToTLS12() }
        return try TLSBench(way.backend, server: server, client: certificates.client(), piece: way.piece, reading: reading)
    }

    // MARK: Bytes

    @Test(arguments: TLSWay.all) func carriesBytes(_ way: TLSWay) throws {
        let bench = try bench(way)
        // What is written before the handshake waits for it.
        bench.client.write(Array("early ".utf8).span)
        #expect(bench.secure())
        #expect(bench.client.facts?.version == (way.isOld ? "TLSv1.2" : "TLSv1.3"))
        #expect(bench.server.facts?.agreedProtocol == "http/1.1" && bench.client.facts?.agreedProtocol == "http/1.1")
        #expect(bench.server.facts?.host == "server.test")
        #expect(bench.server.facts?.sendsInKernel == false || bench.engine.counters.inKernel > 0)
        bench.client.write(Array("hello".utf8).span)
        bench.server.write(Array("welcome".utf8).span)
        #expect(bench.turn { bench.serverUser.text == "early hello" && bench.clientUser.text == "welcome" })
        #expect(bench.engine.counters.handshakes == 2 && bench.engine.counters.inProgress == 0)
    }

    @Test(arguments: TLSWay.all.filter { $0.piece != 1 }) func carriesMuchBothWays(_ way: TLSWay) throws {
        let bench = try bench(way)
        let up = patternBytes(2_000_003, seed: 1)
        let down = patternBytes(3_000_001, seed: 2)
        bench.client.write(up.span)
        bench.server.write(down.span)
        #expect(!bench.client.isWritable && !bench.server.isWritable)
        #expect(bench.turn { bench.serverUser.bytes.count == up.count && bench.clientUser.bytes.count == down.count })
        let isSame = bench.serverUser.bytes == up && bench.clientUser.bytes == down
        #expect(isSame)
        #expect(bench.turn { bench.clientUser.drains == 1 && bench.serverUser.drains == 1 })
        #expect(bench.client.isWritable && bench.client.pendingBytes == 0)
    }

    @Test(arguments: TLSWay.whole) func pausedReaderHoldsTheWriterBack(_ way: TLSWay) throws {
        let bench = try bench(way)
        #expect(bench.secure())
        bench.server.pauseReading()
        let bytes = patternBytes(8_000_000)
        bench.client.write(bytes.span)
        _ = bench.turn(within: .milliseconds(300)) { false }
        // A record that was on its way at most, and what the kernel holds.
        #expect(bench.serverUser.bytes.count <= 65_536)
        #expect(bench.client.pendingBytes > 4_000_000 && !bench.client.isWritable)
        // A reader that takes one piece at a time gets each byte once.
        bench.serverUser.onBytes = { $0.pauseReading() }
        var resumes = 0
        #expect(
            bench.turn {
                bench.server.resumeReading()
                resumes += 1
                return bench.serverUser.bytes.count == bytes.count
            })
        let isSame = bench.serverUser.bytes == bytes
        #expect(isSame && resumes > 100)
    }

    @Test(arguments: TLSWay.whole) func nothingComesBeforeReadingIsSwitchedOn(_ way: TLSWay) throws {
        let bench = try bench(way, reading: false)
        bench.client.write(Array("hello".utf8).span)
        #expect(bench.secure())
        _ = bench.turn(within: .milliseconds(50)) { false }
        #expect(bench.serverUser.bytes.isEmpty)
        bench.server.resumeReading()
        #expect(bench.serverUser.bytes.isEmpty)
        #expect(bench.turn { bench.serverUser.text == "hello" })
    }

    /// The beginning of the handshake was read before, behind something else.
    @Test(arguments: tlsBackends, [1, 100, 1_000]) func goesOnBehindWhatWasRead(_ backend: BackendChoice, count: Int) throws {
        let loop = try Loop(backend: backend)
        let engine = TLSEngine(loop)
        var pair = try Sockets.pair(.stream)
        let client = try TLSChannel(engine, adopting: pair.takeFirst(), context: certificates.client(), name: "server.test")
        let reader = EarlyReader()
        let stream = try Reactor.Stream(loop, adopting: pair.takeSecond())
        stream.delegate = reader
        stream.resumeReading()
        #expect(loop.turn { !reader.bytes.isEmpty })
        stream.detach()
        #expect(loop.turn { reader.descriptor >= 0 })
        let early = reader.bytes
        let server = try TLSChannel(
            engine, adopting: OwnedDescriptor(reader.descriptor), context: certificates.server("server"), early: early.span)
        let user = TLSRecorder()
        server.delegate = user
        server.resumeReading()
        let bytes = patternBytes(count * 100)
        client.write(bytes.span)
        #expect(loop.turn { user.bytes.count == bytes.count })
        let isSame = user.bytes == bytes
        #expect(isSame)
        client.close()
        #expect(loop.turn { user.hasEnded })
    }

    // MARK: Ends

    @Test(arguments: TLSWay.all) func carriesHalfCloses(_ way: TLSWay) throws {
        let bench = try bench(way)
        bench.client.write(Array("request".utf8).span)
        bench.client.finish()
        #expect(bench.turn { bench.serverUser.hasEnded && bench.clientUser.hasFinished })
        #expect(bench.serverUser.text == "request" && !bench.clientUser.hasEnded)
        bench.server.write(Array("a late answer".utf8).span)
        #expect(bench.turn { bench.clientUser.text == "a late answer" })
        bench.server.finish()
        #expect(bench.turn { bench.clientUser.hasEnded })
        bench.server.close()
        bench.client.close()
        #expect(bench.turn { bench.loop.openHandles <= (way.piece == nil ? 0 : 2) })
        #expect(bench.clientUser.failure == nil && bench.serverUser.failure == nil)
        #expect(bench.engine.counters.closing == 0)
    }

    @Test(arguments: TLSWay.all.filter { $0.piece != 1 }) func closeSendsWhatIsQueued(_ way: TLSWay) throws {
        let bench = try bench(way)
        let bytes = patternBytes(1_500_000)
        bench.client.write(bytes.span)
        bench.client.close()
        #expect(bench.turn { bench.serverUser.hasEnded })
        let isSame = bench.serverUser.bytes == bytes
        #expect(isSame && bench.serverUser.failure == nil)
        // What the other end still sends is taken and dropped, so that it sees no reset.
        bench.server.write(patternBytes(100_000).span)
        bench.server.close()
        #expect(bench.turn { bench.engine.counters.closing == 0 })
        #expect(bench.serverUser.failure == nil)
    }

    @Test(arguments: TLSWay.all.filter { $0.piece != nil }) func anEndWithoutCloseNotifyIsACut(_ way: TLSWay) throws {
        let bench = try bench(way)
        bench.client.write(Array("hello".utf8).span)
        #expect(bench.turn { bench.serverUser.text == "hello" })
        bench.cable?.cut()
        #expect(bench.turn { bench.serverUser.failure != nil && bench.clientUser.failure != nil })
        #expect(bench.serverUser.failure == .truncated && bench.clientUser.failure == .truncated)
        #expect(!bench.serverUser.hasEnded && bench.server.failure == "the connection ended without a close_notify")
    }

    @Test(arguments: TLSWay.whole) func abortIsAReset(_ way: TLSWay) throws {
        let bench = try bench(way)
        #expect(bench.secure())
        bench.client.abort()
        #expect(bench.turn { bench.serverUser.failure != nil })
        #expect([.reset, .truncated].contains(bench.serverUser.failure))
        #expect(bench.clientUser.failure == nil && bench.turn { bench.loop.openHandles == 0 })
    }

    @Test func aChannelThatIsClosedInItsHandshakeIsGone() throws {
        let bench = try TLSBench(server: certificates.server("server"), client: certificates.client())
        bench.client.close()
        #expect(bench.turn { bench.serverUser.failure != nil })
        #expect(bench.server.failure == "the connection ended in the TLS handshake")
        #expect(bench.turn { bench.loop.openHandles == 0 } && bench.engine.counters.inProgress == 0)
    }

    @Test(arguments: tlsBackends) func theHandshakeHasItsTime(_ backend: BackendChoice) throws {
        let loop = try Loop(backend: backend)
        let engine = TLSEngine(loop)
        var pair = try Sockets.pair(.stream)
        let silent = pair.takeFirst()
        let channel = try TLSChannel(
            engine, adopting: pair.takeSecond(), context: certificates.server("server"), handshakeLimit: .milliseconds(50))
        let user = TLSRecorder()
        channel.delegate = user
        #expect(loop.turn { user.failure != nil })
        #expect(user.failure == .system(110) && channel.failure == "the TLS handshake took too long")
        #expect(engine.counters.failed == 1 && engine.counters.inProgress == 0)
        _ = silent.raw
    }

    // MARK: Certificates

    /// A client and a server that don't suit each other, and what each of them says.
    struct Mismatch: CustomTestStringConvertible, Sendable {
        var name: String
        var server = "server"
        var needsClient = false
        var client: String?
        var trust: TLSTrust?
        var host: String? = "server.test"
        var clientSays: String
        var serverSays: String
        var testDescription: String { name }
    }

    private static let alert = "the client refused the TLS handshake or broke it off: "
    private static let serverAlert = "the server refused the TLS handshake or broke it off: "

    @Test(
        arguments: [
            Mismatch(
                name: "another host", host: "nobody.test", clientSays: "the server's certificate is not for nobody.test",
                serverSays: alert + "bad certificate"),
            Mismatch(
                name: "another address", host: "192.0.2.1", clientSays: "the server's certificate is not for 192.0.2.1",
                serverSays: alert + "bad certificate"),
            Mismatch(
                name: "expired", server: "expired", clientSays: "the server's certificate: certificate has expired",
                serverSays: alert + "certificate expired"),
            Mismatch(
                name: "an unknown authority", server: "strange",
                clientSays: "the server's certificate: unable to get local issuer certificate", serverSays: alert + "unknown CA"),
            Mismatch(
                name: "the system's authorities", trust: .system,
                clientSays: "the server's certificate: unable to get local issuer certificate", serverSays: alert + "unknown CA"),
            Mismatch(
                name: "no client certificate", needsClient: true, clientSays: serverAlert + "certificate required",
                serverSays: "the client sent no certificate"),
            Mismatch(
                name: "a client certificate of an unknown authority", needsClient: true, client: "strange",
                clientSays: serverAlert + "unknown CA",
                serverSays: "the client's certificate: unable to get local issuer certificate"),
            Mismatch(
                name: "an expired client certificate", needsClient: true, client: "expired-client",
                clientSays: serverAlert + "certificate expired", serverSays: "the client's certificate: certificate has expired"),
        ], [false, true])
    func refuses(_ row: Mismatch, isOld: Bool) throws {
        let server = try certificates.server(row.server, clients: row.needsClient)
        if isOld { server.limitToTLS12() }
        let bench = try TLSBench(server: server, client: certificates.client(row.client, trust: row.trust), name: row.host)
        bench.client.write(Array("secret".utf8).span)
        #expect(bench.turn { bench.clientUser.failure != nil && bench.serverUser.failure != nil })
        #expect(bench.clientUser.failure == .protocolViolation && bench.serverUser.failure == .protocolViolation)
        let wanted = isOld ? row.clientSays.replacingOccurrences(of: "certificate required", with: "handshake failure") : row.clientSays
        // What hangs on the time is told with what this machine takes for it.
        for (failure, words) in [(bench.client.failure, wanted), (bench.server.failure, row.serverSays)] {
            let clock = " (this machine's clock says 20"
            #expect(words.hasSuffix("has expired") ? failure.hasPrefix(words + clock) && failure.hasSuffix("Z)") : failure == words)
        }
        #expect(bench.serverUser.bytes.isEmpty && !bench.serverIsSecured)
    }

    @Test(arguments: [
        ("server", nil, nil, "server.test"), ("server", nil, nil, "a.wild.test"), ("server", nil, nil, "127.0.0.1"),
        ("server", nil, nil, "SERVER.test."), ("strange", nil, TLSTrust.everyone, "nobody.test"), ("server", "client", nil, "server.test"),
        ("server", nil, nil, nil), ("rsa", nil, nil, "server.test"),
    ] as [(String, String?, TLSTrust?, String?)])
    func agrees(_ row: (server: String, client: String?, trust: TLSTrust?, host: String?)) throws {
        let server = try certificates.server(row.server, clients: row.client != nil)
        let bench = try TLSBench(server: server, client: certificates.client(row.client, trust: row.trust), name: row.host)
        #expect(bench.secure(), "\(bench.client.failure) \(bench.server.failure)")
    }

    /// A certificate that is trusted itself needs no root above it.
    @Test func trustsALeaf() throws {
        let trust = TLSTrust.authorities(try certificates.bytes("strange.pem"))
        let bench = try TLSBench(server: certificates.server("strange"), client: certificates.client(trust: trust))
        #expect(bench.secure())
    }

    @Test(arguments: [
        ("server.test", true), ("x.wild.test", true), ("deep.wild.test", false), ("OTHER.test", false), ("a.b.wild.test", true),
        ("unknown.test", true), ("wild.test", true), (String(repeating: "a", count: 250), true),
    ] as [(String, Bool)])
    func choosesByName(_ host: String, isFirst: Bool) throws {
        let server = try certificates.server("server", "other")
        // Each trusts one of the two certificates only.
        let chosen = TLSTrust.authorities(try certificates.bytes(isFirst ? "server.pem" : "other.pem"))
        let bench = try TLSBench(server: server, client: certificates.client(trust: chosen), name: host)
        #expect(bench.turn { bench.clientIsSecured || bench.clientUser.failure != nil })
        let isRightName = ["server.test", "x.wild.test", "deep.wild.test", "OTHER.test"].contains(host)
        #expect(bench.clientIsSecured == isRightName, "\(bench.client.failure)")
        if !isRightName { #expect(bench.client.failure.hasPrefix("the server's certificate is not for ")) }
    }

    @Test func saysWhatIsWrongWithFiles() throws {
        let good = try certificates.pair("server")
        func error(_ certificate: [UInt8], _ key: [UInt8]) -> TLSError? {
            do {
                _ = try TLSContext(
                    server: [good, TLSCertificate(certificate: certificate, key: SecretBytes(copying: key.span))], name: "test")
                return nil
            } catch { return error }
        }
        let pem = try certificates.bytes("server.pem")
        let key = try certificates.bytes("server.key")
        #expect(error(pem, key) == nil)
        #expect(error([], key) == TLSError(part: .certificate, index: 1, description: "no certificate in it"))
        #expect(error(key, key) == TLSError(part: .certificate, index: 1, description: "no certificate in it"))
        #expect(error(pem, []) == TLSError(part: .key, index: 1, description: "no private key in it"))
        #expect(error(pem, pem) == TLSError(part: .key, index: 1, description: "no private key in it"))
        let other = try certificates.bytes("other.key")
        #expect(error(pem, other) == TLSError(part: .key, index: 1, description: "the key does not fit the certificate"))
        let locked = try certificates.bytes("locked.key")
        #expect(
            error(pem, locked) == TLSError(part: .key, index: 1, description: "the key has a passphrase; only keys without one can be used"))
        let cut = Array(pem.prefix(pem.count / 2)) + Array("\n-----END CERTIFICATE-----\n".utf8)
        #expect(error(cut, key)?.description.hasPrefix("certificate 1 in it can't be read: ") == true)
        let chained = pem + Array("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".utf8)
        #expect(error(chained, key)?.description.hasPrefix("certificate 2 in it can't be read: ") == true)
        let badKey = Array("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n".utf8)
        #expect(error(pem, badKey)?.description.hasPrefix("the private key can't be read: ") == true)
        #expect(throws: TLSError(part: .authorities, description: "no certificate in it")) {
            _ = try TLSContext(clientTrusting: .authorities([]))
        }
    }

    // MARK: Tickets

    private func key(_ number: UInt8) -> SecretBytes {
        SecretBytes(copying: [UInt8](repeating: number, count: TLSContext.ticketKeyBytes).span)
    }

    /// Connects once, and once more, perhaps to another worker: whether the second handshake went on with the first.
    private func resumes(_ first: TLSContext, _ second: TLSContext, client: TLSContext, isOld: Bool) throws -> Bool {
        if isOld {
            first.limitToTLS12()
            second.limitToTLS12()
        }
        var answers: [Bool] = []
        for server in [first, second] {
            let bench = try TLSBench(server: server, client: client)
            // Tickets of TLS 1.3 come behind the handshake.
            bench.server.write(Array("hello".utf8).span)
            #expect(bench.turn { bench.clientUser.text == "hello" })
            #expect(bench.server.facts?.isResumed == bench.client.facts?.isResumed)
            answers.append(bench.client.facts?.isResumed ?? false)
            bench.client.close()
            bench.server.close()
            #expect(bench.turn { bench.loop.openHandles == 0 })
        }
        #expect(!answers[0])
        return answers[1]
    }

    @Test(arguments: [false, true]) func resumesWithTheTicketOfAnotherWorker(isOld: Bool) throws {
        func server(_ keys: [UInt8], port: String = "proxy", clients: Bool = false) throws -> TLSContext {
            let context = try certificates.server("server", clients: clients, port: port)
            context.setTicketKeys(keys.map(key))
            return context
        }
        func resumes(_ first: TLSContext, _ second: TLSContext, client: String? = nil) throws -> Bool {
            try self.resumes(first, second, client: certificates.client(client), isOld: isOld)
        }
        #expect(try resumes(server([1]), server([1])))
        #expect(try resumes(server([1]), server([2, 1])), "a key that was new before")
        #expect(try !resumes(server([1]), server([4, 3, 2])), "a key that was forgotten")
        #expect(try !resumes(server([]), server([])), "no keys")
        #expect(try !resumes(server([1]), server([1], port: "upstream")), "another port")
        #expect(try resumes(server([1], clients: true), server([1], clients: true), client: "client"), "with a client certificate")
        #expect(try !resumes(server([1]), server([1], clients: true), client: "client"), "authorities that are new")
    }

    @Test func sessionsAreOfOneHost() throws {
        let server = try certificates.server("server")
        server.setTicketKeys([key(1)])
        let client = try certificates.client()
        for (host, isResumed) in [("server.test", false), ("a.wild.test", false), ("server.test", true), ("a.wild.test", true)] {
            let bench = try TLSBench(server: server, client: client, name: host)
            bench.server.write(Array("hello".utf8).span)
            #expect(bench.turn { bench.clientUser.text == "hello" })
            #expect(bench.client.facts?.isResumed == isResumed)
            bench.client.abort()
            _ = bench.turn(within: .milliseconds(20)) { false }
        }
    }

    // MARK: Strangers

    @Test(arguments: tlsBackends) func garbageIsRefused(_ backend: BackendChoice) throws {
        let context = try certificates.server("server")
        for (seed, bytes) in [
            patternBytes(500, seed: 7), [22, 3, 1, 0, 0], [22, 3, 1, 0xff, 0xff] + patternBytes(100), [22, 3, 1, 0, 5, 1, 0, 0, 1, 0],
            [0x80, 0x2e, 1, 3, 1] + patternBytes(60), [23, 3, 3, 0, 5, 1, 2, 3, 4, 5], [21, 3, 3, 0, 2, 2, 40],
        ].enumerated() {
            let loop = try Loop(backend: backend)
            let engine = TLSEngine(loop)
            var texts: [String] = []
            engine.handshakeFailed = { text, _ in texts.append(text) }
            var pair = try Sockets.pair(.stream)
            let stranger = try Reactor.Stream(loop, adopting: pair.takeFirst())
            let strangerUser = TLSRecorder()
            stranger.delegate = strangerUser
            stranger.resumeReading()
            let channel = try TLSChannel(engine, adopting: pair.takeSecond(), context: context)
            let user = TLSRecorder()
            channel.delegate = user
            stranger.write(bytes.span)
            stranger.finish()
            #expect(loop.turn { user.failure != nil && (strangerUser.hasEnded || strangerUser.failure != nil) }, "\(seed)")
            #expect([.protocolViolation, .truncated].contains(user.failure) && user.bytes.isEmpty, "\(seed)")
            #expect(texts.count == 1 && !texts[0].isEmpty && engine.counters.failed == 1)
        }
    }

    @Test func plainHTTPIsTold() throws {
        let loop = try Loop(backend: .epoll)
        let engine = TLSEngine(loop)
        var pair = try Sockets.pair(.stream)
        let stranger = try Reactor.Stream(loop, adopting: pair.takeFirst())
        let user = TLSRecorder()
        stranger.delegate = user
        stranger.resumeReading()
        let channel = try TLSChannel(engine, adopting: pair.takeSecond(), context: certificates.server("server"))
        stranger.write(Array("GET / HTTP/1.1\r\nHost: a\r\n\r\n".utf8).span)
        #expect(loop.turn { user.hasEnded })
        #expect(user.text.hasPrefix("HTTP/1.1 400 Bad Request\r\n") && user.text.hasSuffix("\r\n\r\nthis port speaks HTTPS: use https://...\n"))
        #expect(channel.failure == "the client speaks HTTP without TLS")
    }

    // MARK: Fairness

    @Test func handshakesAreDoneInSlices() throws {
        let loop = try Loop(backend: .epoll)
        let engine = TLSEngine(loop, sliceTime: .zero)
        let server = try certificates.server("server")
        let client = try certificates.client()
        var benches: [TLSBench] = []
        for _ in 0..<40 { benches.append(try TLSBench(server: server, client: client, in: engine)) }
        var turns = 0
        var longest = 0
        let isDone = loop.turn {
            turns += 1
            longest = max(longest, engine.lastSlice)
            return benches.allSatisfy { $0.clientIsSecured && $0.serverIsSecured }
        }
        #expect(isDone && longest == 1)
        // At least two steps for each end.
        #expect(turns >= 160)
        for bench in benches { bench.client.abort() }
        #expect(loop.turn { benches.allSatisfy { $0.serverUser.failure != nil } })
    }
}

/// Reads a plain stream until it is taken out of its loop.
private final class EarlyReader: ChannelDelegate {
    var bytes: [UInt8] = []
    var descriptor: Int32 = -1

    override func channel(_ channel: Channel, received bytes: inout MutableSpan<UInt8>) {
        for index in bytes.indices { self.bytes.append(bytes[index]) }
    }

    override func streamDetached(_ stream: Reactor.Stream, descriptor: consuming OwnedDescriptor, unsent: Span<UInt8>) {
        self.descriptor = descriptor.take()
    }
}
