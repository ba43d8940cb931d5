// What an upgrade hands over, written and read.

import Base
import Config
import Control
import Memory
import Testing

@testable import Supervisor

@Suite struct TakenStateTests {
    private func sample(tunnels: Int) -> TakenState {
        var state = TakenState(
            started: .max, directKey: Array(1...32), isOutOfUse: true, currentGeneration: 7, nextGeneration: 9, nextWorker: 41,
            routesVersion: 1 << 63, settings: ServerConfig().flattened, counters: 12,
            supervisorProgram: .init(path: "/usr/bin/piko-supervisor", descriptor: 20),
            workerProgram: .init(path: "/opt/grün \"piko\"/piko-worker", descriptor: 21))
        state.nextWorkerProgram = .init(path: "/opt/next/piko-worker", descriptor: 22)
        state.signals = [15, 1]
        state.keySets = [("http://issuer.example.com/keys", Array("{\"keys\": []}".utf8))]
        state.workers = [
            .init(
                worker: 40, generation: 7, place: 0, slab: 3, pid: 4_000, link: 30, protocolVersion: 3, passed: 99, pinged: 5,
                held: [[1, 2, 255], []], isCut: true),
            .init(
                worker: 33, generation: 6, place: 1, slab: 1, pid: 3_999, link: 31, protocolVersion: 2, passed: .max, pinged: 0,
                held: [], isLeaving: true),
        ]
        state.listeners = [.init(kind: .proxy, descriptor: 5), .init(kind: .admin, descriptor: 6)]
        state.waiting = [.init(kind: .upstream, descriptor: 7, peer: Array(repeating: 9, count: 18))]
        state.control = .init(path: "/run/piko/server.sock", descriptor: 8)
        state.askers = [9, 10]
        state.cluster = .init(nodeID: "node-1", datagrams: 13, listener: 14, snapshot: 15, hasJoined: true, isDraining: false)
        for index in 0..<tunnels {
            state.tunnels.append(
                RegisteredTunnel(
                    worker: UInt32(33 + index % 8), tunnel: UInt64(index), endpoint: "endpoint-\(index % 1_000)",
                    kind: index % 3 == 0 ? .directSession : .session))
        }
        return state
    }

    private func written(_ state: TakenState) -> ByteBuffer {
        var bytes = ByteBuffer()
        state.write(into: &bytes)
        return bytes
    }

    @Test(arguments: [0, 1, 100_000]) func isReadAsItWasWritten(_ tunnels: Int) throws {
        let state = sample(tunnels: tunnels)
        let bytes = written(state)
        let read = try TakenState(reading: bytes.span)
        #expect(read.workers == state.workers && read.listeners == state.listeners && read.waiting == state.waiting)
        #expect(read.tunnels == state.tunnels && read.askers == state.askers && read.control == state.control)
        #expect(read.started == state.started && read.directKey == state.directKey && read.isOutOfUse)
        #expect(read.currentGeneration == 7 && read.nextGeneration == 9 && read.nextWorker == 41)
        #expect(read.routesVersion == state.routesVersion && read.counters == 12)
        #expect(read.supervisorProgram == state.supervisorProgram && read.workerProgram == state.workerProgram)
        #expect(read.setup.config == ServerConfig())
        #expect(Set(read.descriptors) == [5, 6, 7, 8, 9, 10, 12, 13, 14, 15, 20, 21, 22, 30, 31])
        #expect(read.cluster == state.cluster)
        #expect(read.keySets.map(\.url) == state.keySets.map(\.url) && read.keySets.map(\.bytes) == state.keySets.map(\.bytes))
        #expect(read.nextWorkerProgram == state.nextWorkerProgram && read.signals == [15, 1])
    }

    /// A program that knows no quotas gets a state as it was before there were any.
    @Test func quotasAreForProgramsThatKnowThem() throws {
        var state = sample(tunnels: 3)
        let plain = written(state)
        state.tunnels[1].quotas = [
            Quota(subject: QuotaSubject(hash: 1), limits: QuotaLimits(tunnels: 3)),
            Quota(subject: QuotaSubject(hash: .max), limits: QuotaLimits(endpoints: 1, streams: 2, requestRate: 3)),
        ]
        #expect([UInt8](copying: written(state).span) == [UInt8](copying: plain.span))
        state.quotas = 17
        let read = try TakenState(reading: written(state).span)
        #expect(read.quotas == 17 && read.descriptors.contains(17) && read.tunnels == state.tunnels)
        #expect(try TakenState(reading: plain.span).quotas == nil)
    }

    @Test func refusesWhatIsCutOrOfAnotherVersion() throws {
        let bytes = written(sample(tunnels: 2))
        for length in 0..<bytes.count {
            // A cut between two messages is a shorter state; everything else is none.
            let read = try? TakenState(reading: bytes.span.extracting(0..<length))
            #expect(read == nil || read!.workers[0].held.count < 2)
        }
        var version = [UInt8](copying: bytes.span)
        version[8] = 2
        #expect(throws: StateError("the state is of version 2, this program knows 1")) { try TakenState(reading: version.span) }
        version[0] = 0
        #expect(throws: StateError("this is no state of a node")) { try TakenState(reading: version.span) }
    }

    /// What a newer program adds is passed over, and what it leaves out has a default: each reads the other's.
    @Test func settingsThatThisProgramDoesNotKnowAreNoObstacle() throws {
        var state = sample(tunnels: 0)
        var config = ServerConfig()
        config.cluster.gossip.secretKeys = ["a key of the cluster"]
        state.settings = config.flattened + [("later.key", "1")]
        let bytes = written(state)
        #expect(try TakenState(reading: bytes.span).setup.config == config)
    }
}
