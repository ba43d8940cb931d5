// The replies on the control socket: what the node is and does.

import Base
import Control
import Reactor
import Telemetry

extension Node {
    /// Makes the reply to a request, and gives it to `reply` now or when it is done.
    func answer(_ request: JSONValue, _ reply: @escaping (JSONValue) -> Void) {
        guard let command = request["command"]?.string else { return reply(failure("a request is {\"command\": \"…\"}")) }
        switch command {
        case "info": reply(.object(info))
        case "workers": reply(.object([JSONMember("workers", workers)]))
        case "reload": reload { reply($0.json) }
        case "upgrade": startUpgrade(to: request["binary"]?.string) { reply($0) }
        case "drain":
            if machine.isServing {
                setOutOfUse(request["off"] != .bool(true))
                reply(.object([JSONMember("ready", .bool(isReady))]))
            } else {
                reply(failure("the node is \(machine.stateName)"))
            }
        default: reply(failure("unknown command \"\(command)\""))
        }
    }

    private func failure(_ text: String) -> JSONValue {
        .object([JSONMember("error", .string(text))])
    }

    var info: [JSONMember] {
        [
            JSONMember("version", .string(BuildInfo.version)),
            JSONMember("pid", .integer(Int64(System.processIdentifier))),
            JSONMember("state", .string("\(machine.stateName)")),
            JSONMember("ready", .bool(isReady)),
            JSONMember("generation", .integer(Int64(machine.currentGeneration))),
            JSONMember("io_backend", .string(loop.backendDescription)),
            JSONMember("endpoints", .integer(Int64(routes.endpointCount))),
            JSONMember("upstreams", .integer(Int64(routes.tunnelCount))),
            JSONMember("node_id", .string(nodeID)),
            JSONMember("nodes", .integer(Int64((cluster?.known.count ?? 0) + 1))),
            JSONMember("listeners", listeners),
            JSONMember("workers", workers),
        ]
    }

    private var listeners: JSONValue {
        func listener(_ name: String, _ address: SocketAddress) -> JSONValue {
            .object([JSONMember("name", .string(name)), JSONMember("address", .string(address.description))])
        }
        return .array(
            ListenerKind.allCases.flatMap { kind in ports.addresses(kind).map { listener("\(kind.name)", $0) } }
                + (cluster.map { [listener("gossip", $0.gossipAddress)] } ?? []))
    }

    var workers: JSONValue {
        .array(
            processes.workers.map { worker in
                let figures = ProcessFigures.read(worker.child.pid)
                return .object([
                    JSONMember("pid", .integer(Int64(worker.child.pid))),
                    JSONMember("id", .integer(Int64(worker.worker))),
                    JSONMember("generation", .integer(Int64(worker.generation))),
                    JSONMember("place", .integer(Int64(worker.place))),
                    JSONMember("state", .string("\(machine.stateName(of: worker.worker))")),
                    JSONMember("connections", .integer(Int64(clamping: worker.load.connections))),
                    JSONMember("cpu_seconds", .number(Double(figures?.processorNanoseconds ?? 0) / 1e9)),
                    JSONMember("memory_bytes", .integer(Int64(clamping: figures?.residentBytes ?? 0))),
                ])
            })
    }
}
