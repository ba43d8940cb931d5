// Sessions over WebSockets over socket pairs: bytes, half-close, back-pressure, go-away and every way a stream ends.
import Base
import Memory
import Reactor
import TestKit
import Testing
import Transport
import Wire

/// A user of sessions that writes down what it is told and gives accepted streams a delegate.
private final class SessionRecorder: MuxSessionDelegate {
    var accepted: [YamuxChannel] = []
    var wentAway = false
    var idle = 0
    var ended = false
    var error: ChannelError?
    var makeDelegate: () -> ChannelDelegate = { EchoDelegate() }

    override func session(_ session: MuxSession, accepted channel: YamuxChannel) {
        accepted.append(channel)
        channel.delegate = makeDelegate()
        channel.resumeReading()
    }

    override func sessionWentAway(_ session: MuxSession) { wentAway = true }
    override func sessionIdle(_ session: MuxSession) { idle += 1 }
    override func sessionEnded(_ session: MuxSession, error: ChannelError?) {
        ended = true
        self.error = error
    }
}

/// A server's and an agent's end of one session.
private struct SessionPair {
    let loop: Loop
    let server: MuxSession
    let agent: MuxSession
    let serverUser = SessionRecorder()
    let agentUser = SessionRecorder()

    init(_ backend: BackendChoice = .epoll) throws {
        loop = try Loop(backend: backend)
        let (left, right) = try streamPair(loop)
        server = MuxSession(
            loop, carrier: WebSocketChannel(loop, over: left, role: .server), role: .server, delegate: serverUser)
        agent = MuxSession(
            loop, carrier: WebSocketChannel(loop, over: right, role: .client), role: .client, delegate: agentUser)
    }

    func open(_ delegate: ChannelDelegate) throws -> YamuxChannel {
        let channel = try #require(server.open())
        channel.delegate = delegate
        channel.resumeReading()
        return channel
    }
}

@Suite struct MuxSessionTests {
    @Test(arguments: [BackendChoice.epoll, .auto]) func echoesManyStreams(_ backend: BackendChoice) throws {
        let pair = try SessionPair(backend)
        var recorders: [RecordingDelegate] = []
        var expected: [[UInt8]] = []
        for number in 0..<50 {
            let recorder = RecordingDelegate()
            let channel = try pair.open(recorder)
            let bytes = (0..<(number * 1_237)).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ number) }
            channel.write(bytes.span)
            channel.finish()
            recorders.append(recorder)
            expected.append(bytes)
        }
        #expect(pair.loop.turn { recorders.allSatisfy { $0.hasEnded } })
        for (recorder, bytes) in zip(recorders, expected) { #expect(recorder.bytes == bytes) }
        #expect(pair.loop.turn { pair.server.streamCount == 0 && pair.agent.streamCount == 0 })
    }

    @Test func streamThatIsWrittenNothingToReachesThePeer() throws {
        let pair = try SessionPair()
        let reader = RecordingDelegate()
        _ = try pair.open(reader)
        #expect(pair.loop.turn { !pair.agentUser.accepted.isEmpty })
        let greeting = Array("the service speaks first".utf8)
        pair.agentUser.accepted[0].write(greeting.span)
        #expect(pair.loop.turn { reader.bytes == greeting })
    }

    @Test func largeStreamRespectsWindowAndLosesNothing() throws {
        let pair = try SessionPair()
        let reader = RecordingDelegate()
        pair.agentUser.makeDelegate = { reader }
        let writer = RecordingDelegate()
        let channel = try pair.open(writer)
        #expect(pair.loop.turn { pair.agentUser.accepted.isEmpty == false || channel.isWritable })
        let piece = (0..<50_000).map { UInt8(truncatingIfNeeded: $0) }
        channel.write(piece.span)
        #expect(pair.loop.turn { reader.bytes.count == piece.count })
        pair.agentUser.accepted[0].pauseReading()
        var sent = piece.count
        while channel.isWritable {
            channel.write(piece.span)
            sent += piece.count
        }
        #expect(sent < 600_000, "the window bounds what is sent to a reader that stopped")
        #expect(writer.drains == 0)
        pair.agentUser.accepted[0].resumeReading()
        #expect(pair.loop.turn { reader.bytes.count == sent })
        #expect(writer.drains == 1)
    }

    @Test func halfCloseCarriesTheAnswer() throws {
        let pair = try SessionPair()
        let service = RecordingDelegate()
        pair.agentUser.makeDelegate = { service }
        let client = RecordingDelegate()
        let channel = try pair.open(client)
        channel.write(Array("question".utf8).span)
        channel.finish()
        #expect(pair.loop.turn { service.hasEnded })
        #expect(service.text == "question")
        pair.agentUser.accepted[0].write(Array("answer".utf8).span)
        pair.agentUser.accepted[0].close()
        #expect(pair.loop.turn { client.hasEnded })
        #expect(client.text == "answer")
        channel.close()
        #expect(pair.loop.turn { pair.server.streamCount == 0 && pair.agent.streamCount == 0 })
    }

    @Test func abortIsAResetForThePeer() throws {
        let pair = try SessionPair()
        let service = RecordingDelegate()
        pair.agentUser.makeDelegate = { service }
        let channel = try pair.open(RecordingDelegate())
        channel.write(Array("x".utf8).span)
        #expect(pair.loop.turn { service.bytes.count == 1 })
        channel.abort()
        #expect(pair.loop.turn { service.failure == .reset })
        #expect(pair.server.streamCount == 0 && pair.agent.streamCount == 0)
    }

    @Test func goAwayKeepsWhatRuns() throws {
        let pair = try SessionPair()
        let recorder = RecordingDelegate()
        let channel = try pair.open(recorder)
        channel.write(Array("before ".utf8).span)
        #expect(pair.loop.turn { recorder.text == "before " })
        pair.agent.goAway()
        #expect(pair.loop.turn { pair.serverUser.wentAway })
        #expect(pair.server.open() == nil)
        channel.write(Array("after".utf8).span)
        #expect(pair.loop.turn { recorder.text == "before after" })
        channel.finish()
        #expect(pair.loop.turn { pair.agentUser.idle > 0 })
        pair.agent.close()
        #expect(pair.loop.turn { pair.serverUser.ended })
    }

    @Test func endOfTheCarrierFailsAllStreams() throws {
        let pair = try SessionPair()
        let recorders = (0..<3).map { _ in RecordingDelegate() }
        for recorder in recorders { try pair.open(recorder).write(Array("x".utf8).span) }
        #expect(pair.loop.turn { recorders.allSatisfy { $0.text == "x" } })
        pair.agent.close()
        #expect(pair.loop.turn { pair.serverUser.ended })
        #expect(recorders.allSatisfy { $0.failure == .reset })
        #expect(pair.loop.turn { pair.loop.openHandles == 0 })
    }
}

@Suite struct RelayTests {
    /// Client socket, relayed to a service socket; the test holds the outer ends.
    private func relay() throws -> (loop: Loop, client: Stream, service: Stream, outcome: () -> RelayOutcome?) {
        let loop = try Loop(backend: .epoll)
        let (client, left) = try streamPair(loop)
        let (right, service) = try streamPair(loop)
        final class Box { var outcome: RelayOutcome? }
        let box = Box()
        let relay = Relay(left, right) { box.outcome = $0 }
        relay.start()
        return (loop, client, service, { box.outcome })
    }

    @Test func carriesHalfCloseBothWays() throws {
        let (loop, client, service, outcome) = try relay()
        let clientUser = RecordingDelegate()
        let serviceUser = RecordingDelegate()
        client.delegate = clientUser
        service.delegate = serviceUser
        client.resumeReading()
        service.resumeReading()
        client.write(Array("question".utf8).span)
        client.finish()
        #expect(loop.turn { serviceUser.hasEnded })
        #expect(serviceUser.text == "question")
        #expect(outcome() == nil)
        service.write(Array("answer".utf8).span)
        service.finish()
        #expect(loop.turn { clientUser.hasEnded })
        #expect(clientUser.text == "answer")
        #expect(outcome()?.error == nil && outcome()?.endedBy == .completed)
        #expect(outcome()?.leftBytes == 8 && outcome()?.rightBytes == 6)
        client.close()
        service.close()
        #expect(loop.turn { loop.openHandles == 0 })
    }

    @Test func aReaderThatStopsBoundsTheMemory() throws {
        let (loop, client, service, _) = try relay()
        let serviceUser = RecordingDelegate()
        service.delegate = serviceUser
        let piece = [UInt8](repeating: 7, count: 65_536)
        var sent = 0
        for _ in 0..<400 {
            if client.isWritable {
                client.write(piece.span)
                sent += piece.count
            }
            loop.runTurn(until: SystemClock.now + .milliseconds(1))
        }
        #expect(!client.isWritable, "the relay stops reading when its reader does")
        #expect(loop.counters.outputBytes < 4_000_000)
        service.resumeReading()
        #expect(loop.turn { serviceUser.bytes.count == sent })
    }
}
