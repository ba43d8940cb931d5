// The state of a node on its way from one program to the next: what an upgrade hands over, in a memory file.
//
// Layout: 8 bytes of magic, a 4-byte version, a 4-byte length, so many bytes of JSON; then each registered tunnel as a worker's
// number (4 bytes), a length (2 bytes) and the control message `register`; then each message that waits for a worker as its number
// (4 bytes), a length (4 bytes) and the message. Numbers are little-endian. A program that does
// not know the version does not take over. The quotas that tunnels draw from are in `register` only when the memory of the quotas comes
// along, which tells that the next program knows them. What is added later is optional, so that the program before can take it back.
//
// Descriptors are in it by their numbers: they stay open through the exec.

import Base
import Config
import Control
import Memory
import Reactor
import Telemetry

/// Why a state can't be taken over.
struct StateError: Error, Equatable, CustomStringConvertible {
    var description: String
    init(_ description: String) { self.description = description }
}

/// What a node hands over.
struct TakenState {
    static let magic: UInt64 = 0x3154_5453_4f4b_4950  // "PIKOSTT1"
    static let version: UInt32 = 1

    /// A worker that lives.
    struct Worker: Equatable {
        var worker: UInt32
        var generation: UInt32
        var place: Int
        var slab: Int
        var pid: Int32
        var link: Int32
        var protocolVersion: UInt32
        var passed: UInt64
        var pinged: UInt64
        var held: [[UInt8]]
        /// Whether it was told to end, or to finish within a time.
        var isLeaving = false
        var isCut = false
        /// Whether its siblings were told to send it nothing more.
        var isParting = false
        /// Whether it said that nothing is left, to a program that did nothing about it any more.
        var hasDrained = false
    }

    /// A socket of one of the node's ports; with a peer: a connection that waits for a worker.
    struct Socket: Equatable {
        var kind: ListenerKind
        var descriptor: Int32
        var peer: [UInt8] = []
    }

    /// The node as a member of its cluster: the sockets of the gossip port, and a memory file with the gossip core's state.
    struct Cluster: Equatable {
        var nodeID: String
        var datagrams: Int32
        var listener: Int32
        var snapshot: Int32
        var hasJoined: Bool
        var isDraining: Bool

        var descriptors: [Int32] { [datagrams, listener, snapshot] }
    }

    /// A program that can be executed.
    struct Program: Equatable {
        var path: String
        var descriptor: Int32
    }

    var started: UInt64
    var directKey: [UInt8]
    var isOutOfUse: Bool
    var currentGeneration: UInt32
    var nextGeneration: UInt32
    var nextWorker: UInt32
    var routesVersion: UInt64
    /// The configuration in force.
    var settings: [(String, String)]
    var workers: [Worker] = []
    var listeners: [Socket] = []
    var waiting: [Socket] = []
    /// The control socket: its path and descriptor.
    var control: Program?
    var cluster: Cluster?
    /// Key sets that were fetched: URL and document.
    var keySets: [(url: String, bytes: [UInt8])] = []
    /// Larger ones are fetched anew.
    static let keySetBytesMax = 65_536
    /// Connections to the control socket that wait for the outcome.
    var askers: [Int32] = []
    var counters: Int32
    /// The memory of the quotas, for a program that knows them.
    var quotas: Int32?
    var tunnels: [RegisteredTunnel] = []
    /// Signals that came too late for the program that wrote it.
    var signals: [Int32] = []
    /// The supervisor and the worker program that the state comes from, to go back to.
    var supervisorProgram: Program
    var workerProgram: Program
    /// The worker program that the rehearsal tried; the next program's own.
    var nextWorkerProgram: Program?
    /// The version of the program that wrote it, for people.
    var writtenBy = BuildInfo.version

    /// The configuration in force, as far as this program understands it.
    var setup: GenerationSetup {
        let known = ServerConfig.understood(settings)
        return GenerationSetup((try? ServerConfig(flattened: known)) ?? ServerConfig())
    }

    /// Every descriptor that must stay open.
    var descriptors: [Int32] {
        workers.map(\.link) + listeners.map(\.descriptor) + waiting.map(\.descriptor) + askers
            + [counters, supervisorProgram.descriptor, workerProgram.descriptor] + (control.map { [$0.descriptor] } ?? [])
            + (quotas.map { [$0] } ?? []) + (cluster?.descriptors ?? []) + (nextWorkerProgram.map { [$0.descriptor] } ?? [])
    }

    /// The same with copies of all descriptors.
    func duplicated() throws(SystemError) -> TakenState {
        var copy = self
        var made: [Int32] = []
        func duplicate(_ descriptor: inout Int32) throws(SystemError) {
            do throws(SystemError) {
                descriptor = try FileContents.duplicate(descriptor).take()
                made.append(descriptor)
            } catch {
                for number in made { _ = OwnedDescriptor(number) }
                throw error
            }
        }
        for index in copy.workers.indices { try duplicate(&copy.workers[index].link) }
        for index in copy.listeners.indices { try duplicate(&copy.listeners[index].descriptor) }
        for index in copy.waiting.indices { try duplicate(&copy.waiting[index].descriptor) }
        for index in copy.askers.indices { try duplicate(&copy.askers[index]) }
        try duplicate(&copy.counters)
        if var quotas = copy.quotas {
            try duplicate(&quotas)
            copy.quotas = quotas
        }
        try duplicate(&copy.supervisorProgram.descriptor)
        try duplicate(&copy.workerProgram.descriptor)
        if var control = copy.control {
            try duplicate(&control.descriptor)
            copy.control = control
        }
        if var cluster = copy.cluster {
            try duplicate(&cluster.datagrams)
            try duplicate(&cluster.listener)
            try duplicate(&cluster.snapshot)
            copy.cluster = cluster
        }
        if var next = copy.nextWorkerProgram {
            try duplicate(&next.descriptor)
            copy.nextWorkerProgram = next
        }
        return copy
    }

    // MARK: Writing

    func write(into buffer: inout ByteBuffer) {
        var text = ByteBuffer()
        json.write(into: &text)
        Self.append(Self.magic, bytes: 8, to: &buffer)
        Self.append(UInt64(Self.version), bytes: 4, to: &buffer)
        Self.append(UInt64(text.count), bytes: 4, to: &buffer)
        buffer.append(text.span)
        var message = ByteBuffer()
        for tunnel in tunnels {
            message.removeAll()
            let drawn = TunnelQuotas(quotas == nil ? [] : tunnel.quotas)
            ControlMessage.register(tunnel: tunnel.tunnel, endpoint: tunnel.endpoint, kind: tunnel.kind, quotas: drawn).encode(into: &message)
            Self.append(UInt64(tunnel.worker), bytes: 4, to: &buffer)
            Self.append(UInt64(message.count), bytes: 2, to: &buffer)
            buffer.append(message.span)
        }
        for worker in workers {
            for bytes in worker.held {
                Self.append(UInt64(worker.worker), bytes: 4, to: &buffer)
                Self.append(UInt64(bytes.count), bytes: 4, to: &buffer)
                buffer.append(bytes.span)
            }
        }
    }

    private static func append(_ number: UInt64, bytes: Int, to buffer: inout ByteBuffer) {
        for index in 0..<bytes { buffer.append(UInt8(truncatingIfNeeded: number >> (8 * UInt64(index)))) }
    }

    private var json: JSONValue {
        func number(_ value: some BinaryInteger) -> JSONValue { .integer(Int64(truncatingIfNeeded: value)) }
        func hex(_ bytes: [UInt8]) -> JSONValue { .string(Hex.text(bytes)) }
        func program(_ program: Program) -> JSONValue {
            .object([JSONMember("path", .string(program.path)), JSONMember("descriptor", number(program.descriptor))])
        }
        func socket(_ socket: Socket) -> JSONValue {
            .object([
                JSONMember("kind", number(socket.kind.rawValue)), JSONMember("descriptor", number(socket.descriptor)),
                JSONMember("peer", hex(socket.peer)),
            ])
        }
        func worker(_ worker: Worker) -> JSONValue {
            .object([
                JSONMember("worker", number(worker.worker)), JSONMember("generation", number(worker.generation)),
                JSONMember("place", number(worker.place)), JSONMember("slab", number(worker.slab)),
                JSONMember("pid", number(worker.pid)), JSONMember("link", number(worker.link)),
                JSONMember("protocol", number(worker.protocolVersion)), JSONMember("passed", number(worker.passed)),
                JSONMember("pinged", number(worker.pinged)),
                JSONMember("leaving", .bool(worker.isLeaving)), JSONMember("cut", .bool(worker.isCut)),
                JSONMember("parting", .bool(worker.isParting)),
                JSONMember("drained", .bool(worker.hasDrained)),
            ])
        }
        var members = [
            JSONMember("written_by", .string(writtenBy)), JSONMember("started", number(started)),
            JSONMember("direct_key", hex(directKey)), JSONMember("out_of_use", .bool(isOutOfUse)),
            JSONMember("current_generation", number(currentGeneration)), JSONMember("next_generation", number(nextGeneration)),
            JSONMember("next_worker", number(nextWorker)), JSONMember("routes_version", number(routesVersion)),
            JSONMember("settings", .array(settings.map { .array([.string($0.0), .string($0.1)]) })),
            JSONMember("workers", .array(workers.map(worker))), JSONMember("listeners", .array(listeners.map(socket))),
            JSONMember("waiting", .array(waiting.map(socket))), JSONMember("askers", .array(askers.map { number($0) })),
            JSONMember("counters", number(counters)), JSONMember("supervisor_program", program(supervisorProgram)),
            JSONMember("worker_program", program(workerProgram)), JSONMember("tunnels", number(tunnels.count)),
        ]
        if let quotas { members.append(JSONMember("quotas", number(quotas))) }
        if let nextWorkerProgram { members.append(JSONMember("next_worker_program", program(nextWorkerProgram))) }
        if !signals.isEmpty { members.append(JSONMember("signals", .array(signals.map { number($0) }))) }
        if !keySets.isEmpty {
            let sets = keySets.map { set in
                JSONValue.object([
                    JSONMember("url", .string(set.url)), JSONMember("text", .string(String(decoding: set.bytes, as: UTF8.self))),
                ])
            }
            members.append(JSONMember("key_sets", .array(sets)))
        }
        if let control { members.append(JSONMember("control", program(control))) }
        if let cluster {
            members.append(
                JSONMember(
                    "cluster",
                    .object([
                        JSONMember("node_id", .string(cluster.nodeID)), JSONMember("datagrams", number(cluster.datagrams)),
                        JSONMember("listener", number(cluster.listener)), JSONMember("snapshot", number(cluster.snapshot)),
                        JSONMember("joined", .bool(cluster.hasJoined)), JSONMember("draining", .bool(cluster.isDraining)),
                    ])))
        }
        return .object(members)
    }

    // MARK: Reading

    init(reading bytes: Span<UInt8>) throws(StateError) {
        func number(at offset: Int, bytes count: Int) throws(StateError) -> UInt64 {
            guard offset + count <= bytes.count else { throw StateError("the state is cut") }
            var value: UInt64 = 0
            for index in 0..<count { value |= UInt64(bytes[offset + index]) << (8 * UInt64(index)) }
            return value
        }
        guard try number(at: 0, bytes: 8) == Self.magic else { throw StateError("this is no state of a node") }
        let version = try number(at: 8, bytes: 4)
        guard version == Self.version else {
            throw StateError("the state is of version \(version), this program knows \(Self.version)")
        }
        let length = Int(try number(at: 12, bytes: 4))
        guard 16 + length <= bytes.count else { throw StateError("the state is cut") }
        let json: JSONValue
        do throws(JSONError) {
            json = try JSONValue.parse(bytes.extracting(16..<16 + length))
        } catch {
            throw StateError("the state is not JSON: \(error.reason) at byte \(error.offset)")
        }
        try self.init(json)
        var offset = 16 + length
        for _ in 0..<(try Fields(json).number("tunnels") as UInt32) {
            let worker = UInt32(try number(at: offset, bytes: 4))
            let size = Int(try number(at: offset + 4, bytes: 2))
            guard offset + 6 + size <= bytes.count,
                case .register(let tunnel, let endpoint, let kind, let drawn)? =
                    try? ControlMessage.decode(bytes.extracting(offset + 6..<offset + 6 + size), from: .worker)
            else { throw StateError("the state's tunnels are broken") }
            tunnels.append(RegisteredTunnel(worker: worker, tunnel: tunnel, endpoint: endpoint, kind: kind, quotas: drawn.quotas))
            offset += 6 + size
        }
        while offset < bytes.count {
            let worker = UInt32(try number(at: offset, bytes: 4))
            let size = Int(try number(at: offset + 4, bytes: 4))
            guard offset + 8 + size <= bytes.count, let index = workers.firstIndex(where: { $0.worker == worker })
            else { throw StateError("the state's messages are broken") }
            workers[index].held.append([UInt8](copying: bytes.extracting(offset + 8..<offset + 8 + size)))
            offset += 8 + size
        }
    }

    private init(_ json: JSONValue) throws(StateError) {
        let fields = Fields(json)
        writtenBy = try fields.text("written_by")
        started = UInt64(bitPattern: try fields.integer("started"))
        directKey = try fields.hex("direct_key")
        isOutOfUse = json["out_of_use"] == .bool(true)
        currentGeneration = try fields.number("current_generation")
        nextGeneration = try fields.number("next_generation")
        nextWorker = try fields.number("next_worker")
        routesVersion = UInt64(bitPattern: try fields.integer("routes_version"))
        counters = try fields.number("counters")
        if json["quotas"] != nil { quotas = try fields.number("quotas") }
        settings = []
        for pair in try fields.list("settings") {
            guard let elements = pair.array, elements.count == 2, let key = elements[0].string, let value = elements[1].string
            else { throw StateError("the state's settings are broken") }
            settings.append((key, value))
        }
        supervisorProgram = try Self.program(try fields.object("supervisor_program"))
        workerProgram = try Self.program(try fields.object("worker_program"))
        if json["next_worker_program"] != nil { nextWorkerProgram = try Self.program(try fields.object("next_worker_program")) }
        if json["control"] != nil { control = try Self.program(try fields.object("control")) }
        if json["cluster"] != nil { cluster = try Self.cluster(try fields.object("cluster"), json["cluster"]) }
        signals = Self.signals(json)
        for set in json["key_sets"]?.array ?? [] {
            if let url = set["url"]?.string, let text = set["text"]?.string { keySets.append((url, Array(text.utf8))) }
        }
        for element in try fields.list("workers") { workers.append(try Self.worker(element)) }
        for element in try fields.list("listeners") { listeners.append(try Self.socket(Fields(element))) }
        for element in try fields.list("waiting") { waiting.append(try Self.socket(Fields(element))) }
        for element in try fields.list("askers") {
            guard let number = element.integer, let descriptor = Int32(exactly: number) else {
                throw StateError("the state's askers are broken")
            }
            askers.append(descriptor)
        }
    }

    private static func signals(_ json: JSONValue) -> [Int32] {
        (json["signals"]?.array ?? []).compactMap { $0.integer.flatMap { Int32(exactly: $0) } }
    }

    private static func program(_ fields: Fields) throws(StateError) -> Program {
        Program(path: try fields.text("path"), descriptor: try fields.number("descriptor"))
    }

    private static func cluster(_ fields: Fields, _ json: JSONValue?) throws(StateError) -> Cluster {
        Cluster(
            nodeID: try fields.text("node_id"), datagrams: try fields.number("datagrams"), listener: try fields.number("listener"),
            snapshot: try fields.number("snapshot"), hasJoined: json?["joined"] == .bool(true),
            isDraining: json?["draining"] == .bool(true))
    }

    private static func socket(_ fields: Fields) throws(StateError) -> Socket {
        guard let kind = ListenerKind(rawValue: try fields.number("kind")) else { throw StateError("the state has an unknown port") }
        return Socket(kind: kind, descriptor: try fields.number("descriptor"), peer: try fields.hex("peer"))
    }

    private static func worker(_ json: JSONValue) throws(StateError) -> Worker {
        let fields = Fields(json)
        return Worker(
            worker: try fields.number("worker"), generation: try fields.number("generation"), place: try fields.number("place"),
            slab: try fields.number("slab"), pid: try fields.number("pid"), link: try fields.number("link"),
            protocolVersion: try fields.number("protocol"), passed: UInt64(bitPattern: try fields.integer("passed")),
            pinged: UInt64(bitPattern: try fields.integer("pinged")), held: [],
            isLeaving: json["leaving"] == .bool(true), isCut: json["cut"] == .bool(true), isParting: json["parting"] == .bool(true),
            hasDrained: json["drained"] == .bool(true))
    }

    init(
        started: UInt64, directKey: [UInt8], isOutOfUse: Bool, currentGeneration: UInt32, nextGeneration: UInt32,
        nextWorker: UInt32, routesVersion: UInt64, settings: [(String, String)], counters: Int32, supervisorProgram: Program,
        workerProgram: Program
    ) {
        self.started = started
        self.directKey = directKey
        self.isOutOfUse = isOutOfUse
        self.currentGeneration = currentGeneration
        self.nextGeneration = nextGeneration
        self.nextWorker = nextWorker
        self.routesVersion = routesVersion
        self.settings = settings
        self.counters = counters
        self.supervisorProgram = supervisorProgram
        self.workerProgram = workerProgram
    }
}

/// The members of an object, each of which must be there.
private struct Fields {
    private let json: JSONValue

    init(_ json: JSONValue) { self.json = json }

    func text(_ name: String) throws(StateError) -> String {
        guard let text = json[name]?.string else { throw StateError("the state has no \(name)") }
        return text
    }

    func integer(_ name: String) throws(StateError) -> Int64 {
        guard let number = json[name]?.integer else { throw StateError("the state has no \(name)") }
        return number
    }

    func number<Number: FixedWidthInteger>(_ name: String) throws(StateError) -> Number {
        guard let number = Number(exactly: try integer(name)) else { throw StateError("the state's \(name) is out of range") }
        return number
    }

    func list(_ name: String) throws(StateError) -> [JSONValue] {
        guard let elements = json[name]?.array else { throw StateError("the state has no \(name)") }
        return elements
    }

    func object(_ name: String) throws(StateError) -> Fields {
        guard let value = json[name], case .object = value else { throw StateError("the state has no \(name)") }
        return Fields(value)
    }

    func hex(_ name: String) throws(StateError) -> [UInt8] {
        guard let bytes = Hex.bytes(try text(name)) else { throw StateError("the state's \(name) is broken") }
        return bytes
    }
}

/// Bytes as text of two digits each.
enum Hex {
    private static let digits = Array("0123456789abcdef".utf8)

    static func text(_ bytes: [UInt8]) -> String {
        String(decoding: bytes.flatMap { [digits[Int($0 >> 4)], digits[Int($0 & 15)]] }, as: UTF8.self)
    }

    static func bytes(_ text: String) -> [UInt8]? {
        let values = text.utf8.map { digit in digits.firstIndex(of: digit) }
        guard values.count % 2 == 0, !values.contains(nil) else { return nil }
        return stride(from: 0, to: values.count, by: 2).map { UInt8(values[$0]! << 4 | values[$0 + 1]!) }
    }
}
