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
    /// Endpoints of a piece.
    private static let pieceMax = 256

    /// Appends a piece of the families of what is counted by name; false when there is none of that number.
    public static func render(
        piece: Int, _ traffic: [TrafficEntry], _ nodes: TrafficRegion, into metrics: inout MetricsWriter
    ) -> Bool {
        let pieces = max(1, (traffic.count + pieceMax - 1) / pieceMax)
        let isBegun = piece % pieces > 0
        let first = piece % pieces * pieceMax
        let traffic = traffic[first..<min(first + pieceMax, traffic.count)]
        switch piece / pieces {
        case 0:
            metrics.family("piko_endpoint_requests_total", .counter, "Requests by endpoint and class of status.", isBegun: isBegun)
            for entry in traffic {
                for (name, column) in classes where entry[column] > 0 {
                    metrics.value(entry[column], TrafficName(entry).labels + [("class", name)])
                }
            }
        case 1:
            metrics.family("piko_endpoint_request_seconds_total", .counter, "Time that requests took, by endpoint.", isBegun: isBegun)
            for entry in traffic where entry.requests > 0 { metrics.seconds(entry[.nanoseconds], TrafficName(entry).labels) }
        case 2:
            metrics.family("piko_endpoint_connections_total", .counter, "TCP and upgraded connections that ended, by endpoint.", isBegun: isBegun)
            write(traffic, .connections, into: &metrics)
        case 3:
            metrics.family("piko_endpoint_received_bytes_total", .counter, "Bytes of bodies and connections from clients, by endpoint.", isBegun: isBegun)
            write(traffic, .bytesIn, into: &metrics)
        case 4:
            metrics.family("piko_endpoint_sent_bytes_total", .counter, "Bytes of bodies and connections to clients, by endpoint.", isBegun: isBegun)
            write(traffic, .bytesOut, into: &metrics)
        case 5:
            if isBegun { return true }
            metrics.family("piko_upstreams_remote_requests_total", .counter, "Requests sent to another node, by node.")
            for entry in nodes.read() where entry[.connections] > 0 {
                metrics.value(entry[.connections], [("node_id", TrafficName(entry).endpoint)])
            }
        default: return false
        }
        return true
    }

    private static func write(_ traffic: ArraySlice<TrafficEntry>, _ column: TrafficColumn, into metrics: inout MetricsWriter) {
        for entry in traffic where entry[column] > 0 { metrics.value(entry[column], TrafficName(entry).labels) }
    }

    private static let classes: [(String, TrafficColumn)] = [
        ("2xx", .status2xx), ("3xx", .status3xx), ("4xx", .status4xx), ("5xx", .status5xx), ("other", .otherStatus),
    ]
}
