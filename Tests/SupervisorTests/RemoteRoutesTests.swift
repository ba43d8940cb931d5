// What the supervisor knows of other nodes, and the connections that it makes to them for workers.

import Base
import Control
import Reactor
import TestKit
import Testing

@testable import Supervisor

private let now = Instant(nanoseconds: 1_000_000_000)
private let address = SocketAddress(address: "10.0.0.2", port: 8_000)

@Suite struct RemoteRoutesTests {
    @Test func countsByNode() {
        var routes = RemoteRoutes()
        #expect(routes.setNode("b", .active, address) == true)
        #expect(routes.setNode("b", .active, address) == false)
        #expect(routes.set("e", node: "b", count: 2) == .changed)
        #expect(routes.set("e", node: "b", count: 2) == .nothing)
        #expect(routes.set("e", node: "c", count: 1) == .changed)
        #expect(routes.lookup("e") == [RemoteEntry(node: "b", listeners: 2), RemoteEntry(node: "c", listeners: 1)])
        // Endpoints may be known before their node is; workers hear of it when it is.
        #expect(routes.nodes.map(\.id) == ["b"])
        #expect(routes.setNode("c", .draining, nil) == true)
        #expect(routes.nodes.count == 2)
        #expect(routes.set("e", node: "b", count: 0) == .changed)
        #expect(routes.set("e", node: "b", count: 0) == .nothing)
        #expect(routes.set("e", node: "c", count: 0) == .lost)
        #expect(routes.lookup("e").isEmpty && routes.endpointCount == 0)
        #expect(routes.set("f", node: "unknown", count: 0) == .nothing)
        #expect(routes.node("unknown") == nil)
    }

    @Test func forgetsANodeWithAllThatItHas() {
        var routes = RemoteRoutes()
        for number in 0..<100 {
            _ = routes.set("e\(number)", node: "b", count: 1)
            if number % 2 == 0 { _ = routes.set("e\(number)", node: "c", count: 1) }
        }
        let changed = routes.removeNode("b")
        #expect(changed?.count == 100 && changed?.filter(\.isLeft).count == 50)
        #expect(routes.removeNode("b") == nil)
        #expect(routes.endpointCount == 50 && routes.lookup("e1").isEmpty)
        // Its number goes to the next one, which has nothing of it.
        _ = routes.set("x", node: "d", count: 1)
        #expect(routes.lookup("x") == [RemoteEntry(node: "d", listeners: 1)])
        #expect(routes.lookup("e0") == [RemoteEntry(node: "c", listeners: 1)])
    }

    @Test func namesNoMoreNodesThanAMessageHolds() {
        var routes = RemoteRoutes()
        for number in 0..<1_000 { _ = routes.set("e", node: "n\(number)", count: 1) }
        var seen: Set<String> = []
        for _ in 0..<200 {
            let entries = routes.lookup("e")
            #expect(entries.count == ControlLimits.remotesMax)
            seen.formUnion(entries.map(\.node))
        }
        #expect(seen.count > 900)
    }

    @Test func workersAreToldOfWhatTheyAskedFor() {
        var routes = RemoteRoutes()
        #expect(routes.mustTell("e") == false)
        routes.noteAsked("e")
        #expect(routes.mustTell("f") == false)
        #expect(routes.mustTell("e") == true)
        #expect(routes.mustTell("e") == false)
        // When it can't be remembered any more who asked for what, all is told.
        for number in 0...RemoteRoutes.askedMax { routes.noteAsked("e\(number)") }
        #expect(routes.mustTell("never asked for") == true)
        var taken = RemoteRoutes()
        taken.assumeAllAsked()
        taken.noteAsked("e")
        #expect(taken.mustTell("f") == true)
    }

    @Test func tellsHowManyListenHere() {
        var table = RoutingTable()
        #expect(table.localCount("e") == 0)
        _ = table.register(worker: 1, tunnel: 1, endpoint: "e", kind: .dataConnections)
        #expect(table.localCount("e") == 1)
        _ = table.register(worker: 1, tunnel: 2, endpoint: "e", kind: .session)
        _ = table.register(worker: 2, tunnel: 1, endpoint: "e", kind: .directSession)
        #expect(table.localCount("e") == 2 && table.localCounts.map(\.count) == [2])
        #expect(table.endpoints(of: 1) == [ExactName("e")] && table.endpoints(of: 3) == [])
    }

    /// An endpoint that is lost at the last node that had it was lost a moment ago; not so when this one has it.
    @Test func remembersWhatOtherNodesLost() {
        var table = RoutingTable()
        table.noteRemoteLoss("e", now: now)
        #expect(table.lostFor("e", now: now + .seconds(1)) == .seconds(1))
        _ = table.register(worker: 1, tunnel: 1, endpoint: "f", kind: .session)
        table.noteRemoteLoss("f", now: now)
        #expect(table.lostFor("f", now: now) == nil)
    }
}

@Suite struct NodeDialerTests {
    private final class Owner: WorkerLinkOwner {
        func linkGreeted(_ link: WorkerLink) {}
        func link(_ link: WorkerLink, received message: ControlMessage) {}
        func linkFailed(_ link: WorkerLink, reason: String) {}
    }

    private final class Inbox: MessageDelegate {
        var messages: [ControlMessage] = []
        var descriptors: [OwnedDescriptorBox] = []

        override func message(_ socket: MessageSocket, bytes: Span<UInt8>, descriptors: inout DescriptorList) {
            if let message = try? ControlMessage.decode(bytes, from: .supervisor) { messages.append(message) }
            while let descriptor = descriptors.takeFirst() { self.descriptors.append(OwnedDescriptorBox(descriptor)) }
        }
    }

    private final class OwnedDescriptorBox {
        let raw: Int32
        private let owned: OwnedDescriptor
        init(_ descriptor: consuming OwnedDescriptor) {
            raw = descriptor.raw
            owned = descriptor
        }
    }

    private final class Door: ListenerDelegate {
        var count = 0
        override func accepted(_ listener: Listener, descriptor: consuming OwnedDescriptor) { count += 1 }
    }

    /// An address at which nobody listens.
    private func closedPort() throws -> SocketAddress {
        let descriptor = try Listener.bind(SocketAddress(address: "127.0.0.1", port: 0)!)
        return SocketAddress.name(of: descriptor.raw)!
    }

    @Test(arguments: [BackendChoice.epoll, .auto]) func connectsForAWorker(_ backend: BackendChoice) throws {
        let loop = try Loop(backend: backend)
        var pair = try MessageSocket.pair()
        let owner = Owner()
        let link = try WorkerLink(loop, worker: 3, adopting: pair.takeFirst(), owner: owner)
        let socket = try MessageSocket(loop, adopting: pair.takeSecond())
        let inbox = Inbox()
        socket.delegate = inbox
        let descriptor = try Listener.bind(SocketAddress(address: "127.0.0.1", port: 0)!)
        let open = SocketAddress.name(of: descriptor.raw)!
        let door = Door()
        let listener = try Listener(loop, adopting: descriptor, delegate: door)
        let shut = try closedPort()
        let dialer = NodeDialer(loop)
        dialer.dial(link, 1, open)
        #expect(loop.turn { inbox.messages.contains(.dialed(request: 1)) && door.count == 1 })
        #expect(inbox.descriptors.count == 1 && SocketAddress.peer(of: inbox.descriptors[0].raw) == open)
        dialer.dial(link, 2, shut)
        #expect(loop.turn { inbox.messages.contains(.dialFailed(request: 2, code: 111)) })
        // More than one worker may have under way are refused at once, and nobody hears of them when the worker is gone.
        for request in UInt64(10)..<UInt64(10 + NodeDialer.dialsMax + 1) { dialer.dial(link, request, shut) }
        #expect(loop.turn { inbox.messages.contains(.dialFailed(request: UInt64(10 + NodeDialer.dialsMax), code: DialCode.notNow)) })
        dialer.workerEnded(3)
        link.close()
        listener.close()
    }
}
