// What the tests of gossip share: machines that talk to each other without a network, and bytes of messages.

import Base

@testable import Gossip

/// Some machines; packets and streams arrive at once, unless they are dropped.
struct Talk {
    var machines: [GossipMachine] = []
    var now = Instant(nanoseconds: 5_000_000_000)
    /// By machine: what its application was told.
    var changes: [[GossipChange]] = []
    /// Whether a message may pass from one machine to another.
    var passes: (Int, Int) -> Bool = { _, _ in true }
    /// No stream comes about.
    var failsStreams = false
    /// Every packet that was sent, with who sent it and to whom.
    var sent: [(from: Int, to: Int, bytes: [UInt8])] = []

    static func address(_ index: Int) -> GossipAddress { GossipAddress("10.0.0.\(index):8003") }

    init(_ count: Int, keys: [[UInt8]] = [], configure: (inout GossipConfiguration) -> Void = { _ in }) {
        for index in 0..<count {
            var configuration = GossipConfiguration()
            configuration.keys = keys
            configure(&configuration)
            add(configuration, id: "n\(index)", incarnation: 1)
        }
    }

    mutating func add(_ configuration: GossipConfiguration, id: String, incarnation: UInt64) {
        let index = machines.count
        machines.append(
            GossipMachine(
                configuration: configuration,
                node: LocalNode(
                    id: id, incarnation: incarnation, address: Self.address(index), attributes: [.proxyAddress: "\(id):8000"]),
                seed: UInt64(index) + 77, now: now))
        changes.append([])
    }

    /// Gives a machine an event, and everybody what follows from it.
    mutating func give(_ index: Int, _ event: GossipEvent) {
        var pending: [(Int, GossipEvent)] = [(index, event)]
        var streams: [(from: Int, exchange: UInt32)] = []
        var count = 0
        while !pending.isEmpty {
            count += 1
            precondition(count < 100_000, "they talk without end")
            let (machine, event) = pending.removeFirst()
            var outputs: [GossipOutput] = []
            machines[machine].handle(event, now: now, into: &outputs)
            for output in outputs {
                switch output {
                case .packet(let bytes, let to):
                    guard let to = place(of: to) else { break }
                    sent.append((machine, to, bytes))
                    if passes(machine, to) { pending.append((to, .packet(bytes, from: Self.address(machine)))) }
                case .openStream(let bytes, let to, let exchange):
                    guard let to = place(of: to), passes(machine, to), !failsStreams else {
                        pending.append((machine, .streamFailed(exchange: exchange)))
                        break
                    }
                    streams.append((machine, exchange))
                    pending.append((to, .streamRequest(bytes, from: Self.address(machine), stream: UInt64(streams.count - 1))))
                case .reply(let bytes, let stream):
                    pending.append((streams[Int(stream)].from, .streamReply(bytes, exchange: streams[Int(stream)].exchange)))
                case .refuse(let stream):
                    pending.append((streams[Int(stream)].from, .streamFailed(exchange: streams[Int(stream)].exchange)))
                case .wake: break
                case .change(let change): changes[machine].append(change)
                }
            }
        }
    }

    private func place(of address: GossipAddress) -> Int? { machines.indices.first { Self.address($0) == address } }

    /// Lets time pass for these machines, or for all.
    mutating func pass(_ time: Duration, for some: [Int]? = nil) {
        let end = now + time
        while now < end {
            now = now + .milliseconds(10)
            for index in some ?? Array(machines.indices) { give(index, .timer) }
        }
    }

    /// All know each other.
    mutating func join() {
        for index in machines.indices.dropFirst() { give(index, .join([Self.address(0)])) }
        pass(.seconds(2))
    }

    func status(_ id: String, at index: Int) -> GossipNodeStatus? { machines[index].node(id, now: now)?.node.status }

    func count(_ endpoint: String, of id: String, at index: Int) -> UInt32? {
        machines[index].endpoints(of: id).first { $0.endpoint == endpoint }?.count
    }
}

/// A message's body as it is written.
enum Body {
    static func bytes(_ write: (inout GossipWriter) -> Void) -> [UInt8] {
        var writer = GossipWriter()
        write(&writer)
        return writer.bytes
    }

    static func read(_ bytes: [UInt8], limits: GossipLimits = GossipLimits()) throws(GossipWireError) -> GossipMessage {
        var reader = GossipReader(bytes)
        return try GossipMessage(&reader, limits: limits)
    }
}
