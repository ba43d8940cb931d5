// Who may come in: access lists, numbers of connections in all and of an address, and how many in a second.

import Base
import Config
import Control
import Telemetry
import Testing

@testable import Supervisor

@Suite struct ConnectionGateTests {
    private static let start = Instant(nanoseconds: 5_000_000_000)

    private static func config(_ change: (inout ServerConfig) -> Void) -> ServerConfig {
        var config = ServerConfig()
        change(&config)
        return config
    }

    private static func peer(_ text: String, _ port: UInt8 = 1) -> PeerAddress {
        let bytes = IPAddress(text: text)!.bytes + [0, port]
        return PeerAddress(encoded: bytes.span)!
    }

    private static func judge(
        _ gate: inout ConnectionGate, _ address: String?, _ kind: ListenerKind = .proxy, now: Instant = start, open: UInt64 = 0
    ) -> GateRefusal? {
        gate.judge(kind, address.flatMap { IPAddress(text: $0) }, now: now) { open }
    }

    @Test func letsEverybodyInByDefault() {
        var gate = ConnectionGate()
        gate.configure(ServerConfig())
        for kind in ListenerKind.allCases {
            for address in ["127.0.0.1", "::1", "203.0.113.1", nil] {
                let refusal = Self.judge(&gate, address, kind, open: 1_000_000)
                #expect(refusal == nil)
            }
        }
        #expect(gate.clients.isEmpty, "nothing is counted that nobody asks for")
    }

    @Test func listsAreOfTheirPort() {
        var gate = ConnectionGate()
        gate.configure(
            Self.config {
                $0.admin.entrance.allow = ["10.0.0.0/8", "::1"]
                $0.proxy.entrance.deny = ["192.0.2.0/24"]
            })
        let rows: [(String?, ListenerKind, GateRefusal?)] = [
            ("10.1.1.1", .admin, nil), ("::1", .admin, nil), ("192.0.2.1", .admin, .access), (nil, .admin, .access), ("192.0.2.1", .proxy, .access),
            ("::ffff:192.0.2.1", .proxy, .access), ("192.0.3.1", .proxy, nil), (nil, .proxy, .access), ("192.0.2.1", .upstream, nil),
        ]
        for (address, kind, expected) in rows {
            let refusal = Self.judge(&gate, address, kind)
            #expect(refusal == expected, "\(address ?? "nobody") at \(kind)")
        }
        gate.configure(ServerConfig())
        let after = Self.judge(&gate, "192.0.2.1")
        #expect(after == nil, "a reload opens it again")
    }

    /// The address of a load balancer is not its clients'.
    @Test func loadBalancersComeForOthers() {
        var gate = ConnectionGate()
        gate.configure(
            Self.config {
                $0.trustedProxies.texts = ["10.0.0.0/8"]
                $0.proxy.entrance.usesProxyProtocol = true
                $0.proxy.entrance.allow = ["192.0.2.0/24"]
                $0.proxy.entrance.connectionsPerAddressMax = 1
                $0.proxy.entrance.connectionsMax = 100
            })
        for _ in 0..<3 {
            let refusal = Self.judge(&gate, "10.0.0.1")
            #expect(refusal == nil)
        }
        let full = Self.judge(&gate, "10.0.0.1", open: 100)
        #expect(full == .connections)
        let direct = Self.judge(&gate, "203.0.113.1")
        #expect(direct == .access)
        #expect(gate.clients.isEmpty)
    }

    /// Nor are the connections of an HTTP proxy those of one client; but the lists are for it.
    @Test func trustedProxiesAreNotOneClient() {
        var gate = ConnectionGate()
        gate.configure(
            Self.config {
                $0.trustedProxies.texts = ["10.0.0.0/8"]
                $0.proxy.entrance.deny = ["10.0.0.2"]
                $0.proxy.entrance.connectionsPerAddressMax = 1
            })
        let refusals = ["10.0.0.1", "10.0.0.1", "10.0.0.2", "192.0.2.1", "192.0.2.1"].map { Self.judge(&gate, $0) }
        #expect(refusals == [nil, nil, .access, nil, .address])
    }

    @Test func connectionsInAll() {
        var gate = ConnectionGate()
        gate.configure(Self.config { $0.upstream.entrance.connectionsMax = 2 })
        let refusals = (0..<4).map { Self.judge(&gate, "192.0.2.1", .upstream, open: UInt64($0)) }
        #expect(refusals == [nil, nil, .connections, .connections])
        let other = Self.judge(&gate, "192.0.2.1", .proxy, open: 9)
        #expect(other == nil)
    }

    @Test func connectionsASecond() {
        var gate = ConnectionGate()
        gate.configure(Self.config { $0.proxy.entrance.connectionRateMax = 10 })
        let burst = (0..<12).map { _ in Self.judge(&gate, "192.0.2.1") }
        #expect(burst.count { $0 == nil } == 10 && burst.suffix(2) == [.rate, .rate])
        let soon = Self.judge(&gate, "192.0.2.1", now: Self.start + .milliseconds(99))
        let next = Self.judge(&gate, "192.0.2.1", now: Self.start + .milliseconds(101))
        let again = Self.judge(&gate, "192.0.2.1", now: Self.start + .milliseconds(102))
        #expect(soon == .rate && next == nil && again == .rate)
        gate.configure(Self.config { $0.proxy.entrance.connectionRateMax = 10 })
        let reloaded = Self.judge(&gate, "192.0.2.1", now: Self.start + .milliseconds(103))
        #expect(reloaded == .rate, "a reload is no way around it")
        let later = (0..<11).map { _ in Self.judge(&gate, "192.0.2.1", now: Self.start + .seconds(60)) }
        #expect(later.count { $0 == nil } == 10)
    }

    @Test func connectionsOfAnAddress() {
        var gate = ConnectionGate()
        gate.configure(Self.config { $0.proxy.entrance.connectionsPerAddressMax = 2 })
        func come(_ address: String, worker: UInt32) -> GateRefusal? {
            let refusal = Self.judge(&gate, address)
            if refusal == nil { gate.clients.given(worker, .proxy, Self.peer(address)) }
            return refusal
        }
        #expect(come("192.0.2.1", worker: 1) == nil)
        #expect(come("192.0.2.1", worker: 2) == nil)
        #expect(come("192.0.2.1", worker: 1) == .address)
        #expect(come("192.0.2.2", worker: 1) == nil, "another address")
        #expect(come("2001:db8:0:1::1", worker: 1) == nil)
        #expect(come("2001:db8:0:1::2", worker: 1) == nil)
        #expect(come("2001:db8:0:1:ffff::3", worker: 1) == .address, "one network")
        #expect(come("2001:db8:0:2::1", worker: 1) == nil, "another network")
        gate.clients.changed(1, .proxy, came: [], went: [Self.peer("192.0.2.1", 9)])
        #expect(come("192.0.2.1", worker: 2) == nil)
        #expect(come("192.0.2.1", worker: 2) == .address)
        // A connection that goes from worker to worker is one all the time.
        gate.clients.changed(2, .proxy, came: [], went: [Self.peer("192.0.2.1")])
        gate.clients.changed(3, .proxy, came: [Self.peer("192.0.2.1")], went: [])
        #expect(come("192.0.2.1", worker: 1) == .address)
        gate.clients.workerEnded(3)
        #expect(come("192.0.2.1", worker: 1) == nil)
        // What was never counted does not count when it ends.
        gate.clients.changed(9, .proxy, came: [], went: [Self.peer("192.0.2.1"), Self.peer("192.0.2.1")])
        #expect(come("192.0.2.1", worker: 1) == .address)
        // One that was let in and found no worker.
        gate.clients.takenBack(1, .proxy, Self.peer("192.0.2.1"))
        gate.clients.dropped(.proxy, Self.peer("192.0.2.1"))
        #expect(come("192.0.2.1", worker: 1) == nil)
        for worker in UInt32(1)...3 { gate.clients.workerEnded(worker) }
        #expect(gate.clients.isEmpty)
    }

    /// Other nodes bring the requests of many.
    @Test func nodesAreNotOneClient() {
        var gate = ConnectionGate()
        gate.configure(
            Self.config {
                $0.proxy.entrance.connectionsPerAddressMax = 1
                $0.proxy.entrance.connectionRateMax = 1
                $0.proxy.entrance.deny = ["192.0.2.2"]
            })
        gate.clients.nodes = [IPAddress(text: "192.0.2.1")!, IPAddress(text: "192.0.2.2")!]
        for _ in 0..<5 {
            let refusal = Self.judge(&gate, "192.0.2.1")
            #expect(refusal == nil)
        }
        let denied = Self.judge(&gate, "192.0.2.2")
        #expect(denied == .access)
        #expect(gate.clients.isEmpty)
        let client = Self.judge(&gate, "192.0.2.3")
        let again = Self.judge(&gate, "192.0.2.3", now: Self.start + .seconds(5))
        #expect(client == nil && again == .address)
    }

    @Test func forgetsWhatIsNotLimitedAnyMore() {
        var gate = ConnectionGate()
        gate.configure(Self.config { $0.proxy.entrance.connectionsPerAddressMax = 1 })
        _ = Self.judge(&gate, "192.0.2.1")
        gate.clients.given(1, .proxy, Self.peer("192.0.2.1"))
        gate.configure(ServerConfig())
        #expect(gate.clients.isEmpty)
        gate.clients.changed(1, .proxy, came: [], went: [Self.peer("192.0.2.1")])
        gate.configure(Self.config { $0.proxy.entrance.connectionsPerAddressMax = 1 })
        let refusal = Self.judge(&gate, "192.0.2.1")
        #expect(refusal == nil)
    }
}
