// What a worker says of itself when it is asked: its tunnels, its connections, its loop. Each answer is the elements of a JSON array;
// the supervisor puts those of all workers together.

import Base
import Control
import Memory
import Reactor
import Telemetry
import Transport
import Wire

extension Worker {
    /// Answers a question of the supervisor's, a page in each turn of the loop.
    func answer(_ request: UInt64, _ question: String) {
        let parts: [() -> JSONValue]
        switch question {
        case "tunnels":
            // One that ended before it is its turn is told of as it was.
            parts = openTunnels.prefix(ControlLimits.tunnelsToldMax).map { tunnel in { [unowned self] in .object(members(of: tunnel)) } }
        case "connections":
            parts = openConnections.prefix(ControlLimits.connectionsToldMax).map { connection in { [unowned self] in describe(connection) } }
        case "loop": parts = [{ [unowned self] in .object(loopMembers) }]
        // A newer supervisor asks for what this worker does not know.
        default: parts = []
        }
        WorkerAnswer(self, request, parts).start()
    }

    private func members(of tunnel: Tunnel) -> [JSONMember] {
        let session = tunnel.session
        func number(_ value: some BinaryInteger) -> JSONValue { .integer(Int64(clamping: value)) }
        return [JSONMember("endpoint", .string(tunnel.endpoint.ownName))]
            + (tunnel.endpoint.tenant.isEmpty
                ? [] : [JSONMember("tenant", .string(String(decoding: tunnel.endpoint.tenant, as: UTF8.self)))])
            + [
                JSONMember("tunnel", .string("\(setup.worker)-\(tunnel.id)")), JSONMember("worker", number(setup.worker)),
                JSONMember("agent_addr", .string(tunnel.origin.address)), JSONMember("agent", .string(tunnel.origin.program)),
                JSONMember("transport", .string(tunnel.agent == nil ? "mux" : "direct")),
                JSONMember("since", .string(Timestamp.text(unixSeconds: tunnel.origin.since))),
                JSONMember("streams", number(session?.streamCount ?? 0)),
                JSONMember("data_connections", number(tunnel.agent == nil ? 0 : tunnel.endpoint.direct?.count ?? 0)),
                JSONMember("bytes_in", number(session?.bytesReceived ?? 0)), JSONMember("bytes_out", number(session?.bytesSent ?? 0)),
                JSONMember("going_away", .bool(session?.isGoingAway ?? true)),
            ]
            + (tunnel.expiry.map { [JSONMember("expires", .string(Timestamp.text(unixSeconds: $0)))] } ?? [])
    }

    private func describe(_ connection: any TrackedConnection) -> JSONValue {
        .object(
            [
                JSONMember("worker", .integer(Int64(setup.worker))), JSONMember("port", .string("\(connection.listener.name)")),
                JSONMember("client", .string(connection.clientText)), JSONMember("state", .string("\(connection.stateName)")),
            ]
                + ((connection as? ProxyConnection)?.endpoint.map { [JSONMember("endpoint", .string($0.name))] } ?? []))
    }

    private var loopMembers: [JSONMember] {
        let counts = loop.counters
        let times = loop.turnTimes
        func number(_ value: some BinaryInteger) -> JSONValue { .integer(Int64(clamping: value)) }
        return [
            JSONMember("worker", number(setup.worker)), JSONMember("generation", number(setup.generation)),
            JSONMember("backend", .string(loop.backendDescription)), JSONMember("turns", number(counts.turns)),
            JSONMember("events", number(counts.events)), JSONMember("system_calls", number(counts.systemCalls)),
            JSONMember("turn_bounds_seconds", .array(TurnTimes.bounds.map { .number(Double($0) / 1e9) })),
            JSONMember("turn_counts", .array(times.counts.dropLast().map(number))),
            JSONMember("turn_seconds_sum", .number(Double(times.counts.last ?? 0) / 1e9)),
            JSONMember("turn_seconds_longest", .number(Double(times.longest) / 1e9)),
            JSONMember("handles_open", number(counts.handlesOpen)), JSONMember("handles_lingering", number(counts.handlesLingering)),
            JSONMember("handles_max", number(loop.limits.handlesMax)),
            JSONMember("output_bytes", number(counts.outputBytes)), JSONMember("output_chunks", number(counts.outputChunks)),
            JSONMember("receive_buffer_shortages", number(counts.receiveBufferShortages)),
            JSONMember("pumps", number(counts.pumps)), JSONMember("pipes", number(counts.pipes)),
            JSONMember("pipe_shortages", number(counts.pipeShortages)),
            JSONMember("tunnels", number(openTunnels.count)), JSONMember("connections", number(openConnections.count)),
            JSONMember("relays", number(relayCount)), JSONMember("waiting_requests", number(parkedCount)),
        ]
    }
}

/// An answer on its way. It keeps itself until it is given.
private final class WorkerAnswer {
    private let worker: Worker
    private let request: UInt64
    private var parts: ArraySlice<() -> JSONValue>
    private var hasBegun = false
    private var timer: CallbackTimer?

    /// Elements that are written in one turn, and bytes of a page: an element has at most some two kilobytes.
    private static let elementsMax = 100
    private static let pageBytes = 48_000
    /// Between two pages: others have their turns, and the socket has room for the next.
    private static let pause = Duration.milliseconds(1)

    init(_ worker: Worker, _ request: UInt64, _ parts: [() -> JSONValue]) {
        self.worker = worker
        self.request = request
        self.parts = parts[...]
    }

    func start() {
        timer = CallbackTimer(worker.loop) { [self] in step() }
        step()
    }

    private func step() {
        var page = ByteBuffer()
        var count = 0
        while count < Self.elementsMax, let part = parts.popFirst() {
            if hasBegun { page.append(UInt8(ascii: ",")) }
            hasBegun = true
            part().write(into: &page)
            count += 1
            if page.count >= Self.pageBytes { break }
        }
        let isLast = parts.isEmpty
        worker.control.send(.inquiryPage(request: request, bytes: [UInt8](copying: page.span), last: isLast))
        if isLast {
            timer = nil
        } else {
            timer?.schedule(after: Self.pause)
        }
    }
}
