// Dialling on real sockets: names, several addresses, refusals, and giving up.
import Base
import Config
import Reactor
import TestKit
import Testing

@testable import Agent

@Suite struct DialerTests {
    /// The outcome of one dial.
    private func dial(_ harness: Harness, _ dialer: Dialer) -> Result<Stream, DialError>? {
        var result: Result<Stream, DialError>?
        _ = dialer.dial(timeout: .seconds(5)) { result = $0 }
        #expect(result == nil, "a completion from within the call")
        _ = harness.loop.turn { result != nil }
        return result
    }

    /// Addresses that no other test uses, so that nobody listens there by chance.
    @Test(arguments: [BackendChoice.epoll, .auto]) func fallsBackToTheNextAddress(_ backend: BackendChoice) throws {
        let harness = try Harness(backend)
        let last = backend == .epoll ? 21 : 22
        let listening = try Listener.bind(SocketAddress(address: "127.9.8.\(last)", port: 0)!)
        let address = SocketAddress.name(of: listening.raw)!
        let refusing = [
            SocketAddress(address: "127.9.8.31", port: address.port)!, SocketAddress(address: "127.9.8.32", port: address.port)!,
        ]
        let dialer = Dialer(
            loop: harness.loop, resolver: harness.resolver, host: "several.test", port: address.port, addresses: refusing + [address])
        for _ in 0..<2 {
            guard case .success(let stream) = dial(harness, dialer) else {
                Issue.record("no connection to \(address)")
                return
            }
            #expect(stream.peer == address)
            stream.closeNow()
        }
    }

    @Test func localhostNeedsNoLookUp() throws {
        let harness = try Harness()
        let service = try TestService(harness.loop)
        guard case .success(let stream) = dial(harness, harness.dialer(service.port, host: "localhost")) else {
            Issue.record("no connection to localhost")
            return
        }
        #expect(stream.peer?.port == service.port)
        stream.closeNow()
    }

    @Test func refusalIsToldOnce() throws {
        let harness = try Harness()
        let service = try TestService(harness.loop)
        service.stop()
        guard case .failure(let error) = dial(harness, harness.dialer(service.port, host: "localhost")) else {
            Issue.record("connected to nobody")
            return
        }
        #expect(error.description == "connect: Connection refused")
    }

    @Test func nameThatDoesNotExist() throws {
        let harness = try Harness()
        guard case .failure(.unresolved(let text)) = dial(harness, harness.dialer(80, host: "no-such-host.invalid")) else {
            Issue.record("resolved a name under .invalid")
            return
        }
        #expect(text.hasPrefix("lookup no-such-host.invalid: "))
    }

    @Test func cancelledDialTellsNothing() throws {
        let harness = try Harness()
        let service = try TestService(harness.loop)
        var isTold = false
        let dial = harness.dialer(service.port).dial(timeout: .seconds(5)) { _ in isTold = true }
        dial.cancel()
        #expect(!harness.loop.turn(within: .milliseconds(100)) { isTold })
        #expect(harness.loop.turn { service.connections.allSatisfy { $0.hasEnded || $0.hasFailed } })
    }

    @Test func boundSockets() throws {
        let harness = try Harness()
        let sockets = BoundSockets(loop: harness.loop, resolver: harness.resolver, owner: "config: server.bind_addr")
        var hosts: [String] = []
        var port: UInt16 = 0
        try sockets.open(BindAddress(host: "localhost", port: 0)) { (descriptor, address) throws(SystemError) in
            hosts.append(address.host)
            port = SocketAddress.name(of: descriptor.raw)!.port
        }
        #expect(hosts == ["127.0.0.1"])
        #expect(port > 0)
        let taken = try Listener.bind(SocketAddress(address: "127.0.0.1", port: 0)!)
        let takenPort = SocketAddress.name(of: taken.raw)!.port
        #expect(throws: ProgramError("config: server.bind_addr: cannot listen on 127.0.0.1:\(takenPort): Address already in use")) {
            try sockets.open(BindAddress(host: "127.0.0.1", port: takenPort)) { _, _ throws(SystemError) in }
        }
    }
}
