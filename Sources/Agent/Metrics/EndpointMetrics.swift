// What the agent counts for one listener, and the Prometheus text of it. The names, labels and buckets are those that
// existing dashboards of the protocol's agents query.
//
// Invariants: counting a request allocates nothing once its (method, status) pair was seen; at most `seriesMax` pairs are
// kept apart for a listener, and what does not fit is counted under method `other`, status 0.

internal import Base
internal import Memory
internal import Wire

/// A histogram with fixed upper bounds. Bounds and observations are in the same unit.
struct Histogram {
    /// Upper bounds, ascending; the last bucket, without a bound, comes behind them.
    let bounds: [Double]
    private(set) var counts: [UInt64]
    private(set) var sum = 0.0

    init(bounds: [Double]) {
        self.bounds = bounds
        counts = Array(repeating: 0, count: bounds.count + 1)
    }

    var count: UInt64 { counts.reduce(0, +) }

    mutating func observe(_ value: Double) {
        var index = 0
        while index < bounds.count && value > bounds[index] { index += 1 }
        counts[index] += 1
        sum += value
    }
}

/// The counters of one listener.
final class EndpointMetrics {
    /// Pairs of method and status that are kept apart.
    static let seriesMax = 256
    /// Seconds.
    static let latencyBounds = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10]
    /// Bytes: 256 · 4^k.
    static let sizeBounds: [Double] = [256, 1024, 4096, 16_384, 65_536, 262_144, 1_048_576, 4_194_304]

    /// The requests of one method that were answered with one status.
    struct Series {
        let method: Method
        let status: Int
        var latency = Histogram(bounds: EndpointMetrics.latencyBounds)
    }

    let endpoint: String
    private(set) var requestsInFlight = 0
    private(set) var series: [Series] = []
    private(set) var requestSize = Histogram(bounds: EndpointMetrics.sizeBounds)
    private(set) var responseSize = Histogram(bounds: EndpointMetrics.sizeBounds)
    private var indices: [UInt32: Int] = [:]

    init(endpoint: String) {
        self.endpoint = endpoint
    }

    /// A request arrived.
    func requestStarted() { requestsInFlight += 1 }

    /// The request's answer is over; `requestBytes` and `responseBytes` are the sizes of the bodies. A request that was cut
    /// before it had a status (0) is in flight no more and counted nowhere else.
    func requestEnded(method: Method, status: Int, latency: Duration, requestBytes: UInt64, responseBytes: UInt64) {
        requestsInFlight -= 1
        if status == 0 { return }
        series[index(method, status)].latency.observe(latency.seconds)
        requestSize.observe(Double(requestBytes))
        responseSize.observe(Double(responseBytes))
    }

    private func index(_ method: Method, _ status: Int) -> Int {
        let key = UInt32(method.rawValue) << 16 | UInt32(UInt16(clamping: status))
        if let index = indices[key] { return index }
        if series.count == Self.seriesMax {
            // The last place is shared by all that came too late.
            return Self.seriesMax - 1
        }
        let isLastPlace = series.count == Self.seriesMax - 1
        series.append(isLastPlace ? Series(method: .other, status: 0) : Series(method: method, status: status))
        if !isLastPlace { indices[key] = series.count - 1 }
        return series.count - 1
    }
}

/// The text of `/metrics`.
enum AgentMetricsText {
    /// Appends the metrics of all listeners.
    static func write(_ endpoints: [EndpointMetrics], into text: inout ByteBuffer) {
        writeHead(
            "piko_agent_requests_in_flight", "gauge", "Requests that are being served.", into: &text)
        for endpoint in endpoints {
            writeSample("piko_agent_requests_in_flight", [("endpoint", endpoint.endpoint)], "\(endpoint.requestsInFlight)", into: &text)
        }
        writeHead("piko_agent_requests_total", "counter", "Requests that were served.", into: &text)
        for endpoint in endpoints {
            for series in endpoint.series {
                writeSample(
                    "piko_agent_requests_total", labels(endpoint, series), "\(series.latency.count)", into: &text)
            }
        }
        writeHead("piko_agent_request_latency_seconds", "histogram", "Time to serve a request.", into: &text)
        for endpoint in endpoints {
            for series in endpoint.series {
                writeHistogram(
                    "piko_agent_request_latency_seconds", labels(endpoint, series), series.latency, into: &text)
            }
        }
        writeHead("piko_agent_request_size_bytes", "histogram", "Size of request bodies.", into: &text)
        for endpoint in endpoints {
            writeHistogram(
                "piko_agent_request_size_bytes", [("endpoint", endpoint.endpoint)], endpoint.requestSize, into: &text)
        }
        writeHead("piko_agent_response_size_bytes", "histogram", "Size of response bodies.", into: &text)
        for endpoint in endpoints {
            writeHistogram(
                "piko_agent_response_size_bytes", [("endpoint", endpoint.endpoint)], endpoint.responseSize, into: &text)
        }
    }

    /// Appends how the listeners stand with the server.
    static func write(_ connections: [ConnectionMetrics], into text: inout ByteBuffer) {
        func write(_ name: String, _ kind: String, _ help: String, _ value: (ConnectionMetrics) -> String) {
            writeHead(name, kind, help, into: &text)
            for one in connections { writeSample(name, [("endpoint", one.endpoint)], value(one), into: &text) }
        }
        write("piko_agent_connected", "gauge", "Tunnels of the endpoint's listeners that stand.") { "\($0.connected)" }
        write("piko_agent_connects_total", "counter", "Connections to the server that were made.") { "\($0.connects)" }
        write("piko_agent_connect_failures_total", "counter", "Connections to the server that could not be made.") { "\($0.failures)" }
    }

    private static func labels(_ endpoint: EndpointMetrics, _ series: EndpointMetrics.Series) -> [(String, String)] {
        let method = series.method == .other ? "other" : "\(series.method.name)"
        return [("status", "\(series.status)"), ("method", method), ("endpoint", endpoint.endpoint)]
    }

    private static func writeHead(_ name: String, _ kind: String, _ help: String, into text: inout ByteBuffer) {
        text.append("# HELP \(name) \(help)\n# TYPE \(name) \(kind)\n")
    }

    private static func writeHistogram(
        _ name: String, _ labels: [(String, String)], _ histogram: Histogram, into text: inout ByteBuffer
    ) {
        var cumulative: UInt64 = 0
        for (bound, count) in zip(histogram.bounds, histogram.counts) {
            cumulative += count
            writeSample("\(name)_bucket", labels + [("le", number(bound))], "\(cumulative)", into: &text)
        }
        writeSample("\(name)_bucket", labels + [("le", "+Inf")], "\(histogram.count)", into: &text)
        writeSample("\(name)_sum", labels, number(histogram.sum), into: &text)
        writeSample("\(name)_count", labels, "\(histogram.count)", into: &text)
    }

    private static func writeSample(_ name: String, _ labels: [(String, String)], _ value: String, into text: inout ByteBuffer) {
        let list = labels.map { "\($0)=\"\(escaped($1))\"" }.joined(separator: ",")
        text.append("\(name){\(list)} \(value)\n")
    }

    /// A number without a needless fraction: "1", "0.005".
    private static func number(_ value: Double) -> String {
        value == value.rounded() && value.magnitude < 1e15 ? "\(Int64(value))" : "\(value)"
    }

    /// A label's value as the text format wants it.
    static func escaped(_ value: String) -> String {
        var result = ""
        for character in value.unicodeScalars {
            switch character {
            case "\\": result += "\\\\"
            case "\"": result += "\\\""
            case "\n": result += "\\n"
            default: result.unicodeScalars.append(character)
            }
        }
        return result
    }
}
