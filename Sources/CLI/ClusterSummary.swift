// `piko server status cluster summary`: the numbers of every node of the cluster, asked through one of them, and their sums.
internal import Config
internal import Telemetry

enum ClusterSummary {
    /// What of a node's numbers is shown, with the way to it in the node's answer.
    private static let shown: [(name: String, path: [String])] = [
        ("requests", ["requests", "total"]), ("from_nodes", ["requests", "from_nodes"]), ("errors", ["requests", "by_status", "5xx"]), ("in_flight", ["requests", "in_flight"]),
        ("connections", ["connections", "proxy"]), ("bytes_in", ["bytes", "in"]), ("bytes_out", ["bytes", "out"]),
        ("cpu_seconds", ["cpu_seconds"]), ("memory_bytes", ["memory_bytes"]),
    ]

    /// Asks for the nodes, and then each for its numbers.
    static func ask(_ config: StatusConfig) throws(CommandFailure) -> JSONValue {
        guard let nodes = StatusCommand.select(try StatusCommand.get("/status/cluster/nodes", config), config).array else {
            throw CommandFailure("the answer is no list of nodes")
        }
        var numbers: [JSONValue?] = []
        for node in nodes {
            guard let name = node["id"]?.string, node["status"]?.string != "left" else {
                numbers.append(nil)
                continue
            }
            var asked = config
            asked.forward = name
            numbers.append(try? StatusCommand.get("/status/node", asked))
        }
        return combine(nodes, numbers)
    }

    /// The nodes' lines, and their sums. `numbers`: what each node said, or nil.
    static func combine(_ nodes: [JSONValue], _ numbers: [JSONValue?]) -> JSONValue {
        let lines = zip(nodes, numbers).map { node, numbers in
            JSONValue.object(
                ["id", "status"].map { JSONMember($0, node[$0] ?? .null) }
                    + [JSONMember("version", numbers?["version"] ?? .null)]
                    + ["endpoints", "upstreams"].map { JSONMember($0, node[$0] ?? .null) }
                    + shown.map { JSONMember($0.name, $0.path.reduce(numbers ?? .null) { value, name in value[name] ?? .null }) })
        }
        let sums = (["upstreams"] + shown.map(\.name)).map { name in
            JSONMember(name, lines.reduce(.integer(0)) { sum, line in add(sum, line[name]) })
        }
        // What one node sent to another is in both.
        let all = sums.map { sum in
            guard sum.name == "requests", let total = sum.value.integer, let twice = sums.first(where: { $0.name == "from_nodes" })?.value.integer
            else { return sum }
            return JSONMember("requests", .integer(total - twice))
        }
        return .object(
            [
                JSONMember("nodes_active", .integer(Int64(lines.count { $0["status"]?.string == "active" }))),
                JSONMember("nodes_answering", .integer(Int64(numbers.count { $0 != nil }))),
            ] + all + [JSONMember("nodes", .array(lines))])
    }

    private static func add(_ sum: JSONValue, _ value: JSONValue?) -> JSONValue {
        switch (sum, value) {
        case (.integer(let left), .integer(let right)?): .integer(left &+ right)
        case (.integer(let left), .number(let right)?): .number(Double(left) + right)
        case (.number(let left), .integer(let right)?): .number(left + Double(right))
        case (.number(let left), .number(let right)?): .number(left + right)
        default: sum
        }
    }
}
