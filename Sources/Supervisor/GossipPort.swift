// The node's gossip port: one number, by UDP and by TCP. What comes is handed to the cluster unread; addresses are text to it.

import Base
import Config
import Gossip
import Memory
import Reactor

/// Both sockets of the port, in no loop yet.
struct GossipSockets: ~Copyable {
    var datagrams: OwnedDescriptor
    var listener: OwnedDescriptor

    /// Sockets at the first address of the plan that can be had. Waits for names to be looked up, and for an address that is in
    /// use: whoever had it may just be ending.
    static func bind(_ loop: Loop, _ ports: ListenerTable, _ address: BindAddress) throws(BindError) -> GossipSockets {
        let key = "cluster.gossip.bind_addr"
        var answer: Result<BindPlan, BindError>?
        ports.plan(key: key, address: address) { answer = $0 }
        while answer == nil { loop.runTurn(until: .never) }
        let addresses: [SocketAddress]
        switch answer {
        case .success(.firstOf(let list)), .success(.allOf(let list)): addresses = list
        case .success(.lookUp): preconditionFailure("a name that was not looked up")
        case .failure(let error): throw error
        case nil: preconditionFailure("waited for")
        }
        let deadline = loop.now + .seconds(2)
        while true {
            var last: SystemError?
            for address in addresses {
                do throws(SystemError) {
                    return try open(address)
                } catch {
                    last = error
                    if !error.isAddressMissing { break }
                }
            }
            guard let last else { throw BindError(key: key, address: address.settingText, reason: "it stands for no address") }
            guard last.isAddressInUse, loop.now < deadline else {
                throw BindError(key: key, address: address.settingText, reason: SystemError.text(of: last.code))
            }
            let next = loop.now + .milliseconds(100)
            while loop.now < next { loop.runTurn(until: next) }
        }
    }

    /// A port that the kernel chooses is chosen for TCP; for UDP somebody may have that number, then another one is tried.
    private static func open(_ address: SocketAddress) throws(SystemError) -> GossipSockets {
        var attempts = address.port == 0 ? 16 : 1
        while true {
            let listener = try Listener.bind(address)
            guard let bound = SocketAddress.name(of: listener.raw) else { throw SystemError(code: 22, call: "getsockname") }
            do throws(SystemError) {
                return GossipSockets(datagrams: try DatagramSocket.bind(bound), listener: listener)
            } catch {
                attempts -= 1
                guard error.isAddressInUse, attempts > 0 else { throw error }
            }
        }
    }
}

/// Who is told of what comes to the gossip port.
protocol GossipPortOwner: AnyObject {
    func packetArrived(_ bytes: [UInt8], from: GossipAddress)
    func packetTooLong()
    func requestArrived(_ bytes: [UInt8], from: GossipAddress, stream: UInt64)
    func replyArrived(_ bytes: [UInt8], exchange: UInt32)
    func exchangeFailed(_ exchange: UInt32)
}

/// The port in its loop.
final class GossipPort {
    private let loop: Loop
    private unowned let owner: any GossipPortOwner
    private let datagrams: DatagramSocket
    private var listener: Listener?
    private let receiver: PacketReceiver
    private let acceptor: StreamAcceptor
    let exchanges: GossipExchanges
    /// Where it is bound.
    let address: SocketAddress

    /// A packet is not longer than this, whatever others are set to.
    private static let packetBytesMax = 65_536

    init(_ loop: Loop, _ sockets: consuming GossipSockets, owner: any GossipPortOwner) throws(SystemError) {
        self.loop = loop
        self.owner = owner
        guard let address = SocketAddress.name(of: sockets.datagrams.raw) else {
            throw SystemError(code: 22, call: "find the gossip port's address")
        }
        self.address = address
        datagrams = try DatagramSocket(loop, adopting: sockets.datagrams, bytesMax: Self.packetBytesMax)
        exchanges = GossipExchanges(loop, owner: owner)
        receiver = PacketReceiver(owner)
        acceptor = StreamAcceptor(loop, exchanges)
        datagrams.delegate = receiver
        listener = try Listener(loop, adopting: sockets.listener, delegate: acceptor)
    }

    /// Sends a packet; false when it is known to be lost.
    func send(_ bytes: [UInt8], to address: SocketAddress) -> Bool { datagrams.send(bytes.span, to: address) }

    /// Takes both sockets out of the loop. What waits in them stays there; exchanges end.
    func detach(_ done: @escaping (_ datagrams: Int32, _ listener: Int32) -> Void) {
        exchanges.closeAll()
        guard let listener, let datagrams = datagrams.detach() else { return }
        let number = datagrams.take()
        acceptor.detached = { done(number, $0) }
        listener.detach()
        self.listener = nil
    }

    /// Closes everything.
    func close() {
        exchanges.closeAll()
        datagrams.close()
        listener?.close()
        listener = nil
    }
}

private final class PacketReceiver: DatagramDelegate {
    private unowned let owner: any GossipPortOwner

    init(_ owner: any GossipPortOwner) { self.owner = owner }

    override func datagram(_ socket: DatagramSocket, bytes: Span<UInt8>, from: SocketAddress) {
        owner.packetArrived([UInt8](copying: bytes), from: GossipAddress(from.description))
    }

    override func datagramTooLong(_ socket: DatagramSocket, from: SocketAddress) { owner.packetTooLong() }
}

private final class StreamAcceptor: ListenerDelegate {
    private let loop: Loop
    private let exchanges: GossipExchanges
    private var resting: CallbackTimer?
    var detached: (Int32) -> Void = { _ in }

    init(_ loop: Loop, _ exchanges: GossipExchanges) {
        self.loop = loop
        self.exchanges = exchanges
    }

    override func accepted(_ listener: Listener, descriptor: consuming OwnedDescriptor) { exchanges.accept(descriptor) }

    override func listenerDetached(_ listener: Listener, descriptor: consuming OwnedDescriptor) { detached(descriptor.take()) }

    override func acceptFailed(_ listener: Listener, error: SystemError) {
        let timer = CallbackTimer(loop) { listener.resume() }
        timer.schedule(after: .seconds(1))
        resting = timer
    }
}
