// Control messages to bytes; ControlDecoder.swift has the way back. docs/protocol-control.md is the specification;
// Tests/Golden/control holds recorded bytes of each message.

import Base
public import Memory

/// Every bound of the protocol.
public enum ControlLimits {
    /// The protocol's version; both ends of a connection speak the same.
    public static let protocolVersion: UInt32 = 6
    /// The oldest version whose messages between workers are those of this one.
    public static let siblingVersionMin: UInt32 = 3
    /// The first version with other nodes in it.
    public static let clusterVersion: UInt32 = 4
    /// The first version that knows TLS.
    public static let credentialsVersion: UInt32 = 5
    /// The first version that knows quotas.
    public static let quotaVersion: UInt32 = 5
    /// The first version in which workers are asked what they have.
    public static let inquiryVersion: UInt32 = 6
    /// Bytes of type, flags and length.
    public static let headerBytes = 8
    /// A whole message, header included. The kernel refuses SEQPACKET messages over some 200 KiB.
    public static let messageBytesMax = 131_072
    /// Descriptors beside one message, and so connections in one `accepted`.
    public static let descriptorsMax = 64
    /// Bytes of an endpoint's name. Longer ones are refused where they come in.
    public static let endpointBytesMax = 256
    /// Bytes of a version's text.
    public static let versionBytesMax = 64
    /// Settings in `configure`.
    public static let settingsMax = 2_048
    /// Bytes of a setting's key.
    public static let keyBytesMax = 256
    /// Bytes of a setting's value.
    public static let valueBytesMax = 65_536
    /// Workers in a `routes` answer.
    public static let routesMax = 1_024
    /// Other nodes in a `routes` answer.
    public static let remotesMax = 256
    /// Bytes of a node's identifier.
    public static let nodeBytesMax = 256
    /// Keys of the cluster, and bytes of one.
    public static let clusterKeysMax = 16
    public static let clusterKeyBytesMax = 256
    /// Bytes of one page of a report, and of the path that asks for one.
    public static let reportBytesMax = 65_536
    public static let reportPathBytesMax = 512
    /// Tunnels and connections of a worker that it tells of when it is asked; the rest is left out.
    public static let tunnelsToldMax = 20_000
    public static let connectionsToldMax = 1_000
    /// Bytes of one message about tokens' keys.
    public static let tokenKeyBytesMax = 65_536
    /// Bytes of a tenant's name.
    public static let tenantBytesMax = 63
    /// Entries of one status page.
    public static let statusEntriesMax = 256
    /// Addresses in one list of `clients`.
    public static let clientsMax = 256
    /// Bytes of an agent's identifier.
    public static let agentBytes = 16
    /// Bytes of the key in `configure`.
    public static let keyBytes = 32
    /// Bytes of a moved client that travel inside the message; more go into a memfd.
    public static let movedBytesMax = 65_536
}

/// Why bytes are no message.
public enum ControlError: Error, Equatable {
    /// Fewer bytes than the header or its length says.
    case truncated
    /// More bytes than the length says, or than the message's fields take up.
    case trailingBytes
    /// A length or count is over its limit.
    case oversized
    /// No such type.
    case unknownType(UInt16)
    /// A type that this sender may not send.
    case unexpectedType(UInt16)
    /// A flag without a meaning for the type, or a value outside its range.
    case invalidValue
    /// Text that is not UTF-8.
    case invalidText
}

/// The type numbers on the wire: 1…63 from the supervisor, 64…127 from a worker, 128… between workers. Never reused.
enum ControlType: UInt16 {
    case hello = 1
    case configure = 2
    case accepted = 3
    case sibling = 4
    case siblingGone = 5
    case routes = 6
    case routeChanged = 7
    case registered = 8
    case refused = 9
    case statusPage = 10
    case ready = 11
    case drain = 12
    case shutdown = 13
    case retire = 14
    case siblingRetires = 15
    case admitTunnels = 16
    case ping = 17
    case node = 18
    case nodeGone = 19
    case dialed = 20
    case dialFailed = 21
    case shed = 22
    case reportPage = 23
    case tokenKeys = 24
    case credentials = 28
    case inquire = 29
    case workerReady = 64
    case register = 65
    case unregister = 66
    case lookup = 67
    case statusRequest = 68
    case drained = 69
    case pong = 70
    case dial = 71
    case dialAdmin = 72
    case reportRequest = 73
    case keyMissing = 74
    case clients = 79
    case release = 84
    case inquiryPage = 85
    case move = 128
    case moveData = 129
    case agentLeft = 130
    case moveStreams = 131
    case moveSession = 132
    case sessionTaken = 133
    case noMore = 134

    func maySend(_ party: ControlParty) -> Bool {
        if self == .hello { return true }
        return switch party {
        case .supervisor: rawValue < 64
        case .worker: rawValue >= 64 && rawValue < 128
        case .sibling: rawValue >= 128
        }
    }
}

/// Flag of `statusPage`, `reportPage` and `inquiryPage`: no page follows.
let flagLast: UInt16 = 1
/// Flag of `move`: the bytes are in the second descriptor.
let flagInMemory: UInt16 = 1
/// Flag of `moveData`: the connection was used.
let flagUsed: UInt16 = 1

// MARK: - Encoding

extension ControlMessage {
    /// Appends the message's bytes. Traps when a limit is exceeded: senders check what comes from outside before.
    /// `version`: what the receiver speaks, which may be a worker of before an upgrade; it knows nothing of other nodes.
    public func encode(into buffer: inout ByteBuffer, version: UInt32 = ControlLimits.protocolVersion) {
        let start = buffer.count
        buffer.append(type.rawValue)
        buffer.append(flags)
        buffer.append(UInt32(0))
        encodeBody(into: &buffer, version)
        let length = buffer.count - start
        precondition(length <= ControlLimits.messageBytesMax, "control message over its limit")
        var bytes = buffer.mutableSpan
        let body = UInt32(length - ControlLimits.headerBytes)
        for index in 0..<4 { bytes[start + 4 + index] = UInt8(truncatingIfNeeded: body >> (8 * UInt32(index))) }
    }

    private var type: ControlType {
        switch self {
        case .hello: .hello
        case .configure: .configure
        case .accepted: .accepted
        case .sibling: .sibling
        case .siblingGone: .siblingGone
        case .routes: .routes
        case .routeChanged: .routeChanged
        case .registered: .registered
        case .refused: .refused
        case .statusPage: .statusPage
        case .ready: .ready
        case .drain: .drain
        case .shutdown: .shutdown
        case .retire: .retire
        case .siblingRetires: .siblingRetires
        case .admitTunnels: .admitTunnels
        case .ping: .ping
        case .node: .node
        case .nodeGone: .nodeGone
        case .dialed: .dialed
        case .dialFailed: .dialFailed
        case .shed: .shed
        case .reportPage: .reportPage
        case .inquire: .inquire
        case .inquiryPage: .inquiryPage
        case .credentials: .credentials
        case .tokenKeys: .tokenKeys
        case .keyMissing: .keyMissing
        case .workerReady: .workerReady
        case .register: .register
        case .release: .release
        case .unregister: .unregister
        case .lookup: .lookup
        case .statusRequest: .statusRequest
        case .drained: .drained
        case .pong: .pong
        case .dial: .dial
        case .dialAdmin: .dialAdmin
        case .reportRequest: .reportRequest
        case .clients: .clients
        case .move: .move
        case .moveData: .moveData
        case .agentLeft: .agentLeft
        case .moveStreams: .moveStreams
        case .moveSession: .moveSession
        case .sessionTaken: .sessionTaken
        case .noMore: .noMore
        }
    }

    private var flags: UInt16 {
        switch self {
        case .statusPage(_, _, _, let last), .reportPage(_, _, _, let last), .inquiryPage(_, _, let last):
            last ? flagLast : 0
        case .move(_, _, _, .inMemory): flagInMemory
        case .moveData(_, _, let isUsed): isUsed ? flagUsed : 0
        default: 0
        }
    }

    private func encodeBody(into buffer: inout ByteBuffer, _ receiver: UInt32) {
        switch self {
        case .hello(let protocolVersion, let binaryVersion):
            buffer.append(protocolVersion)
            buffer.appendText(binaryVersion, max: ControlLimits.versionBytesMax)
        case .configure(let setup):
            encode(setup, into: &buffer)
        case .accepted(let listener, let acceptedAt, let peers):
            precondition(peers.count >= 1 && peers.count <= ControlLimits.descriptorsMax)
            buffer.append(listener.rawValue)
            buffer.append(UInt8(peers.count))
            buffer.append(acceptedAt.nanoseconds)
            for peer in peers { Self.encode(peer, into: &buffer) }
        case .sibling(let worker, let generation, let protocolVersion):
            buffer.append(worker)
            buffer.append(generation)
            buffer.append(protocolVersion)
        case .siblingGone(let worker), .siblingRetires(let worker):
            buffer.append(worker)
        case .routes(let endpoint, let version, let lostFor, let entries, let remote):
            buffer.append(version)
            buffer.append(lostFor ?? .max)
            buffer.appendText(endpoint, max: ControlLimits.endpointBytesMax)
            Self.encode(entries, into: &buffer)
            if receiver >= ControlLimits.clusterVersion { Self.encode(remote, into: &buffer) }
        case .routeChanged(let endpoint, let version):
            buffer.append(version)
            buffer.appendText(endpoint, max: ControlLimits.endpointBytesMax)
        case .registered(let tunnel), .release(let tunnel):
            buffer.append(tunnel)
        case .refused(let tunnel, let reason):
            buffer.append(tunnel)
            if receiver >= ControlLimits.quotaVersion { buffer.append(reason.rawValue) }
        case .node, .nodeGone, .dialed, .dialFailed, .dial, .dialAdmin, .shed, .reportPage, .reportRequest, .inquire, .inquiryPage:
            encodeOfNodes(into: &buffer)
        case .keyMissing(let port): Self.encode(port, into: &buffer)
        case .tokenKeys(let port, let kind, let bytes): Self.encode(port, kind, bytes, into: &buffer)
        case .statusPage(let request, let kind, let entries, _):
            precondition(entries.count <= ControlLimits.statusEntriesMax)
            buffer.append(request)
            buffer.append(kind.rawValue)
            buffer.append(UInt16(entries.count))
            for entry in entries {
                buffer.append(entry.value)
                buffer.appendText(entry.name, max: ControlLimits.endpointBytesMax)
            }
        case .ready(let value), .admitTunnels(let value):
            buffer.append(UInt8(value ? 1 : 0))
        case .drain(let number), .retire(let number), .ping(let number), .pong(let number), .credentials(let number):
            buffer.append(number)
        case .register(let tunnel, let endpoint, let kind, let quotas):
            buffer.append(tunnel)
            buffer.append(kind.rawValue)
            buffer.appendText(endpoint, max: ControlLimits.endpointBytesMax)
            if receiver >= ControlLimits.quotaVersion { Self.encode(quotas, into: &buffer) }
        case .moveData(let endpoint, let agent, _), .agentLeft(let endpoint, let agent):
            precondition(agent.count == ControlLimits.agentBytes)
            Self.encode(agent, into: &buffer)
            buffer.appendText(endpoint, max: ControlLimits.endpointBytesMax)
        case .unregister(let tunnel, let endpoint):
            buffer.append(tunnel)
            buffer.appendText(endpoint, max: ControlLimits.endpointBytesMax)
        case .lookup(let endpoint):
            buffer.appendText(endpoint, max: ControlLimits.endpointBytesMax)
        case .statusRequest(let request, let kind):
            buffer.append(request)
            buffer.append(kind.rawValue)
        case .clients(let listener, let came, let went):
            buffer.append(listener.rawValue)
            Self.encode(came, into: &buffer)
            Self.encode(went, into: &buffer)
        case .move(let listener, let client, let moves, let moved):
            buffer.append(listener.rawValue)
            buffer.append(moves)
            Self.encode(client, into: &buffer)
            switch moved {
            case .inline(let bytes):
                precondition(bytes.count <= ControlLimits.movedBytesMax)
                buffer.append(UInt64(bytes.count))
                Self.encode(bytes, into: &buffer)
            case .inMemory(let length):
                buffer.append(length)
            }
        case .moveStreams(let handover, let count):
            precondition(count >= 1 && count <= ControlLimits.descriptorsMax)
            buffer.append(handover)
            buffer.append(count)
        case .moveSession(let handover, let endpoint, let stateBytes):
            buffer.append(handover)
            buffer.append(stateBytes)
            buffer.appendText(endpoint, max: ControlLimits.endpointBytesMax)
        case .sessionTaken(let handover, let isTaken):
            buffer.append(handover)
            buffer.append(UInt8(isTaken ? 1 : 0))
        case .shutdown, .workerReady, .drained, .noMore:
            break
        }
    }

    private static func encode(_ entries: [RouteEntry], into buffer: inout ByteBuffer) {
        precondition(entries.count <= ControlLimits.routesMax)
        buffer.append(UInt16(entries.count))
        for entry in entries {
            buffer.append(entry.worker)
            buffer.append(entry.tunnels)
            buffer.append(entry.directTunnels)
            buffer.append(UInt8(entry.hasData ? 1 : 0))
        }
    }

    /// Nothing when there are none, as before there were any.
    private static func encode(_ tunnel: TunnelQuotas, into buffer: inout ByteBuffer) {
        if tunnel.quotas.isEmpty { return }
        precondition(tunnel.quotas.count <= Quota.countMax)
        buffer.append(UInt8(tunnel.isMoved ? 1 : 0))
        buffer.append(UInt8(tunnel.quotas.count))
        for quota in tunnel.quotas {
            buffer.append(quota.subject.key)
            for limit in [quota.limits.tunnels, quota.limits.endpoints, quota.limits.streams, quota.limits.requestRate] {
                buffer.append(limit ?? .max)
            }
        }
    }

    private static func encode(_ port: TokenPort, into buffer: inout ByteBuffer) {
        buffer.append(port.listener.rawValue)
        buffer.appendText(port.tenant, max: ControlLimits.tenantBytesMax)
    }

    private static func encode(_ port: TokenPort, _ kind: TokenKeyKind, _ key: [UInt8], into buffer: inout ByteBuffer) {
        precondition(key.count <= ControlLimits.tokenKeyBytesMax)
        encode(port, into: &buffer)
        buffer.append(kind.rawValue)
        buffer.append(UInt32(key.count))
        buffer.append(key.span)
    }

    private static func encode(_ clients: [PeerAddress], into buffer: inout ByteBuffer) {
        precondition(clients.count <= ControlLimits.clientsMax)
        buffer.append(UInt16(clients.count))
        for peer in clients { encode(peer, into: &buffer) }
    }

    // Swift 6.3.1 crashes when the span of a bound value is taken within a large switch; so these stand apart.
    private static func encode(_ peer: PeerAddress, into buffer: inout ByteBuffer) { buffer.append(peer.bytes.span) }
    private static func encode(_ bytes: [UInt8], into buffer: inout ByteBuffer) { buffer.append(bytes.span) }

    /// What is about other nodes.
    private func encodeOfNodes(into buffer: inout ByteBuffer) {
        switch self {
        case .node(let id, let status, let proxy):
            buffer.append(status.rawValue)
            buffer.append(proxy.bytes.span)
            buffer.appendText(id, max: ControlLimits.nodeBytesMax)
        case .nodeGone(let id):
            buffer.appendText(id, max: ControlLimits.nodeBytesMax)
        case .dialed(let request):
            buffer.append(request)
        case .dialFailed(let request, let code):
            buffer.append(request)
            buffer.append(code)
        case .dial(let request, let node), .dialAdmin(let request, let node):
            buffer.append(request)
            buffer.appendText(node, max: ControlLimits.nodeBytesMax)
        case .shed(let count):
            buffer.append(count)
        case .reportPage(let request, let status, let bytes, _):
            precondition(bytes.count <= ControlLimits.reportBytesMax)
            buffer.append(request)
            buffer.append(status)
            buffer.append(UInt32(bytes.count))
            buffer.append(bytes.span)
        case .inquiryPage(let request, let bytes, _):
            precondition(bytes.count <= ControlLimits.reportBytesMax)
            buffer.append(request)
            buffer.append(UInt32(bytes.count))
            buffer.append(bytes.span)
        case .reportRequest(let request, let path), .inquire(let request, let path):
            buffer.append(request)
            buffer.appendText(path, max: ControlLimits.reportPathBytesMax)
        default: preconditionFailure("not about other nodes")
        }
    }

    private static func encode(_ remote: [RemoteEntry], into buffer: inout ByteBuffer) {
        precondition(remote.count <= ControlLimits.remotesMax)
        buffer.append(UInt16(remote.count))
        for entry in remote {
            buffer.append(entry.listeners)
            buffer.appendText(entry.node, max: ControlLimits.nodeBytesMax)
        }
    }

    private func encode(_ setup: WorkerSetup, into buffer: inout ByteBuffer) {
        precondition(setup.settings.count <= ControlLimits.settingsMax)
        buffer.append(setup.index)
        buffer.append(setup.generation)
        buffer.append(setup.worker)
        buffer.append(setup.slab)
        buffer.append(setup.nodeStart)
        precondition(setup.directKey.count == ControlLimits.keyBytes)
        buffer.append(setup.directKey.span)
        buffer.appendText(setup.nodeID, max: ControlLimits.nodeBytesMax)
        precondition(setup.clusterKeys.count <= ControlLimits.clusterKeysMax)
        buffer.append(UInt8(setup.clusterKeys.count))
        for key in setup.clusterKeys {
            precondition(!key.isEmpty && key.count <= ControlLimits.clusterKeyBytesMax)
            buffer.append(UInt16(key.count))
            buffer.append(key.span)
        }
        buffer.append(UInt16(setup.settings.count))
        for setting in setup.settings {
            buffer.appendText(setting.key, max: ControlLimits.keyBytesMax)
            let value = setting.value.utf8Span
            precondition(value.count <= ControlLimits.valueBytesMax)
            buffer.append(UInt32(value.count))
            buffer.append(value.span)
        }
    }
}

extension ByteBuffer {
    fileprivate mutating func append(_ number: UInt16) { appendLittleEndian(UInt64(number), bytes: 2) }
    fileprivate mutating func append(_ number: UInt32) { appendLittleEndian(UInt64(number), bytes: 4) }
    fileprivate mutating func append(_ number: UInt64) { appendLittleEndian(number, bytes: 8) }

    private mutating func appendLittleEndian(_ number: UInt64, bytes: Int) {
        for index in 0..<bytes { append(UInt8(truncatingIfNeeded: number >> (8 * UInt64(index)))) }
    }

    /// Length as u16, then the UTF-8 bytes.
    fileprivate mutating func appendText(_ text: String, max: Int) {
        let utf8 = text.utf8Span
        precondition(utf8.count <= max, "control text over its limit")
        append(UInt16(utf8.count))
        append(utf8.span)
    }
}
