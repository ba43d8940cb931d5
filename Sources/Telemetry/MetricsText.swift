// The Prometheus text format of a snapshot of counters. Names, labels and bucket bounds of the proxy and upstream metrics
// are those that dashboards for this protocol's server use; bounds are written as Prometheus's Go client writes them.

public import Memory

/// Writes metrics as text.
public enum MetricsText {
    /// The media type of the text.
    public static let contentType: StaticString = "text/plain; version=0.0.4; charset=utf-8"

    /// Appends all metrics. `nodeStart` is in nanoseconds since 1970.
    public static func render(_ snapshot: CounterSnapshot, version: String, nodeStart: UInt64, into text: inout ByteBuffer) {
        head("piko_build_info", "gauge", "The version of the running program.", &text)
        text.append("piko_build_info{version=\"" as StaticString)
        text.append(version)
        text.append("\"} 1\n" as StaticString)
        head("piko_start_time_seconds", "gauge", "When the node started, in seconds since 1970.", &text)
        text.append("piko_start_time_seconds " as StaticString)
        seconds(nodeStart, &text)
        text.append("\n" as StaticString)
        fixedCounters(snapshot, &text)
        sizes(.requestBytes, "piko_proxy_request_size_bytes", "Size of request bodies.", snapshot, &text)
        sizes(.responseBytes, "piko_proxy_response_size_bytes", "Size of response bodies.", snapshot, &text)
        durations(.timeToFirstByte, "piko_proxy_time_to_first_byte_seconds", "Time from a request's first byte to the first of its answer.", snapshot, &text)
        durations(.loopTurn, "piko_loop_turn_seconds", "How long turns of the event loops kept everything else waiting.", snapshot, &text)
        requests(snapshot, &text)
    }

    private static func head(_ name: StaticString, _ type: StaticString, _ help: StaticString, _ text: inout ByteBuffer) {
        text.append("# HELP " as StaticString)
        text.append(name)
        text.append(" " as StaticString)
        text.append(help)
        text.append("\n# TYPE " as StaticString)
        text.append(name)
        text.append(" " as StaticString)
        text.append(type)
        text.append("\n" as StaticString)
    }

    private static func fixedCounters(_ snapshot: CounterSnapshot, _ text: inout ByteBuffer) {
        let families = Counter.allCases.filter { counter in
            let name = counter.description.name
            return Counter.allCases.first { $0.description.name.isSame(as: name) } == counter
        }
        for family in families {
            let description = family.description
            head(description.name, description.kind == .gauge ? "gauge" : "counter", description.help, &text)
            for counter in Counter.allCases where counter.description.name.isSame(as: description.name) {
                let own = counter.description
                text.append(own.name)
                if own.labels.utf8CodeUnitCount > 0 {
                    text.append("{" as StaticString)
                    text.append(own.labels)
                    text.append("}" as StaticString)
                }
                text.append(" " as StaticString)
                value(slot(snapshot, counter.rawValue), isGauge: own.kind == .gauge, &text)
                text.append("\n" as StaticString)
            }
        }
    }

    /// Slots that an older program does not have count as zero.
    private static func slot(_ snapshot: CounterSnapshot, _ index: Int) -> UInt64 {
        index < snapshot.fixed.count ? snapshot.fixed[index] : 0
    }

    /// A gauge may be negative for a moment, when it is read between two processes' changes; then it is zero.
    private static func value(_ value: UInt64, isGauge: Bool, _ text: inout ByteBuffer) {
        text.appendDecimal(isGauge && Int64(bitPattern: value) < 0 ? 0 : value)
    }

    private static func sizes(
        _ histogram: SizeHistogram, _ name: StaticString, _ help: StaticString, _ snapshot: CounterSnapshot,
        _ text: inout ByteBuffer
    ) {
        head(name, "histogram", help, &text)
        var count: UInt64 = 0
        for bucket in 0...SizeHistogram.bounds.count {
            count &+= slot(snapshot, histogram.firstSlot + bucket)
            text.append(name)
            text.append("_bucket{le=\"" as StaticString)
            text.append(sizeLabels[bucket])
            text.append("\"} " as StaticString)
            text.appendDecimal(count)
            text.append("\n" as StaticString)
        }
        text.append(name)
        text.append("_sum " as StaticString)
        text.appendDecimal(slot(snapshot, histogram.firstSlot + SizeHistogram.bounds.count + 1))
        text.append("\n" as StaticString)
        text.append(name)
        text.append("_count " as StaticString)
        text.appendDecimal(count)
        text.append("\n" as StaticString)
    }

    private static func durations(
        _ histogram: DurationHistogram, _ name: StaticString, _ help: StaticString, _ snapshot: CounterSnapshot, _ text: inout ByteBuffer
    ) {
        head(name, "histogram", help, &text)
        self.histogram(name, histogram.bounds, (0..<DurationHistogram.slots).map { slot(snapshot, histogram.firstSlot + $0) }, &text)
    }

    /// The lines of a histogram of durations.
    static func histogram(_ name: StaticString, _ bounds: [UInt64], _ counts: [UInt64], _ text: inout ByteBuffer) {
        var count: UInt64 = 0
        for bucket in 0...bounds.count {
            count &+= counts[bucket]
            text.append(name)
            text.append("_bucket{le=\"" as StaticString)
            if bucket < bounds.count { seconds(bounds[bucket], &text) } else { text.append("+Inf" as StaticString) }
            text.append("\"} " as StaticString)
            text.appendDecimal(count)
            text.append("\n" as StaticString)
        }
        text.append(name)
        text.append("_sum " as StaticString)
        seconds(counts[bounds.count + 1], &text)
        text.append("\n" as StaticString)
        text.append(name)
        text.append("_count " as StaticString)
        text.appendDecimal(count)
        text.append("\n" as StaticString)
    }

    private static let sizeLabels: [StaticString] = [
        "256", "1024", "4096", "16384", "65536", "262144", "1.048576e+06", "4.194304e+06", "+Inf",
    ]
    private static let latencyLabels: [StaticString] = [
        "0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "10", "+Inf",
    ]

    private static func requests(_ snapshot: CounterSnapshot, _ text: inout ByteBuffer) {
        let series = merged(snapshot)
        let total: StaticString = "piko_proxy_requests_total"
        head(total, "counter", "Requests, by status and method.", &text)
        for (key, columns) in series {
            text.append(total)
            labels(key, le: nil, &text)
            text.append(" " as StaticString)
            text.appendDecimal(columns[..<LatencyHistogram.sumColumn].reduce(0, &+))
            text.append("\n" as StaticString)
        }
        head("piko_proxy_request_latency_seconds", "histogram", "Latency of requests, by status and method.", &text)
        for (key, columns) in series { latency(key, columns, &text) }
    }

    private static func latency(_ key: SeriesKey, _ columns: [UInt64], _ text: inout ByteBuffer) {
        var count: UInt64 = 0
        for bucket in 0..<LatencyHistogram.sumColumn {
            count &+= columns[bucket]
            text.append("piko_proxy_request_latency_seconds_bucket" as StaticString)
            labels(key, le: latencyLabels[bucket], &text)
            text.append(" " as StaticString)
            text.appendDecimal(count)
            text.append("\n" as StaticString)
        }
        text.append("piko_proxy_request_latency_seconds_sum" as StaticString)
        labels(key, le: nil, &text)
        text.append(" " as StaticString)
        seconds(columns[LatencyHistogram.sumColumn], &text)
        text.append("\npiko_proxy_request_latency_seconds_count" as StaticString)
        labels(key, le: nil, &text)
        text.append(" " as StaticString)
        text.appendDecimal(count)
        text.append("\n" as StaticString)
    }

    /// One entry for each pair of labels: rows with keys that mean nothing are added to `other`.
    private static func merged(_ snapshot: CounterSnapshot) -> [(SeriesKey, [UInt64])] {
        var series: [SeriesKey: [UInt64]] = [:]
        for (raw, columns) in snapshot.rows {
            let key = SeriesKey(reading: raw)
            var sum = series[key] ?? [UInt64](repeating: 0, count: LatencyHistogram.columns)
            for index in 0..<min(sum.count, columns.count) { sum[index] &+= columns[index] }
            series[key] = sum
        }
        return series.sorted { $0.key < $1.key }.map { ($0.key, $0.value) }
    }

    private static func labels(_ key: SeriesKey, le: StaticString?, _ text: inout ByteBuffer) {
        text.append("{method=\"" as StaticString)
        text.append(key.series?.method.text ?? "other")
        text.append("\",status=\"" as StaticString)
        if let series = key.series {
            text.appendDecimal(series.status)
        } else {
            text.append("other" as StaticString)
        }
        if let le {
            text.append("\",le=\"" as StaticString)
            text.append(le)
        }
        text.append("\"}" as StaticString)
    }

    /// Nanoseconds as seconds, without loss.
    static func seconds(_ nanoseconds: UInt64, _ text: inout ByteBuffer) {
        text.appendDecimal(nanoseconds / 1_000_000_000)
        var fraction = nanoseconds % 1_000_000_000
        if fraction == 0 { return }
        text.append("." as StaticString)
        var divisor: UInt64 = 100_000_000
        while fraction > 0 {
            text.append(UInt8(48 + fraction / divisor))
            fraction %= divisor
            divisor /= 10
        }
    }
}

extension StaticString {
    fileprivate func isSame(as other: StaticString) -> Bool { "\(self)" == "\(other)" }
}
