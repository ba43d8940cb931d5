// The machine among others: joining, news, leaving, death and return, draining, limits, and who is not believed.

import Base
import Testing

@testable import Gossip

@Suite struct MachineTests {
    static let key = [UInt8](repeating: 7, count: 32)

    @Test(arguments: [[], [key]] as [[[UInt8]]])
    func joiningTellsAllOfAll(_ keys: [[UInt8]]) {
        var talk = Talk(4, keys: keys)
        for index in 0..<4 { talk.give(index, .setEndpoint("e\(index)", count: UInt32(index + 1))) }
        talk.join()
        for index in 0..<4 {
            #expect(talk.machines[index].knownNodes == 4)
            for other in 0..<4 where other != index {
                #expect(talk.status("n\(other)", at: index) == .active)
                #expect(talk.count("e\(other)", of: "n\(other)", at: index) == UInt32(other + 1))
                #expect(talk.machines[index].node("n\(other)", now: talk.now)?.node.proxyAddress == "n\(other):8000")
            }
            #expect(talk.changes[index].contains(.joined) == (index > 0))
        }
        // Idle, they agree at the first word.
        let before = talk.sent.count
        talk.pass(.seconds(3))
        let sizes = talk.sent.dropFirst(before).map { $0.bytes.count }
        #expect(sizes.count > 100 && sizes.max()! < 70)
    }

    /// Others know where this node is, and are there before it has looked up whom to join.
    @Test func whoIsFoundFirstHasJoined() {
        var talk = Talk(2)
        talk.give(0, .join([Talk.address(1)]))
        talk.pass(.seconds(1))
        #expect(talk.status("n0", at: 1) == .active && !talk.changes[1].contains(.joined))
        talk.give(1, .join([Talk.address(1)]))
        #expect(!talk.changes[1].contains(.joined))
        talk.give(1, .join([Talk.address(0)]))
        #expect(talk.changes[1].contains(.joined))
    }

    @Test func anEndpointComesChangesAndGoes() {
        var talk = Talk(3)
        talk.join()
        for (count, seen) in [(2, 2), (5, 5), (0, nil), (1, 1)] as [(UInt32, UInt32?)] {
            talk.give(1, .setEndpoint("e", count: count))
            talk.pass(.milliseconds(300))
            #expect(talk.count("e", of: "n1", at: 0) == seen && talk.count("e", of: "n1", at: 2) == seen)
            #expect(talk.changes[0].last == .endpoint(node: "n1", endpoint: "e", count: count))
        }
        // What is no change is not told.
        let before = talk.changes[0].count
        talk.give(1, .setEndpoint("e", count: 1))
        talk.give(1, .setEndpoint("other", count: 0))
        talk.pass(.seconds(1))
        #expect(talk.changes[0].count == before)
    }

    @Test func drainingIsToldAndTakenBack() {
        var talk = Talk(3)
        talk.join()
        talk.give(1, .setDraining(true))
        talk.pass(.milliseconds(100))
        #expect(talk.status("n1", at: 0) == .draining && talk.status("n1", at: 2) == .draining)
        talk.give(1, .setDraining(false))
        talk.pass(.milliseconds(100))
        #expect(talk.status("n1", at: 0) == .active)
    }

    @Test func whoLeavesIsAvoidedAtOnceAndForgottenLater() {
        var talk = Talk(3)
        talk.join()
        talk.give(1, .leave)
        talk.pass(.milliseconds(100))
        #expect(talk.status("n1", at: 0) == .left && talk.status("n1", at: 2) == .left)
        talk.pass(.seconds(1))
        #expect(talk.changes[1].contains(.leaveFinished))
        // It says no more, and nobody suspects it.
        let before = talk.sent.count
        talk.pass(.seconds(5))
        #expect(!talk.sent.dropFirst(before).contains { $0.from == 1 })
        #expect(talk.machines[0].counters[.suspicions] == 0)
        talk.pass(.seconds(60))
        #expect(talk.status("n1", at: 0) == nil && talk.changes[0].contains(.nodeRemoved(id: "n1", incarnation: 1)))
    }

    @Test func whoDiesIsUnreachableThenForgotten() {
        var talk = Talk(4)
        talk.join()
        talk.give(3, .setEndpoint("e", count: 1))
        talk.pass(.seconds(1))
        talk.passes = { $0 != 3 && $1 != 3 }
        talk.pass(.seconds(5), for: [0, 1, 2])
        for index in 0..<3 { #expect(talk.status("n3", at: index) == .unreachable) }
        talk.pass(.seconds(60), for: [0, 1, 2])
        for index in 0..<3 { #expect(talk.status("n3", at: index) == nil && talk.machines[index].knownNodes == 3) }
        #expect(talk.machines[0].counters[.expired] == 1)
    }

    /// A cut that heals after so many seconds: with and without memory of the other side.
    @Test(arguments: [10, 90])
    func cutsHealByThemselves(_ seconds: Int) {
        var talk = Talk(4)
        talk.join()
        talk.passes = { ($0 < 2) == ($1 < 2) }
        talk.pass(.seconds(seconds))
        talk.give(0, .setEndpoint("e", count: 3))
        #expect(talk.status("n2", at: 0) == (seconds > 70 ? nil : .unreachable) && talk.status("n1", at: 0) == .active)
        talk.passes = { _, _ in true }
        talk.pass(.seconds(20))
        for index in 0..<4 {
            for other in 0..<4 where other != index { #expect(talk.status("n\(other)", at: index) == .active) }
        }
        #expect(talk.count("e", of: "n0", at: 3) == 3)
    }

    /// One link is cut in one direction, or both: the others help, and nobody is held dead.
    @Test(arguments: [false, true])
    func aCutLinkIsNobodysDeath(_ isBoth: Bool) {
        var talk = Talk(4)
        talk.join()
        talk.passes = { !($0 == 0 && $1 == 1 || isBoth && $0 == 1 && $1 == 0) }
        talk.pass(.seconds(30))
        for index in 0..<4 { #expect(talk.machines[index].counters[.unreachable] == 0) }
    }

    /// A node that was alone for a while holds all others dead; when it is back, nobody believes that.
    @Test func whoWasAloneIsNotBelieved() {
        var talk = Talk(6)
        talk.join()
        talk.passes = { ($0 == 0) == ($1 == 0) }
        talk.pass(.seconds(6))
        for other in 1..<6 { #expect(talk.status("n\(other)", at: 0) == .unreachable) }
        let before = (1..<6).map { talk.machines[$0].counters[.unreachable] }
        talk.passes = { _, _ in true }
        talk.pass(.seconds(10))
        #expect((1..<6).map { talk.machines[$0].counters[.unreachable] } == before)
        for index in 0..<6 {
            for other in 0..<6 where other != index { #expect(talk.status("n\(other)", at: index) == .active) }
        }
    }

    /// The same id again: with a higher incarnation, and with one that the cluster holds too low, which the node raises.
    @Test(arguments: [2, 0] as [UInt64])
    func aNodeComesBackWithItsID(_ incarnation: UInt64) {
        var talk = Talk(3)
        talk.join()
        talk.give(2, .setEndpoint("old", count: 1))
        talk.pass(.seconds(1))
        let node = LocalNode(
            id: "n2", incarnation: incarnation, address: Talk.address(2), attributes: [.proxyAddress: "again:8000"])
        talk.machines[2] = GossipMachine(configuration: GossipConfiguration(), node: node, seed: 4_711, now: talk.now)
        talk.give(2, .join([Talk.address(0)]))
        talk.give(2, .setEndpoint("new", count: 1))
        talk.pass(.seconds(2))
        #expect(talk.machines[2].local.incarnation == 2)
        for index in 0..<2 {
            #expect(talk.status("n2", at: index) == .active)
            #expect(talk.count("new", of: "n2", at: index) == 1 && talk.count("old", of: "n2", at: index) == nil)
            #expect(talk.machines[index].node("n2", now: talk.now)?.node.incarnation == 2)
            #expect(talk.changes[index].contains(.nodeRemoved(id: "n2", incarnation: 1)))
        }
        #expect(!talk.changes[2].contains(.idConflict))
    }

    @Test func twoNodesOfOneIDAreNoticed() {
        var talk = Talk(2)
        talk.join()
        talk.add(GossipConfiguration(), id: "n1", incarnation: 5)
        talk.give(2, .join([Talk.address(0)]))
        talk.pass(.seconds(120))
        #expect(talk.changes[1].contains(.idConflict) || talk.changes[2].contains(.idConflict))
        // They don't fill the network over it.
        let raised = talk.machines[1].local.incarnation
        #expect(raised < 60)
    }

    /// A dead life that somebody still speaks of is not let in again after it was forgotten.
    @Test func ghostsStayInTheirGraves() {
        var talk = Talk(4)
        talk.join()
        // The last one stands still (it is given no events) before the third dies, and goes on when all have forgotten that.
        talk.passes = { $0 < 2 && $1 < 2 }
        talk.pass(.seconds(70), for: [0, 1])
        #expect(talk.machines[0].knownNodes == 2)
        // It comes back with what it knew; as it was away longer than the expiry, it begins anew.
        talk.passes = { $0 != 2 && $1 != 2 }
        talk.pass(.seconds(20), for: [0, 1, 3])
        for index in [0, 1, 3] {
            #expect(talk.status("n2", at: index) == nil)
            #expect(talk.machines[index].knownNodes == 3)
        }
        #expect(!talk.changes[0].suffix(6).contains { if case .nodeAppeared(let node) = $0 { node.id == "n2" } else { false } })
    }

    @Test func anUpgradeIsNotNoticed() throws {
        var talk = Talk(3, keys: [Self.key])
        talk.join()
        talk.give(1, .setEndpoint("e", count: 4))
        talk.give(0, .setEndpoint("f", count: 2))
        talk.pass(.seconds(1))
        var configuration = GossipConfiguration()
        configuration.keys = [Self.key]
        let before = talk.machines[1].nodes(now: talk.now)
        let snapshot = talk.machines[1].snapshot(now: talk.now)
        let changes = talk.changes[0].count
        talk.now = talk.now + .seconds(1)
        talk.machines[1] = try GossipMachine(snapshot: snapshot, configuration: configuration, seed: 5, now: talk.now)
        #expect(talk.machines[1].nodes(now: talk.now) == before)
        #expect(talk.count("e", of: "n1", at: 1) == 4)
        talk.pass(.seconds(10))
        #expect(talk.changes[0].count == changes && talk.machines[0].counters[.suspicions] == 0)
        #expect(talk.machines[0].counters[.droppedReplay] == 0 && talk.machines[1].counters[.droppedReplay] == 0)
        // Its own entries go on too, with the slots that are free.
        talk.give(1, .setEndpoint("e", count: 0))
        talk.give(1, .setEndpoint("g", count: 1))
        talk.pass(.seconds(1))
        #expect(talk.count("g", of: "n1", at: 0) == 1 && talk.count("e", of: "n1", at: 0) == nil)
        // Cut off or changed at the front, it is none.
        for length in stride(from: 0, to: snapshot.count, by: 7) {
            #expect(throws: GossipSnapshotError.self) {
                try GossipMachine(snapshot: Array(snapshot.prefix(length)), configuration: configuration, seed: 5, now: talk.now)
            }
        }
        #expect(throws: GossipSnapshotError.self) {
            try GossipMachine(snapshot: [99] + snapshot.dropFirst(), configuration: configuration, seed: 5, now: talk.now)
        }
    }

    /// A program went on from a snapshot, changed entries, and came to nothing; another one goes on from the same snapshot.
    @Test func aSecondProgramFromOneSnapshot() throws {
        var talk = Talk(3, keys: [Self.key])
        talk.join()
        for name in ["a", "b", "c"] { talk.give(1, .setEndpoint(name, count: 1)) }
        talk.pass(.seconds(1))
        var configuration = GossipConfiguration()
        configuration.keys = [Self.key]
        let snapshot = talk.machines[1].snapshot(now: talk.now)
        talk.machines[1] = try GossipMachine(snapshot: snapshot, configuration: configuration, seed: 5, now: talk.now)
        talk.give(1, .setEndpoint("a", count: 0))
        talk.give(1, .setEndpoint("b", count: 9))
        talk.give(1, .setEndpoint("d", count: 4))
        talk.give(1, .setEndpoint("e", count: 4))
        talk.pass(.seconds(1))
        #expect(talk.count("e", of: "n1", at: 0) == 4 && talk.count("a", of: "n1", at: 0) == nil)
        talk.machines[1] = try GossipMachine(snapshot: snapshot, configuration: configuration, seed: 6, now: talk.now)
        talk.give(1, .setEndpoint("f", count: 2))
        talk.pass(.seconds(3))
        for index in [0, 2] {
            let known = talk.machines[index].endpoints(of: "n1").map { "\($0.endpoint)=\($0.count)" }.sorted()
            #expect(known == ["a=1", "b=1", "c=1", "f=2"])
            #expect(talk.machines[index].counters[.suspicions] == 0)
        }
    }

    @Test func manyEndpointsComeOverStreamsAndAreForgottenInTime() {
        var talk = Talk(2)
        for index in 0..<5_000 { talk.give(0, .setEndpoint("endpoint-\(index)", count: 1)) }
        talk.join()
        #expect(talk.machines[1].node("n0", now: talk.now)?.endpoints == 5_000)
        #expect(talk.machines[1].counters[.streamsOut] > 0)
        for index in 0..<4_990 { talk.give(0, .setEndpoint("endpoint-\(index)", count: 0)) }
        talk.pass(.seconds(20))
        let view = talk.machines[1].node("n0", now: talk.now)
        #expect(view?.endpoints == 10 && view?.removedEntries ?? 999 < 128)
        #expect(talk.count("endpoint-4995", of: "n0", at: 1) == 1)
    }

    /// Streams may fail for ever; packets do it, too.
    @Test func withoutStreamsItTakesLonger() {
        var talk = Talk(2)
        for index in 0..<500 { talk.give(0, .setEndpoint("endpoint-\(index)", count: 1)) }
        talk.failsStreams = true
        talk.join()
        talk.pass(.seconds(10))
        #expect(talk.machines[1].node("n0", now: talk.now)?.endpoints == 500)
    }

    // MARK: Who is not believed

    /// Packets that were changed, cut off, made longer, or sent again: nothing changes but the counters.
    @Test func forgedReplayedTruncatedOversized() {
        var talk = Talk(2, keys: [Self.key])
        talk.join()
        talk.give(0, .setEndpoint("e", count: 1))
        talk.pass(.seconds(1))
        let packets = talk.sent.filter { $0.to == 1 }.map(\.bytes)
        let before = talk.machines[1].nodes(now: talk.now)
        let counters = talk.machines[1].counters
        let changes = talk.changes[1].count
        func give(_ bytes: [UInt8]) {
            var outputs: [GossipOutput] = []
            talk.machines[1].handle(.packet(bytes, from: Talk.address(0)), now: talk.now, into: &outputs)
            #expect(!outputs.contains { if case .packet = $0 { true } else { false } })
        }
        for bytes in packets {
            give(bytes)
            give(Array(bytes.dropLast()))
            give(Array(bytes.prefix(20)))
            var changed = bytes
            changed[35] ^= 1
            give(changed)
            give(bytes + [UInt8](repeating: 0, count: 1_400))
        }
        let after = talk.machines[1].counters
        let count = UInt64(packets.count)
        #expect(after[.droppedReplay] - counters[.droppedReplay] == count)
        #expect(after[.droppedSignature] - counters[.droppedSignature] >= count)
        #expect(after[.droppedEnvelope] - counters[.droppedEnvelope] >= count)
        #expect(after[.droppedOversized] - counters[.droppedOversized] == count)
        #expect(talk.machines[1].nodes(now: talk.now) == before && talk.changes[1].count == changes)
    }

    /// Recorded packets of all kinds, given to the receiver after it started again: they are for a life that is over.
    @Test func recordingsAreNothingToARestartedNode() {
        var talk = Talk(2, keys: [Self.key])
        talk.join()
        talk.give(0, .setEndpoint("e", count: 1))
        talk.pass(.seconds(1))
        var configuration = GossipConfiguration()
        configuration.keys = [Self.key]
        var restarted = GossipMachine(
            configuration: configuration, node: LocalNode(id: "n1", incarnation: 2, address: Talk.address(1)), seed: 999, now: talk.now)
        for packet in talk.sent where packet.to == 1 {
            var outputs: [GossipOutput] = []
            restarted.handle(.packet(packet.bytes, from: Talk.address(0)), now: talk.now, into: &outputs)
            #expect(!outputs.contains { if case .change = $0 { true } else { false } })
        }
        #expect(restarted.knownNodes == 1)
    }

    /// A packet makes at most as many bytes for a stranger as it has, and few answers at a time.
    @Test func strangersGetLittle() {
        var talk = Talk(1)
        var stranger = GossipEnvelope(clusterID: "", keys: [], life: 99, sendersMax: 8)
        var answers = 0
        for _ in 0..<200 {
            var writer = stranger.begin(to: 0, isStream: false, capacity: 64)
            writer.write(.hello)
            writer.write(Introduction(id: "stranger", incarnation: 1, address: GossipAddress("1.2.3.4:5")))
            stranger.seal(&writer)
            var outputs: [GossipOutput] = []
            talk.machines[0].handle(.packet(writer.bytes, from: GossipAddress("1.2.3.4:5")), now: talk.now, into: &outputs)
            for case .packet(let bytes, _) in outputs {
                #expect(bytes.count <= writer.count + 16)
                answers += 1
            }
        }
        #expect(answers == 64 && talk.machines[0].knownNodes == 1)
    }

    @Test func limitsRefuseAndCount() {
        var talk = Talk(4) { $0.limits.nodesMax = 3 }
        talk.join()
        #expect(talk.machines[0].knownNodes == 3 && talk.machines[0].counters[.refusedNodes] > 0)
        var small = Talk(2) { $0.limits.nodeEntriesMax = 20 }
        for index in 0..<30 { small.give(0, .setEndpoint("e\(index)", count: 1)) }
        #expect(small.machines[0].node("n0", now: small.now)?.endpoints == 12 && small.machines[0].counters[.refusedEntries] == 18)
        small.give(0, .setEndpoint(String(repeating: "x", count: 257), count: 1))
        small.give(0, .setEndpoint("", count: 1))
        #expect(small.machines[0].counters[.refusedEntries] == 20)
    }

    /// What others have takes all the room that there is for them, and none of this node's own.
    @Test func ownEntriesHaveRoom() {
        var talk = Talk(2) { $0.limits.entriesMax = 30 }
        for index in 0..<40 { talk.give(0, .setEndpoint("e\(index)", count: 1)) }
        talk.join()
        #expect(talk.machines[0].node("n0", now: talk.now)?.endpoints == 40)
        #expect(talk.machines[1].counters[.refusedEntries] > 0)
        for index in 0..<5 { talk.give(1, .setEndpoint("own\(index)", count: 1)) }
        #expect(talk.machines[1].node("n1", now: talk.now)?.endpoints == 5)
    }

    @Test func keysAreChangedWithoutAGap() {
        var talk = Talk(3, keys: [Self.key])
        talk.join()
        let new = [UInt8](repeating: 9, count: 32)
        for keys in [[Self.key, new], [new, Self.key], [new]] {
            for index in 0..<3 {
                talk.give(index, .setKeys(keys))
                talk.pass(.seconds(2))
            }
        }
        for index in 0..<3 {
            #expect(talk.machines[index].counters[.droppedSignature] == 0 && talk.machines[index].counters[.suspicions] == 0)
        }
    }
}
