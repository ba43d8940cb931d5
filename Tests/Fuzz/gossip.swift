// Fuzz driver of gossip's decoder and machine.
//
// Input: a byte of options, then the body of a message. Options: 1 a stream. The body is read; what was read is read again, which
// must give the same; then a machine that knows two other nodes takes it from one of them, and must keep its own entries, its
// limits and a snapshot that can be restored. 2: a whole message follows, its envelope included, from somebody unknown. 4: the cluster
// has a key, which the fuzzer does not know, so the message changes nothing and is not answered.

import Base

@testable import Gossip

enum GossipFuzz {
    private static let now = Instant(nanoseconds: 1_000_000_000)

    static func failure(of input: [UInt8]) -> String? {
        guard let options = input.first else { return nil }
        let body = Array(input.dropFirst())
        if options & 2 != 0 { return failureOfWhole(body, isStream: options & 1 != 0, hasKey: options & 4 != 0) }
        let first = read(body, limits)
        if first != read(body, limits) { return "read twice, it is not the same" }

        var configuration = GossipConfiguration()
        configuration.limits = limits
        var outputs: [GossipOutput] = []
        var machine = machine(configuration)
        var member = GossipEnvelope(clusterID: "", keys: [], life: 0x0807_0605_0403_0201, sendersMax: 8)
        var introduction = member.begin(to: machine.envelope.life, isStream: false, capacity: 64)
        introduction.write(.welcome)
        introduction.write(Introduction(id: "b", incarnation: 1, address: GossipAddress("b:1")))
        machine.handle(.packet(introduction.bytes, from: GossipAddress("b:1")), now: now, into: &outputs)
        var message = member.begin(to: machine.envelope.life, isStream: options & 1 != 0, capacity: 64)
        message.bytes += body
        outputs = []
        machine.handle(
            options & 1 != 0
                ? .streamRequest(message.bytes, from: GossipAddress("b:1"), stream: 1) : .packet(message.bytes, from: GossipAddress("b:1")),
            now: now, into: &outputs)
        machine.handle(.timer, now: now + .seconds(1), into: &outputs)
        return failure(of: machine, outputs, configuration)
    }

    private static let limits: GossipLimits = {
        var limits = GossipLimits()
        limits.nodesMax = 8
        limits.nodeEntriesMax = 1_000
        limits.entriesMax = 2_000
        return limits
    }()

    /// A node with an endpoint.
    private static func machine(_ configuration: GossipConfiguration) -> GossipMachine {
        var machine = GossipMachine(
            configuration: configuration, node: LocalNode(id: "a", incarnation: 5, address: GossipAddress("a:1")), seed: 1, now: now)
        var outputs: [GossipOutput] = []
        machine.handle(.setEndpoint("mine", count: 7), now: now, into: &outputs)
        return machine
    }

    /// What must hold of a machine, whatever it was told.
    private static func failure(of machine: GossipMachine, _ outputs: [GossipOutput], _ configuration: GossipConfiguration) -> String? {
        for case .packet(let bytes, _) in outputs where bytes.count > 1_400 { return "a packet of \(bytes.count) bytes" }
        if machine.endpoints(of: "a").map(\.endpoint) != ["mine"] { return "its own entries are others" }
        if machine.knownNodes > 8 || machine.members.slots > 2_008 { return "beyond its limits" }
        let snapshot = machine.snapshot(now: now)
        guard let again = try? GossipMachine(snapshot: snapshot, configuration: configuration, seed: 1, now: now) else {
            return "its snapshot is none"
        }
        return again.members.hash == machine.members.hash ? nil : "its snapshot is another state"
    }

    /// Bytes of anybody.
    private static func failureOfWhole(_ bytes: [UInt8], isStream: Bool, hasKey: Bool) -> String? {
        var configuration = GossipConfiguration()
        configuration.limits = limits
        if hasKey { configuration.keys = [Array("the key of the cluster, unknown to the fuzzer".utf8)] }
        var machine = machine(configuration)
        let before = machine.members.hash
        var outputs: [GossipOutput] = []
        let from = GossipAddress("b:1")
        machine.handle(isStream ? .streamRequest(bytes, from: from, stream: 1) : .packet(bytes, from: from), now: now, into: &outputs)
        if hasKey {
            if machine.members.hash != before || machine.knownNodes != 1 { return "believed without a proof" }
            for output in outputs {
                switch output {
                case .packet, .reply: return "answered without a proof"
                default: continue
                }
            }
        }
        machine.handle(.timer, now: now + .seconds(1), into: &outputs)
        return failure(of: machine, outputs, configuration)
    }

    private static func read(_ body: [UInt8], _ limits: GossipLimits) -> GossipMessage? {
        var reader = GossipReader(body)
        return try? GossipMessage(&reader, limits: limits)
    }
}

#if FUZZING
    @_cdecl("LLVMFuzzerTestOneInput")
    public func fuzzGossip(_ bytes: UnsafePointer<UInt8>, _ count: Int) -> Int32 {
        if let failure = GossipFuzz.failure(of: Array(UnsafeBufferPointer(start: bytes, count: count))) { fatalError(failure) }
        return 0
    }
#endif
