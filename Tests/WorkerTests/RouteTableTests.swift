// Where requests go: own tunnels, siblings, and how load evens out between workers.
import Base
import Control
import TestKit
import Testing

@testable import Worker

@Suite struct RouteTableTests {
    /// A worker that is about to end may be named in the table while a tunnel passes through it: nobody is sent there.
    @Test func nobodyIsSentToAWorkerThatEnds() {
        let table = RouteTable(worker: 1)
        table.workerCount = 4
        func entry(_ worker: UInt32) -> RouteEntry { RouteEntry(worker: worker, tunnels: 1, directTunnels: 0, hasData: false) }
        var linked: Set<UInt32> = [2, 3]
        table.isLinked = { linked.contains($0) }
        let endpoint = table.answered("e", [entry(3), entry(4)], lostAt: nil).endpoint
        for _ in 0..<100 { #expect(table.choice(endpoint, mayMove: true) == .sibling(3)) }
        linked = [2]
        #expect(table.choice(endpoint, mayMove: true) == .movingOn)
        linked = [2, 4]
        #expect(table.choice(endpoint, mayMove: false) == .sibling(4))
        _ = table.answered("e", [], lostAt: nil)
        #expect(table.choice(endpoint, mayMove: true) == .none)
    }

    /// Tunnels of each worker; clients come to all workers alike. Every tunnel must get its share.
    @Test(arguments: [[1, 1], [2, 1], [3, 0], [1, 5], [4, 1, 1], [1, 0, 0, 7], [2, 2, 2, 2]])
    func everyTunnelGetsItsShare(_ tunnels: [Int]) {
        var random = SeededGenerator(seed: 42)
        let route = tunnels.enumerated().filter { $0.element > 0 }
            .map { RouteEntry(worker: UInt32($0.offset), tunnels: UInt32($0.element)) }
        var served = [Int](repeating: 0, count: tunnels.count)
        let clients = 20_000
        for client in 0..<clients {
            let worker = client % tunnels.count
            let own = tunnels[worker]
            if own == 0 {
                served[Int(RouteTable.other(route, self: UInt32(worker), workers: tunnels.count, using: &random)!)] += 1
            } else if let sibling = RouteTable.surplus(
                own: own, route: route, self: UInt32(worker), workers: tunnels.count, using: &random)
            {
                served[Int(sibling)] += 1
            } else {
                served[worker] += 1
            }
        }
        let total = tunnels.reduce(0, +)
        for (worker, own) in tunnels.enumerated() where own > 0 {
            let share = Double(served[worker]) / Double(own)
            let fair = Double(clients) / Double(total)
            #expect(share > fair * 0.9 && share < fair * 1.1, "\(tunnels): \(served)")
        }
    }

    /// Agents with data connections are served by every worker, those without by the one that holds their session: each agent
    /// must get its share all the same. `plain`: sessions without, by worker; `direct`: agents with.
    @Test(arguments: [([1, 0], 1), ([0, 2], 2), ([1, 1], 2), ([3, 0, 0], 1), ([1, 0, 0, 0], 6)])
    func everyAgentGetsItsShareWhateverItSpeaks(_ plain: [Int], _ direct: Int) {
        var random = SeededGenerator(seed: 43)
        let workers = plain.count
        let route = plain.enumerated().map { worker, count in
            let here = worker == 0 ? direct : 0
            return RouteEntry(worker: UInt32(worker), tunnels: UInt32(count + here), directTunnels: UInt32(here), hasData: true)
        }
        var ofPlain = [Double](repeating: 0, count: workers)
        var ofDirect = 0.0
        let clients = 20_000
        for client in 0..<clients {
            let own = client % workers
            let moved = RouteTable.surplus(own: plain[own], route: route, self: UInt32(own), workers: workers, using: &random)
            let server = moved.map { Int($0) } ?? own
            // What `Endpoint.choosesData` makes of it.
            let share = Double(plain[server] * workers) / Double(plain[server] * workers + direct)
            ofPlain[server] += share
            ofDirect += 1 - share
        }
        let fair = Double(clients) / Double(plain.reduce(0, +) + direct)
        #expect(ofDirect / Double(direct) > fair * 0.9 && ofDirect / Double(direct) < fair * 1.1)
        for worker in plain.indices where plain[worker] > 0 {
            let each = ofPlain[worker] / Double(plain[worker])
            #expect(each > fair * 0.9 && each < fair * 1.1, "\(plain) \(direct): \(ofPlain) \(ofDirect)")
        }
    }

    @Test func nobodyIsNeverCached() {
        let table = RouteTable(worker: 0)
        let endpoint = table.endpoint(named: "e")
        #expect(table.choice(endpoint, mayMove: true) == .unknown)
        #expect(table.ask(endpoint, for: nil, now: Instant(nanoseconds: 0)) == true)
        #expect(table.ask(endpoint, for: nil, now: Instant(nanoseconds: 0)) == false)
        let (known, _) = table.answered("e", [], lostAt: nil)
        #expect(table.choice(known, mayMove: true) == .none)
        table.forgetIfEmpty(known)
        #expect(table.choice(table.endpoint(named: "e"), mayMove: true) == .unknown)
    }

    @Test func answersHoldUntilTheyChange() {
        let table = RouteTable(worker: 0)
        _ = table.answered("e", [RouteEntry(worker: 3, tunnels: 1)], lostAt: nil)
        #expect(table.choice(table.endpoint(named: "e"), mayMove: true) == .sibling(3))
        table.changed("e")
        #expect(table.choice(table.endpoint(named: "e"), mayMove: true) == .unknown)
        _ = table.answered("e", [RouteEntry(worker: 3, tunnels: 1)], lostAt: nil)
        table.siblingGone(3)
        #expect(table.choice(table.endpoint(named: "e"), mayMove: true) == .unknown)
    }

    @Test func questionsAreBoundedByTheSecond() {
        let table = RouteTable(worker: 0)
        let now = Instant(nanoseconds: 5_000_000_000)
        for number in 0..<RouteTable.questionsPerSecondMax {
            #expect(table.ask(table.endpoint(named: "e\(number)"), for: nil, now: now) == true)
        }
        #expect(table.ask(table.endpoint(named: "one more"), for: nil, now: now) == nil)
        #expect(table.ask(table.endpoint(named: "one more"), for: nil, now: now + .seconds(1)) == true)
    }
}

@Suite struct ReservedPathTests {
    @Test(arguments: [
        ("/_piko/v1/tcp/abc", "abc"), ("/_piko/v1/tcp/a%20b", nil), ("/_piko/v1/tcp/a%2eb", "a.b"), ("/_piko/v1/tcp/", nil),
        ("/_piko/v1/tcp/a/b", nil), ("/_piko/v1/tcp/a%2fb", nil), ("/_piko/v1/tcp/%zz", nil), ("/_piko/v2/tcp/a", nil),
        ("/_piko/v1/tcp/%ff", nil), ("/_piko/v1/tcp/%c3%a9", "é"),
    ] as [(String, String?)])
    func tcpEndpoint(_ path: String, _ name: String?) {
        #expect((try? ReservedPath.tcpEndpoint(Array(path.utf8).span)) == name)
    }

    @Test(arguments: [("/_piko", true), ("/_piko/x", true), ("/_pikox", false), ("/", false), ("/a/_piko", false)])
    func reserved(_ path: String, _ isReserved: Bool) {
        #expect(ReservedPath.isReserved(Array(path.utf8).span) == isReserved)
    }
}
