// Listeners against a server in this process: they come back whatever happens, and leave in good order.
import Base
import Reactor
import TestKit
import Testing
import Transport

@testable import Agent

@Suite struct TunnelListenerTests {
    @Test(arguments: [BackendChoice.epoll, .auto]) func comesBackWhenTheConnectionIsCut(_ backend: BackendChoice) throws {
        let harness = try Harness(backend)
        let (server, listener) = try harness.tunnel(harness.tcpService(1))
        #expect(server.targets == ["/piko/v1/upstream/e"])
        for round in 2...4 {
            server.carriers.last?.abort()
            #expect(harness.loop.turn { server.sessions.count == round && listener.isConnected })
        }
        #expect(harness.log.lines("connection to server lost", "\"endpoint-id\":\"e\"", "backoff").count == 3)
        #expect(harness.log.lines("\"msg\":\"connected\"").count == 4)
    }

    @Test func comesBackWhenTheServerSaysGoodbye() throws {
        let harness = try Harness()
        let (server, listener) = try harness.tunnel(harness.tcpService(1))
        server.sessions[0].close()
        #expect(harness.loop.turn { server.sessions.count == 2 && listener.isConnected })
    }

    @Test(arguments: [401, 404, 503]) func refusalsAreTriedAgain(_ status: Int) throws {
        let harness = try Harness()
        let server = try TestServer(harness.loop)
        server.refusals = [status, status, status]
        let listener = harness.listener(server, harness.tcpService(1))
        listener.start()
        #expect(harness.loop.turn { listener.isConnected })
        #expect(server.targets.count == 4)
        let level = status == 503 ? "warn" : "error"
        #expect(harness.log.lines("connect failed", "\"level\":\"\(level)\"", "status \(status)", "refused by the test").count == 3)
    }

    /// A stream that the server opened before it heard the go-away is served like any other, on a session that then ends.
    @Test(arguments: [BackendChoice.epoll, .auto]) func servesWhatWasOnItsWay(_ backend: BackendChoice) throws {
        let harness = try Harness(backend)
        let service = try TestService(harness.loop)
        service.onBytes = { $0.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate") }
        let server = try TestServer(harness.loop)
        var isFinished = false
        let listener = harness.listener(server, harness.httpService(service.port)) { isFinished = true }
        listener.start()
        #expect(harness.loop.turn { listener.isConnected && server.sessions.count == 1 })
        let reader = TestReader()
        let channel = try server.open(reader)
        listener.stop()
        channel.write(Array("POST / HTTP/1.1\r\nHost: e\r\nContent-Length: 0\r\n\r\n".utf8).span)
        #expect(harness.loop.turn { reader.text.hasSuffix("late") })
        #expect(harness.loop.turn { isFinished && server.user.ended == 1 })
    }

    @Test func waitsForAServerThatIsNotThereYet() throws {
        let harness = try Harness()
        let server = try TestServer(harness.loop)
        let port = server.port
        server.stop()
        let listener = harness.listener(server, harness.tcpService(1))
        listener.start()
        #expect(harness.loop.turn { harness.log.lines("connect failed", "Connection refused").count == 2 })
        let descriptor = try Listener.bind(SocketAddress(address: "127.0.0.1", port: port)!)
        let again = try Listener(harness.loop, adopting: descriptor, delegate: server)
        defer { again.close() }
        #expect(harness.loop.turn { listener.isConnected })
    }

    @Test func pathOfTheURLComesFirst() throws {
        let harness = try Harness()
        let server = try TestServer(harness.loop)
        var isDone = false
        let attempt = harness.connector(server.port, prefix: "/gate/way").connect(ConnectTarget("/piko/v1/upstream/e")) { _ in isDone = true }
        #expect(harness.loop.turn { isDone })
        #expect(server.targets == ["/gate/way/piko/v1/upstream/e"])
        attempt.cancel()
    }

    @Test func silentServerCostsTheTimeoutOnly() throws {
        let harness = try Harness()
        let silent = try TestService(harness.loop)
        var failure: ConnectError?
        let attempt = harness.connector(silent.port, timeout: .milliseconds(50)).connect(ConnectTarget("/x")) { result in
            if case .failure(let error) = result { failure = error }
        }
        #expect(harness.loop.turn { failure != nil })
        #expect(failure?.status == nil)
        attempt.cancel()
        #expect(harness.loop.turn { silent.connections.first?.hasEnded == true || silent.connections.first?.hasFailed == true })
    }

    @Test func goAwayOfTheServerMakesBeforeItBreaks() throws {
        let harness = try Harness()
        let service = try TestService(harness.loop)
        let (server, listener) = try harness.tunnel(harness.tcpService(service.port))
        let user = RecordingDelegate()
        let running = try server.open(user)
        running.write(Array("before".utf8).span)
        #expect(harness.loop.turn { service.connections.first?.text == "before" })
        server.sessions[0].goAway()
        #expect(harness.loop.turn { server.sessions.count == 2 && listener.isConnected })
        #expect(!server.sessions[0].isOver)
        service.connections[0].send("still here")
        #expect(harness.loop.turn { user.text == "still here" })
        running.finish()
        service.connections[0].stream.finish()
        #expect(harness.loop.turn { server.sessions[0].isOver })
        #expect(!server.sessions[1].isOver)
    }

    @Test func stopLetsStreamsFinish() throws {
        let harness = try Harness()
        let service = try TestService(harness.loop)
        let server = try TestServer(harness.loop)
        var isFinished = false
        let listener = harness.listener(server, harness.tcpService(service.port)) { isFinished = true }
        listener.start()
        #expect(harness.loop.turn { server.sessions.count == 1 && listener.isConnected })
        let user = RecordingDelegate()
        let running = try server.open(user)
        running.write(Array("x".utf8).span)
        #expect(harness.loop.turn { service.connections.first?.text == "x" })
        listener.stop()
        #expect(harness.loop.turn { server.user.goneAway == 1 })
        #expect(!harness.loop.turn(within: .milliseconds(400)) { isFinished })
        service.connections[0].send("answer")
        #expect(harness.loop.turn { user.text == "answer" })
        running.finish()
        service.connections[0].stream.finish()
        #expect(harness.loop.turn { isFinished && server.user.ended == 1 })
    }

    @Test func abandonEndsAtOnce() throws {
        let harness = try Harness()
        let service = try TestService(harness.loop)
        let server = try TestServer(harness.loop)
        var finishedCount = 0
        let listener = harness.listener(server, harness.tcpService(service.port)) { finishedCount += 1 }
        listener.start()
        #expect(harness.loop.turn { server.sessions.count == 1 && listener.isConnected })
        let user = RecordingDelegate()
        try server.open(user).write(Array("x".utf8).span)
        #expect(harness.loop.turn { service.connections.first?.text == "x" })
        listener.stop()
        listener.abandon()
        #expect(finishedCount == 1)
        #expect(harness.loop.turn { server.user.ended == 1 && user.failure != nil })
        #expect(harness.loop.turn { service.connections[0].hasFailed || service.connections[0].hasEnded })
    }
}

/// Keeps what comes on a stream.
private final class TestReader: ChannelDelegate {
    private(set) var text = ""

    override func channel(_ channel: Channel, received bytes: inout MutableSpan<UInt8>) { text += string(bytes.span) }
    override func channelEnded(_ channel: Channel) { channel.close() }
}
