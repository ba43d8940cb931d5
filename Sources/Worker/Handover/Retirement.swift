// A worker that a newer generation follows gives away what can move: connections at their next boundary between requests, idle
// data connections, and whole sessions with their streams. What can't move (running requests, TCP connections, WebSockets)
// stays until it ends. Once nothing is left, the worker says so; it is then parted from its siblings, so that nothing is on
// its way to it, and says so again.

import Base
import Control
import Memory
import Reactor
import Telemetry
import Transport

/// What a retiring worker keeps count of.
final class Retirement {
    private unowned let worker: Worker
    /// Sessions on their way, by the number of the handover.
    private var handovers: [UInt64: (tunnel: Tunnel, sibling: UInt32)] = [:]
    private var nextHandover: UInt64 = 1
    private var turn = 0
    private var hasSaidDrained = false
    /// Whether the supervisor has parted the worker from its siblings.
    private var isParting = false
    private var retry: CallbackTimer?
    private var flushed: CallbackTimer?
    private var view: CallbackTimer?

    /// How long a session waits that has nowhere to go.
    private static let retryAfter = Duration.milliseconds(100)
    /// How often it is logged what the worker stays for.
    private static let viewEvery = Duration.seconds(10)
    /// How long it is waited for a sibling that does not read.
    private static let flushAfter = Duration.milliseconds(10)

    init(_ worker: Worker) {
        self.worker = worker
        retry = CallbackTimer(worker.loop) { [unowned self] in moveSessions() }
        flushed = CallbackTimer(worker.loop) { [unowned self] in check() }
        let view = CallbackTimer(worker.loop) { [unowned self] in logWhatStays() }
        self.view = view
        view.schedule(after: Self.viewEvery)
    }

    /// The worker that gets the next thing: each of the newest generation in turn. nil: there is none.
    func successor() -> UInt32? {
        let successors = worker.siblings.successors(of: worker.setup.generation)
        guard !successors.isEmpty else { return nil }
        turn &+= 1
        return successors[turn % successors.count]
    }

    /// Whether there are sessions that stay until their agents go: those over TLS. What siblings relay stays with them: a successor has
    /// no such tunnel.
    var keepsSessions: Bool {
        worker.openTunnels.contains { tunnel in !tunnel.isMoving && !(tunnel.session?.mayMove ?? true) }
    }

    /// Begins to move every session that may.
    func moveSessions() {
        var isLeft = false
        for tunnel in worker.openTunnels where !tunnel.isMoving {
            guard let session = tunnel.session, session.mayMove, !session.isGoingAway else { continue }
            guard let sibling = successor() else {
                isLeft = true
                continue
            }
            let number = nextHandover
            nextHandover += 1
            handovers[number] = (tunnel, sibling)
            tunnel.move { [unowned self] descriptor, state, bridges in
                send(tunnel, number, to: sibling, descriptor, state, bridges)
            }
        }
        if isLeft { retry?.schedule(after: Self.retryAfter) }
    }

    private func send(
        _ tunnel: Tunnel, _ number: UInt64, to sibling: UInt32, _ descriptor: consuming OwnedDescriptor, _ state: consuming ByteBuffer,
        _ bridges: [Int32]
    ) {
        // While the session left its loop, the sibling may have been told that nothing comes any more.
        let target = worker.siblings.isLinked(sibling) ? sibling : successor()
        let description = MovedTunnel.description(of: tunnel, state: state.span, quotas: target.map(worker.siblings.knowsQuotas) ?? true,
            isDetailed: target.map(worker.siblings.knowsInquiries) ?? true)
        guard let target else {
            worker.adoptSession(
                number, from: worker.setup.worker, endpoint: tunnel.endpoint.name, descriptor, description: description.span,
                bridges: bridges)
            taken(number)
            retry?.schedule(after: Self.retryAfter)
            return
        }
        handovers[number]?.sibling = target
        if worker.siblings.moveSession(
            number, to: target, endpoint: tunnel.endpoint.name, state: description.span, bridges: bridges, descriptor)
        {
            return
        }
        // The socket went down with the attempt: the agent comes back by itself.
        taken(number)
    }

    /// The tunnel is served elsewhere, or lost.
    func taken(_ number: UInt64) {
        guard let moved = handovers.removeValue(forKey: number) else { return }
        worker.tunnelMoved(moved.tunnel)
    }

    /// A tunnel that was to move ended here.
    func ended(_ tunnel: Tunnel) {
        if let number = handovers.first(where: { $0.value.tunnel === tunnel })?.key { handovers[number] = nil }
        // Relays that stayed for it may go now.
        if !keepsSessions { worker.giveAway() }
    }

    /// The sibling ended: sessions on their way to it are lost, and their agents come back by themselves.
    func siblingGone(_ sibling: UInt32) {
        for (number, moved) in handovers where moved.sibling == sibling && moved.tunnel.session?.isOver ?? true { taken(number) }
        check()
    }

    /// The supervisor, or the last sibling, says that nothing comes any more.
    func part() {
        isParting = true
        hasSaidDrained = false
        check()
    }

    private func logWhatStays() {
        worker.logWhatStays { line in
            line.field("sessions_on_their_way", handovers.count)
            line.field("is_parting", isParting ? 1 : 0)
            line.field("is_quiet", worker.siblings.isQuiet ? 1 : 0)
        }
        view?.schedule(after: Self.viewEvery)
    }

    /// Says that nothing is left, when that is so: once until it is parted, and once after that, whatever still comes. What
    /// is said twice before would be taken for the second.
    func check() {
        guard !hasSaidDrained, handovers.isEmpty, worker.isEmpty else { return }
        if isParting, !worker.siblings.isQuiet { return }
        // What was given away, and what was queued for those who left, has left this process before it ends.
        guard worker.siblings.isFlushed, worker.isSent else {
            flushed?.schedule(after: Self.flushAfter)
            return
        }
        hasSaidDrained = true
        worker.sayDrained()
    }
}

/// A tunnel's state on its way to another worker: what the worker knows of it, then the session's.
enum MovedTunnel {
    /// `quotas`: whether who gets it knows them; `isDetailed`: whether it takes where the tunnel comes from.
    static func description(of tunnel: Tunnel, state: Span<UInt8>, quotas: Bool, isDetailed: Bool) -> ByteBuffer {
        var writer = StateWriter()
        // One byte more where streams have preambles: whoever does not know of them can't go on with the session.
        let agent = (tunnel.agent ?? []) + (tunnel.hasPreambles ? [1] : [])
        writer.write(agent.span)
        writer.write(state)
        if isDetailed {
            writer.write(tunnel.origin.since)
            writer.write(Array(tunnel.origin.address.utf8).span)
            writer.write(Array(tunnel.origin.program.utf8).span)
        }
        // A worker of before there were tokens reads to here, and has no tunnel that ends.
        let drawn = quotas ? tunnel.quotas : []
        if let expiry = tunnel.expiry ?? (drawn.isEmpty ? nil : .max) { writer.write(expiry) }
        for quota in drawn { writer.write(quota) }
        var bytes = ByteBuffer()
        swap(&bytes, &writer.bytes)
        return bytes
    }

    static func read(
        _ bytes: Span<UInt8>, agent: inout [UInt8]?, hasPreambles: inout Bool, expiry: inout UInt64?, quotas: inout [Quota], origin: inout TunnelOrigin,
        isDetailed: Bool, state: inout ByteBuffer
    ) throws(StateReadError) {
        var reader = StateReader()
        var name = ByteBuffer()
        try reader.string(bytes, into: &name)
        var known = [UInt8](copying: name.span)
        hasPreambles = known.count % ControlLimits.agentBytes == 1
        if hasPreambles { known.removeLast() }
        agent = known.isEmpty ? nil : known
        try reader.string(bytes, into: &state)
        if isDetailed {
            origin.since = try reader.number(bytes)
            origin.address = try text(bytes, &reader)
            origin.program = try text(bytes, &reader)
        }
        if !reader.isAtEnd(bytes) { expiry = try reader.number(bytes) }
        if expiry == .max { expiry = nil }
        while !reader.isAtEnd(bytes), quotas.count < Quota.countMax { quotas.append(try reader.quota(bytes)) }
        try reader.end(bytes)
    }

    private static func text(_ bytes: Span<UInt8>, _ reader: inout StateReader) throws(StateReadError) -> String {
        var text = ByteBuffer()
        try reader.string(bytes, into: &text)
        guard text.count <= TunnelOrigin.textBytesMax, let known = ReservedPath.text(text.span) ?? (text.isEmpty ? "" : nil) else {
            throw StateReadError()
        }
        return known
    }
}
