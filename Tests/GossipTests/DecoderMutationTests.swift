// Bytes by chance for the decoder and the machine: sound messages of all kinds, changed at random. None may crash them; what is
// refused changes nothing; what is read is the same when it is read again; no reading takes memory that is not there.
//
// Tests/Fuzz/gossip.swift does the same with libFuzzer.

import Base
import Testing

@testable import Gossip

@Suite struct DecoderMutationTests {
    /// Sound packets and stream messages, as machines make them, without their envelopes.
    static let seeds: [[UInt8]] = {
        var talk = Talk(5) { $0.packetBytesMax = 500 }
        for index in 0..<5 {
            for number in 0..<30 { talk.give(index, .setEndpoint("endpoint-\(number)", count: UInt32(number + 1))) }
        }
        talk.join()
        talk.passes = { $0 != 4 && $1 != 4 }
        talk.pass(.seconds(6))
        talk.give(1, .leave)
        talk.pass(.seconds(1))
        var bodies = talk.sent.map { Array($0.bytes.dropFirst(GossipEnvelope.headerBytes)) }
        var random = GossipRandom(seed: 1)
        bodies.shuffle(using: &random)
        return Array(bodies.prefix(60)) + MessageTests.rows.map(\.0)
    }()

    static func mutate(_ bytes: [UInt8], _ random: inout GossipRandom) -> [UInt8] {
        var bytes = bytes
        for _ in 0...random.below(4) {
            guard !bytes.isEmpty else { return [UInt8(random.below(256))] }
            let at = random.below(bytes.count)
            switch random.below(7) {
            case 0: bytes[at] = UInt8(random.below(256))
            case 1: bytes[at] ^= 1 << UInt8(random.below(8))
            case 2: bytes.remove(at: at)
            case 3: bytes.insert([0, 1, 0x7F, 0x80, 0xFF][random.below(5)], at: at)
            case 4: bytes.removeSubrange(at...)
            case 5: bytes.insert(contentsOf: bytes[at..<min(bytes.count, at + 1 + random.below(40))], at: random.below(bytes.count))
            default:
                let other = seeds[random.below(seeds.count)]
                bytes += other.suffix(random.below(other.count + 1))
            }
        }
        return bytes
    }

    @Test(arguments: 1...8)
    func bodies(_ seed: UInt64) {
        var random = GossipRandom(seed: seed)
        var limits = GossipLimits()
        limits.nodeEntriesMax = 1_000
        var read = 0
        for _ in 0..<4_000 {
            let bytes = Self.mutate(Self.seeds[random.below(Self.seeds.count)], &random)
            guard let message = try? Body.read(bytes, limits: limits) else { continue }
            read += 1
            #expect((try? Body.read(bytes, limits: limits)) == message)
            let entries = message.sections.reduce(0) { $0 + $1.entries.count } + (message.digest?.count ?? 0) + message.want.count
            #expect(entries * 4 + message.sections.count * 10 <= bytes.count * 2)
        }
        #expect(read > 100)
    }

    /// A member whose messages are nonsense does not crash this node, take its memory, or make it forget its own.
    @Test(arguments: 1...8)
    func machines(_ seed: UInt64) {
        var random = GossipRandom(seed: seed)
        var talk = Talk(2) {
            $0.limits.nodesMax = 20
            $0.limits.nodeEntriesMax = 1_000
            $0.limits.entriesMax = 3_000
        }
        talk.join()
        talk.give(0, .setEndpoint("mine", count: 7))
        var stranger = GossipEnvelope(clusterID: "", keys: [], life: talk.machines[1].envelope.life, sendersMax: 8)
        stranger.restore(packetNumber: 1_000_000, streamNumber: 1_000_000, replayGuard: ReplayGuard(sendersMax: 8))
        for round in 0..<1_500 {
            let isStream = random.below(4) == 0
            let life = talk.machines[0].envelope.life
            var writer = stranger.begin(to: random.below(20) == 0 ? 0 : life, isStream: isStream, capacity: 64)
            writer.bytes += Self.mutate(Self.seeds[random.below(Self.seeds.count)], &random)
            stranger.seal(&writer)
            var outputs: [GossipOutput] = []
            talk.now = talk.now + .milliseconds(random.below(40))
            let event: GossipEvent =
                isStream
                ? .streamRequest(writer.bytes, from: Talk.address(1), stream: UInt64(round))
                : .packet(writer.bytes, from: Talk.address(1))
            talk.machines[0].handle(event, now: talk.now, into: &outputs)
            talk.machines[0].handle(.timer, now: talk.now, into: &outputs)
            for case .packet(let bytes, _) in outputs { #expect(bytes.count <= 1_400) }
            #expect(talk.machines[0].knownNodes <= 20 && talk.machines[0].members.slots <= 3_000 + 8)
        }
        #expect(talk.count("mine", of: "n0", at: 0) == 7)
        let snapshot = talk.machines[0].snapshot(now: talk.now)
        let again = try? GossipMachine(snapshot: snapshot, configuration: talk.machines[0].configuration, seed: 1, now: talk.now)
        #expect(again?.members.hash == talk.machines[0].members.hash && again?.members.slots == talk.machines[0].members.slots)
    }
}
