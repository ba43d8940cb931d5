// Nodes of one worker each in the test's own process and loop, whose supervisors are played here: they answer lookups from a table
// that the test writes, and join workers by socket pairs where a real one dials.
import Base
import Config
import Control
import Memory
import Reactor
import Telemetry
import TestKit
import Testing
import Transport
import Wire

@testable import Worker

/// Some nodes on one loop.
final class TestCluster {
    let loop: Loop
    private(set) var nodes: [String: TestNode] = [:]

    /// `keys` are the cluster's; `change` makes each node's configuration.
    init(_ names: [String], keys: [[UInt8]] = [], backend: BackendChoice = .epoll, change: (inout ServerConfig) -> Void = { _ in }) throws {
        SignalSource.ignorePipeSignal()
        loop = try Loop(backend: backend)
        var config = ServerConfig()
        config.proxy.reconnectWait = .zero
        config.log.level = .error
        change(&config)
        for (index, name) in names.enumerated() {
            nodes[name] = try TestNode(self, name, address: "10.0.0.\(index + 1)", keys: keys, config: config)
        }
        for node in nodes.values { try turn("\(node.name) is ready") { node.isReady } }
        for node in nodes.values {
            for other in nodes.values where other !== node { node.introduce(other.name, .active) }
        }
    }

    subscript(_ name: String) -> TestNode { nodes[name]! }

    func turn(_ what: String, until condition: () -> Bool) throws {
        let isDone = loop.turn(until: condition)
        try #require(isDone, "\(what)")
    }

    /// Says on `node` that others have the endpoint.
    func say(_ endpoint: String, on node: String, _ others: [String: UInt32]) {
        self[node].remote[endpoint] = others.sorted { $0.key < $1.key }.map { RemoteEntry(node: $0.key, listeners: $0.value) }
        self[node].tell(.routeChanged(endpoint: endpoint, version: 1))
    }
}

/// A worker and the test's idea of its supervisor.
final class TestNode: MessageDelegate {
    let name: String
    let address: PeerAddress
    private unowned let cluster: TestCluster
    private let control: ControlClient
    private let socket: MessageSocket
    private let memory: SharedMemory
    private let quotas: SharedMemory
    private let setup: WorkerSetup
    private var tunnels: [String: Int] = [:]
    private var data: Set<String> = []
    /// What other nodes have, as this one is told.
    var remote: [String: [RemoteEntry]] = [:]
    /// How long ago the endpoint was lost, in milliseconds.
    var lost: [String: UInt32] = [:]
    /// Whether it takes no connections.
    var isDown = false
    private(set) var isReady = false
    private(set) var dials: [String] = []
    private(set) var lookups = 0
    private(set) var agents: [TestAgent] = []

    var worker: Worker { control.worker! }

    init(_ cluster: TestCluster, _ name: String, address: String, keys: [[UInt8]], config: ServerConfig) throws {
        self.cluster = cluster
        self.name = name
        self.address = peer(address, 8_000)
        memory = try SharedMemory(name: "test", size: CounterRegion.byteCount(layout: Counters.layout, slabs: 1))
        _ = CounterRegion(formatting: memory.region, layout: Counters.layout, slabs: 1)
        quotas = try SharedMemory(name: "quotas", size: QuotaRegion.byteCount(slabs: 1))
        _ = QuotaRegion(formatting: quotas.region, slabs: 1)
        var pair = try MessageSocket.pair()
        control = try ControlClient(cluster.loop, descriptor: pair.takeFirst())
        socket = try MessageSocket(cluster.loop, adopting: pair.takeSecond())
        setup = WorkerSetup(
            index: 0, generation: 1, worker: 1, slab: 0, nodeStart: 0, directKey: Random.bytes(32), nodeID: name, clusterKeys: keys,
            settings: config.flattened.map { Setting(key: $0.0, value: $0.1) })
        super.init()
        socket.delegate = self
        tell(.hello(protocolVersion: ControlLimits.protocolVersion, binaryVersion: BuildInfo.version))
        tell(.configure(setup), [memory.descriptor, quotas.descriptor], taking: false)
    }

    func tell(_ message: ControlMessage, _ descriptors: [Int32] = [], taking: Bool = true) {
        var bytes = ByteBuffer()
        message.encode(into: &bytes)
        do { _ = try socket.send(bytes.span, descriptors: descriptors, taking: taking) } catch { Issue.record("\(error)") }
    }

    func introduce(_ other: String, _ status: NodeStatus) {
        tell(.node(id: other, status: status, proxy: cluster[other].address))
    }

    override func message(_ socket: MessageSocket, bytes: Span<UInt8>, descriptors: inout DescriptorList) {
        do {
            take(try ControlMessage.decode(bytes, from: .worker))
        } catch {
            Issue.record("\(error)")
        }
    }

    private func take(_ message: ControlMessage) {
        switch message {
        case .workerReady: isReady = true
        case .register(let tunnel, let endpoint, let kind, _):
            if kind == .dataConnections { data.insert(endpoint) } else { tunnels[endpoint, default: 0] += 1 }
            tell(.routeChanged(endpoint: endpoint, version: 1))
            tell(.registered(tunnel: tunnel))
        case .unregister(_, let endpoint):
            tunnels[endpoint]? -= 1
            tell(.routeChanged(endpoint: endpoint, version: 1))
        case .lookup(let endpoint):
            lookups += 1
            let own = tunnels[endpoint] ?? 0
            let entries = own > 0 || data.contains(endpoint)
                ? [RouteEntry(worker: 1, tunnels: UInt32(own), hasData: data.contains(endpoint))] : []
            tell(.routes(endpoint: endpoint, version: 1, lostFor: lost[endpoint], entries: entries, remote: remote[endpoint] ?? []))
        case .dial(let request, let node):
            dials.append(node)
            let target = cluster[node]
            guard !target.isDown, var pair = try? Sockets.pair(.stream) else {
                tell(.dialFailed(request: request, code: 111))
                return
            }
            target.give(.proxy, pair.takeSecond(), from: address)
            tell(.dialed(request: request), [pair.takeFirst().take()])
        default: break
        }
    }

    private func give(_ port: ListenerKind, _ descriptor: consuming OwnedDescriptor, from client: PeerAddress) {
        tell(.accepted(listener: port, acceptedAt: .never, peers: [client]), [descriptor.take()])
    }

    /// A connection to one of the node's ports, as accepted from `address`.
    func connect(_ port: ListenerKind, from address: PeerAddress = peer("203.0.113.9", 4_711)) throws -> Stream {
        var pair = try Sockets.pair(.stream)
        let stream = try Stream(cluster.loop, adopting: pair.takeFirst())
        give(port, pair.takeSecond(), from: address)
        return stream
    }

    /// A client of the proxy port.
    func client(from address: PeerAddress = peer("203.0.113.9", 4_711)) throws -> TestClient {
        TestClient(cluster, try connect(.proxy, from: address))
    }

    /// An agent with a session for the endpoint, whose streams `service` serves.
    @discardableResult
    func agent(_ endpoint: String, offersData: Bool = false, _ service: @escaping () -> ChannelDelegate) throws -> TestAgent {
        let agent = TestAgent(service)
        var request = UpgradeRequest(target: "/piko/v1/upstream/\(endpoint)", host: "test", webSocket: true)
        if offersData { request.fields = ["x-piko-transport: direct/1"] }
        let upgrade = UpgradeClient(
            cluster.loop, over: try connect(.upstream), isConnected: true, request: request, timeout: .seconds(5)
        ) { [loop = cluster.loop] in agent.upgraded(loop, $0) }
        try cluster.turn("an agent of \(endpoint) at \(name)") { agent.session != nil }
        withExtendedLifetime(upgrade) {}
        agents.append(agent)
        return agent
    }

    func counter(_ counter: Counter) -> UInt64 {
        guard let region = try? CounterRegion(opening: memory.region) else { return 0 }
        return region.slab(0).value(counter.rawValue)
    }
}

func peer(_ address: String, _ port: UInt16) -> PeerAddress {
    PeerAddress(encoded: SocketAddress(address: address, port: port)!.encoded.span)!
}

/// The agent's side of a session.
final class TestAgent: MuxSessionDelegate {
    private let service: () -> ChannelDelegate
    private(set) var session: MuxSession?
    private(set) var credential: String?
    private(set) var streams = 0

    init(_ service: @escaping () -> ChannelDelegate) { self.service = service }

    fileprivate func upgraded(_ loop: Loop, _ result: Result<Upgraded, UpgradeFailure>) {
        guard case .success(let upgraded) = result, case .webSocket(let carrier) = upgraded.carrier else {
            Issue.record("\(result)")
            return
        }
        credential = upgraded.credential
        session = MuxSession(loop, carrier: carrier, role: .client, delegate: self)
    }

    override func session(_ session: MuxSession, accepted channel: YamuxChannel) {
        streams += 1
        channel.delegate = service()
        channel.resumeReading()
    }
}

/// An HTTP service that answers each request with its own name and the head that it got, and the length of the body.
final class TestService: ChannelDelegate {
    private let name: String
    private let answer: String?
    private var text = ""

    /// `answer` in place of the usual one.
    init(_ name: String, answer: String? = nil) {
        self.name = name
        self.answer = answer
    }

    override func channel(_ channel: Channel, received bytes: inout MutableSpan<UInt8>) {
        text += String(decoding: [UInt8](copying: bytes.span), as: UTF8.self)
        while let end = text.range(of: "\r\n\r\n") {
            let head = text[..<end.upperBound]
            let rest = text[end.upperBound...]
            guard let (body, used) = Self.body(head, rest) else { return }
            let line = "\(name)\nbody=\(body)\n\(head)"
            channel.write(Array((answer ?? "HTTP/1.1 200 OK\r\nContent-Length: \(line.utf8.count)\r\n\r\n\(line)").utf8).span)
            text = String(rest.dropFirst(used))
        }
    }

    /// The body's length, and how much of the text it takes; nil: it is not whole.
    private static func body(_ head: Substring, _ rest: Substring) -> (Int, Int)? {
        let lower = head.lowercased()
        if lower.contains("transfer-encoding: chunked") {
            guard let end = rest.range(of: "0\r\n\r\n") else { return nil }
            let used = rest.distance(from: rest.startIndex, to: end.upperBound)
            var count = 0
            var left = rest[..<end.lowerBound]
            while let line = left.range(of: "\r\n"), let size = Int(left[..<line.lowerBound], radix: 16) {
                count += size
                left = left[line.upperBound...].dropFirst(size + 1)
            }
            return (count, used)
        }
        guard let field = lower.range(of: "content-length: ") else { return (0, 0) }
        let length = Int(lower[field.upperBound...].prefix { $0.isNumber }) ?? 0
        return rest.utf8.count < length ? nil : (length, length)
    }

    override func channelEnded(_ channel: Channel) { channel.close() }
}

extension StringProtocol {
    /// As Foundation's, which the tests don't need for anything else.
    fileprivate func range(of other: String) -> Range<Index>? { firstRange(of: other) }
}

/// A client that sends text and waits for answers.
final class TestClient {
    let stream: Stream
    let recorder = RecordingDelegate()
    private let cluster: TestCluster

    init(_ cluster: TestCluster, _ stream: Stream) {
        self.cluster = cluster
        self.stream = stream
        stream.delegate = recorder
        stream.resumeReading()
    }

    func send(_ text: String) { stream.write(Array(text.utf8).span) }

    /// The next answer, head and body.
    func answer() throws -> String {
        var found: String?
        try cluster.turn("an answer, after \(recorder.text)") { [self] in
            let text = recorder.text
            guard let end = text.range(of: "\r\n\r\n") else { return recorder.hasEnded || recorder.failure != nil }
            let head = text[..<end.upperBound].lowercased()
            var length = 0
            if let field = head.range(of: "content-length: ") { length = Int(head[field.upperBound...].prefix { $0.isNumber }) ?? 0 }
            guard text[end.upperBound...].utf8.count >= length else { return recorder.hasEnded }
            found = text
            return true
        }
        recorder.forget()
        return found ?? ""
    }

    /// Sends a request and returns the answer to it.
    func get(_ path: String = "/", host: String = "e.example.com", method: String = "GET", fields: String = "", body: String = "") throws -> String {
        let length = body.isEmpty ? "" : "Content-Length: \(body.utf8.count)\r\n"
        send("\(method) \(path) HTTP/1.1\r\nHost: \(host)\r\n\(fields)\(length)\r\n\(body)")
        return try answer()
    }
}
