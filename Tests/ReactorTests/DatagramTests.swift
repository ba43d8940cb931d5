// UDP: batches, senders' addresses, packets that are too long, and a socket that leaves its loop.
import Base
import Memory
import Reactor
import TestKit
import Testing

/// Remembers every packet.
private final class Packets: DatagramDelegate {
    var received: [[UInt8]] = []
    var senders: [SocketAddress] = []
    var tooLong = 0
    var closesAtFirst = false

    override func datagram(_ socket: DatagramSocket, bytes: Span<UInt8>, from: SocketAddress) {
        received.append([UInt8](copying: bytes))
        senders.append(from)
        if closesAtFirst { socket.close() }
    }
    override func datagramTooLong(_ socket: DatagramSocket, from: SocketAddress) { tooLong += 1 }
}

private func socket(_ loop: Loop, _ host: String, _ packets: Packets, bytesMax: Int = 2_000) throws -> DatagramSocket {
    let address = try #require(SocketAddress(address: host, port: 0))
    let socket = try DatagramSocket(loop, adopting: DatagramSocket.bind(address), bytesMax: bytesMax)
    socket.delegate = packets
    return socket
}

extension ReactorTests {
    @Suite struct Datagrams {
        @Test(arguments: backends)
        func manyPacketsComeWithTheirSenders(_ backend: BackendChoice) throws {
            let loop = try Loop(backend: backend)
            let packets = Packets()
            let one = try socket(loop, "127.0.0.1", packets)
            let other = try socket(loop, "127.0.0.1", Packets())
            for number in 0..<100 { other.send([UInt8(number), 1].span, to: one.address!) }
            pump(loop, "packets") { packets.received.count == 100 }
            #expect(packets.received.map { $0[0] } == (0..<100).map { UInt8($0) })
            #expect(Set(packets.senders) == [other.address!])
            one.close()
            other.close()
            pump(loop, "closed") { loop.openHandles == 0 }
        }

        @Test(arguments: backends)
        func tooLongOnesAreToldAndOthersCome(_ backend: BackendChoice) throws {
            let loop = try Loop(backend: backend)
            let packets = Packets()
            let one = try socket(loop, "127.0.0.1", packets, bytesMax: 100)
            let other = try socket(loop, "127.0.0.1", Packets())
            for size in [100, 101, 1_400, 0, 7] { other.send([UInt8](repeating: 1, count: size).span, to: one.address!) }
            pump(loop, "packets") { packets.received.count == 3 && packets.tooLong == 2 }
            #expect(packets.received.map(\.count) == [100, 0, 7])
        }

        @Test(arguments: backends)
        func oneForAllAddressesTakesBothFamilies(_ backend: BackendChoice) throws {
            let loop = try Loop(backend: backend)
            let (packets, answers) = (Packets(), Packets())
            guard let dual = try? socket(loop, "::", packets) else { return }
            let four = try socket(loop, "127.0.0.1", answers)
            four.send([4].span, to: SocketAddress(address: "127.0.0.1", port: dual.address!.port)!)
            pump(loop, "packet") { packets.received.count == 1 }
            #expect(packets.senders[0] == four.address!)
            let isSent = dual.send([5].span, to: packets.senders[0])
            #expect(isSent)
            pump(loop, "answer") { answers.received == [[5]] }
        }

        @Test(arguments: backends)
        func aSocketLeavesItsLoopWithWhatWaitsInIt(_ backend: BackendChoice) throws {
            let loop = try Loop(backend: backend)
            let (before, after) = (Packets(), Packets())
            let one = try socket(loop, "127.0.0.1", before)
            let other = try socket(loop, "127.0.0.1", Packets())
            let address = one.address!
            guard let descriptor = one.detach() else {
                Issue.record("no descriptor")
                return
            }
            let isSent = one.send([1].span, to: address)
            #expect(!isSent)
            other.send([9].span, to: address)
            let next = try DatagramSocket(loop, adopting: descriptor, bytesMax: 100)
            next.delegate = after
            pump(loop, "packet") { after.received == [[9]] }
            #expect(before.received.isEmpty)
        }

        @Test(arguments: backends)
        func mayBeClosedFromWithin(_ backend: BackendChoice) throws {
            let loop = try Loop(backend: backend)
            let packets = Packets()
            packets.closesAtFirst = true
            let one = try socket(loop, "127.0.0.1", packets)
            let other = try socket(loop, "127.0.0.1", Packets())
            for _ in 0..<3 { other.send([1].span, to: one.address!) }
            pump(loop, "packet") { !packets.received.isEmpty }
            #expect(packets.received.count == 1)
            other.close()
            pump(loop, "closed") { loop.openHandles == 0 }
        }
    }

    @Suite struct Addresses {
        /// A text, and whether it is unspecified, private and of one link.
        static let rows: [(String, Bool, Bool, Bool)] = [
            ("0.0.0.0:1", true, false, false), ("[::]:1", true, false, false), ("10.1.2.3:4", false, true, false),
            ("172.16.0.1:4", false, true, false), ("172.32.0.1:4", false, false, false), ("192.168.1.1:4", false, true, false),
            ("100.64.0.1:4", false, true, false), ("100.128.0.1:4", false, false, false), ("8.8.8.8:53", false, false, false),
            ("169.254.1.1:5", false, false, true), ("[fe80::1]:5", false, false, true), ("[fd00::1]:5", false, true, false),
            ("[2001:db8::1]:5", false, false, false), ("127.0.0.1:5", false, false, false),
        ]

        @Test(arguments: rows)
        func areClassified(_ row: (String, Bool, Bool, Bool)) throws {
            let address = try #require(SocketAddress(text: row.0))
            #expect(address.description == row.0)
            #expect(address.isUnspecified == row.1)
            #expect(address.isPrivate == row.2)
            #expect(address.isLinkLocal == row.3)
        }

        @Test(arguments: ["", "127.0.0.1", "::1:5", "[::1]", "[::1]5", "localhost:5", "127.0.0.1:70000", "127.0.0.1:-1"])
        func othersAreRefused(_ text: String) { #expect(SocketAddress(text: text) == nil) }

        @Test func theMachineHasSome() {
            #expect(SocketAddress.ofMachine.contains { $0.isLoopback })
        }
    }
}
