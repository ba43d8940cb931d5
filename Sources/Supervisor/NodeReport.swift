// The replies on the control socket: what the node is and does.

import Base
import Control
import Reactor
import Telemetry

extension Node {
    /// The reply to a request.
    func answer(_ request: JSONValue) -> JSONValue {
        guard let command = request["command"]?.string else { return failure("a request is {\"command\": \"…\"}") }
        switch command {
        case "info": return .object(info)
        case "workers": return .object([JSONMember("workers", workers)])
        default: return failure("unknown command \"\(command)\"")
        }
    }

    private func failure(_ text: String) -> JSONValue {
        .object([JSONMember("error", .string(text))])
    }

    private var info: [JSONMember] {
        [
            JSONMember("version", .string(BuildInfo.version)),
            JSONMember("pid", .integer(Int64(System.processIdentifier))),
            JSONMember("state", .string("\(machine.stateName)")),
            JSONMember("ready", .bool(isReady)),
            JSONMember("io_backend", .string(loop.backendDescription)),
            JSONMember("endpoints", .integer(Int64(routes.endpointCount))),
            JSONMember("upstreams", .integer(Int64(routes.tunnelCount))),
            JSONMember("listeners", listeners),
            JSONMember("workers", workers),
        ]
    }

    private var listeners: JSONValue {
        .array(
            ListenerKind.allCases.flatMap { kind in
                ports.addresses(kind).map { address in
                    .object([
                        JSONMember("name", .string("\(kind.name)")), JSONMember("address", .string(address.description)),
                    ])
                }
            })
    }

    private var workers: JSONValue {
        .array(
            processes.workers.map { worker in
                .object([
                    JSONMember("pid", .integer(Int64(worker.child.pid))),
                    JSONMember("id", .integer(Int64(worker.worker))),
                    JSONMember("place", .integer(Int64(worker.place))),
                    JSONMember("state", .string("\(machine.stateName(of: worker.worker))")),
                    JSONMember("connections", .integer(Int64(clamping: worker.load.connections))),
                ])
            })
    }
}
