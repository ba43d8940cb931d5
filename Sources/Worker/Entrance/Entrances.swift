// What a worker has to do with who comes in: whose word about clients counts, connections that a load balancer announces, and the
// number of each address's connections, which the supervisor keeps and the workers report.

import Base
import Config
import Control
import Memory
import Reactor
import Telemetry
import Transport
import Wire

/// The worker's part of the ports' entrances.
final class Entrances {
    private struct Port {
        var access: AddressAccess
        var isAnnounced: Bool
        var countsAddresses: Bool
        var headerTime: Duration
    }

    private unowned let worker: Worker
    private let trusted: AddressBlocks
    private let isJudged: Bool
    private let ports: [Port]
    /// Connections whose header is being read.
    private var readers: [ObjectIdentifier: ProxyHeaderReader] = [:]
    /// Connections whose header was read, and whose TLS has not begun.
    private var securing: [ObjectIdentifier: SecureBeginning] = [:]
    private var reports: [ClientReport] = []
    private var warning = WarningLimit()

    /// The time for a header where the port's own time for heads is without limit.
    private static let headerTime = Duration.seconds(10)

    init(_ worker: Worker, _ config: ServerConfig) {
        self.worker = worker
        trusted = AddressBlocks(checked: config.trustedProxies.blocks)
        isJudged = config.trustedProxies.isConfigured
        ports = ListenerKind.allCases.map { kind in
            let entrance = config.entrance(kind)
            let time = kind == .proxy ? config.proxy.http.readHeaderTimeout : Self.headerTime
            return Port(
                access: AddressAccess(allow: AddressBlocks(checked: entrance.allow), deny: AddressBlocks(checked: entrance.deny)),
                isAnnounced: entrance.usesProxyProtocol, countsAddresses: entrance.connectionsPerAddressMax > 0,
                headerTime: time == .zero ? Self.headerTime : time)
        }
        reports = ListenerKind.allCases.map { ClientReport(worker, $0) }
    }

    // MARK: What requests say

    /// Whether the address is a proxy's whose word about its clients counts.
    func isTrusted(_ address: IPAddress?) -> Bool { address.map(trusted.contains) ?? false }

    /// What becomes of what requests from there say about the way that they came.
    func forwarding(from peer: PeerAddress) -> Forwarding {
        if !isJudged { return .append }
        return isTrusted(peer.ip) ? .extend : .replace
    }

    // MARK: Headers of load balancers

    /// Whether the connection, which has just come, begins with a load balancer's header.
    func isAnnounced(_ listener: ListenerKind, _ peer: PeerAddress) -> Bool {
        ports[listener.place].isAnnounced && isTrusted(peer.ip)
    }

    /// Reads the header; `serve` follows when it is whole and its client may come in.
    func read(_ stream: Stream, _ listener: ListenerKind, _ peer: PeerAddress) {
        // Other nodes may have a load balancer's address, and announce nobody.
        let reader = ProxyHeaderReader(
            stream, time: ports[listener.place].headerTime, isOptional: worker.nodes.isMember(peer)
        ) { [unowned self] reader, outcome in
            readers[ObjectIdentifier(reader)] = nil
            switch consume outcome {
            case .read(let header, let rest):
                let client = header.source.map { PeerAddress(ip: $0.address, port: $0.port) } ?? peer
                if header.source != nil, !ports[listener.place].access.admits(client.ip) {
                    refuse(stream, listener, client, .refusedByAccess, "the address may not connect")
                } else {
                    serve(stream, listener, client, rest)
                }
            case .none(let rest): serve(stream, listener, peer, rest)
            case .refused(let reason): refuse(stream, listener, peer, .refusedByProxyHeader, reason)
            case .ended: worker.connectionNotServed(listener)
            }
        }
        readers[ObjectIdentifier(reader)] = reader
        reader.start()
    }

    /// Serves the connection: with TLS, if the port speaks it, behind the header.
    private func serve(_ stream: Stream, _ listener: ListenerKind, _ client: PeerAddress, _ rest: consuming ByteBuffer) {
        switch worker.tls.beginning(listener) {
        case .plain: worker.serve(stream, listener: listener, peer: client, input: rest)
        case .refused:
            stream.closeNow()
            worker.warnOfCertificate(listener)
            worker.connectionNotServed(listener)
        case .secure(let context):
            let beginning = SecureBeginning(worker.tls.engine, stream, context, early: rest) { [unowned self] beginning, channel in
                securing[ObjectIdentifier(beginning)] = nil
                guard let channel else { return worker.connectionNotServed(listener) }
                channel.setNoDelay()
                channel.limitUnsent()
                worker.serve(channel, listener: listener, peer: client, input: ByteBuffer())
            }
            securing[ObjectIdentifier(beginning)] = beginning
            beginning.start()
        }
    }

    private func refuse(_ stream: Stream, _ listener: ListenerKind, _ peer: PeerAddress, _ counter: Counter, _ reason: StaticString) {
        stream.closeNow()
        worker.telemetry.refused(counter)
        worker.connectionNotServed(listener)
        guard warning.isDue(worker.loop.now) else { return }
        worker.telemetry.log.warn(.server, "connection refused") {
            $0.field("port", listener.name)
            $0.field("reason", reason)
            if let address = peer.ip { $0.field("client_addr", address.description) }
        }
    }

    /// Whether no header is being read, and no TLS put on what had one.
    var isIdle: Bool { readers.isEmpty && securing.isEmpty }

    /// Gives up connections that have not said who they are.
    func close() {
        for reader in Array(readers.values) { reader.giveUp() }
        for beginning in Array(securing.values) { beginning.giveUp() }
    }

    // MARK: The connections of each address

    /// Counts the connection for the address that its socket has, while the channel lives here; not that of a proxy, which brings the
    /// connections of many. `accepted`: the supervisor has counted it already, for this address, which the socket of a client that has
    /// left meanwhile does not know any more.
    func lease(_ channel: Channel, _ listener: ListenerKind, accepted: PeerAddress? = nil) {
        guard ports[listener.place].countsAddresses, channel.attachment == nil, let peer = accepted ?? Self.address(of: channel),
            !isTrusted(peer.ip)
        else { return }
        let report = reports[listener.place]
        if accepted == nil { report.came(peer) }
        channel.attachment = ClientLease(report, peer)
    }

    private static func address(of channel: Channel) -> PeerAddress? {
        channel.peer.flatMap { PeerAddress(encoded: $0.encoded.span) }
    }

    /// A connection that the supervisor has counted could not be taken.
    func lost(_ listener: ListenerKind, _ peer: PeerAddress) {
        guard ports[listener.place].countsAddresses, !isTrusted(peer.ip) else { return }
        reports[listener.place].went(peer)
    }
}

/// Holds the place of one connection of an address.
private final class ClientLease {
    private let report: ClientReport
    private let peer: PeerAddress

    init(_ report: ClientReport, _ peer: PeerAddress) {
        self.report = report
        self.peer = peer
    }

    deinit { report.went(peer) }
}

/// What the supervisor is told about the connections of a port, once a turn.
private final class ClientReport: AfterTurn {
    private unowned let worker: Worker
    private let listener: ListenerKind
    private var came: [PeerAddress] = []
    private var went: [PeerAddress] = []

    init(_ worker: Worker, _ listener: ListenerKind) {
        self.worker = worker
        self.listener = listener
    }

    func came(_ peer: PeerAddress) {
        came.append(peer)
        worker.loop.afterTurn(self)
    }

    func went(_ peer: PeerAddress) {
        went.append(peer)
        worker.loop.afterTurn(self)
    }

    override func run() {
        while !came.isEmpty || !went.isEmpty {
            let (first, last) = (came.prefix(ControlLimits.clientsMax), went.prefix(ControlLimits.clientsMax))
            came.removeFirst(first.count)
            went.removeFirst(last.count)
            worker.reportClients(listener, came: Array(first), went: Array(last))
        }
    }
}

extension ListenerKind {
    fileprivate var place: Int { Int(rawValue) - 1 }

    /// The port's name, for people.
    var name: StaticString {
        switch self {
        case .proxy: "proxy"
        case .upstream: "upstream"
        case .admin: "admin"
        }
    }
}

extension PeerAddress {
    /// From an address and a port.
    init(ip: IPAddress, port: UInt16) {
        let bytes = ip.bytes + [UInt8(truncatingIfNeeded: port >> 8), UInt8(truncatingIfNeeded: port)]
        self = PeerAddress(encoded: bytes.span) ?? .none
    }
}

extension ServerConfig {
    /// What a port has about who may come in.
    fileprivate func entrance(_ kind: ListenerKind) -> Entrance {
        switch kind {
        case .proxy: proxy.entrance
        case .upstream: upstream.entrance
        case .admin: admin.entrance
        }
    }
}
