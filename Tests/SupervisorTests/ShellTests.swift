// The parts around the supervisor's decisions, on a real loop: worker links, listening sockets, the control socket.

import Base
import Config
import Control
import Glibc
import Memory
import Reactor
import Telemetry
import Testing

@testable import Supervisor

/// Runs the loop until the condition holds; fails after five seconds.
private func run(_ loop: Loop, _ what: Comment, until condition: () -> Bool) {
    let end = loop.now + .seconds(5)
    while !condition() {
        guard loop.now < end else {
            Issue.record(what)
            return
        }
        loop.runTurn(until: loop.now + .milliseconds(20))
    }
}

/// Remembers what a link told its owner.
private final class LinkOwner: WorkerLinkOwner {
    var greetings = 0
    var messages: [ControlMessage] = []
    var failures: [String] = []

    func linkGreeted(_ link: WorkerLink) { greetings += 1 }
    func link(_ link: WorkerLink, received message: ControlMessage) { messages.append(message) }
    func linkFailed(_ link: WorkerLink, reason: String) { failures.append(reason) }
}

/// The worker's end of a link.
private final class WorkerEnd: MessageDelegate {
    var messages: [ControlMessage] = []
    var hasEnded = false

    override func message(_ socket: MessageSocket, bytes: Span<UInt8>, descriptors: inout DescriptorList) {
        do {
            messages.append(try ControlMessage.decode(bytes, from: .supervisor))
        } catch {
            Issue.record("\(error)")
        }
    }

    override func messageSocketEnded(_ socket: MessageSocket, error: SystemError?) { hasEnded = true }
}

/// A link and its other end in one loop.
private final class LinkPair {
    let loop: Loop
    let owner = LinkOwner()
    let link: WorkerLink
    let end = WorkerEnd()
    private var raw: OwnedDescriptor?
    private(set) var socket: MessageSocket?

    init() throws {
        loop = try Loop(backend: .epoll)
        var pair = try MessageSocket.pair()
        raw = pair.takeSecond()
        link = try WorkerLink(loop, worker: 7, adopting: pair.takeFirst(), owner: owner)
    }

    /// The worker begins to read.
    func connect() throws {
        socket = try MessageSocket(loop, adopting: raw.take()!)
        socket!.delegate = end
    }

    func send(_ message: ControlMessage, descriptors: [Int32] = []) throws {
        var buffer = ByteBuffer()
        message.encode(into: &buffer)
        try socket!.send(buffer.span, descriptors: descriptors)
    }

    static let hello = ControlMessage.hello(
        protocolVersion: ControlLimits.protocolVersion, binaryVersion: BuildInfo.version)
}

@Suite struct WorkerLinkTests {
    @Test func greetsAndPassesMessagesOn() throws {
        let pair = try LinkPair()
        try pair.connect()
        try pair.send(LinkPair.hello)
        try pair.send(.workerReady)
        try pair.send(.register(tunnel: 1, endpoint: "e", kind: .session))
        run(pair.loop, "the messages") { pair.owner.messages.count == 2 && pair.end.messages.count == 1 }
        #expect(pair.owner.greetings == 1 && pair.owner.failures.isEmpty)
        #expect(pair.owner.messages == [.workerReady, .register(tunnel: 1, endpoint: "e", kind: .session)])
        #expect(pair.end.messages == [LinkPair.hello])
        pair.link.close()
        run(pair.loop, "the end") { pair.end.hasEnded }
        #expect(pair.owner.failures.isEmpty)
    }

    @Test func refusesWorkersThatBreakTheProtocol() throws {
        let others: [ControlMessage] = [
            .workerReady, .hello(protocolVersion: 99, binaryVersion: BuildInfo.version),
            .hello(protocolVersion: ControlLimits.protocolVersion, binaryVersion: "0.0.0"),
        ]
        for first in others {
            let pair = try LinkPair()
            try pair.connect()
            try pair.send(first)
            run(pair.loop, "a failure") { !pair.owner.failures.isEmpty }
            #expect(pair.owner.greetings == 0 && pair.owner.messages.isEmpty)
        }
        for (second, descriptors) in [(LinkPair.hello, []), (.shutdown, []), (.workerReady, [Int32(0)])] {
            let pair = try LinkPair()
            try pair.connect()
            try pair.send(LinkPair.hello)
            try pair.send(second, descriptors: descriptors)
            try pair.send(.drained)
            run(pair.loop, "a failure") { !pair.owner.failures.isEmpty }
            run(pair.loop, "its end") { pair.end.hasEnded }
            #expect(pair.owner.failures.count == 1 && pair.owner.messages.isEmpty)
        }
        let pair = try LinkPair()
        try pair.connect()
        try pair.socket!.send([1, 2, 3].span)
        run(pair.loop, "a failure") { pair.owner.failures == ["control message: truncated"] }
    }

    @Test func saysOnceThatTheWorkerIsGone() throws {
        let pair = try LinkPair()
        try pair.connect()
        pair.socket!.close()
        run(pair.loop, "the failure") { !pair.owner.failures.isEmpty }
        #expect(!pair.link.send(.ready(true)))
        #expect(pair.owner.failures.count == 1)
    }

    /// A worker that does not read for a while gets each changed endpoint once, with its last version.
    @Test func collectsChangesForABusyWorker() throws {
        let pair = try LinkPair()
        for version in UInt64(1)...50_000 { pair.link.routeChanged("e\(version % 100)", version: version) }
        #expect(pair.owner.failures.isEmpty)
        try pair.connect()
        run(pair.loop, "all changes") {
            var last: [String: UInt64] = [:]
            for case .routeChanged(let endpoint, let version) in pair.end.messages { last[endpoint] = version }
            return last.count == 100 && last.values.min() == 49_901
        }
        #expect(pair.end.messages.count < 2_000)
    }

    /// Other messages are never collected: a worker that does not take them is lost, and descriptors are not leaked.
    @Test func givesUpOnAWorkerThatHangs() throws {
        let pair = try LinkPair()
        var sent = 0
        while sent < 20_000, pair.link.send(.ready(true)) { sent += 1 }
        #expect(sent < 20_000 && pair.owner.failures.count == 1)
        var sockets = try Sockets.pair(.stream)
        let descriptor = sockets.takeFirst().take()
        #expect(!pair.link.send(.sibling(worker: 1, generation: 1, protocolVersion: ControlLimits.protocolVersion), taking: [descriptor]))
        #expect(DescriptorKind(of: descriptor) == nil)
    }
}

@Suite struct ListenerTableTests {
    @Test func bindsAndSaysWhere() throws {
        let loop = try Loop(backend: .epoll)
        let table = ListenerTable(loop)
        try table.bind(.proxy, key: "proxy.bind_addr", address: BindAddress(host: "127.0.0.1", port: 0))
        try table.bind(.upstream, key: "upstream.bind_addr", address: BindAddress(host: "", port: 0))
        try table.bind(.admin, key: "admin.bind_addr", address: BindAddress(host: "localhost", port: 0))
        #expect(table.addresses(.proxy).map(\.host) == ["127.0.0.1"])
        #expect(table.addresses(.upstream).count == 1)
        let admin = table.addresses(.admin)
        #expect(!admin.isEmpty && admin.allSatisfy { $0.isLoopback && $0.port == admin[0].port && $0.port > 0 })
        // All addresses: IPv4 reaches it.
        let port = table.addresses(.upstream)[0].port
        let watcher = Connecting()
        let stream = try Stream(loop, connectTo: SocketAddress(address: "127.0.0.1", port: port)!)
        stream.delegate = watcher
        run(loop, "a connection") { watcher.isConnected }
        stream.closeNow()
    }

    @Test func namesTheKeyOfAnAddressInUse() throws {
        let loop = try Loop(backend: .epoll)
        let first = ListenerTable(loop)
        try first.bind(.proxy, key: "proxy.bind_addr", address: BindAddress(host: "127.0.0.1", port: 0))
        let port = first.addresses(.proxy)[0].port
        let began = loop.now
        let second = ListenerTable(loop, inUseRetry: .milliseconds(250))
        do {
            try second.bind(.admin, key: "admin.bind_addr", address: BindAddress(host: "127.0.0.1", port: port))
            Issue.record("bound twice")
        } catch {
            #expect("\(error)" == "config: admin.bind_addr: cannot listen on 127.0.0.1:\(port): Address already in use")
        }
        #expect(loop.now - began >= .milliseconds(250))
    }

    @Test func namesTheKeyOfAnUnknownHost() throws {
        let loop = try Loop(backend: .epoll)
        do {
            try ListenerTable(loop).bind(.proxy, key: "proxy.bind_addr", address: BindAddress(host: "no-such-host.invalid", port: 1))
            Issue.record("bound")
        } catch {
            #expect("\(error)".hasPrefix("config: proxy.bind_addr: cannot listen on no-such-host.invalid:1: "))
        }
    }
}

private final class Connecting: ChannelDelegate {
    var isConnected = false
    override func streamConnected(_ stream: Stream) { isConnected = true }
}

/// A client of the control socket.
private final class Client: ChannelDelegate {
    let stream: Stream
    var text = ""
    var hasEnded = false

    init(_ loop: Loop, path: String) throws {
        stream = try Stream(loop, connectToUnix: path)
        super.init()
        stream.delegate = self
        stream.resumeReading()
    }

    override func channel(_ channel: Channel, received bytes: inout MutableSpan<UInt8>) {
        let span = bytes.span
        text += String(decoding: (0..<span.count).map { span[$0] }, as: UTF8.self)
    }

    override func channelEnded(_ channel: Channel) { hasEnded = true }
    override func channelFailed(_ channel: Channel, error: ChannelError) { hasEnded = true }
}

@Suite struct ControlServerTests {
    private func path() -> String { "/tmp/piko-test-\(getpid())-\(Random.number()).sock" }

    @Test func answersALineForALine() throws {
        let loop = try Loop(backend: .epoll)
        let path = path()
        let server = try ControlServer(loop, path: path) { $1(.object([JSONMember("asked", $0)])) }
        var facts = stat()
        #expect(stat(path, &facts) == 0 && facts.st_mode & 0o777 == 0o600)
        let client = try Client(loop, path: path)
        for piece in ["{\"a\"", ":1}\n[", "2]\n\n", "{\"b\":"] {
            client.stream.write(Array(piece.utf8).span)
            loop.runTurn(until: loop.now + .milliseconds(10))
        }
        let expected = "{\"asked\":{\"a\":1}}\n{\"asked\":[2]}\n{\"error\":\"not JSON: a value is missing at byte 0\"}\n"
        run(loop, "the replies") { client.text == expected }
        server.close()
        run(loop, "the end") { client.hasEnded }
        #expect(!(access(path, F_OK) == 0))
    }

    @Test func isBounded() throws {
        let loop = try Loop(backend: .epoll)
        let path = path()
        let server = try ControlServer(loop, path: path) { $1(.null) }
        defer { server.close() }
        let client = try Client(loop, path: path)
        client.stream.write([UInt8](repeating: 0x20, count: 80_000).span)
        run(loop, "the end of a connection with a long line") { client.hasEnded }
        var clients: [Client] = []
        for _ in 0..<ControlServer.connectionsMax + 3 { clients.append(try Client(loop, path: path)) }
        run(loop, "three turned away") { clients.count { $0.hasEnded } == 3 }
        clients[0].stream.write(Array("1\n".utf8).span)
        run(loop, "an answer to the others") { clients[0].text == "null\n" }
        // A place becomes free.
        clients[1].stream.closeNow()
        loop.runTurn(until: loop.now + .milliseconds(50))
        let next = try Client(loop, path: path)
        next.stream.write(Array("2\n".utf8).span)
        run(loop, "an answer to the next") { next.text == "null\n" }
        for client in clients { client.stream.closeNow() }
        next.stream.closeNow()
    }

    @Test func takesThePlaceOfADeadServerOnly() throws {
        let loop = try Loop(backend: .epoll)
        let path = path()
        let living = try ControlServer(loop, path: path) { $1(.null) }
        #expect(throws: SystemError.self) { try ControlServer(loop, path: path) { $1(.null) } }
        living.close()
        // What a killed server leaves behind.
        _ = try Listener.bindUnix(path, mode: 0o600)
        let next = try ControlServer(loop, path: path) { $1(.null) }
        next.close()
    }
}
