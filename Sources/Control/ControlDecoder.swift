// Bytes to control messages.
//
// Why so strict towards our own processes: a worker parses what strangers send. Whoever takes one over must not get
// further through the supervisor's decoder, so it bounds everything and trusts no count.

import Base
internal import Memory

extension ControlMessage {
    /// Reads one whole message that `sender` sent. Every byte must belong to it.
    public static func decode(_ bytes: Span<UInt8>, from sender: ControlParty) throws(ControlError) -> ControlMessage {
        guard bytes.count <= ControlLimits.messageBytesMax else { throw .oversized }
        var cursor = Cursor()
        let rawType = try cursor.u16(bytes)
        let flags = try cursor.u16(bytes)
        let length = Int(try cursor.u32(bytes))
        guard length <= ControlLimits.messageBytesMax - ControlLimits.headerBytes else { throw .oversized }
        guard bytes.count >= ControlLimits.headerBytes + length else { throw .truncated }
        guard bytes.count == ControlLimits.headerBytes + length else { throw .trailingBytes }
        guard let type = ControlType(rawValue: rawType) else { throw .unknownType(rawType) }
        guard type.maySend(sender) else { throw .unexpectedType(rawType) }
        let allowedFlags: UInt16 =
            switch type {
            case .statusPage, .reportPage, .inquiryPage: flagLast
            case .move: flagInMemory
            case .moveData: flagUsed
            default: 0
            }
        guard flags & ~allowedFlags == 0 else { throw .invalidValue }
        let message =
            rawType < 64
            ? try fromSupervisor(type, flags: flags, bytes, &cursor)
            : try fromWorker(type, flags: flags, bytes, &cursor)
        guard cursor.offset == bytes.count else { throw .trailingBytes }
        return message
    }

    private static func fromSupervisor(
        _ type: ControlType, flags: UInt16, _ bytes: Span<UInt8>, _ cursor: inout Cursor
    ) throws(ControlError) -> ControlMessage {
        switch type {
        case .hello:
            let version = try cursor.u32(bytes)
            return .hello(protocolVersion: version, binaryVersion: try cursor.text(bytes, max: ControlLimits.versionBytesMax))
        case .configure: return .configure(try setup(bytes, &cursor))
        case .accepted: return try accepted(bytes, &cursor)
        case .sibling:
            return .sibling(
                worker: try cursor.u32(bytes), generation: try cursor.u32(bytes), protocolVersion: try cursor.u32(bytes))
        case .siblingGone: return .siblingGone(worker: try cursor.u32(bytes))
        case .routes: return try routes(bytes, &cursor)
        case .routeChanged:
            let version = try cursor.u64(bytes)
            return .routeChanged(endpoint: try cursor.endpoint(bytes), version: version)
        case .registered: return .registered(tunnel: try cursor.u64(bytes))
        case .refused:
            let tunnel = try cursor.u64(bytes)
            // A supervisor of before there were quotas, to which a node was taken back, says no more.
            if cursor.offset == bytes.count { return .refused(tunnel: tunnel) }
            guard let reason = TunnelRefusal(rawValue: try cursor.u8(bytes)) else { throw .invalidValue }
            return .refused(tunnel: tunnel, reason: reason)
        case .statusPage: return try statusPage(last: flags & flagLast != 0, bytes, &cursor)
        case .ready: return .ready(try cursor.truth(bytes))
        case .retire: return .retire(milliseconds: try cursor.u64(bytes))
        case .siblingRetires: return .siblingRetires(worker: try cursor.u32(bytes))
        case .admitTunnels: return .admitTunnels(try cursor.truth(bytes))
        case .ping: return .ping(try cursor.u64(bytes))
        case .node:
            guard let status = NodeStatus(rawValue: try cursor.u8(bytes)) else { throw .invalidValue }
            let proxy = try cursor.peer(bytes)
            return .node(id: try cursor.node(bytes), status: status, proxy: proxy)
        case .nodeGone: return .nodeGone(id: try cursor.node(bytes))
        case .dialed: return .dialed(request: try cursor.u64(bytes))
        case .dialFailed:
            let request = try cursor.u64(bytes)
            return .dialFailed(request: request, code: try cursor.u32(bytes))
        case .shed: return .shed(count: try cursor.u32(bytes))
        case .reportPage:
            let request = try cursor.u64(bytes)
            let status = try cursor.u16(bytes)
            let length = Int(try cursor.u32(bytes))
            guard length <= ControlLimits.reportBytesMax else { throw .oversized }
            let page = try cursor.array(bytes, count: length)
            return .reportPage(request: request, status: status, bytes: page, last: flags & flagLast != 0)
        case .inquire:
            let request = try cursor.u64(bytes)
            return .inquire(request: request, path: try cursor.text(bytes, max: ControlLimits.reportPathBytesMax))
        case .tokenKeys: return try tokenKeys(bytes, &cursor)
        case .drain: return .drain(milliseconds: try cursor.u64(bytes))
        case .credentials: return .credentials(bytes: try cursor.u64(bytes))
        case .shutdown: return .shutdown
        case .workerReady, .register, .release, .inquiryPage, .unregister, .lookup, .statusRequest, .drained, .pong, .dial, .dialAdmin, .reportRequest,
            .keyMissing, .clients, .move, .moveData, .agentLeft, .moveStreams, .moveSession, .sessionTaken, .noMore:
            throw .unexpectedType(type.rawValue)
        }
    }

    private static func tokenKeys(_ bytes: Span<UInt8>, _ cursor: inout Cursor) throws(ControlError) -> ControlMessage {
        let port = try cursor.tokenPort(bytes)
        guard let kind = TokenKeyKind(rawValue: try cursor.u8(bytes)) else { throw .invalidValue }
        let length = Int(try cursor.u32(bytes))
        guard length <= ControlLimits.tokenKeyBytesMax else { throw .oversized }
        return .tokenKeys(port: port, kind: kind, bytes: try cursor.array(bytes, count: length))
    }

    private static func clients(_ bytes: Span<UInt8>, _ cursor: inout Cursor) throws(ControlError) -> ControlMessage {
        let listener = try cursor.listener(bytes)
        let came = try peers(bytes, &cursor)
        let went = try peers(bytes, &cursor)
        return .clients(listener: listener, came: came, went: went)
    }

    private static func peers(_ bytes: Span<UInt8>, _ cursor: inout Cursor) throws(ControlError) -> [PeerAddress] {
        let count = Int(try cursor.u16(bytes))
        guard count <= ControlLimits.clientsMax else { throw .oversized }
        var list: [PeerAddress] = []
        for _ in 0..<count { list.append(try cursor.peer(bytes)) }
        return list
    }

    private static func fromWorker(
        _ type: ControlType, flags: UInt16, _ bytes: Span<UInt8>, _ cursor: inout Cursor
    ) throws(ControlError) -> ControlMessage {
        switch type {
        case .workerReady: return .workerReady
        case .register:
            let tunnel = try cursor.u64(bytes)
            guard let kind = TunnelKind(rawValue: try cursor.u8(bytes)) else { throw .invalidValue }
            let endpoint = try cursor.endpoint(bytes)
            return .register(tunnel: tunnel, endpoint: endpoint, kind: kind, quotas: try quotas(bytes, &cursor))
        case .release: return .release(tunnel: try cursor.u64(bytes))
        case .unregister:
            let tunnel = try cursor.u64(bytes)
            return .unregister(tunnel: tunnel, endpoint: try cursor.endpoint(bytes))
        case .lookup: return .lookup(endpoint: try cursor.endpoint(bytes))
        case .statusRequest:
            let request = try cursor.u64(bytes)
            return .statusRequest(request: request, kind: try cursor.statusKind(bytes))
        case .drained: return .drained
        case .pong: return .pong(try cursor.u64(bytes))
        case .dial:
            let request = try cursor.u64(bytes)
            return .dial(request: request, node: try cursor.node(bytes))
        case .dialAdmin:
            let request = try cursor.u64(bytes)
            return .dialAdmin(request: request, node: try cursor.node(bytes))
        case .keyMissing: return .keyMissing(port: try cursor.tokenPort(bytes))
        case .reportRequest:
            let request = try cursor.u64(bytes)
            return .reportRequest(request: request, path: try cursor.text(bytes, max: ControlLimits.reportPathBytesMax))
        case .inquiryPage:
            let request = try cursor.u64(bytes)
            let length = Int(try cursor.u32(bytes))
            guard length <= ControlLimits.reportBytesMax else { throw .oversized }
            return .inquiryPage(request: request, bytes: try cursor.array(bytes, count: length), last: flags & flagLast != 0)
        case .clients: return try clients(bytes, &cursor)
        case .move: return try move(inMemory: flags & flagInMemory != 0, bytes, &cursor)
        case .moveData:
            let agent = try cursor.array(bytes, count: ControlLimits.agentBytes)
            return .moveData(endpoint: try cursor.endpoint(bytes), agent: agent, isUsed: flags & flagUsed != 0)
        case .agentLeft:
            let agent = try cursor.array(bytes, count: ControlLimits.agentBytes)
            return .agentLeft(endpoint: try cursor.endpoint(bytes), agent: agent)
        case .moveStreams:
            let handover = try cursor.u64(bytes)
            let count = try cursor.u8(bytes)
            guard (1...UInt8(ControlLimits.descriptorsMax)).contains(count) else { throw .invalidValue }
            return .moveStreams(handover: handover, count: count)
        case .moveSession:
            let handover = try cursor.u64(bytes)
            let stateBytes = try cursor.u64(bytes)
            return .moveSession(handover: handover, endpoint: try cursor.endpoint(bytes), stateBytes: stateBytes)
        case .sessionTaken:
            let handover = try cursor.u64(bytes)
            return .sessionTaken(handover: handover, isTaken: try cursor.truth(bytes))
        case .noMore: return .noMore
        case .hello, .configure, .accepted, .sibling, .siblingGone, .routes, .routeChanged, .registered, .refused,
            .statusPage, .ready, .drain, .shutdown, .retire, .siblingRetires, .admitTunnels, .ping, .node,
            .nodeGone, .dialed, .dialFailed, .shed, .reportPage, .credentials, .tokenKeys, .inquire:
            throw .unexpectedType(type.rawValue)
        }
    }

    private static func quotas(_ bytes: Span<UInt8>, _ cursor: inout Cursor) throws(ControlError) -> TunnelQuotas {
        if cursor.offset == bytes.count { return TunnelQuotas() }
        let isMoved = try cursor.truth(bytes)
        let count = Int(try cursor.u8(bytes))
        guard count >= 1 else { throw .invalidValue }
        guard count <= Quota.countMax else { throw .oversized }
        var list: [Quota] = []
        for _ in 0..<count {
            guard let subject = QuotaSubject(key: try cursor.u64(bytes)) else { throw .invalidValue }
            let limits = QuotaLimits(
                tunnels: try cursor.limit(bytes), endpoints: try cursor.limit(bytes), streams: try cursor.limit(bytes),
                requestRate: try cursor.limit(bytes))
            list.append(Quota(subject: subject, limits: limits))
        }
        return TunnelQuotas(list, isMoved: isMoved)
    }

    private static func setup(_ bytes: Span<UInt8>, _ cursor: inout Cursor) throws(ControlError) -> WorkerSetup {
        var setup = WorkerSetup(
            index: try cursor.u32(bytes), generation: try cursor.u32(bytes), worker: try cursor.u32(bytes), slab: try cursor.u32(bytes),
            nodeStart: try cursor.u64(bytes), directKey: try cursor.array(bytes, count: ControlLimits.keyBytes),
            nodeID: try cursor.text(bytes, max: ControlLimits.nodeBytesMax), settings: [])
        let keys = Int(try cursor.u8(bytes))
        guard keys <= ControlLimits.clusterKeysMax else { throw .oversized }
        for _ in 0..<keys {
            let length = Int(try cursor.u16(bytes))
            guard length <= ControlLimits.clusterKeyBytesMax else { throw .oversized }
            guard length > 0 else { throw .invalidValue }
            setup.clusterKeys.append(try cursor.array(bytes, count: length))
        }
        let count = Int(try cursor.u16(bytes))
        guard count <= ControlLimits.settingsMax else { throw .oversized }
        setup.settings.reserveCapacity(count)
        for _ in 0..<count {
            let key = try cursor.text(bytes, max: ControlLimits.keyBytesMax)
            let length = Int(try cursor.u32(bytes))
            guard length <= ControlLimits.valueBytesMax else { throw .oversized }
            setup.settings.append(Setting(key: key, value: try cursor.text(bytes, length: length)))
        }
        return setup
    }

    private static func accepted(_ bytes: Span<UInt8>, _ cursor: inout Cursor) throws(ControlError) -> ControlMessage {
        let listener = try cursor.listener(bytes)
        let count = Int(try cursor.u8(bytes))
        guard count >= 1 else { throw .invalidValue }
        guard count <= ControlLimits.descriptorsMax else { throw .oversized }
        let acceptedAt = Instant(nanoseconds: try cursor.u64(bytes))
        var peers: [PeerAddress] = []
        peers.reserveCapacity(count)
        for _ in 0..<count { peers.append(try cursor.peer(bytes)) }
        return .accepted(listener: listener, acceptedAt: acceptedAt, peers: peers)
    }

    private static func routes(_ bytes: Span<UInt8>, _ cursor: inout Cursor) throws(ControlError) -> ControlMessage {
        let version = try cursor.u64(bytes)
        let lost = try cursor.u32(bytes)
        let endpoint = try cursor.endpoint(bytes)
        let count = Int(try cursor.u16(bytes))
        guard count <= ControlLimits.routesMax else { throw .oversized }
        var entries: [RouteEntry] = []
        entries.reserveCapacity(count)
        for _ in 0..<count {
            let worker = try cursor.u32(bytes)
            let tunnels = try cursor.u32(bytes)
            let direct = try cursor.u32(bytes)
            let hasData = try cursor.truth(bytes)
            guard direct <= tunnels else { throw .invalidValue }
            entries.append(RouteEntry(worker: worker, tunnels: tunnels, directTunnels: direct, hasData: hasData))
        }
        // A supervisor of version 3, to which a node was taken back, knows no other nodes.
        let remote = cursor.offset == bytes.count ? [] : try remotes(bytes, &cursor)
        return .routes(endpoint: endpoint, version: version, lostFor: lost == .max ? nil : lost, entries: entries, remote: remote)
    }

    private static func remotes(_ bytes: Span<UInt8>, _ cursor: inout Cursor) throws(ControlError) -> [RemoteEntry] {
        let count = Int(try cursor.u16(bytes))
        guard count <= ControlLimits.remotesMax else { throw .oversized }
        var remote: [RemoteEntry] = []
        remote.reserveCapacity(count)
        for _ in 0..<count {
            let listeners = try cursor.u32(bytes)
            remote.append(RemoteEntry(node: try cursor.node(bytes), listeners: listeners))
        }
        return remote
    }

    private static func statusPage(
        last: Bool, _ bytes: Span<UInt8>, _ cursor: inout Cursor
    ) throws(ControlError) -> ControlMessage {
        let request = try cursor.u64(bytes)
        let kind = try cursor.statusKind(bytes)
        let count = Int(try cursor.u16(bytes))
        guard count <= ControlLimits.statusEntriesMax else { throw .oversized }
        var entries: [StatusEntry] = []
        entries.reserveCapacity(count)
        for _ in 0..<count {
            let value = try cursor.u64(bytes)
            entries.append(StatusEntry(name: try cursor.endpoint(bytes), value: value))
        }
        return .statusPage(request: request, kind: kind, entries: entries, last: last)
    }

    private static func move(
        inMemory: Bool, _ bytes: Span<UInt8>, _ cursor: inout Cursor
    ) throws(ControlError) -> ControlMessage {
        let listener = try cursor.listener(bytes)
        let moves = try cursor.u8(bytes)
        let client = try cursor.peer(bytes)
        let length = try cursor.u64(bytes)
        if inMemory {
            return .move(listener: listener, client: client, moves: moves, bytes: .inMemory(length))
        }
        guard length <= UInt64(ControlLimits.movedBytesMax) else { throw .oversized }
        return .move(
            listener: listener, client: client, moves: moves, bytes: .inline(try cursor.array(bytes, count: Int(length))))
    }
}

/// A place in a message. It never moves past the end.
private struct Cursor {
    private(set) var offset = 0

    /// The next `length` bytes.
    mutating func take(_ length: Int, of bytes: Span<UInt8>) throws(ControlError) -> Range<Int> {
        guard bytes.count - offset >= length else { throw .truncated }
        defer { offset += length }
        return offset..<(offset + length)
    }

    private mutating func number(_ bytes: Span<UInt8>, length: Int) throws(ControlError) -> UInt64 {
        var value: UInt64 = 0
        let range = try take(length, of: bytes)
        for index in range { value |= UInt64(bytes[index]) << (8 * UInt64(index - range.lowerBound)) }
        return value
    }

    mutating func array(_ bytes: Span<UInt8>, count: Int) throws(ControlError) -> [UInt8] {
        [UInt8](copying: bytes.extracting(try take(count, of: bytes)))
    }

    mutating func u8(_ bytes: Span<UInt8>) throws(ControlError) -> UInt8 {
        UInt8(truncatingIfNeeded: try number(bytes, length: 1))
    }

    mutating func truth(_ bytes: Span<UInt8>) throws(ControlError) -> Bool {
        let value = try u8(bytes)
        guard value <= 1 else { throw .invalidValue }
        return value == 1
    }

    mutating func u16(_ bytes: Span<UInt8>) throws(ControlError) -> UInt16 {
        UInt16(truncatingIfNeeded: try number(bytes, length: 2))
    }

    mutating func u32(_ bytes: Span<UInt8>) throws(ControlError) -> UInt32 {
        UInt32(truncatingIfNeeded: try number(bytes, length: 4))
    }

    /// A number, or all ones for none.
    mutating func limit(_ bytes: Span<UInt8>) throws(ControlError) -> UInt32? {
        let value = try u32(bytes)
        return value == .max ? nil : value
    }

    mutating func u64(_ bytes: Span<UInt8>) throws(ControlError) -> UInt64 {
        try number(bytes, length: 8)
    }

    mutating func text(_ bytes: Span<UInt8>, max: Int) throws(ControlError) -> String {
        let length = Int(try u16(bytes))
        guard length <= max else { throw .oversized }
        return try text(bytes, length: length)
    }

    mutating func text(_ bytes: Span<UInt8>, length: Int) throws(ControlError) -> String {
        let range = try take(length, of: bytes)
        do {
            return String(copying: try UTF8Span(validating: bytes.extracting(range)))
        } catch {
            throw .invalidText
        }
    }

    /// An endpoint's name: never empty.
    mutating func endpoint(_ bytes: Span<UInt8>) throws(ControlError) -> String {
        let name = try text(bytes, max: ControlLimits.endpointBytesMax)
        guard !name.isEmpty else { throw .invalidValue }
        return name
    }

    /// A node's identifier: never empty.
    mutating func node(_ bytes: Span<UInt8>) throws(ControlError) -> String {
        let id = try text(bytes, max: ControlLimits.nodeBytesMax)
        guard !id.isEmpty else { throw .invalidValue }
        return id
    }

    mutating func listener(_ bytes: Span<UInt8>) throws(ControlError) -> ListenerKind {
        guard let kind = ListenerKind(rawValue: try u8(bytes)) else { throw .invalidValue }
        return kind
    }

    mutating func tokenPort(_ bytes: Span<UInt8>) throws(ControlError) -> TokenPort {
        TokenPort(try listener(bytes), tenant: try text(bytes, max: ControlLimits.tenantBytesMax))
    }

    mutating func statusKind(_ bytes: Span<UInt8>) throws(ControlError) -> StatusKind {
        guard let kind = StatusKind(rawValue: try u8(bytes)) else { throw .invalidValue }
        return kind
    }

    mutating func peer(_ bytes: Span<UInt8>) throws(ControlError) -> PeerAddress {
        let range = try take(PeerAddress.encodedBytes, of: bytes)
        guard let peer = PeerAddress(encoded: bytes.extracting(range)) else { throw .invalidValue }
        return peer
    }
}
