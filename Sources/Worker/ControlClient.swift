// The worker's end of the control socket: what the supervisor says, and what the worker tells it. A worker whose supervisor is
// gone ends.

import Base
import Config
import Control
import Crypto
import Glibc
import Memory
import Reactor
import Telemetry

/// The connection to the supervisor. Makes the `Worker` when its configuration has come.
final class ControlClient: MessageDelegate {
    private let loop: Loop
    private let socket: MessageSocket
    private(set) var worker: Worker?
    private var hasGreeted = false
    /// What came for TLS before the configuration.
    private var credentials = ByteBuffer()
    /// Why the worker has to end with an error.
    private(set) var failure: String?

    init(_ loop: Loop, descriptor: consuming OwnedDescriptor) throws(SystemError) {
        self.loop = loop
        socket = try MessageSocket(loop, adopting: descriptor)
        super.init()
        socket.delegate = self
        send(.hello(protocolVersion: ControlLimits.protocolVersion, binaryVersion: BuildInfo.version))
    }

    /// Tells the supervisor. It is one of us and reads: a full queue means that it hangs, and ends this worker.
    func send(_ message: ControlMessage) {
        var bytes = ByteBuffer()
        message.encode(into: &bytes)
        do {
            _ = try socket.send(bytes.span, descriptors: [], taking: true)
        } catch {
            end("cannot tell the supervisor: \(error)")
        }
    }

    private func end(_ reason: String?) {
        if failure == nil { failure = reason }
        loop.stop()
    }

    override func messageSocketEnded(_ socket: MessageSocket, error: SystemError?) {
        // A supervisor that ends without having read everything resets the socket.
        end(error.flatMap { $0.isPeerGone ? nil : "control socket: \($0)" })
    }

    override func message(_ socket: MessageSocket, bytes: Span<UInt8>, descriptors: inout DescriptorList) {
        let message: ControlMessage
        do {
            message = try ControlMessage.decode(bytes, from: .supervisor)
        } catch {
            end("control socket: \(error)")
            return
        }
        if descriptors.isShort {
            worker?.descriptorsMissing()
        } else if descriptors.count != message.descriptorCount {
            end("control socket: unexpected descriptors")
            return
        }
        if case .hello(let version, let binary) = message {
            hasGreeted = version == ControlLimits.protocolVersion
            if !hasGreeted { end("the supervisor (\(binary)) speaks control protocol \(version), not \(ControlLimits.protocolVersion)") }
            return
        }
        guard hasGreeted else {
            end("control socket: no hello")
            return
        }
        if case .configure(let setup) = message {
            let counters = descriptors.take(.file)
            configure(setup, counters, descriptors.take(.file))
            return
        }
        if case .credentials(let length) = message {
            takeCredentials(descriptors.take(.file), length)
            return
        }
        if case .shutdown = message {
            // Perhaps before there was a configuration.
            end(nil)
            return
        }
        guard let worker else {
            end("control socket: no configuration")
            return
        }
        handle(message, &descriptors, worker)
    }

    private func handle(_ message: ControlMessage, _ descriptors: inout DescriptorList, _ worker: Worker) {
        switch message {
        case .accepted(let listener, _, let peers):
            for peer in peers {
                if descriptors.count == 0 {
                    // Its descriptor found no number here and is closed.
                    worker.shed(listener)
                } else if let descriptor = descriptors.take(.streamSocket) {
                    worker.adopt(descriptor, listener: listener, peer: peer, isNew: true)
                }
            }
        case .sibling(let id, let generation, let protocolVersion):
            guard let descriptor = descriptors.take(.messageSocket) else { return }
            worker.siblings.add(id, generation: generation, protocolVersion: protocolVersion, descriptor)
            worker.giveAway()
        case .siblingGone(let id):
            worker.siblings.gone(id)
            worker.routes.siblingGone(id)
            worker.retirement?.siblingGone(id)
        case .routes(let endpoint, _, let lostFor, let entries, let remote):
            let lostAt = lostFor.map { Instant(nanoseconds: loop.now.nanoseconds &- UInt64($0) * 1_000_000) }
            let (known, waiting) = worker.routes.answered(endpoint, entries, remote: remote, lostAt: lostAt)
            for connection in waiting { connection.routeKnown() }
            worker.routes.forgetIfEmpty(known)
        case .routeChanged(let endpoint, _):
            worker.routes.changed(endpoint)
        case .registered(let tunnel):
            worker.registrationAnswered(tunnel, refusal: nil)
        case .refused(let tunnel, let reason):
            worker.registrationAnswered(tunnel, refusal: reason)
        case .statusPage(let request, _, let entries, let last):
            worker.statusPage(request, entries: entries, isLast: last)
        case .ready(let ready):
            worker.isReady = ready
        case .drain(let milliseconds):
            worker.drain(within: .milliseconds(Int64(clamping: milliseconds)))
        case .retire(let milliseconds):
            worker.retire(within: .milliseconds(Int64(clamping: milliseconds)))
        case .siblingRetires(let id):
            if id == worker.setup.worker { worker.retirement?.part() } else { worker.siblings.part(id) }
        case .admitTunnels(let admits):
            worker.admitTunnels(admits)
        case .ping(let number):
            send(.pong(number))
        case .shed(let count):
            worker.shed(Int(count))
        case .reportPage(let request, let status, let bytes, let last):
            worker.reportPage(request, status, bytes, isLast: last)
        case .inquire(let request, let path):
            worker.answer(request, path)
        case .tokenKeys(let port, let kind, let bytes):
            worker.authentication(of: port)?.told(kind, bytes)
        case .dialed(let request) where Worker.isDial(request):
            worker.adminDialed(request, descriptors.take(.streamSocket), code: UInt32.max)
        case .dialFailed(let request, let code) where Worker.isDial(request):
            worker.adminDialed(request, nil, code: code)
        case .node(let id, let status, let proxy): worker.nodes.set(id, status, proxy)
        case .nodeGone(let id): worker.nodes.remove(id)
        case .dialed(let request):
            if let descriptor = descriptors.take(.streamSocket) {
                worker.nodes.dialed(request, descriptor)
            } else {
                worker.nodes.dialFailed(request)
            }
        case .dialFailed(let request, let code):
            worker.nodes.dialFailed(request, wasTried: code != DialCode.unknownNode && code != DialCode.notNow)
        case .hello, .configure, .credentials, .shutdown, .workerReady, .register, .release, .unregister, .lookup, .statusRequest, .drained, .move, .moveData,
            .agentLeft, .pong, .dial, .dialAdmin, .reportRequest, .inquiryPage, .keyMissing, .clients, .moveStreams, .moveSession, .sessionTaken, .noMore:
            end("control socket: unexpected message")
        }
    }

    /// Reads what the ports need for TLS; what can't be used changes nothing.
    private func takeCredentials(_ file: consuming OwnedDescriptor?, _ length: UInt64) {
        do {
            guard let file else { throw SystemError(code: EBADF, call: "read") }
            CredentialBundle.makeRoom(min(Int(clamping: length), CredentialBundle.bytesMax), in: &credentials)
            try MemoryFile.read(file.raw, bytesMax: CredentialBundle.bytesMax, into: &credentials)
            guard UInt64(credentials.count) == length else { throw ControlError.truncated }
            if let worker { try useCredentials(worker) }
        } catch {
            wipeCredentials()
            guard let worker else { return end("credentials: \(error)") }
            worker.telemetry.log.error(.server, "new certificates can't be used; the ones before go on") { $0.field("err", "\(error)") }
        }
    }

    private func useCredentials(_ worker: Worker) throws {
        defer { wipeCredentials() }
        var bundle = ByteBuffer()
        swap(&bundle, &credentials)
        defer { swap(&bundle, &credentials) }
        try worker.tls.take(bundle.span)
    }

    private func wipeCredentials() {
        var bytes = ByteBuffer()
        swap(&bytes, &credentials)
        var span = bytes.mutableSpan
        SecretBytes.wipe(&span)
    }

    private func configure(_ setup: WorkerSetup, _ counters: consuming OwnedDescriptor?, _ quotas: consuming OwnedDescriptor?) {
        guard worker == nil else {
            end("control socket: configured twice")
            return
        }
        guard let counters, let quotas else {
            end("no descriptor for the counters or the quotas")
            return
        }
        do {
            let config = try ServerConfig(flattened: setup.settings.map { ($0.key, $0.value) })
            let telemetry = try WorkerTelemetry(loop, setup: setup, config: config, counters: counters)
            let account = try QuotaRegion(opening: SharedRegion(adopting: quotas)).account(of: setup)
            let worker = Worker(loop, setup: setup, config: config, telemetry: telemetry, quotas: account, control: self)
            self.worker = worker
            if !credentials.isEmpty { try useCredentials(worker) }
            send(.workerReady)
        } catch {
            end("configuration: \(error)")
        }
    }
}

extension DescriptorList {
    /// The next descriptor when it is of that kind; otherwise it is closed.
    mutating func take(_ kind: DescriptorKind) -> OwnedDescriptor? {
        guard let descriptor = takeFirst(), DescriptorKind(of: descriptor.raw) == kind else { return nil }
        return descriptor
    }
}
