// The routing table, the choice among workers, and what an address to listen on means.

import Base
import Config
import Control
import Reactor
import Testing

@testable import Supervisor

/// Any time: most of the table does not depend on it.
private let now = Instant(nanoseconds: 1_000_000_000)

@Suite struct RoutingTableTests {
    @Test func countsTunnelsByWorker() {
        var table = RoutingTable()
        #expect(table.register(worker: 1, tunnel: 10, endpoint: "a", kind: .session) == .added(version: 1))
        #expect(table.register(worker: 1, tunnel: 11, endpoint: "a", kind: .session) == .added(version: 2))
        #expect(table.register(worker: 2, tunnel: 10, endpoint: "a", kind: .session) == .added(version: 3))
        #expect(table.register(worker: 2, tunnel: 11, endpoint: "b", kind: .session) == .added(version: 4))
        let route = table.lookup("a")
        #expect(route.version == 3)
        #expect(route.entries == [RouteEntry(worker: 1, tunnels: 2), RouteEntry(worker: 2, tunnels: 1)])
        #expect(table.endpoints == [StatusEntry(name: "a", value: 3), StatusEntry(name: "b", value: 1)])
        #expect(table.tunnelCount == 4 && table.endpointCount == 2)
        #expect(table.lookup("c").entries == [])
    }

    @Test func takesBackOnlyWhatTheWorkerBrought() {
        var table = RoutingTable()
        _ = table.register(worker: 1, tunnel: 1, endpoint: "a", kind: .session)
        #expect(table.register(worker: 1, tunnel: 1, endpoint: "b", kind: .session) == .duplicate)
        #expect(table.unregister(worker: 2, tunnel: 1, endpoint: "a", now: now) == nil)
        #expect(table.unregister(worker: 1, tunnel: 2, endpoint: "a", now: now) == nil)
        #expect(table.unregister(worker: 1, tunnel: 1, endpoint: "b", now: now) == nil)
        #expect(table.lookup("a").entries.count == 1)
        #expect(table.unregister(worker: 1, tunnel: 1, endpoint: "a", now: now) == 2)
        #expect(table.unregister(worker: 1, tunnel: 1, endpoint: "a", now: now) == nil)
        #expect(table.tunnelCount == 0 && table.endpointCount == 0 && table.lookup("a").entries == [])
    }

    @Test func forgetsADeadWorker() {
        var table = RoutingTable()
        for tunnel in UInt64(0)..<100 {
            _ = table.register(worker: UInt32(tunnel % 3), tunnel: tunnel, endpoint: "e\(tunnel % 7)", kind: .session)
        }
        let before = table.lookup("e1").version
        #expect(table.remove(worker: 1, now: now) == 33)
        #expect(table.remove(worker: 1, now: now) == 0)
        #expect(table.tunnelCount == 67)
        #expect(table.lookup("e1").version > before)
        #expect(table.endpoints.reduce(0) { $0 + $1.value } == 67)
        #expect(!(0..<7).contains { table.lookup("e\($0)").entries.contains { $0.worker == 1 } })
        table.remove(worker: 0, now: now)
        table.remove(worker: 2, now: now)
        #expect(table.tunnelCount == 0 && table.endpointCount == 0)
    }

    @Test func isBounded() {
        var table = RoutingTable(limits: RoutingLimits(tunnelsMax: 2))
        _ = table.register(worker: 1, tunnel: 1, endpoint: "a", kind: .session)
        _ = table.register(worker: 1, tunnel: 2, endpoint: "a", kind: .session)
        #expect(table.register(worker: 1, tunnel: 3, endpoint: "a", kind: .session) == .refused(.tableFull))
        #expect(table.unregister(worker: 1, tunnel: 3, endpoint: "a", now: now) == nil)
        _ = table.unregister(worker: 1, tunnel: 1, endpoint: "a", now: now)
        #expect(table.register(worker: 1, tunnel: 3, endpoint: "a", kind: .session) == .added(version: 4))
    }
}

@Suite struct RoutingTableKindTests {
    @Test func countsSessionsAndKnowsOfDataConnections() {
        var table = RoutingTable()
        _ = table.register(worker: 1, tunnel: 1, endpoint: "a", kind: .session)
        _ = table.register(worker: 1, tunnel: 2, endpoint: "a", kind: .directSession)
        _ = table.register(worker: 2, tunnel: 1, endpoint: "a", kind: .dataConnections)
        #expect(table.lookup("a").entries == [
            RouteEntry(worker: 1, tunnels: 2, directTunnels: 1), RouteEntry(worker: 2, tunnels: 0, hasData: true),
        ])
        #expect(table.tunnelCount == 2)
        #expect(table.unregister(worker: 1, tunnel: 1, endpoint: "a", now: now) != nil)
        #expect(table.remove(worker: 1, now: now) == 1)
        #expect(table.lookup("a").entries == [RouteEntry(worker: 2, tunnels: 0, hasData: true)], "still to be reached")
        #expect(table.endpoints.isEmpty && table.endpointCount == 1 && table.tunnelCount == 0)
        #expect(table.unregister(worker: 2, tunnel: 1, endpoint: "a", now: now) != nil)
        #expect(table.endpointCount == 0)
    }
}

@Suite struct WorkerChoiceTests {
    @Test func takesTheLeastLoaded() {
        var choice = WorkerChoice()
        let loads: [UInt64] = [6, 2, 900, 2]
        var counts = [0, 0, 0, 0]
        for _ in 0..<100 { counts[choice.next(count: 4) { loads[$0] }!] += 1 }
        #expect(counts == [0, 50, 0, 50])
    }

    /// A few connections more or less are no reason to pass a worker over; many are.
    @Test func nearlyEqualsTakeTurns() {
        var choice = WorkerChoice()
        for loads: [UInt64] in [[2, 5], [100, 109], [1_600, 1_703]] {
            var counts = [0, 0]
            for _ in 0..<10 { counts[choice.next(count: 2) { loads[$0] }!] += 1 }
            #expect(counts == [5, 5], "\(loads)")
        }
        for loads: [UInt64] in [[2, 6], [100, 110], [1_600, 1_704]] {
            for _ in 0..<10 { #expect(choice.next(count: 2) { loads[$0] } == 0) }
        }
    }

    @Test func takesEqualsInTurn() {
        var choice = WorkerChoice()
        var counts = [0, 0, 0]
        for _ in 0..<30 { counts[choice.next(count: 3) { _ in 7 }!] += 1 }
        #expect(counts == [10, 10, 10])
        #expect(choice.next(count: 0) { _ in 0 } == nil)
        #expect(choice.next(count: 3) { _ in nil } == nil)
        #expect(choice.next(count: 3) { $0 == 1 ? 9 : nil } == 1)
        #expect(choice.next(count: 1) { _ in 0 } == 0)
    }

    @Test func countsWhatIsOnItsWay() {
        #expect(WorkerLoad(passed: 10, received: 7, open: 2).connections == 5)
        // Numbers from shared memory may be anything.
        #expect(WorkerLoad(passed: 1, received: .max, open: .max).connections == UInt64(UInt32.max))
        #expect(WorkerLoad(passed: .max, received: 0, open: .max).connections == 2 * UInt64(UInt32.max))
    }
}

@Suite struct WorkerRoomTests {
    @Test func keepsDescriptorsBack() {
        let room = WorkerRoom(descriptors: 20_000)
        #expect(room.connectionsMax == 18_750 && room.connectionsMaxWithAdmin == 19_375)
        #expect(room.hasRoom(18_749, for: .proxy) && !room.hasRoom(18_750, for: .upstream))
        #expect(room.hasRoom(18_750, for: .admin) && !room.hasRoom(19_375, for: .admin))
        #expect(WorkerRoom(descriptors: 1_024).connectionsMax == 960)
        #expect(WorkerRoom(descriptors: 40).connectionsMax == 30)
        #expect(WorkerRoom(descriptors: .max).connectionsMax == 61_440)
        #expect(WorkerRoom(descriptors: -1).connectionsMax == 6)
    }
}

@Suite struct BindPlanTests {
    @Test func allAddressesAreOneSocketForBoth() {
        let plan = BindPlan(BindAddress(host: "", port: 8000))
        #expect(plan == .firstOf([SocketAddress(address: "::", port: 8000)!, SocketAddress(address: "0.0.0.0", port: 8000)!]))
    }

    @Test func literalsAndNames() {
        #expect(BindPlan(BindAddress(host: "127.0.0.1", port: 1)) == .allOf([SocketAddress(address: "127.0.0.1", port: 1)!]))
        #expect(BindPlan(BindAddress(host: "::1", port: 1)) == .allOf([SocketAddress(address: "::1", port: 1)!]))
        #expect(BindPlan(BindAddress(host: "localhost", port: 1)) == .lookUp(host: "localhost"))
        let one = SocketAddress(address: "127.0.0.1", port: 1)!
        let two = SocketAddress(address: "::1", port: 1)!
        #expect(BindPlan.distinct([one, two, one, two]) == [one, two])
    }
}
