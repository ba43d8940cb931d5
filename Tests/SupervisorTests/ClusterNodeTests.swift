// A node as its cluster's member, on a real loop without workers: what it reports, whom it dials, and what it is after an upgrade.

import Base
import Config
import Control
import Gossip
import Memory
import Reactor
import Telemetry
import TestKit
import Testing

@testable import Supervisor

private final class NoSink: LogSink {
    override func write(_ line: Span<UInt8>) -> Bool { true }
}

private final class NoOwner: WorkerLinkOwner {
    func linkGreeted(_ link: WorkerLink) {}
    func link(_ link: WorkerLink, received message: ControlMessage) {}
    func linkFailed(_ link: WorkerLink, reason: String) {}
}

private final class Inbox: MessageDelegate {
    var codes: [UInt32] = []

    override func message(_ socket: MessageSocket, bytes: Span<UInt8>, descriptors: inout DescriptorList) {
        if case .dialFailed(_, let code) = try? ControlMessage.decode(bytes, from: .supervisor) { codes.append(code) }
    }
}

private func config(_ name: String, admin: String = "", join: [String] = []) throws -> ServerConfig {
    var config = ServerConfig()
    config.cluster.nodeID = name
    config.cluster.join = join
    config.cluster.gossip.bindAddress = BindAddress(host: "127.0.0.1", port: 0)
    config.admin.advertiseAddress = try AdvertiseAddress(settingText: admin)
    return config
}

private func node(_ loop: Loop, _ config: ServerConfig) throws -> Node {
    try Node(
        NodeParts(
            loop: loop, log: Logger(settings: LogSettings(), clock: { SystemClock.unixNanoseconds }, sink: NoSink()),
            ports: ListenerTable(loop), invocation: Invocation(command: .serverRun), own: HeldProgram(running: "piko-supervisor"),
            program: HeldProgram(running: "piko-worker"), room: WorkerRoom(descriptors: 1_024),
            services: ServiceManager(loop, ServiceSettings()), serviceSettings: ServiceSettings(), startedAs: nil),
        setup: GenerationSetup(config))
}

private func member(_ loop: Loop, _ config: ServerConfig) throws -> Node {
    let node = try node(loop, config)
    let cluster = try Cluster(node, config, try GossipSockets.bind(loop, node.ports, config.cluster.gossip.bindAddress))
    node.cluster = cluster
    cluster.start()
    return node
}

@Suite struct ClusterNodeTests {
    @Test func reportsAreMadeOfSoManyEntries() throws {
        let loop = try Loop(backend: .epoll)
        let node = try member(loop, try config("a"))
        let cluster = try #require(node.cluster)
        cluster.handle(.setEndpoint("e", count: 2))
        let report = cluster.report("gossip/nodes/a")
        #expect(report.status == 200 && String(decoding: report.body, as: UTF8.self).contains("\"endpoint:e\""))
        #expect(cluster.report("cluster/nodes/local").status == 200)
        for index in 0..<Report.entriesMax { cluster.handle(.setEndpoint("e\(index)", count: 1)) }
        for path in ["gossip/nodes/a", "cluster/nodes/local"] { #expect(cluster.report(path).status == 507) }
        #expect(cluster.report("cluster/nodes").status == 200)
    }

    /// Only a node that is not known is no node; one that can't be dialled is another matter.
    @Test func whyAnAdminPortIsNotReached() throws {
        let loop = try Loop(backend: .epoll)
        let here = try member(loop, try config("a"))
        let address = try #require(here.cluster?.gossipAddress)
        let there = try member(loop, try config("b", admin: "localhost:1", join: [address.description]))
        #expect(loop.turn { here.cluster?.knows("b") == true })
        var pair = try MessageSocket.pair()
        let owner = NoOwner()
        let link = try WorkerLink(loop, worker: 3, adopting: pair.takeFirst(), owner: owner)
        let socket = try MessageSocket(loop, adopting: pair.takeSecond())
        let inbox = Inbox()
        socket.delegate = inbox
        // Its name was looked up when it came.
        _ = loop.turn(within: .milliseconds(300)) { false }
        here.dialAdmin(link, 1, "b")
        #expect(loop.turn { inbox.codes == [111] })
        here.dialAdmin(link, 2, "c")
        #expect(loop.turn { inbox.codes == [111, 0] })
        here.isFrozen = true
        here.dialAdmin(link, 3, "b")
        #expect(loop.turn { inbox.codes == [111, 0, DialCode.notNow] })
        here.isFrozen = false
        there.cluster?.reconfigure(try config("b", admin: "no-such-host.invalid:5"))
        #expect(loop.turn { here.cluster?.known["b"]?.adminAddress == "no-such-host.invalid:5" })
        here.dialAdmin(link, 4, "b")
        #expect(loop.turn { inbox.codes == [111, 0, DialCode.notNow, DialCode.unreachable] })
        link.close()
        withExtendedLifetime((here, there, owner)) {}
    }

    @Test func whoDrainsStillDrainsWhenItBeginsAnew() throws {
        let loop = try Loop(backend: .epoll)
        let config = try config("a")
        let node = try node(loop, config)
        node.setOutOfUse(true)
        let taken = TakenState.Cluster(nodeID: "a", datagrams: -1, listener: -1, snapshot: -1, hasJoined: true, isDraining: true)
        let sockets = try GossipSockets.bind(loop, node.ports, config.cluster.gossip.bindAddress)
        let cluster = try Cluster(node, config, sockets, taking: taken, snapshot: [])
        node.cluster = cluster
        cluster.start()
        #expect(cluster.machine.local.attributes[.status] == "draining")
    }
}
