// Control messages to bytes and back. docs/protocol-control.md is the specification; Tests/Golden/control holds recorded
// bytes of each message.
//
// Why so strict towards our own processes: a worker parses what strangers send. Whoever takes one over must not get
// further through the supervisor's decoder, so it bounds everything and trusts no count.

import Base
public import Memory

/// Every bound of the protocol.
public enum ControlLimits {
    /// The protocol's version; both ends of a connection speak the same.
    public static let protocolVersion: UInt32 = 3
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
    public static let settingsMax = 512
    /// Bytes of a setting's key.
    public static let keyBytesMax = 256
    /// Bytes of a setting's value.
    public static let valueBytesMax = 65_536
    /// Workers in a `routes` answer.
    public static let routesMax = 1_024
    /// Entries of one status page.
    public static let statusEntriesMax = 256
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
    case workerReady = 64
    case register = 65
    case unregister = 66
    case lookup = 67
    case statusRequest = 68
    case drained = 69
    case pong = 70
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

/// Flag of `statusPage`: no page follows.
private let flagLast: UInt16 = 1
/// Flag of `move`: the bytes are in the second descriptor.
private let flagInMemory: UInt16 = 1
/// Flag of `moveData`: the connection was used.
private let flagUsed: UInt16 = 1

// MARK: - Encoding

extension ControlMessage {
    /// Appends the message's bytes. Traps when a limit is exceeded: senders check what comes from outside before.
    public func encode(into buffer: inout ByteBuffer) {
        let start = buffer.count
        buffer.append(type.rawValue)
        buffer.append(flags)
        buffer.append(UInt32(0))
        encodeBody(into: &buffer)
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
        case .workerReady: .workerReady
        case .register: .register
        case .unregister: .unregister
        case .lookup: .lookup
        case .statusRequest: .statusRequest
        case .drained: .drained
        case .pong: .pong
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
        case .statusPage(_, _, _, let last): last ? flagLast : 0
        case .move(_, _, _, .inMemory): flagInMemory
        case .moveData(_, _, let isUsed): isUsed ? flagUsed : 0
        default: 0
        }
    }

    private func encodeBody(into buffer: inout ByteBuffer) {
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
            for peer in peers { buffer.append(peer.bytes.span) }
        case .sibling(let worker, let generation, let protocolVersion):
            buffer.append(worker)
            buffer.append(generation)
            buffer.append(protocolVersion)
        case .siblingGone(let worker), .siblingRetires(let worker):
            buffer.append(worker)
        case .routes(let endpoint, let version, let lostFor, let entries):
            precondition(entries.count <= ControlLimits.routesMax)
            buffer.append(version)
            buffer.append(lostFor ?? .max)
            buffer.appendText(endpoint, max: ControlLimits.endpointBytesMax)
            buffer.append(UInt16(entries.count))
            for entry in entries {
                buffer.append(entry.worker)
                buffer.append(entry.tunnels)
                buffer.append(entry.directTunnels)
                buffer.append(UInt8(entry.hasData ? 1 : 0))
            }
        case .routeChanged(let endpoint, let version):
            buffer.append(version)
            buffer.appendText(endpoint, max: ControlLimits.endpointBytesMax)
        case .registered(let tunnel), .refused(let tunnel):
            buffer.append(tunnel)
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
        case .drain(let number), .retire(let number), .ping(let number), .pong(let number):
            buffer.append(number)
        case .register(let tunnel, let endpoint, let kind):
            buffer.append(tunnel)
            buffer.append(kind.rawValue)
            buffer.appendText(endpoint, max: ControlLimits.endpointBytesMax)
        case .moveData(let endpoint, let agent, _), .agentLeft(let endpoint, let agent):
            precondition(agent.count == ControlLimits.agentBytes)
            buffer.append(agent.span)
            buffer.appendText(endpoint, max: ControlLimits.endpointBytesMax)
        case .unregister(let tunnel, let endpoint):
            buffer.append(tunnel)
            buffer.appendText(endpoint, max: ControlLimits.endpointBytesMax)
        case .lookup(let endpoint):
            buffer.appendText(endpoint, max: ControlLimits.endpointBytesMax)
        case .statusRequest(let request, let kind):
            buffer.append(request)
            buffer.append(kind.rawValue)
        case .move(let listener, let client, let moves, let moved):
            buffer.append(listener.rawValue)
            buffer.append(moves)
            buffer.append(client.bytes.span)
            switch moved {
            case .inline(let bytes):
                precondition(bytes.count <= ControlLimits.movedBytesMax)
                buffer.append(UInt64(bytes.count))
                buffer.append(bytes.span)
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

    private func encode(_ setup: WorkerSetup, into buffer: inout ByteBuffer) {
        precondition(setup.settings.count <= ControlLimits.settingsMax)
        buffer.append(setup.index)
        buffer.append(setup.generation)
        buffer.append(setup.worker)
        buffer.append(setup.slab)
        buffer.append(setup.nodeStart)
        precondition(setup.directKey.count == ControlLimits.keyBytes)
        buffer.append(setup.directKey.span)
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

// MARK: - Decoding

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
            case .statusPage: flagLast
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
        case .refused: return .refused(tunnel: try cursor.u64(bytes))
        case .statusPage: return try statusPage(last: flags & flagLast != 0, bytes, &cursor)
        case .ready: return .ready(try cursor.truth(bytes))
        case .retire: return .retire(milliseconds: try cursor.u64(bytes))
        case .siblingRetires: return .siblingRetires(worker: try cursor.u32(bytes))
        case .admitTunnels: return .admitTunnels(try cursor.truth(bytes))
        case .ping: return .ping(try cursor.u64(bytes))
        case .drain: return .drain(milliseconds: try cursor.u64(bytes))
        case .shutdown: return .shutdown
        case .workerReady, .register, .unregister, .lookup, .statusRequest, .drained, .pong, .move, .moveData, .agentLeft,
            .moveStreams, .moveSession, .sessionTaken, .noMore:
            throw .unexpectedType(type.rawValue)
        }
    }

    private static func fromWorker(
        _ type: ControlType, flags: UInt16, _ bytes: Span<UInt8>, _ cursor: inout Cursor
    ) throws(ControlError) -> ControlMessage {
        switch type {
        case .workerReady: return .workerReady
        case .register:
            let tunnel = try cursor.u64(bytes)
            guard let kind = TunnelKind(rawValue: try cursor.u8(bytes)) else { throw .invalidValue }
            return .register(tunnel: tunnel, endpoint: try cursor.endpoint(bytes), kind: kind)
        case .unregister:
            let tunnel = try cursor.u64(bytes)
            return .unregister(tunnel: tunnel, endpoint: try cursor.endpoint(bytes))
        case .lookup: return .lookup(endpoint: try cursor.endpoint(bytes))
        case .statusRequest:
            let request = try cursor.u64(bytes)
            return .statusRequest(request: request, kind: try cursor.statusKind(bytes))
        case .drained: return .drained
        case .pong: return .pong(try cursor.u64(bytes))
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
            .statusPage, .ready, .drain, .shutdown, .retire, .siblingRetires, .admitTunnels, .ping:
            throw .unexpectedType(type.rawValue)
        }
    }

    private static func setup(_ bytes: Span<UInt8>, _ cursor: inout Cursor) throws(ControlError) -> WorkerSetup {
        var setup = WorkerSetup(
            index: try cursor.u32(bytes), generation: try cursor.u32(bytes), worker: try cursor.u32(bytes), slab: try cursor.u32(bytes),
            nodeStart: try cursor.u64(bytes), directKey: try cursor.array(bytes, count: ControlLimits.keyBytes), settings: [])
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
        return .routes(endpoint: endpoint, version: version, lostFor: lost == .max ? nil : lost, entries: entries)
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

    mutating func listener(_ bytes: Span<UInt8>) throws(ControlError) -> ListenerKind {
        guard let kind = ListenerKind(rawValue: try u8(bytes)) else { throw .invalidValue }
        return kind
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
