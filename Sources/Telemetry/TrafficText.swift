// The traffic of endpoints in the Prometheus text format. There are as many series as the region has slots, and one for all others.

public import Memory

/// Whom an entry of the traffic is about.
public struct TrafficName: Equatable, Sendable {
    /// What stands for all endpoints that have no numbers of their own.
    static let others = "\(TrafficRegion.othersName)"

    public var tenant = ""
    public var endpoint: String

    public init(_ entry: TrafficEntry) {
        guard !entry.name.isEmpty else {
            endpoint = Self.others
            return
        }
        let slash = entry.name.firstIndex(of: UInt8(ascii: "/"))
        tenant = slash.map { String(decoding: entry.name[..<$0], as: UTF8.self) } ?? ""
        endpoint = String(decoding: entry.name[(slash.map { $0 + 1 } ?? 0)...], as: UTF8.self)
    }

    var labels: [(name: String, value: String)] {
        tenant.isEmpty ? [("endpoint", endpoint)] : [("endpoint", endpoint), ("tenant", tenant)]
    }
}

extension MetricsText {
    /// Appends the families of what is counted by name.
    public static func render(_ traffic: NamedTraffic, into metrics: inout MetricsWriter) {
        render(traffic.endpoints.read(), into: &metrics)
        metrics.family("piko_upstreams_remote_requests_total", .counter, "Requests sent to another node, by node.")
        for entry in traffic.nodes.read() where entry[.connections] > 0 {
            metrics.value(entry[.connections], [("node_id", TrafficName(entry).endpoint)])
        }
    }

    /// Appends the families of the endpoints' traffic.
    public static func render(_ traffic: [TrafficEntry], into metrics: inout MetricsWriter) {
        let named = traffic.map { (TrafficName($0).labels, $0) }
        metrics.family("piko_endpoint_requests_total", .counter, "Requests by endpoint and class of status.")
        for (labels, entry) in named {
            for (name, column) in classes where entry[column] > 0 { metrics.value(entry[column], labels + [("class", name)]) }
        }
        metrics.family("piko_endpoint_request_seconds_total", .counter, "Time that requests took, by endpoint.")
        for (labels, entry) in named where entry.requests > 0 { metrics.seconds(entry[.nanoseconds], labels) }
        metrics.family("piko_endpoint_connections_total", .counter, "TCP and upgraded connections that ended, by endpoint.")
        for (labels, entry) in named where entry[.connections] > 0 { metrics.value(entry[.connections], labels) }
        metrics.family("piko_endpoint_received_bytes_total", .counter, "Bytes of bodies and connections from clients, by endpoint.")
        for (labels, entry) in named where entry[.bytesIn] > 0 { metrics.value(entry[.bytesIn], labels) }
        metrics.family("piko_endpoint_sent_bytes_total", .counter, "Bytes of bodies and connections to clients, by endpoint.")
        for (labels, entry) in named where entry[.bytesOut] > 0 { metrics.value(entry[.bytesOut], labels) }
    }

    private static let classes: [(String, TrafficColumn)] = [
        ("2xx", .status2xx), ("3xx", .status3xx), ("4xx", .status4xx), ("5xx", .status5xx), ("other", .otherStatus),
    ]
}
