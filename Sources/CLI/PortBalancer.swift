// One address in front of several: each connection goes to the next of them that can be had, and the kernel carries its bytes.
internal import Base
internal import Config
internal import Memory
internal import Reactor

/// Listens, and passes connections on in turn.
final class PortBalancer: ListenerDelegate {
    private let loop: Loop
    private let targets: () -> [SocketAddress]
    private var listener: Listener?
    private var turn = 0
    private var connections: [ObjectIdentifier: BalancedConnection] = [:]

    private static let connectionsMax = 16_384

    init(_ loop: Loop, _ address: BindAddress, targets: @escaping () -> [SocketAddress]) throws(SystemError) {
        self.loop = loop
        self.targets = targets
        super.init()
        var failure = SystemError(code: 99, call: "listen on \(address.settingText)")
        let hosts = address.host.isEmpty ? ["::", "0.0.0.0"] : address.host == "localhost" ? ["127.0.0.1"] : [address.host]
        for host in hosts where listener == nil {
            guard let literal = SocketAddress(address: host, port: address.port) else { continue }
            do throws(SystemError) {
                listener = try Listener(loop, adopting: try Listener.bind(literal), delegate: self)
            } catch {
                failure = error
            }
        }
        if listener == nil { throw failure }
    }

    var address: SocketAddress? { listener?.address }

    func close() {
        listener?.close()
        listener = nil
        for connection in connections.values { connection.close() }
        connections = [:]
    }

    override func accepted(_ listener: Listener, descriptor: consuming OwnedDescriptor) {
        guard connections.count < Self.connectionsMax, let client = try? Stream(loop, adopting: descriptor) else { return }
        let all = targets()
        guard !all.isEmpty else { return client.closeNow() }
        turn &+= 1
        // Beginning with the one whose turn it is.
        let order = all.indices.map { all[(turn + $0) % all.count] }
        let connection = BalancedConnection(loop, client, order) { [unowned self] in connections[$0] = nil }
        connections[ObjectIdentifier(connection)] = connection
        connection.start()
    }

    override func acceptFailed(_ listener: Listener, error: SystemError) {
        let timer = CallbackTimer(loop) { listener.resume() }
        timer.schedule(after: .seconds(1))
        resting = timer
    }
    private var resting: CallbackTimer?
}

/// One client and the node that it got.
private final class BalancedConnection: ChannelDelegate {
    private let loop: Loop
    private let client: Stream
    private var order: [SocketAddress]
    private var node: Stream?
    private var timer: CallbackTimer?
    private let ended: (ObjectIdentifier) -> Void
    private var endedSides = 0

    private static let connectTime = Duration.seconds(5)

    init(_ loop: Loop, _ client: Stream, _ order: [SocketAddress], ended: @escaping (ObjectIdentifier) -> Void) {
        self.loop = loop
        self.client = client
        self.order = order
        self.ended = ended
    }

    func start() {
        client.delegate = self
        let timer = CallbackTimer(loop) { [unowned self] in failed() }
        timer.schedule(after: Self.connectTime)
        self.timer = timer
        next()
    }

    private func next() {
        node?.closeNow()
        node = nil
        while !order.isEmpty {
            guard let stream = try? Stream(loop, connectTo: order.removeFirst()) else { continue }
            node = stream
            stream.delegate = self
            return
        }
        failed()
    }

    func close() {
        timer?.cancel()
        client.closeNow()
        node?.closeNow()
    }

    private func failed() {
        timer?.cancel()
        client.abort()
        node?.abort()
        ended(ObjectIdentifier(self))
    }

    override func streamConnected(_ stream: Stream) {
        timer?.cancel()
        guard client.pump(to: stream), stream.pump(to: client) else { return failed() }
        client.resumeReading()
        stream.resumeReading()
    }

    override func channelEnded(_ channel: Channel) {
        guard let node else { return failed() }
        let other = channel === client ? node : client
        endedSides += 1
        guard endedSides == 2 else { return other.finish() }
        client.close()
        node.close()
        ended(ObjectIdentifier(self))
    }

    override func channelFailed(_ channel: Channel, error: ChannelError) {
        // Not yet connected: another one may be.
        if channel !== client, timer?.isScheduled == true { next() } else { failed() }
    }
}
