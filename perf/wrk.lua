-- Makes wrk print its results as one JSON line: exchanges, bytes, seconds, latencies in microseconds, and what went wrong.
done = function(summary, latency)
    local errors = summary.errors
    io.write(string.format(
        '{"exchanges": %d, "bytes": %d, "seconds": %.6f, "p50": %.1f, "p99": %.1f, "p999": %.1f, "max": %.1f, "errors": %d, "failures": "%s"}\n',
        summary.requests, summary.bytes, summary.duration / 1e6, latency:percentile(50), latency:percentile(99),
        latency:percentile(99.9), latency.max, errors.connect + errors.read + errors.write + errors.status + errors.timeout,
        string.format("%d connects, %d reads, %d writes, %d statuses, %d timeouts", errors.connect, errors.read, errors.write, errors.status, errors.timeout)))
end
