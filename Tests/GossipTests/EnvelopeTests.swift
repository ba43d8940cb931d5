// Envelopes: what is believed to come from whom, and what is not.

import Base
import Testing

@testable import Gossip

@Suite struct EnvelopeTests {
    static let now = Instant(nanoseconds: 1)
    static let key = [UInt8](repeating: 7, count: 32)
    static let otherKey = [UInt8](repeating: 8, count: 32)

    /// An envelope that can be used within expectations.
    final class End {
        var envelope: GossipEnvelope

        init(_ envelope: GossipEnvelope) { self.envelope = envelope }

        func open(_ bytes: [UInt8], isStream: Bool, now: Instant) -> GossipEnvelope.Opened {
            envelope.open(bytes, isStream: isStream, now: now)
        }
    }

    static func envelope(_ life: UInt64, _ keys: [[UInt8]] = [key], cluster: String = "c") -> End {
        End(GossipEnvelope(clusterID: cluster, keys: keys, life: life, sendersMax: 8))
    }

    static func seal(_ end: End, to: UInt64, isStream: Bool = false) -> [UInt8] {
        var writer = end.envelope.begin(to: to, isStream: isStream, capacity: 64)
        writer.write(.ping)
        writer.write(UInt64(1))
        end.envelope.seal(&writer)
        return writer.bytes
    }

    @Test(arguments: [[], [key], [key, otherKey]] as [[[UInt8]]])
    func passesOnce(_ keys: [[UInt8]]) {
        let sender = Self.envelope(1, keys)
        let receiver = Self.envelope(2, keys)
        let bytes = Self.seal(sender, to: 2)
        #expect(bytes.count == 30 + 9 + (keys.isEmpty ? 0 : 16))
        #expect(receiver.open(bytes, isStream: false, now: Self.now) == .message(sender: 1, body: 30..<39))
        #expect(receiver.open(bytes, isStream: false, now: Self.now) == .dropped(.droppedReplay))
        #expect(receiver.open(bytes, isStream: true, now: Self.now) == .dropped(.droppedEnvelope))
        let stream = Self.seal(sender, to: 2, isStream: true)
        #expect(receiver.open(stream, isStream: true, now: Self.now) == .message(sender: 1, body: 30..<39))
        #expect(receiver.open(stream, isStream: true, now: Self.now) == .dropped(.droppedReplay))
    }

    @Test func everyBitIsProven() {
        let sender = Self.envelope(1)
        let bytes = Self.seal(sender, to: 2)
        for index in bytes.indices {
            for bit in 0..<8 {
                var changed = bytes
                changed[index] ^= 1 << bit
                let receiver = Self.envelope(2)
                guard case .dropped = receiver.open(changed, isStream: false, now: Self.now) else {
                    Issue.record("bit \(bit) of byte \(index) may be changed")
                    continue
                }
            }
        }
        for length in 0..<bytes.count {
            let receiver = Self.envelope(2)
            let opened = receiver.open(Array(bytes.prefix(length)), isStream: false, now: Self.now)
            #expect(opened == .dropped(.droppedEnvelope) || opened == .dropped(.droppedSignature))
        }
        let receiver = Self.envelope(2)
        #expect(receiver.open(bytes + [0], isStream: false, now: Self.now) == .dropped(.droppedSignature))
    }

    /// Keys of the sender, keys of the receiver, whether it is believed: a new key is added everywhere, then comes first, then the
    /// old one goes.
    @Test(arguments: [
        ([key], [key, otherKey], true), ([key, otherKey], [key, otherKey], true), ([otherKey, key], [key, otherKey], true),
        ([otherKey], [otherKey, key], true), ([otherKey], [key], false), ([], [key], false), ([key], [], false), ([], [], true),
    ] as [([[UInt8]], [[UInt8]], Bool)])
    func rotation(_ sender: [[UInt8]], _ receiver: [[UInt8]], _ isBelieved: Bool) {
        let sender = Self.envelope(1, sender)
        let other = Self.envelope(2)
        other.envelope.setKeys(receiver)
        let opened = other.open(Self.seal(sender, to: 2), isStream: false, now: Self.now)
        #expect(opened == (isBelieved ? .message(sender: 1, body: 30..<39) : .dropped(.droppedSignature)))
    }

    @Test func otherClustersAndLives() {
        let sender = Self.envelope(1)
        let stranger = Self.envelope(2, cluster: "d")
        #expect(stranger.open(Self.seal(sender, to: 2), isStream: false, now: Self.now) == .dropped(.droppedCluster))
        let receiver = Self.envelope(2)
        #expect(receiver.open(Self.seal(sender, to: 0), isStream: false, now: Self.now) == .greeting(sender: 1, body: 30..<39))
        #expect(receiver.open(Self.seal(sender, to: 3), isStream: false, now: Self.now) == .misdirected(sender: 1))
        // What this node sent itself.
        let own = Self.seal(receiver, to: 2)
        #expect(receiver.open(own, isStream: false, now: Self.now) == .dropped(.droppedReplay))
        // The same key with another cluster's id proves nothing, even when the tag is forged.
        var bytes = Self.seal(sender, to: 2)
        let other = Self.envelope(9, cluster: "d")
        let otherBytes = Self.seal(other, to: 2)
        bytes.replaceSubrange(2..<6, with: otherBytes[2..<6])
        #expect(stranger.open(bytes, isStream: false, now: Self.now) == .dropped(.droppedSignature))
    }

    /// What was recorded before the receiver started again is for another life.
    @Test func aRestartedReceiverTakesNoOldRecording() {
        let sender = Self.envelope(1)
        let recorded = Self.seal(sender, to: 2)
        let restarted = Self.envelope(3)
        #expect(restarted.open(recorded, isStream: false, now: Self.now) == .misdirected(sender: 1))
    }

    /// Numbers in the order in which they come, and which of them are new.
    @Test(arguments: [
        ([1, 2, 3, 2, 1, 3], [true, true, true, false, false, false]),
        ([5, 3, 4, 3, 5, 1], [true, true, true, false, false, true]),
        ([200, 73, 72, 73, 199], [true, true, false, false, true]),
        ([1, 1_000, 1, 999, 872, 873, 872], [true, true, false, true, false, true, false]),
        ([0, .max, 1, .max, .max - 1], [false, true, false, false, true]),
    ] as [([UInt64], [Bool])])
    func windows(_ numbers: [UInt64], _ isNew: [Bool]) {
        var window = ReplayWindow()
        let accepted = numbers.map { window.accept($0) }
        #expect(accepted == isNew)
    }

    @Test func sendersAreBounded() {
        var guardian = ReplayGuard(sendersMax: 4)
        for life in 1...100 as ClosedRange<UInt64> {
            let isNew = guardian.accept(life, 1, isStream: false, now: Instant(nanoseconds: life))
            let isNewAgain = guardian.accept(life, 1, isStream: false, now: Instant(nanoseconds: life))
            #expect(isNew && !isNewAgain && guardian.senders.count <= 4)
        }
        // Those that were heard last are remembered.
        for life in [100, 99] as [UInt64] {
            let isNew = guardian.accept(life, 1, isStream: false, now: Instant(nanoseconds: 101))
            #expect(!isNew)
        }
    }
}
