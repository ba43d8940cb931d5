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
    /// Answers a question of the supervisor's.
    func answer(_ request: UInt64, _ question: String) {
        var text = ByteBuffer()
        switch question {
        case "tunnels": writeTunnels(into: &text)
        case "connections": writeConnections(into: &text)
        case "loop": JSONValue.object(loopMembers).write(into: &text)
        // A newer supervisor asks for what this worker does not know.
        default: break
        }
        var start = 0
        repeat {
            let end = min(start + ControlLimits.reportBytesMax, text.count)
            let page = text.withSpan(start..<end) { [UInt8](copying: $0) }
            control.send(.inquiryPage(request: request, bytes: page, last: end == text.count))
            start = end
        } while start < text.count
    }

    private func writeTunnels(into text: inout ByteBuffer) {
        for tunnel in openTunnels.prefix(ControlLimits.tunnelsToldMax) {
            if !text.isEmpty { text.append(UInt8(ascii: ",")) }
            JSONValue.object(members(of: tunnel)).write(into: &text)
        }
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

    private func writeConnections(into text: inout ByteBuffer) {
        for connection in openConnections.prefix(ControlLimits.connectionsToldMax) {
            if !text.isEmpty { text.append(UInt8(ascii: ",")) }
            JSONValue.object(
                [
                    JSONMember("worker", .integer(Int64(setup.worker))), JSONMember("port", .string("\(connection.listener.name)")),
                    JSONMember("client", .string(connection.clientText)), JSONMember("state", .string("\(connection.stateName)")),
                ]
                    + ((connection as? ProxyConnection)?.endpoint.map { [JSONMember("endpoint", .string($0.name))] } ?? [])
            ).write(into: &text)
        }
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
