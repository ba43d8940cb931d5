// The sockets to this node's other workers, over which clients move to the worker that has their tunnel. The supervisor
// makes the socket pairs; either end notices the other's death.

import Base
import Control
import Memory
import Reactor
import Telemetry

/// The living siblings of a worker.
final class SiblingTable {
    private unowned let worker: Worker
    private var links: [UInt32: SiblingLink] = [:]
    private var scratch = ByteBuffer()

    init(_ worker: Worker) {
        self.worker = worker
    }

    /// Whether clients can be sent there.
    func isLinked(_ sibling: UInt32) -> Bool { links[sibling].map { !$0.isParted } ?? false }

    /// Whether the sibling is there, and speaks that version of the protocol or a newer one.
    private func speaks(_ sibling: UInt32, _ version: UInt32) -> Bool { links[sibling].map { $0.protocolVersion >= version } ?? false }

    /// Whether the sibling knows relays of relays.
    func takesRelaysOfRelays(_ sibling: UInt32) -> Bool { speaks(sibling, 4) }

    /// Whether it says when the body of a request that was relayed to it may come.
    func saysContinue(_ sibling: UInt32) -> Bool { speaks(sibling, 4) }

    /// Whether it knows relays for clients that came over TLS.
    func knowsSecureRelays(_ sibling: UInt32) -> Bool { speaks(sibling, 5) }

    /// Whether it says the tenant of what it relays, and no client does in its place.
    func knowsTenants(_ sibling: UInt32) -> Bool { speaks(sibling, 5) }

    /// Whether it knows the quotas of tunnels.
    func knowsQuotas(_ sibling: UInt32) -> Bool { speaks(sibling, ControlLimits.quotaVersion) }

    /// Whether it is asked what it has, and so takes where tunnels come from along with them.
    func knowsInquiries(_ sibling: UInt32) -> Bool {
        sibling == worker.setup.worker || speaks(sibling, ControlLimits.inquiryVersion)
    }

    /// The living siblings of the newest generation above this one that speak as we do.
    func successors(of generation: UInt32) -> [UInt32] {
        var newest = generation
        for link in links.values where link.takes { newest = max(newest, link.generation) }
        if newest == generation { return [] }
        return links.filter { $0.value.takes && $0.value.generation == newest }.map(\.key).sorted()
    }

    /// Whether every sibling has said that it sends nothing more.
    var isQuiet: Bool { links.values.allSatisfy(\.isQuiet) }

    /// Whether nothing that was sent waits in this process.
    var isFlushed: Bool { links.values.allSatisfy { $0.socket.waitingCount == 0 } }

    /// That sibling is about to end: it is sent nothing more, and told so.
    func part(_ sibling: UInt32) {
        guard let link = links[sibling] else { return }
        tell(sibling, .noMore)
        link.isParted = true
        worker.routes.siblingGone(sibling)
    }

    /// The sibling's process ended. What it sent before is still read, up to its socket's end.
    func gone(_ sibling: UInt32) { links[sibling]?.isParted = true }

    /// Sends a message without descriptors.
    func tell(_ sibling: UInt32, _ message: ControlMessage) {
        guard let link = links[sibling] else { return }
        scratch.removeAll()
        message.encode(into: &scratch)
        sendScratch(link)
    }

    /// One that has ended needs no telling.
    private func sendScratch(_ link: SiblingLink) {
        var bytes = ByteBuffer()
        swap(&bytes, &scratch)
        defer { swap(&bytes, &scratch) }
        do throws(SystemError) {
            _ = try link.socket.send(bytes.span)
        } catch {
            if !error.isPeerGone { worker.telemetry.controlMessageRefused() }
        }
    }

    func add(_ sibling: UInt32, generation: UInt32, protocolVersion: UInt32, _ descriptor: consuming OwnedDescriptor) {
        remove(sibling)
        do {
            links[sibling] = try SiblingLink(
                worker, sibling: sibling, generation: generation, protocolVersion: protocolVersion,
                descriptor)
            worker.routes.workerCount = links.count + 1
        } catch {
            worker.telemetry.log.error(.server, "no connection to sibling worker") { $0.field("error", error.description) }
        }
    }

    func remove(_ sibling: UInt32) {
        links.removeValue(forKey: sibling)?.close()
        worker.routes.workerCount = links.count + 1
    }

    /// Sends a client's socket, and what was read from it, to the sibling. A client that can't be sent is closed.
    func move(
        _ descriptor: consuming OwnedDescriptor, to sibling: UInt32, listener: ListenerKind, client: PeerAddress,
        moves: UInt8, input: Span<UInt8>
    ) {
        guard let link = links[sibling] else {
            worker.telemetry.moveFailed()
            return
        }
        let isInline = input.count <= ControlLimits.movedBytesMax
        var moved = MovedBytes.inMemory(UInt64(input.count))
        if isInline {
            moved = .inline([UInt8](copying: input))
        }
        scratch.removeAll()
        ControlMessage.move(listener: listener, client: client, moves: moves, bytes: moved).encode(into: &scratch)
        var descriptors = [descriptor.take()]
        if !isInline {
            guard let memory = try? MemoryFile.make(name: "piko-moved", holding: input) else {
                _ = OwnedDescriptor(descriptors[0])
                worker.telemetry.moveFailed()
                return
            }
            descriptors.append(memory.take())
        }
        if send(link, descriptors) { worker.telemetry.moved() }
    }

    /// Sends what the scratch holds. The descriptors are closed whatever happens.
    private func send(_ link: SiblingLink, _ descriptors: [Int32]) -> Bool {
        if (try? link.socket.send(scratch.span, descriptors: descriptors, taking: true)) != nil { return true }
        for number in descriptors { _ = OwnedDescriptor(number) }
        worker.telemetry.moveFailed()
        return false
    }

    /// Gives the sibling an idle data connection, which is closed when it can't be sent.
    func moveData(_ descriptor: consuming OwnedDescriptor, to sibling: UInt32, endpoint: String, agent: [UInt8], isUsed: Bool) {
        guard let link = links[sibling] else { return }
        scratch.removeAll()
        ControlMessage.moveData(endpoint: endpoint, agent: agent, isUsed: isUsed).encode(into: &scratch)
        if send(link, [descriptor.take()]) { worker.telemetry.dataConnectionMoved() }
    }

    /// Gives a session away: its bridges, then its socket and state. False when that failed; all of them are closed then.
    func moveSession(
        _ handover: UInt64, to sibling: UInt32, endpoint: String, state: Span<UInt8>, bridges: [Int32],
        _ descriptor: consuming OwnedDescriptor
    ) -> Bool {
        var left = bridges[...]
        defer { for number in left { _ = OwnedDescriptor(number) } }
        guard let link = links[sibling], let memory = try? MemoryFile.make(name: "piko-session", holding: state) else {
            worker.telemetry.moveFailed()
            return false
        }
        while !left.isEmpty {
            let batch = Array(left.prefix(ControlLimits.descriptorsMax))
            left = left.dropFirst(batch.count)
            scratch.removeAll()
            ControlMessage.moveStreams(handover: handover, count: UInt8(batch.count)).encode(into: &scratch)
            guard send(link, batch) else { return false }
        }
        scratch.removeAll()
        ControlMessage.moveSession(handover: handover, endpoint: endpoint, stateBytes: UInt64(state.count)).encode(into: &scratch)
        return send(link, [descriptor.take(), memory.take()])
    }

    /// Tells every sibling that an agent takes no new streams.
    func tellAgentLeft(_ endpoint: String, _ agent: [UInt8]) {
        scratch.removeAll()
        ControlMessage.agentLeft(endpoint: endpoint, agent: agent).encode(into: &scratch)
        for link in links.values { sendScratch(link) }
    }

    /// A connection to the sibling that it serves as a plain client's, for a client that stays here. `moves` tells it so.
    func openRelay(to sibling: UInt32, client: PeerAddress, moves: UInt8) -> Stream? {
        do {
            var pair = try Sockets.pair(.stream)
            let stream = try Stream(worker.loop, adopting: pair.takeFirst())
            move(pair.takeSecond(), to: sibling, listener: .proxy, client: client, moves: moves, input: Span())
            return stream
        } catch {
            worker.telemetry.moveFailed()
            return nil
        }
    }
}

/// The socket to one sibling.
private final class SiblingLink: MessageDelegate {
    let socket: MessageSocket
    private unowned let worker: Worker
    private let sibling: UInt32
    let generation: UInt32
    let protocolVersion: UInt32
    /// It is sent nothing more.
    var isParted = false
    /// It sends nothing more.
    private(set) var isQuiet = false
    /// Bridges of sessions on their way here, by the number of the handover.
    private var bridges: [UInt64: [Int32]] = [:]

    /// Whether it takes what another worker gives away.
    var takes: Bool { protocolVersion >= ControlLimits.siblingVersionMin && !isParted }

    init(
        _ worker: Worker, sibling: UInt32, generation: UInt32, protocolVersion: UInt32, _ descriptor: consuming OwnedDescriptor
    ) throws(SystemError) {
        self.worker = worker
        self.sibling = sibling
        self.generation = generation
        self.protocolVersion = protocolVersion
        socket = try MessageSocket(worker.loop, adopting: descriptor)
        super.init()
        socket.delegate = self
    }

    func close() {
        socket.close()
        for numbers in bridges.values { for number in numbers { _ = OwnedDescriptor(number) } }
        bridges = [:]
    }

    override func message(_ socket: MessageSocket, bytes: Span<UInt8>, descriptors: inout DescriptorList) {
        guard let message = try? ControlMessage.decode(bytes, from: .sibling),
            descriptors.isShort || descriptors.count == message.descriptorCount
        else {
            worker.telemetry.controlMessageRefused()
            return
        }
        if descriptors.isShort {
            // Whatever came with it is of no use without the rest: it is closed, and its client comes again.
            worker.descriptorsMissing()
            worker.telemetry.shed()
            if case .moveSession(let handover, _, _) = message { refuseSession(handover) }
            return
        }
        switch message {
        case .move(let listener, let client, let moves, let moved): take(listener, client, moves, moved, &descriptors)
        case .moveData(let endpoint, let agent, let isUsed): takeData(endpoint, agent, isUsed, &descriptors)
        case .agentLeft(let endpoint, let agent): worker.agentLeft(endpoint, agent, tellsSiblings: false)
        case .moveStreams(let handover, _): takeBridges(handover, &descriptors)
        case .moveSession(let handover, let endpoint, let stateBytes): takeSession(handover, endpoint, stateBytes, &descriptors)
        case .sessionTaken(let handover, _): worker.retirement?.taken(handover)
        case .noMore:
            isQuiet = true
            worker.retirement?.check()
        default: worker.telemetry.controlMessageRefused()
        }
    }

    private func takeData(_ endpoint: String, _ agent: [UInt8], _ isUsed: Bool, _ descriptors: inout DescriptorList) {
        guard let descriptor = descriptors.take(.streamSocket) else {
            worker.telemetry.controlMessageRefused()
            return
        }
        let endpoint = worker.routes.endpoint(named: endpoint)
        guard !worker.isDraining, endpoint.direct?.hasRoom ?? true, let stream = try? Stream(worker.loop, adopting: descriptor)
        else { return }
        worker.telemetry.connectionOpened(.upstream, isMoved: true)
        worker.adoptData(stream, endpoint: endpoint, agent: agent, isUsed: isUsed)
    }

    private func takeBridges(_ handover: UInt64, _ descriptors: inout DescriptorList) {
        while descriptors.count > 0 {
            guard let descriptor = descriptors.take(.streamSocket) else {
                worker.telemetry.controlMessageRefused()
                continue
            }
            bridges[handover, default: []].append(descriptor.take())
        }
    }

    private func takeSession(_ handover: UInt64, _ endpoint: String, _ stateBytes: UInt64, _ descriptors: inout DescriptorList) {
        let ends = bridges.removeValue(forKey: handover) ?? []
        var state = ByteBuffer()
        guard let descriptor = descriptors.take(.streamSocket), let memory = descriptors.take(.file),
            stateBytes <= UInt64(Self.sessionBytesMax),
            (try? MemoryFile.read(memory.raw, bytesMax: Int(stateBytes), into: &state)) != nil
        else {
            for number in ends { _ = OwnedDescriptor(number) }
            worker.telemetry.controlMessageRefused()
            return refuseSession(handover)
        }
        worker.adoptSession(handover, from: sibling, endpoint: endpoint, descriptor, description: state.span, bridges: ends)
    }

    /// The session is lost: its agent comes back by itself, and the giver is not to wait.
    private func refuseSession(_ handover: UInt64) {
        for number in bridges.removeValue(forKey: handover) ?? [] { _ = OwnedDescriptor(number) }
        worker.siblings.tell(sibling, .sessionTaken(handover: handover, isTaken: false))
    }

    /// The most that a session may bring: what waits for its streams' windows, and for its socket.
    private static let sessionBytesMax = 1_073_741_824

    private func take(
        _ listener: ListenerKind, _ client: PeerAddress, _ moves: UInt8, _ moved: MovedBytes, _ descriptors: inout DescriptorList
    ) {
        guard let descriptor = descriptors.take(.streamSocket) else {
            worker.telemetry.controlMessageRefused()
            return
        }
        var input = ByteBuffer()
        switch moved {
        case .inline(let bytes):
            input.append(bytes.span)
        case .inMemory(let length):
            guard let memory = descriptors.take(.file), length <= UInt64(Self.movedBytesMax),
                (try? MemoryFile.read(memory.raw, bytesMax: Int(length), into: &input)) != nil
            else {
                worker.telemetry.controlMessageRefused()
                return
            }
        }
        worker.adopt(descriptor, listener: listener, peer: client, moves: moves, from: sibling, input: input)
    }

    /// The most that a moved client may bring: a head, what was pipelined, and what was on its way.
    private static let movedBytesMax = 8_388_608

    override func messageSocketEnded(_ socket: MessageSocket, error: SystemError?) {
        worker.siblings.remove(sibling)
        worker.routes.siblingGone(sibling)
        worker.retirement?.siblingGone(sibling)
    }
}
