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
    func isLinked(_ sibling: UInt32) -> Bool { links[sibling] != nil }

    func add(_ sibling: UInt32, _ descriptor: consuming OwnedDescriptor) {
        remove(sibling)
        do {
            links[sibling] = try SiblingLink(worker, sibling: sibling, descriptor)
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
        do {
            if isInline {
                _ = try link.socket.send(scratch.span, descriptors: [descriptor.take()], taking: true)
            } else {
                let memory = try MemoryFile.make(name: "piko-moved", holding: input)
                _ = try link.socket.send(scratch.span, descriptors: [descriptor.take(), memory.take()], taking: true)
            }
            worker.telemetry.moved()
        } catch {
            worker.telemetry.moveFailed()
        }
    }

    /// Gives the sibling an idle data connection, which is closed when it can't be sent.
    func moveData(_ descriptor: consuming OwnedDescriptor, to sibling: UInt32, endpoint: String, agent: [UInt8], isUsed: Bool) {
        guard let link = links[sibling] else { return }
        scratch.removeAll()
        ControlMessage.moveData(endpoint: endpoint, agent: agent, isUsed: isUsed).encode(into: &scratch)
        do {
            _ = try link.socket.send(scratch.span, descriptors: [descriptor.take()], taking: true)
            worker.telemetry.dataConnectionMoved()
        } catch {
            worker.telemetry.moveFailed()
        }
    }

    /// Tells every sibling that an agent takes no new streams.
    func tellAgentLeft(_ endpoint: String, _ agent: [UInt8]) {
        scratch.removeAll()
        ControlMessage.agentLeft(endpoint: endpoint, agent: agent).encode(into: &scratch)
        for link in links.values {
            if (try? link.socket.send(scratch.span)) == nil { worker.telemetry.controlMessageRefused() }
        }
    }

    /// A connection to the sibling that it serves as a plain client's, for a client that stays here.
    func openRelay(to sibling: UInt32, client: PeerAddress) -> Stream? {
        do {
            var pair = try Sockets.pair(.stream)
            let stream = try Stream(worker.loop, adopting: pair.takeFirst())
            move(
                pair.takeSecond(), to: sibling, listener: .proxy, client: client, moves: ProxyConnection.relayedMark, input: Span())
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

    init(_ worker: Worker, sibling: UInt32, _ descriptor: consuming OwnedDescriptor) throws(SystemError) {
        self.worker = worker
        self.sibling = sibling
        socket = try MessageSocket(worker.loop, adopting: descriptor)
        super.init()
        socket.delegate = self
    }

    func close() {
        socket.close()
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
            return
        }
        switch message {
        case .move(let listener, let client, let moves, let moved): take(listener, client, moves, moved, &descriptors)
        case .moveData(let endpoint, let agent, let isUsed): takeData(endpoint, agent, isUsed, &descriptors)
        case .agentLeft(let endpoint, let agent): worker.agentLeft(endpoint, agent, tellsSiblings: false)
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
    }
}
