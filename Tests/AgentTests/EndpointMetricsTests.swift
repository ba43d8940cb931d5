// What the agent counts, and its text.
import Memory
import Testing
import Wire

@testable import Agent

@Suite struct EndpointMetricsTests {
    private func text(_ metrics: [EndpointMetrics]) -> String {
        var buffer = ByteBuffer()
        AgentMetricsText.write(metrics, into: &buffer)
        var bytes: [UInt8] = []
        for index in 0..<buffer.count { bytes.append(buffer.span[index]) }
        return String(decoding: bytes, as: UTF8.self)
    }

    @Test func textHasTheNamesThatDashboardsQuery() {
        let metrics = EndpointMetrics(endpoint: "my-endpoint")
        metrics.requestStarted()
        metrics.requestStarted()
        metrics.requestEnded(method: .get, status: 200, latency: .milliseconds(20), requestBytes: 0, responseBytes: 5_000)
        let lines = text([metrics]).split(separator: "\n").map(String.init)
        for line in [
            "# TYPE piko_agent_requests_in_flight gauge",
            "piko_agent_requests_in_flight{endpoint=\"my-endpoint\"} 1",
            "piko_agent_requests_total{status=\"200\",method=\"GET\",endpoint=\"my-endpoint\"} 1",
            "piko_agent_request_latency_seconds_bucket{status=\"200\",method=\"GET\",endpoint=\"my-endpoint\",le=\"0.01\"} 0",
            "piko_agent_request_latency_seconds_bucket{status=\"200\",method=\"GET\",endpoint=\"my-endpoint\",le=\"0.025\"} 1",
            "piko_agent_request_latency_seconds_bucket{status=\"200\",method=\"GET\",endpoint=\"my-endpoint\",le=\"+Inf\"} 1",
            "piko_agent_request_latency_seconds_sum{status=\"200\",method=\"GET\",endpoint=\"my-endpoint\"} 0.02",
            "piko_agent_request_size_bytes_bucket{endpoint=\"my-endpoint\",le=\"256\"} 1",
            "piko_agent_response_size_bytes_bucket{endpoint=\"my-endpoint\",le=\"4096\"} 0",
            "piko_agent_response_size_bytes_bucket{endpoint=\"my-endpoint\",le=\"16384\"} 1",
            "piko_agent_response_size_bytes_count{endpoint=\"my-endpoint\"} 1",
        ] {
            #expect(lines.contains(line), "\(line)")
        }
    }

    @Test func seriesAreBounded() {
        let metrics = EndpointMetrics(endpoint: "e")
        for status in 100..<1_100 {
            metrics.requestStarted()
            metrics.requestEnded(method: .get, status: status, latency: .zero, requestBytes: 0, responseBytes: 0)
        }
        #expect(metrics.series.count == EndpointMetrics.seriesMax)
        #expect(metrics.series.reduce(0) { $0 + $1.latency.count } == 1_000)
        #expect(metrics.series.last!.status == 0)
        #expect(metrics.requestsInFlight == 0)
    }

    @Test func labelsAreEscaped() {
        #expect(AgentMetricsText.escaped("a\"b\\c\nd") == "a\\\"b\\\\c\\nd")
    }
}
