// Local ports of `forward` against a server in this process.
import Base
import Reactor
import TestKit
import Testing
import Transport

@testable import Agent

@Suite struct ForwarderTests {
    private func forwarder(_ harness: Harness, _ connector: ServerConnector) throws -> Forwarder {
        let address = SocketAddress(address: "127.0.0.1", port: 0)!
        return try Forwarder(
            try Listener.bind(address), address: address, endpoint: "e", loop: harness.loop, connector: connector,
            logger: harness.logger)
    }

    private func connect(_ harness: Harness, _ forwarder: Forwarder, _ user: RecordingDelegate) throws -> Stream {
        let stream = try Stream(harness.loop, connectTo: forwarder.address)
        stream.delegate = user
        stream.resumeReading()
        return stream
    }

    @Test(arguments: [BackendChoice.epoll, .auto]) func bytesBothWaysAndHalfClose(_ backend: BackendChoice) throws {
        let harness = try Harness(backend)
        let server = try TestServer(harness.loop)
        let forwarder = try forwarder(harness, harness.connector(server.port))
        let user = RecordingDelegate()
        let client = try connect(harness, forwarder, user)
        #expect(harness.loop.turn { server.rawChannels.count == 1 })
        #expect(server.targets == ["/_piko/v1/tcp/e"])
        let remote = RecordingDelegate()
        server.rawChannels[0].delegate = remote
        server.rawChannels[0].resumeReading()
        client.write(Array("up".utf8).span)
        client.finish()
        #expect(harness.loop.turn { remote.text == "up" && remote.hasEnded })
        server.rawChannels[0].write(Array("down".utf8).span)
        server.rawChannels[0].finish()
        #expect(harness.loop.turn { user.text == "down" && user.hasEnded })
        #expect(harness.loop.turn { harness.log.lines("connection closed", "\"sent_bytes\":2", "\"received_bytes\":4").count == 1 })
        forwarder.close()
    }

    @Test func refusalResetsTheClient() throws {
        let harness = try Harness()
        let server = try TestServer(harness.loop)
        server.refusals = [502]
        let forwarder = try forwarder(harness, harness.connector(server.port))
        let user = RecordingDelegate()
        let client = try connect(harness, forwarder, user)
        client.write(Array("lost".utf8).span)
        #expect(harness.loop.turn { user.failure != nil })
        #expect(user.bytes.isEmpty)
        #expect(harness.log.lines("\"level\":\"error\"", "connect failed", "\"status\":502", "refused by the test").count == 1)
        forwarder.close()
    }

    @Test func serverThatIsNotThere() throws {
        let harness = try Harness()
        let server = try TestServer(harness.loop)
        server.stop()
        let forwarder = try forwarder(harness, harness.connector(server.port))
        let user = RecordingDelegate()
        _ = try connect(harness, forwarder, user)
        #expect(harness.loop.turn { user.failure != nil })
        #expect(harness.log.lines("connect failed", "Connection refused").count == 1)
        forwarder.close()
    }

    @Test func connectTimeoutIsHonoured() throws {
        let harness = try Harness()
        let silent = try TestService(harness.loop)
        let forwarder = try forwarder(harness, harness.connector(silent.port, timeout: .milliseconds(50)))
        let user = RecordingDelegate()
        _ = try connect(harness, forwarder, user)
        #expect(harness.loop.turn { user.failure != nil })
        #expect(harness.log.lines("connect failed", "timeout").count == 1)
        forwarder.close()
    }

    @Test func closeEndsConnections() throws {
        let harness = try Harness()
        let server = try TestServer(harness.loop)
        let forwarder = try forwarder(harness, harness.connector(server.port))
        let user = RecordingDelegate()
        _ = try connect(harness, forwarder, user)
        #expect(harness.loop.turn { !harness.log.lines("connection opened").isEmpty })
        let remote = RecordingDelegate()
        server.rawChannels[0].delegate = remote
        server.rawChannels[0].resumeReading()
        forwarder.close()
        #expect(harness.loop.turn { user.hasEnded && remote.hasEnded })
        let refused = RecordingDelegate()
        _ = try connect(harness, forwarder, refused)
        #expect(harness.loop.turn { refused.failure != nil })
    }
}
