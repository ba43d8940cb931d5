// The parts around the gossip core: which addresses a node tells others, whom it joins, how agents are shared out, and gossip
// over TCP with its bounds.

import Base
import Config
import Gossip
import Memory
import Reactor
import TestKit
import Testing

@testable import Supervisor

private func addresses(_ texts: [String]) -> [SocketAddress] {
    texts.map { text in
        guard let address = SocketAddress(text: text) else { preconditionFailure("no address: \(text)") }
        return address
    }
}

@Suite struct AdvertisedAddressTests {
    /// What is configured, where the port is bound, the machine's addresses, and what others are told.
    static let rows: [(String, [String], [String], String)] = [
        ("", ["127.0.0.1:8003"], ["10.0.0.7:0"], "127.0.0.1:8003"),
        ("", ["10.0.0.9:8003"], ["10.0.0.7:0"], "10.0.0.9:8003"),
        ("", ["[::]:8003"], ["127.0.0.1:0", "[::1]:0", "192.0.2.1:0", "10.0.0.7:0"], "10.0.0.7:8003"),
        ("", ["0.0.0.0:8003"], ["127.0.0.1:0", "192.0.2.1:0", "[fd00::7]:0"], "192.0.2.1:8003"),
        ("", ["[::]:8003"], ["127.0.0.1:0", "[fe80::1]:0", "[2001:db8::7]:0"], "[2001:db8::7]:8003"),
        ("", ["[::]:8003"], ["127.0.0.1:0", "[::1]:0"], "127.0.0.1:8003"),
        ("", ["[::]:8003"], [], "[::]:8003"),
        ("", ["127.0.0.1:1", "10.0.0.9:1"], [], "10.0.0.9:1"),
        ("192.0.2.7", ["[::]:8003"], ["10.0.0.7:0"], "192.0.2.7:8003"),
        ("192.0.2.7:9", ["[::]:8003"], ["10.0.0.7:0"], "192.0.2.7:9"),
        (":9", ["[::]:8003"], ["10.0.0.7:0"], "10.0.0.7:9"),
        ("node-1.example.com", ["[::]:8003"], [], "node-1.example.com:8003"),
        ("fd00::9", ["[::]:8003"], [], "refused"),
        ("[fd00::9]", ["[::]:8003"], [], "[fd00::9]:8003"),
        ("", [], ["10.0.0.7:0"], ""),
    ]

    @Test(arguments: rows.indices)
    func isWhatOthersReach(row: Int) {
        let (configured, bound, machine, told) = Self.rows[row]
        var config = ServerConfig()
        guard let advertised = try? AdvertiseAddress(settingText: configured) else {
            #expect(told == "refused")
            return
        }
        config.proxy.advertiseAddress = advertised
        let addresses = AdvertisedAddresses(
            config, gossip: addresses(["127.0.0.1:1"]), proxy: addresses(bound), admin: [], machine: addresses(machine))
        #expect(addresses.proxy == told)
    }
}

@Suite struct AddressBookTests {
    @Test func namesAreLookedUpWhenTheyAreNeeded() throws {
        let loop = try Loop(backend: .epoll)
        let book = AddressBook(loop)
        var changed: [String] = []
        book.changed = { changed.append($0) }
        #expect(book.address("10.0.0.7:8000") == SocketAddress(address: "10.0.0.7", port: 8000))
        #expect(book.address("localhost:8000") == nil)
        let isKnown = loop.turn { changed == ["localhost:8000"] }
        #expect(isKnown && book.address("localhost:8000")?.isLoopback == true)
        for text in ["", "nothing", "localhost:0", ":5", "a b:5", "no-such-host.invalid:5"] { #expect(book.address(text) == nil) }
        let isOver = loop.turn { loop.openHandles == 0 }
        #expect(isOver && changed.count == 1)
    }

    /// A look-up that failed, or whose answer is old by now, is repeated without anybody asking.
    @Test func namesInUseAreLookedUpAgain() throws {
        let loop = try Loop(backend: .epoll)
        var answers = 0
        let times = AddressBook.Times(name: .milliseconds(20), failure: .milliseconds(5), repetition: .milliseconds(10))
        let book = AddressBook(loop, times: times) { host, port, done in
            #expect(host == "node-1.example" && port == 8_000)
            answers += 1
            done(answers < 3 ? nil : addresses([answers < 5 ? "10.0.0.1:8000" : "10.0.0.2:8000"]))
        }
        var changed: [SocketAddress?] = []
        book.changed = { changed.append(book.address($0)) }
        book.inUse = { ["node-1.example:8000", "10.0.0.7:8000", ""] }
        book.start()
        let isMoved = loop.turn { changed.count == 2 }
        #expect(isMoved && changed == addresses(["10.0.0.1:8000", "10.0.0.2:8000"]))
        book.stop()
    }
}

@Suite struct RebalanceTests {
    private static func config(_ threshold: Double, rate: Double = 0.1, least: Int = 1) -> ServerConfig.Rebalance {
        var config = ServerConfig.Rebalance()
        config.threshold = threshold
        config.shedRate = rate
        config.tunnelsMin = least
        return config
    }

    /// Own agents, those of others, the settings, and how many are asked to go.
    static let rows: [(Int, [Int], ServerConfig.Rebalance, Int)] = [
        (100, [0, 0], config(0), 0), (100, [], config(0.2), 0), (0, [], config(0.2), 0), (0, [0, 0], config(0.2), 0),
        (100, [0, 0], config(0.2), 10), (100, [100, 100], config(0.2), 0), (120, [100, 100], config(0.2), 0),
        (200, [100, 100], config(0.2), 20), (200, [100, 100], config(0.2, rate: 1), 67), (200, [100, 100], config(0.2, rate: 0), 0),
        (49, [0, 0], config(0.2, least: 50), 0), (50, [0, 0], config(0.2, rate: 0.005, least: 50), 1),
        (1, [0], config(0.2), 1), (1, [0], config(1), 0), (.max / 4, [0], config(0.2, rate: 0.5), .max / 8),
        (100, [-5, 0], config(0.2), 10),
    ]

    @Test(arguments: rows.indices)
    func asksForWhatIsTooMuch(row: Int) {
        let (own, others, config, count) = Self.rows[row]
        let shed = RebalancePlan.shed(own: own, others: others, config)
        #expect(own < 1_000 ? shed == count : abs(shed - count) < 4_096)
    }

    @Test func isSharedOutInProportion() {
        #expect(RebalancePlan.share(10, over: [50, 30, 20]) == [5, 3, 2])
        #expect(RebalancePlan.share(1, over: [1, 5, 4]) == [0, 1, 0])
        #expect(RebalancePlan.share(9, over: [2, 1]) == [2, 1])
        #expect(RebalancePlan.share(5, over: [0, 0]) == [0, 0])
        #expect(RebalancePlan.share(5, over: []) == [])
    }
}

@Suite struct ClusterJoinTests {
    private final class Seen {
        var found: [[SocketAddress]] = []
        var changes = 0
        var failures: [String] = []
    }

    private static let own = SocketAddress(address: "127.0.0.1", port: 7)!

    private func join(_ loop: Loop, _ hosts: [String], _ seen: Seen, timeout: Duration = .seconds(20)) -> ClusterJoin {
        let join = ClusterJoin(loop, hosts.map { BindAddress(host: $0, port: 7) }, hasJoined: false) { $0 == Self.own }
        join.found = { seen.found.append($0) }
        join.changed = { seen.changes += 1 }
        join.lookUpFailed = { host, _ in seen.failures.append(host) }
        join.start(timeout: timeout)
        return join
    }

    @Test func withNobodyToJoinThereIsNothingToWaitFor() throws {
        let loop = try Loop(backend: .epoll)
        let seen = Seen()
        let join = join(loop, [], seen)
        #expect(join.state == .joined && !join.holdsReadiness && seen.found == [[]])
    }

    @Test func oneThatFindsItselfAloneIsTheFirst() throws {
        let loop = try Loop(backend: .epoll)
        let seen = Seen()
        let join = join(loop, ["127.0.0.1"], seen)
        #expect(join.state == .joining && join.holdsReadiness)
        let isThere = loop.turn { join.state == .joined }
        #expect(isThere && !join.holdsReadiness && seen.found == [[]] && seen.changes == 1)
    }

    @Test func waitsForAnAnswer() throws {
        let loop = try Loop(backend: .epoll)
        let seen = Seen()
        let join = join(loop, ["127.0.0.1", "127.0.0.2", "127.0.0.2"], seen)
        let isThere = loop.turn { !seen.found.isEmpty }
        #expect(isThere && seen.found == [[SocketAddress(address: "127.0.0.2", port: 7)!]])
        #expect(join.state == .joining && join.holdsReadiness)
        join.joined()
        join.joined()
        #expect(join.state == .joined && seen.changes == 1)
    }

    @Test func oneThatServedBeforeStaysReady() throws {
        let loop = try Loop(backend: .epoll)
        let join = ClusterJoin(loop, [BindAddress(host: "127.0.0.2", port: 7)], hasJoined: false, hasServed: true) { $0 == Self.own }
        #expect(join.state == .joining && !join.holdsReadiness)
    }

    @Test func failsWhenTheTimeIsOver() throws {
        let loop = try Loop(backend: .epoll)
        let seen = Seen()
        let join = join(loop, ["127.0.0.2", "no-such-host.invalid"], seen, timeout: .milliseconds(200))
        let isOver = loop.turn { join.state == .failed }
        #expect(isOver && !join.holdsReadiness)
        join.joined()
        #expect(join.state == .joined)
    }

    @Test func looksUpAgain() throws {
        let loop = try Loop(backend: .epoll)
        let seen = Seen()
        let join = join(loop, ["127.0.0.2"], seen)
        let isAgain = loop.turn { seen.found.count == 2 }
        #expect(isAgain)
        join.change([BindAddress(host: "127.0.0.3", port: 7)])
        let isChanged = loop.turn { seen.found.last == [SocketAddress(address: "127.0.0.3", port: 7)!] }
        #expect(isChanged)
        join.stop()
    }
}

/// Remembers what came, and answers requests with the same bytes backwards.
private final class PortOwner: GossipPortOwner {
    var port: GossipPort?
    var packets: [[UInt8]] = []
    var requests: [[UInt8]] = []
    var replies: [UInt32: [UInt8]] = [:]
    var failed: [UInt32] = []
    var answers = true

    func packetArrived(_ bytes: [UInt8], from: GossipAddress) { packets.append(bytes) }
    func packetTooLong() {}
    func requestArrived(_ bytes: [UInt8], from: GossipAddress, stream: UInt64) {
        requests.append(bytes)
        if answers { port?.exchanges.reply(bytes.reversed(), stream: stream) } else { port?.exchanges.refuse(stream: stream) }
    }
    func replyArrived(_ bytes: [UInt8], exchange: UInt32) { replies[exchange] = bytes }
    func exchangeFailed(_ exchange: UInt32) { failed.append(exchange) }
}

@Suite struct GossipPortTests {
    private func port(_ loop: Loop) throws -> PortOwner {
        let owner = PortOwner()
        let sockets = try GossipSockets.bind(loop, ListenerTable(loop), BindAddress(host: "127.0.0.1", port: 0))
        owner.port = try GossipPort(loop, sockets, owner: owner)
        return owner
    }

    private func client(_ loop: Loop, _ owner: PortOwner, _ bytes: [UInt8]) throws -> (Stream, RecordingDelegate) {
        let stream = try Stream(loop, connectTo: owner.port!.address)
        let recorder = RecordingDelegate()
        stream.delegate = recorder
        stream.write(bytes.span)
        stream.resumeReading()
        return (stream, recorder)
    }

    @Test func bothSocketsHaveTheSameNumber() throws {
        let loop = try Loop(backend: .epoll)
        let (one, other) = (try port(loop), try port(loop))
        let isSent = one.port!.send([1, 2, 3], to: other.port!.address)
        #expect(isSent)
        other.port!.exchanges.open([4, 5, 6], to: one.port!.address, exchange: 9)
        let isThere = loop.turn { other.packets == [[1, 2, 3]] && other.replies[9] == [6, 5, 4] }
        #expect(isThere && one.requests == [[4, 5, 6]])
        one.port!.close()
        other.port!.close()
        let isClosed = loop.turn { loop.openHandles == 0 }
        #expect(isClosed)
    }

    @Test func exchangesThatComeToNothingAreTold() throws {
        let loop = try Loop(backend: .epoll)
        let (one, other) = (try port(loop), try port(loop))
        one.answers = false
        other.port!.exchanges.open([1], to: one.port!.address, exchange: 1)
        let isRefused = loop.turn { other.failed == [1] }
        #expect(isRefused)
        let address = one.port!.address
        one.port!.close()
        other.port!.exchanges.open([1], to: address, exchange: 2)
        #expect(other.failed == [1])
        let isDead = loop.turn { other.failed == [1, 2] }
        #expect(isDead && other.port!.exchanges.count == 0)
    }

    /// Bytes of a message that is refused without being read whole.
    static let broken: [[UInt8]] = [
        [255, 255, 255, 255, 1], [1, 0, 64, 0], [2, 0, 0, 0, 1, 2, 3], [3, 0, 0, 0, 1],
    ]

    @Test(arguments: broken.indices)
    func brokenMessagesEndTheConnectionAndNothingElse(row: Int) throws {
        let loop = try Loop(backend: .epoll)
        let owner = try port(loop)
        let (stream, recorder) = try client(loop, owner, Self.broken[row])
        if row == 3 { stream.finish() }
        let isOver = loop.turn { recorder.hasEnded || recorder.failure != nil }
        #expect(isOver && owner.requests.isEmpty && owner.port!.exchanges.count == 0)
        #expect(owner.port!.exchanges.counters.tooLong == (row < 2 ? 1 : 0))
        stream.closeNow()
        let (second, answer) = try client(loop, owner, [2, 0, 0, 0, 7, 8])
        let isServed = loop.turn { answer.bytes == [2, 0, 0, 0, 8, 7] }
        #expect(isServed)
        second.closeNow()
    }

    @Test func thoseWhoSaySlowlyMakeRoomForOthers() throws {
        let loop = try Loop(backend: .epoll)
        let owner = try port(loop)
        var slow: [Stream] = []
        for _ in 0..<40 { slow.append(try client(loop, owner, [200, 0]).0) }
        let isFull = loop.turn { owner.port!.exchanges.counters.accepted == 40 }
        #expect(isFull && owner.port!.exchanges.count == 16 && owner.port!.exchanges.counters.givenUp == 24)
        let (fast, answer) = try client(loop, owner, [1, 0, 0, 0, 5])
        let isServed = loop.turn { answer.bytes == [1, 0, 0, 0, 5] }
        #expect(isServed)
        for stream in slow + [fast] { stream.closeNow() }
    }

    @Test func anExchangeHasItsTime() throws {
        let loop = try Loop(backend: .epoll)
        let owner = PortOwner()
        var limits = GossipExchanges.Limits()
        limits.time = .milliseconds(50)
        let exchanges = GossipExchanges(loop, limits: limits, owner: owner)
        // Somebody who listens and says nothing.
        let silent = try Listener.bind(SocketAddress(address: "127.0.0.1", port: 0)!)
        exchanges.open([1], to: SocketAddress.name(of: silent.raw)!, exchange: 5)
        let isLate = loop.turn { owner.failed == [5] }
        #expect(isLate && exchanges.counters.late == 1 && exchanges.count == 0)
    }

    @Test func leavesItsLoopWithWhatWaits() throws {
        let loop = try Loop(backend: .epoll)
        let (one, other) = (try port(loop), try port(loop))
        var taken: (Int32, Int32)?
        let address = one.port!.address
        one.port!.detach { taken = ($0, $1) }
        let isOut = loop.turn { taken != nil }
        #expect(isOut)
        _ = other.port!.send([7], to: address)
        other.port!.exchanges.open([8], to: address, exchange: 3)
        guard let taken else { return }
        let next = PortOwner()
        next.port = try GossipPort(
            loop, GossipSockets(datagrams: OwnedDescriptor(taken.0), listener: OwnedDescriptor(taken.1)), owner: next)
        let isThere = loop.turn { next.packets == [[7]] && other.replies[3] == [8] }
        #expect(isThere && one.packets.isEmpty && one.requests.isEmpty)
    }
}
