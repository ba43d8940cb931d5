// What listeners do with the streams that the server opens: HTTP with kept connections, TCP with half-close, and services
// that are down, slow, or gone.
import Base
import Reactor
import TestKit
import Testing
import Transport

@testable import Agent

private let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

@Suite struct HTTPServiceTests {
    /// Sends a request on a stream of its own and gives the answer.
    private func ask(_ harness: Harness, _ server: TestServer, _ request: String) throws -> String {
        let user = RecordingDelegate()
        let channel = try server.open(user)
        channel.write(Array(request.utf8).span)
        _ = harness.loop.turn { user.text.contains("\r\n\r\n") && (user.text.hasSuffix("ok") || user.text.hasSuffix("}")) }
        channel.close()
        return user.text
    }

    private func get(_ fields: String = "") -> String { "GET /path?q HTTP/1.1\r\nHost: e.example.com\r\n\(fields)\r\n" }

    @Test(arguments: [BackendChoice.epoll, .auto]) func requestsReachTheService(_ backend: BackendChoice) throws {
        let harness = try Harness(backend)
        let service = try TestService(harness.loop)
        service.onBytes = { if $0.text.hasSuffix("\r\n\r\n") { $0.send(ok) } }
        let (server, listener) = try harness.tunnel(harness.httpService(service.port))
        let answer = try ask(harness, server, get("X-Forwarded-For: 192.0.2.1\r\nx-piko-forward: true\r\nAccept: text/plain\r\n"))
        #expect(answer == ok)
        #expect(
            service.connections[0].text
                == "GET /path?q HTTP/1.1\r\nHost: e.example.com\r\nAccept: text/plain\r\nX-Forwarded-For: 192.0.2.1, 127.0.0.1\r\n"
                + "x-piko-forward: true\r\n\r\n")
        #expect(harness.loop.turn { !harness.log.lines("\"subsystem\":\"proxy.http.access\"", "\"status\":200", "/path\"").isEmpty })
        #expect(harness.metrics.series.map(\.status) == [200])
        #expect(harness.metrics.requestsInFlight == 0)
        listener.abandon()
    }

    @Test func connectionsToTheServiceAreKept() throws {
        let harness = try Harness()
        let service = try TestService(harness.loop)
        service.onBytes = { if $0.text.hasSuffix("\r\n\r\n") { $0.send(ok) } }
        let (server, listener) = try harness.tunnel(harness.httpService(service.port))
        for _ in 0..<5 { #expect(try ask(harness, server, get()) == ok) }
        #expect(service.connections.count == 1)
        #expect(service.connections[0].requestCount == 5)
        listener.abandon()
    }

    @Test func noConnectionIsKeptWhenNoneMayBe() throws {
        let harness = try Harness()
        let service = try TestService(harness.loop)
        service.onBytes = { if $0.text.hasSuffix("\r\n\r\n") { $0.send(ok) } }
        let (server, listener) = try harness.tunnel(harness.httpService(service.port) { $0.idleMax = 0 })
        for _ in 0..<3 { #expect(try ask(harness, server, get()) == ok) }
        #expect(service.connections.count == 3)
        #expect(harness.loop.turn { service.connections.allSatisfy { $0.hasEnded } })
        listener.abandon()
    }

    @Test func keptConnectionsAreClosedAfterTheirTime() throws {
        let harness = try Harness()
        let service = try TestService(harness.loop)
        service.onBytes = { if $0.text.hasSuffix("\r\n\r\n") { $0.send(ok) } }
        let (server, listener) = try harness.tunnel(harness.httpService(service.port) { $0.idleTimeout = .milliseconds(30) })
        #expect(try ask(harness, server, get()) == ok)
        #expect(harness.loop.turn { service.connections[0].hasEnded })
        listener.abandon()
    }

    /// The service takes the second request of a connection and closes without an answer, as one does that had just given
    /// the connection up.
    @Test(arguments: [("GET", true), ("POST", false)]) func staleConnection(_ method: String, _ isRepeated: Bool) throws {
        let harness = try Harness()
        let service = try TestService(harness.loop)
        service.onBytes = { connection in
            guard connection.text.hasSuffix("\r\n\r\n") else { return }
            if connection.requestCount == 1 { connection.send(ok) } else { connection.stream.abort() }
        }
        let (server, listener) = try harness.tunnel(harness.httpService(service.port))
        #expect(try ask(harness, server, get()) == ok)
        let answer = try ask(harness, server, "\(method) / HTTP/1.1\r\nHost: e\r\nContent-Length: 0\r\n\r\n")
        #expect(isRepeated ? answer == ok : answer.hasPrefix("HTTP/1.1 502 "))
        #expect(service.connections.count == (isRepeated ? 2 : 1))
        listener.abandon()
    }

    @Test func serviceIsDown() throws {
        let harness = try Harness()
        let service = try TestService(harness.loop)
        service.stop()
        let (server, listener) = try harness.tunnel(harness.httpService(service.port))
        let answer = try ask(harness, server, get())
        #expect(answer.hasPrefix("HTTP/1.1 502 "))
        #expect(answer.hasSuffix("{\"error\":\"upstream unreachable\"}"))
        #expect(harness.log.lines("service unreachable", "Connection refused", "\"endpoint-id\":\"e\"").count == 1)
        listener.abandon()
    }

    @Test func serviceIsSlow() throws {
        let harness = try Harness()
        let service = try TestService(harness.loop)
        let (server, listener) = try harness.tunnel(harness.httpService(service.port) { $0.timeout = .milliseconds(50) })
        let answer = try ask(harness, server, get())
        #expect(answer.hasPrefix("HTTP/1.1 504 "))
        #expect(answer.hasSuffix("{\"error\":\"upstream timeout\"}"))
        #expect(harness.log.lines("\"subsystem\":\"proxy.http.access\"", "\"level\":\"warn\"", "\"status\":504").count == 1)
        listener.abandon()
    }

    /// No request names where the agent connects to.
    @Test(arguments: [
        "GET http://198.51.100.9/secret HTTP/1.1\r\nHost: 198.51.100.9\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: 198.51.100.9:22\r\nForwarded: host=198.51.100.9\r\nX-Forwarded-Host: 198.51.100.9\r\n\r\n",
    ])
    func requestsNeverChooseTheTarget(_ request: String) throws {
        let harness = try Harness()
        let service = try TestService(harness.loop)
        service.onBytes = { if $0.text.hasSuffix("\r\n\r\n") { $0.send(ok) } }
        let (server, listener) = try harness.tunnel(harness.httpService(service.port))
        #expect(try ask(harness, server, request) == ok)
        #expect(service.connections.count == 1)
        #expect(service.connections[0].text.hasPrefix("GET /"))
        listener.abandon()
    }

    @Test func connectIsRefused() throws {
        let harness = try Harness()
        let service = try TestService(harness.loop)
        let (server, listener) = try harness.tunnel(harness.httpService(service.port))
        let answer = try ask(harness, server, "CONNECT 198.51.100.9:22 HTTP/1.1\r\nHost: 198.51.100.9:22\r\n\r\n")
        #expect(answer.hasPrefix("HTTP/1.1 405 "))
        #expect(service.connections.isEmpty)
        listener.abandon()
    }

    @Test func pathOfTheServiceComesFirst() throws {
        let harness = try Harness()
        let service = try TestService(harness.loop)
        service.onBytes = { if $0.text.hasSuffix("\r\n\r\n") { $0.send(ok) } }
        let (server, listener) = try harness.tunnel(harness.httpService(service.port) { $0.pathPrefix = "/api" })
        #expect(try ask(harness, server, get()) == ok)
        #expect(service.connections[0].text.hasPrefix("GET /api/path?q HTTP/1.1\r\n"))
        listener.abandon()
    }

    /// The server keeps a stream open for its next request; the agent that stops does not wait for it.
    @Test func idleStreamDoesNotHoldTheEndUp() throws {
        let harness = try Harness()
        let service = try TestService(harness.loop)
        service.onBytes = { if $0.text.hasSuffix("\r\n\r\n") { $0.send(ok) } }
        let server = try TestServer(harness.loop)
        var isFinished = false
        let listener = harness.listener(server, harness.httpService(service.port)) { isFinished = true }
        listener.start()
        #expect(harness.loop.turn { server.sessions.count == 1 && listener.isConnected })
        let user = RecordingDelegate()
        let channel = try server.open(user)
        channel.write(Array(get().utf8).span)
        #expect(harness.loop.turn { user.text == ok })
        listener.stop()
        #expect(harness.loop.turn { user.hasEnded })
        channel.close()
        #expect(harness.loop.turn(within: .seconds(2)) { isFinished })
        #expect(harness.loop.turn { service.connections[0].hasEnded })
    }
}

@Suite struct TCPServiceTests {
    @Test(arguments: [BackendChoice.epoll, .auto]) func bytesAndHalfClose(_ backend: BackendChoice) throws {
        let harness = try Harness(backend)
        let service = try TestService(harness.loop)
        let (server, listener) = try harness.tunnel(harness.tcpService(service.port))
        let user = RecordingDelegate()
        let channel = try server.open(user)
        channel.write(Array("question".utf8).span)
        channel.finish()
        #expect(harness.loop.turn { service.connections.first?.hasEnded == true })
        #expect(service.connections[0].text == "question")
        service.connections[0].send("answer")
        service.connections[0].stream.finish()
        #expect(harness.loop.turn { user.hasEnded })
        #expect(user.text == "answer")
        #expect(harness.loop.turn { harness.log.lines("connection closed", "\"bytes_in\":8", "\"bytes_out\":6", "\"outcome\":\"completed\"").count == 1 })
        #expect(harness.log.lines("connection opened", "\"endpoint-id\":\"e\"").count == 1)
        listener.abandon()
    }

    @Test func serviceIsDown() throws {
        let harness = try Harness()
        let service = try TestService(harness.loop)
        service.stop()
        let (server, listener) = try harness.tunnel(harness.tcpService(service.port))
        let user = RecordingDelegate()
        _ = try server.open(user)
        #expect(harness.loop.turn { user.failure == .reset })
        #expect(!server.sessions[0].isOver)
        listener.abandon()
    }

    @Test func resetsGoThrough() throws {
        let harness = try Harness()
        let service = try TestService(harness.loop)
        service.onBytes = { if $0.text == "reset" { $0.stream.abort() } }
        let (server, listener) = try harness.tunnel(harness.tcpService(service.port))
        let user = RecordingDelegate()
        let channel = try server.open(user)
        channel.write(Array("reset".utf8).span)
        #expect(harness.loop.turn { user.failure == .reset })
        let other = try server.open(RecordingDelegate())
        other.write(Array("x".utf8).span)
        #expect(harness.loop.turn { service.connections.count == 2 && service.connections[1].text == "x" })
        other.abort()
        #expect(harness.loop.turn { service.connections[1].hasFailed })
        for outcome in ["service", "client"] {
            #expect(harness.loop.turn { harness.log.lines("connection closed", "\"outcome\":\"\(outcome)\"").count == 1 })
        }
        listener.abandon()
    }
}
