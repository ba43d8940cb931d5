// The supervisor's end of a worker's control socket: greets, checks what comes, and sends. In an upgrade it leaves its loop and
// goes on in the next program.
//
// Why news of routes may wait here: every tunnel that comes or goes is news to every worker, thousands a second after a
// restart, and a worker that is busy for a moment does not read. While many messages wait in its socket, changed
// endpoints are collected (each once) and sent when it has caught up. Any other message that finds the socket's queue full
// means that the worker hangs; it is killed and replaced.
//
// Invariants: nothing is sent before the hello but the hello; no message is lost while the worker lives; descriptors given
// to `send` are closed whatever happens.

import Base
import Control
import Memory
import Reactor

/// What a worker says, after it was checked.
protocol WorkerLinkOwner: AnyObject {
    /// The worker greeted; it waits for its configuration.
    func linkGreeted(_ link: WorkerLink)
    /// A message that a worker may send, all but the hello.
    func link(_ link: WorkerLink, received message: ControlMessage)
    /// The worker broke the protocol, hangs, or closed the socket: it is of no use any more. Said once.
    func linkFailed(_ link: WorkerLink, reason: String)
}

/// The connection to one worker.
final class WorkerLink: MessageDelegate {
    /// The worker's number.
    let worker: UInt32
    private let socket: MessageSocket
    private unowned let owner: any WorkerLinkOwner
    private let timer: CallbackTimer
    private var scratch = ByteBuffer()
    /// The version of the control protocol that the worker speaks; known once it greeted.
    private(set) var protocolVersion = ControlLimits.protocolVersion
    /// Whether the worker can be told of other nodes.
    var knowsNodes: Bool { protocolVersion >= ControlLimits.clusterVersion }
    /// How many messages waited for the worker when the last one was sent.
    var waitingCount: Int { messagesWaiting }
    private(set) var hasGreeted = false
    private var hasFailed = false
    /// What is to be sent by the program that takes the link over.
    private(set) var held: [[UInt8]] = []
    private var isHolding = false
    private var detached: ((Int32?) -> Void)?
    /// Endpoints whose change the worker has not been told yet, with the version of the last.
    private var changes: [ExactName: UInt64] = [:]
    private var messagesWaiting = 0

    /// From so many waiting messages on, changes of routes are collected.
    static let waitingMax = 512
    /// How long they are collected before the next try.
    static let retryAfter = Duration.milliseconds(5)

    /// The link to a worker that was just started.
    convenience init(
        _ loop: Loop, worker: UInt32, adopting descriptor: consuming OwnedDescriptor, owner: any WorkerLinkOwner
    ) throws(SystemError) {
        self.init(owner, worker, try MessageSocket(loop, adopting: descriptor))
        send(.hello(protocolVersion: ControlLimits.protocolVersion, binaryVersion: BuildInfo.version))
    }

    /// Takes over the link to a worker from another program, with the messages that it held.
    convenience init(
        _ loop: Loop, worker: UInt32, adopting descriptor: consuming OwnedDescriptor, greeted protocolVersion: UInt32,
        held: [[UInt8]], owner: any WorkerLinkOwner
    ) throws(SystemError) {
        self.init(owner, worker, try MessageSocket(loop, adopting: descriptor))
        self.protocolVersion = protocolVersion
        hasGreeted = true
        do throws(SystemError) {
            for bytes in held { try sendHeld(bytes) }
        } catch {
            close()
            throw error
        }
    }

    private init(_ owner: any WorkerLinkOwner, _ worker: UInt32, _ socket: MessageSocket) {
        self.worker = worker
        self.owner = owner
        self.socket = socket
        weak var link: WorkerLink?
        timer = CallbackTimer(socket.loop) { link?.sendChanges() }
        super.init()
        link = self
        socket.delegate = self
    }

    /// Sends what another program held; news of routes wait when the socket is full.
    private func sendHeld(_ bytes: [UInt8]) throws(SystemError) {
        do throws(SystemError) {
            messagesWaiting = try socket.send(bytes.span)
        } catch {
            guard case .routeChanged(let endpoint, let version)? = try? ControlMessage.decode(bytes.span, from: .supervisor)
            else { throw error }
            changes[endpoint] = version
            if !timer.isScheduled { timer.schedule(after: Self.retryAfter) }
        }
    }

    /// Takes the socket out of the loop, for another program. What is sent from here on, which must be without descriptors, is
    /// held for it; what the worker sent is still told until `done` gets the socket, or nil when the worker closed it.
    func detach(_ done: @escaping (Int32?) -> Void) {
        guard !hasFailed else { return done(nil) }
        timer.cancel()
        guard socket.isOpen, !hasFailed else { return done(nil) }
        isHolding = true
        for (endpoint, version) in changes { send(.routeChanged(endpoint: endpoint.text, version: version)) }
        changes = [:]
        detached = done
        socket.detach()
    }

    /// Sends a message, and closes the descriptors once they are sent. False when the worker is lost.
    @discardableResult
    func send(_ message: ControlMessage, taking descriptors: [Int32] = []) -> Bool {
        if trySend(message, descriptors, taking: true) { return true }
        for descriptor in descriptors { _ = OwnedDescriptor(descriptor) }
        return false
    }

    /// Sends a message with descriptors that stay the caller's.
    func send(_ message: ControlMessage, lending descriptors: [Int32]) {
        _ = trySend(message, descriptors, taking: false)
    }

    /// Sends a message; when it can't, the descriptors stay the caller's.
    func trySend(_ message: ControlMessage, _ descriptors: [Int32], taking: Bool) -> Bool {
        guard isHolding || socket.isOpen, !hasFailed else { return false }
        scratch.removeAll()
        message.encode(into: &scratch, version: protocolVersion)
        if isHolding {
            guard descriptors.isEmpty else { return false }
            held.append([UInt8](copying: scratch.span))
            return true
        }
        do {
            messagesWaiting = try socket.send(scratch.span, descriptors: descriptors, taking: taking)
            return true
        } catch {
            fail("\(error)")
            return false
        }
    }

    /// Tells the worker that what it knows of the endpoint is out of date, now or when it has caught up.
    func routeChanged(_ endpoint: String, version: UInt64) {
        if isHolding || changes.isEmpty && messagesWaiting < Self.waitingMax {
            send(.routeChanged(endpoint: endpoint, version: version))
        } else {
            changes[endpoint] = version
            if !timer.isScheduled { timer.schedule(after: Self.retryAfter) }
        }
    }

    private func sendChanges() {
        while let (endpoint, version) = changes.first, !hasFailed {
            send(.routeChanged(endpoint: endpoint.text, version: version))
            changes[endpoint] = nil
            if messagesWaiting >= Self.waitingMax { break }
        }
        if !changes.isEmpty, !hasFailed { timer.schedule(after: Self.retryAfter) }
    }

    /// Closes the socket.
    func close() {
        hasFailed = true
        timer.cancel()
        changes = [:]
        socket.close()
        let done = detached
        detached = nil
        done?(nil)
    }

    private func fail(_ reason: String) {
        if hasFailed { return }
        let done = detached
        detached = nil
        close()
        owner.linkFailed(self, reason: reason)
        done?(nil)
    }

    // MARK: What comes

    override func message(_ socket: MessageSocket, bytes: Span<UInt8>, descriptors: inout DescriptorList) {
        do throws(ControlError) {
            let message = try ControlMessage.decode(bytes, from: .worker)
            guard descriptors.count == message.descriptorCount else {
                fail("unexpected descriptors")
                return
            }
            take(message)
        } catch {
            fail("control message: \(error)")
        }
    }

    private func take(_ message: ControlMessage) {
        if case .hello(let version, let binary) = message {
            guard !hasGreeted else { return fail("greets twice") }
            guard version == ControlLimits.protocolVersion, binary == BuildInfo.version else {
                return fail("piko-worker is of version \(binary), this is \(BuildInfo.version)")
            }
            hasGreeted = true
            protocolVersion = version
            owner.linkGreeted(self)
        } else if hasGreeted {
            owner.link(self, received: message)
        } else {
            fail("no hello")
        }
    }

    override func messageSocketDetached(_ socket: MessageSocket, descriptor: consuming OwnedDescriptor) {
        let done = detached
        detached = nil
        done?(descriptor.take())
    }

    override func messageSocketEnded(_ socket: MessageSocket, error: SystemError?) {
        fail(error.map { "\($0)" } ?? "closed its control socket")
    }
}
