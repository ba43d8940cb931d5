// Sessions that move to another process in the middle of everything. Both "processes" are in one loop here; the state goes through
// its bytes all the same.
import Base
import Memory
import Reactor
import TestKit
import Testing
import Transport
import Wire

/// Gives what agents get back, in the pieces in which it came.
private final class AgentUser: MuxSessionDelegate {
    var accepted: [YamuxChannel] = []
    var error: ChannelError?
    var hasEnded = false
    var makeDelegate: () -> ChannelDelegate = { EchoDelegate() }
    var resumes = true

    override func session(_ session: MuxSession, accepted channel: YamuxChannel) {
        accepted.append(channel)
        channel.delegate = makeDelegate()
        if resumes { channel.resumeReading() }
    }

    override func sessionEnded(_ session: MuxSession, error: ChannelError?) {
        hasEnded = true
        self.error = error
    }
}

/// A session of the server's side that moves from owner to owner.
private final class MovingServer {
    let loop: Loop
    var session: MuxSession!
    let agent: MuxSession
    let agentUser = AgentUser()
    let user = MuxSessionDelegate()
    var moves = 0
    var bridgesEnded = 0
    var isMoving = false
    private var failure: (any Error)?

    init(_ backend: BackendChoice) throws {
        loop = try Loop(backend: backend)
        let (left, right) = try streamPair(loop)
        session = MuxSession(loop, carrier: WebSocketChannel(loop, over: left, role: .server), role: .server, delegate: user)
        agent = MuxSession(loop, carrier: WebSocketChannel(loop, over: right, role: .client), role: .client, delegate: agentUser)
    }

    /// Begins to move the session, unless it is moving.
    func move() {
        guard !isMoving, session.mayMove else { return }
        isMoving = true
        session.move { [unowned self] descriptor, state, bridges in
            do {
                let ends = bridges.map { number in
                    BridgeEnd(loop, adopting: OwnedDescriptor(number)) { self.bridgesEnded += 1 }
                }
                session = try MuxSession(
                    loop, over: try Stream(loop, adopting: descriptor), role: .server, state: state.span, bridges: ends,
                    delegate: user)
                moves += 1
            } catch {
                Issue.record("\(error)")
            }
            isMoving = false
        }
    }

    func moveNow() {
        let before = moves
        move()
        #expect(loop.turn { moves > before })
    }

    func open(_ delegate: ChannelDelegate) throws -> YamuxChannel {
        let channel = try #require(session.open())
        channel.delegate = delegate
        channel.resumeReading()
        return channel
    }
}

/// Sends a pattern as the channel takes it, then finishes; checks what comes back.
private final class Sender: ChannelDelegate {
    let total: Int
    let seed: Int
    var sent = 0
    var received = 0
    var isWrong = false
    var hasEnded = false
    var failure: ChannelError?

    init(total: Int, seed: Int) {
        self.total = total
        self.seed = seed
    }

    private func byte(_ index: Int) -> UInt8 { UInt8(truncatingIfNeeded: (index &* 31) ^ (index >> 8) &+ seed) }

    func pump(_ channel: Channel) {
        while sent < total, channel.isWritable {
            let piece = (sent..<min(total, sent + 7_001)).map(byte)
            channel.write(piece.span)
            sent += piece.count
        }
        if sent == total { channel.finish() }
    }

    override func channel(_ channel: Channel, received bytes: inout MutableSpan<UInt8>) {
        for index in bytes.indices where bytes[index] != byte(received + index) { isWrong = true }
        received += bytes.count
    }

    override func channelDrained(_ channel: Channel) { pump(channel) }
    override func channelEnded(_ channel: Channel) { hasEnded = true }
    override func channelFailed(_ channel: Channel, error: ChannelError) { failure = error }
}

@Suite struct SessionMoveTests {
    /// Streams of all lengths that echo, while the session moves again and again.
    @Test(arguments: [BackendChoice.epoll, .auto], 1...3) func nothingIsLost(_ backend: BackendChoice, _ seed: Int) throws {
        var random = SeededGenerator(seed: UInt64(seed))
        let server = try MovingServer(backend)
        var senders: [(Sender, YamuxChannel)] = []
        for index in 0..<24 {
            let sender = Sender(total: Int(random.next() % 4 == 0 ? random.next() % 300_000 : random.next() % 60_000), seed: index)
            let channel = try server.open(sender)
            sender.pump(channel)
            senders.append((sender, channel))
            for _ in 0..<(random.next() % 3) { server.loop.runTurn(until: server.loop.now) }
            if random.next() % 4 == 0 { server.move() }
            while server.isMoving { server.loop.runTurn(until: server.loop.now + .milliseconds(20)) }
        }
        var turns = 0
        let isDone = server.loop.turn(within: .seconds(60)) {
            turns += 1
            if random.next() % 16 == 0, server.moves < 40 { server.move() }
            return senders.allSatisfy { $0.0.hasEnded || $0.0.failure != nil }
        }
        #expect(isDone && server.moves > 2)
        for (sender, _) in senders {
            #expect(!sender.isWrong && sender.failure == nil && sender.received == sender.total, "seed \(seed) of \(sender.total)")
        }
        #expect(!server.agentUser.hasEnded)
        for (_, channel) in senders { channel.close() }
        #expect(server.loop.turn { server.agent.streamCount == 0 && server.session.streamCount == 0 })
    }

    @Test func resetsArriveOverABridge() throws {
        let server = try MovingServer(.epoll)
        let reader = RecordingDelegate()
        let writer = RecordingDelegate()
        let first = try server.open(reader)
        let second = try server.open(writer)
        first.write([1].span)
        second.write([2].span)
        #expect(server.loop.turn { reader.bytes == [1] && writer.bytes == [2] })
        server.moveNow()
        server.agentUser.accepted[0].abort()
        #expect(server.loop.turn { reader.failure == .reset })
        let peer = RecordingDelegate()
        server.agentUser.accepted[1].delegate = peer
        second.abort()
        #expect(server.loop.turn { peer.failure == .reset && server.bridgesEnded == 2 })
        #expect(server.session.streamCount == 0)
    }

    @Test func halfClosedStreamsStaySo() throws {
        let server = try MovingServer(.epoll)
        let peer = RecordingDelegate()
        server.agentUser.makeDelegate = { peer }
        let reader = RecordingDelegate()
        let channel = try server.open(reader)
        channel.write([1, 2, 3].span)
        channel.finish()
        #expect(server.loop.turn { peer.hasEnded && peer.bytes == [1, 2, 3] })
        server.moveNow()
        server.moveNow()
        server.agentUser.accepted[0].write([4, 5].span)
        #expect(server.loop.turn { reader.bytes == [4, 5] })
        server.moveNow()
        server.agentUser.accepted[0].finish()
        #expect(server.loop.turn { reader.hasEnded })
        channel.close()
        #expect(server.loop.turn { server.bridgesEnded >= 1 && server.session.streamCount == 0 && server.agent.streamCount == 0 })
        #expect(!server.agentUser.hasEnded)
    }

    @Test func thePeersEndComesBeforeTheMove() throws {
        let server = try MovingServer(.epoll)
        let peer = RecordingDelegate()
        server.agentUser.makeDelegate = { peer }
        let reader = RecordingDelegate()
        let channel = try server.open(reader)
        channel.write([9].span)
        #expect(server.loop.turn { peer.bytes == [9] })
        server.agentUser.accepted[0].write([1].span)
        server.agentUser.accepted[0].finish()
        #expect(server.loop.turn { reader.hasEnded })
        server.moveNow()
        channel.write([7].span)
        channel.finish()
        #expect(server.loop.turn { peer.bytes == [9, 7] && peer.hasEnded })
        channel.close()
        #expect(server.loop.turn { server.session.streamCount == 0 && server.agent.streamCount == 0 })
    }

    /// The user pauses, and what was on its way is in nobody's hands: after the move it comes when he reads on, and the window is
    /// given back then.
    @Test func aPausedReaderGetsTheRestLater() throws {
        let server = try MovingServer(.epoll)
        server.agentUser.makeDelegate = { RecordingDelegate() }
        let reader = RecordingDelegate()
        let channel = try server.open(reader)
        channel.write([0].span)
        #expect(server.loop.turn { !server.agentUser.accepted.isEmpty })
        channel.pauseReading()
        let bytes = (0..<3_000_000).map { UInt8(truncatingIfNeeded: $0 &* 13) }
        server.agentUser.accepted[0].write(bytes.span)
        server.agentUser.accepted[0].finish()
        for _ in 0..<50 { server.loop.runTurn(until: server.loop.now + .milliseconds(1)) }
        let before = reader.bytes.count
        #expect(before < bytes.count)
        server.moveNow()
        server.moveNow()
        channel.resumeReading()
        #expect(server.loop.turn { reader.hasEnded })
        #expect(reader.bytes == bytes)
    }

    /// A stream that its user has let go of, and whose last bytes wait for the window, is finished where the session goes.
    @Test func whatWaitsForTheWindowGoesAlong() throws {
        let server = try MovingServer(.epoll)
        let peer = RecordingDelegate()
        server.agentUser.makeDelegate = { peer }
        server.agentUser.resumes = false
        let channel = try server.open(RecordingDelegate())
        let bytes = (0..<900_000).map { UInt8(truncatingIfNeeded: $0 &* 7) }
        channel.write(bytes.span)
        channel.close()
        #expect(server.loop.turn { !server.agentUser.accepted.isEmpty })
        server.moveNow()
        server.agentUser.accepted[0].resumeReading()
        #expect(server.loop.turn { peer.hasEnded })
        #expect(peer.bytes == bytes)
        server.agentUser.accepted[0].close()
        #expect(server.loop.turn { server.session.streamCount == 0 })
    }

    @Test func aPeerThatDiesMeanwhileEndsTheSessionHere() throws {
        let server = try MovingServer(.epoll)
        let reader = RecordingDelegate()
        let channel = try server.open(reader)
        channel.write([1].span)
        #expect(server.loop.turn { reader.bytes == [1] })
        server.move()
        server.agent.close()
        #expect(server.loop.turn { reader.failure != nil || server.moves == 1 })
        #expect(server.loop.turn { reader.failure == .reset })
    }

    @Test func aStateThatDoesNotFitIsRefused() throws {
        let server = try MovingServer(.epoll)
        _ = try server.open(RecordingDelegate())
        var saved = ByteBuffer()
        var numbers: [Int32] = []
        server.session.move { _, state, bridges in
            saved.append(state.span)
            numbers = bridges
        }
        #expect(server.loop.turn { !saved.isEmpty })
        for number in numbers { _ = OwnedDescriptor(number) }
        for length in stride(from: 0, to: saved.count, by: 3) {
            let (left, _) = try streamPair(server.loop)
            var cut = ByteBuffer()
            cut.append(saved.span.extracting(0..<length))
            #expect(throws: StateReadError.self) {
                _ = try MuxSession(server.loop, over: left, role: .server, state: cut.span, bridges: [], delegate: server.user)
            }
        }
    }

    /// The user, or the peer, ends a stream while its bridge leaves the loop for the second move.
    @Test(arguments: [BackendChoice.epoll, .auto], 0...5) func aBridgeThatEndsInAMoveHoldsNothingUp(
        _ backend: BackendChoice, _ turns: Int
    ) throws {
        for isAborted in [true, false] {
            let server = try MovingServer(backend)
            let reader = RecordingDelegate()
            let channel = try server.open(reader)
            channel.write([1].span)
            #expect(server.loop.turn { reader.bytes == [1] })
            server.moveNow()
            if !isAborted {
                server.agentUser.accepted[0].finish()
                #expect(server.loop.turn { reader.hasEnded })
            }
            server.move()
            for _ in 0..<turns { server.loop.runTurn(until: server.loop.now) }
            if isAborted { channel.abort() } else { channel.finish() }
            #expect(server.loop.turn { server.moves == 2 })
            channel.close()
            #expect(server.loop.turn { server.session.streamCount == 0 && server.agent.streamCount == 0 })
            #expect(!server.agentUser.hasEnded)
        }
    }

    /// Both ways at once, with readers that pause, and moves in between.
    @Test(arguments: [BackendChoice.epoll, .auto], 1...3) func bothWaysAtRandom(_ backend: BackendChoice, _ seed: Int) throws {
        var random = SeededGenerator(seed: UInt64(seed) &* 7_919)
        func number(_ below: UInt64) -> Int { Int(random.next() % below) }
        let server = try MovingServer(backend)
        var ups: [(user: Duplex, channel: YamuxChannel)] = []
        var downs: [Duplex] = []
        for index in 0..<6 {
            let sizes = (0..<2).map { _ in number(3) == 0 ? number(50) : number(80_000) }
            downs.append(Duplex(total: sizes[1], seed: index + 100, peerSeed: index, expects: sizes[0]))
            server.agentUser.makeDelegate = { downs[index] }
            let up = Duplex(total: sizes[0], seed: index, peerSeed: index + 100, expects: sizes[1])
            ups.append((up, try server.open(up)))
            #expect(server.loop.turn { server.agentUser.accepted.count == index + 1 })
        }
        let isDone = server.loop.turn(within: .seconds(60)) {
            let index = number(6)
            let isUp = number(2) == 0
            let (user, channel) = isUp ? (ups[index].user, ups[index].channel) : (downs[index], server.agentUser.accepted[index])
            switch number(6) {
            case 0: channel.pauseReading()
            case 1, 2: channel.resumeReading()
            default: user.pump(channel, most: number(120_000))
            }
            if number(25) == 0, server.moves < 30 { server.move() }
            return ups.allSatisfy(\.user.isDone) && downs.allSatisfy(\.isDone)
        }
        #expect(isDone && server.moves > 0, "seed \(seed)")
        for user in ups.map(\.user) + downs { #expect(!user.isWrong && user.failure == nil && user.received == user.expects) }
    }
}

/// Sends one pattern and expects another.
private final class Duplex: ChannelDelegate {
    let total: Int
    let expects: Int
    private let seed: Int
    private let peerSeed: Int
    private var sent = 0
    private var hasFinished = false
    private var hasEnded = false
    private(set) var received = 0
    private(set) var isWrong = false
    private(set) var failure: ChannelError?

    init(total: Int, seed: Int, peerSeed: Int, expects: Int) {
        self.total = total
        self.seed = seed
        self.peerSeed = peerSeed
        self.expects = expects
    }

    var isDone: Bool { hasFinished && hasEnded || failure != nil }

    private static func byte(_ seed: Int, _ index: Int) -> UInt8 {
        UInt8(truncatingIfNeeded: (index &* 31) &+ (index >> 8) &+ seed)
    }

    func pump(_ channel: Channel, most: Int) {
        guard failure == nil, !hasFinished else { return }
        var left = most
        while left > 0, sent < total, channel.isWritable {
            let count = min(left, total - sent, 20_000)
            let piece = (sent..<sent + count).map { Self.byte(seed, $0) }
            channel.write(piece.span)
            sent += count
            left -= count
        }
        if sent == total {
            hasFinished = true
            channel.finish()
        }
    }

    override func channel(_ channel: Channel, received bytes: inout MutableSpan<UInt8>) {
        for index in bytes.indices where bytes[index] != Self.byte(peerSeed, received + index) { isWrong = true }
        received += bytes.count
    }

    override func channelEnded(_ channel: Channel) { hasEnded = true }
    override func channelDrained(_ channel: Channel) { pump(channel, most: 60_000) }
    override func channelFailed(_ channel: Channel, error: ChannelError) { failure = error }
}
