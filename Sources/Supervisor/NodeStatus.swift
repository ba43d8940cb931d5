// What the node says of itself on the admin port: its numbers, its workers, and what these have. Made here, for only the supervisor
// sees all of it, and served by a worker.

import Base
import Control
import Memory
import Reactor
import Telemetry

extension Node {
    /// Sends the report at the path ("cluster/nodes", say) to the worker, now or when the workers have answered.
    func report(_ link: WorkerLink, _ request: UInt64, _ path: String) {
        if link.waitingCount > Report.waitingMax {
            return send(.failure(503, "too many reports at a time"), to: link, request)
        }
        switch path {
        case "node": send(Report(.object(status)), to: link, request)
        case "workers": ask("loop", "loops", [JSONMember("workers", workers)], link, request)
        case "upstream/tunnels": ask("tunnels", "tunnels", [], isShort: routes.tunnelCount > ControlLimits.tunnelsToldMax, link, request)
        case "upstream/traffic": send(Report(trafficReport), to: link, request)
        case "debug/loops": ask("loop", "loops", [], link, request)
        case "debug/connections":
            let isShort = processes.workers.contains { $0.load.connections > ControlLimits.connectionsToldMax }
            ask("connections", "connections", [], isShort: isShort, link, request)
        case "metrics":
            var report = cluster?.report(path) ?? Report(status: 200)
            if report.status == 200 { report.body += processMetrics }
            send(report, to: link, request)
        default: send(cluster?.report(path) ?? .failure(503, "this node is in no cluster"), to: link, request)
        }
    }

    /// A report with what the workers answer as its member `name`. `isShort`: they may have more than they tell.
    private func ask(
        _ question: String, _ name: String, _ members: [JSONMember], isShort: Bool = false, _ link: WorkerLink, _ request: UInt64
    ) {
        let worker = link.worker
        let isAsked = inquiries.ask(question, processes.workers) { [unowned self] answer in
            guard let process = processes[worker], process.isLinked else { return }
            let head = members + [JSONMember("node", .string(nodeID)), JSONMember("complete", .bool(answer.isWhole && !isShort))]
            var text = ByteBuffer()
            JSONValue.object(head).write(into: &text)
            var report = Report(status: 200)
            report.body = [UInt8](copying: text.span)
            report.body.removeLast()
            report.body += Array(",\"\(name)\":[".utf8) + answer.elements + Array("]}".utf8)
            send(report, to: process.link, request)
        }
        if !isAsked { send(.failure(503, "too many reports at a time"), to: link, request) }
    }

    /// Sends it in pages.
    private func send(_ report: Report, to link: WorkerLink, _ request: UInt64) {
        var report = report.body.count > Report.bodyBytesMax ? .tooLong : report
        // Others may have been answered since it was asked for.
        if link.waitingCount > Report.waitingMax { report = .failure(503, "too many reports at a time") }
        var start = 0
        repeat {
            let end = min(start + ControlLimits.reportBytesMax, report.body.count)
            let page = Array(report.body[start..<end])
            link.send(.reportPage(request: request, status: report.status, bytes: page, last: end == report.body.count))
            start = end
        } while start < report.body.count
    }

    // MARK: The node

    private var status: [JSONMember] {
        let totals = NodeTotals(region.read())
        let figures = processFigures
        let names = ["other", "2xx", "3xx", "4xx", "5xx"]
        func number(_ value: UInt64) -> JSONValue { .integer(Int64(clamping: value)) }
        return info.filter { $0.name != "pid" && $0.name != "listeners" && $0.name != "workers" } + [
            JSONMember("started", .string(Timestamp.text(unixNanoseconds: started))),
            JSONMember("now", .string(Timestamp.text(unixNanoseconds: SystemClock.unixNanoseconds))),
            JSONMember("uptime_seconds", number((SystemClock.unixNanoseconds &- started) / 1_000_000_000)),
            JSONMember("connections", .object(PortLabel.allCases.map { JSONMember("\($0)", number(totals.connections[$0.rawValue])) })),
            JSONMember(
                "requests",
                .object([
                    JSONMember("total", number(totals.requests.reduce(0, &+))), JSONMember("in_flight", number(totals.inFlight)),
                    JSONMember("from_nodes", number(totals.fromNodes)),
                    JSONMember("by_status", .object(zip(names, totals.requests).map { JSONMember($0, number($1)) })),
                    JSONMember("latency_seconds_sum", .number(Double(totals.latencyNanoseconds) / 1e9)),
                    JSONMember("latency_bounds_seconds", .array(NodeTotals.latencyBounds.map { .number($0) })),
                    JSONMember("latency_counts", .array(totals.latencies.map(number))),
                ])),
            JSONMember("bytes", .object([JSONMember("in", number(totals.bytesIn)), JSONMember("out", number(totals.bytesOut))])),
            JSONMember("cpu_seconds", .number(Double(figures.processorNanoseconds) / 1e9)),
            JSONMember("memory_bytes", number(figures.residentBytes)),
            JSONMember("workers", workers),
        ]
    }

    private var trafficReport: JSONValue {
        .array(
            (traffic?.endpoints.read() ?? []).map { entry in
                let name = TrafficName(entry)
                return .object(
                    [JSONMember("endpoint", .string(name.endpoint))]
                        + (name.tenant.isEmpty ? [] : [JSONMember("tenant", .string(name.tenant))])
                        + [
                            JSONMember("requests", .integer(Int64(clamping: entry.requests))),
                            JSONMember("errors", .integer(Int64(clamping: entry[.status5xx]))),
                            JSONMember("seconds", .number(Double(entry[.nanoseconds]) / 1e9)),
                            JSONMember("connections", .integer(Int64(clamping: entry[.connections]))),
                            JSONMember("bytes_in", .integer(Int64(clamping: entry[.bytesIn]))),
                            JSONMember("bytes_out", .integer(Int64(clamping: entry[.bytesOut]))),
                        ])
            })
    }

    // MARK: Processes

    /// All processes of the node together, those that ended included.
    private var processFigures: ProcessFigures {
        var sum = ProcessFigures.read(System.processIdentifier) ?? ProcessFigures()
        sum.processorNanoseconds &+= ProcessFigures.endedChildrenNanoseconds
        for worker in processes.workers {
            guard let figures = ProcessFigures.read(worker.child.pid) else { continue }
            sum.processorNanoseconds &+= figures.processorNanoseconds
            sum.residentBytes &+= figures.residentBytes
            sum.virtualBytes &+= figures.virtualBytes
        }
        return sum
    }

    private var processMetrics: [UInt8] {
        var metrics = MetricsWriter()
        let sum = processFigures
        metrics.family("process_cpu_seconds_total", .counter, "Processor time of all processes of the node.")
        metrics.seconds(sum.processorNanoseconds)
        metrics.gauge("process_resident_memory_bytes", "Memory of all processes of the node; what they share counts for each.", sum.residentBytes)
        metrics.gauge("process_virtual_memory_bytes", "Address space of all processes of the node.", sum.virtualBytes)
        metrics.gauge(
            "process_open_fds", "Descriptors that the supervisor has open.", UInt64(ProcessFigures.openDescriptors(System.processIdentifier) ?? 0))
        metrics.gauge("process_max_fds", "Descriptors that a process may have open.", UInt64(System.raiseDescriptorLimit()))
        metrics.family("process_start_time_seconds", .gauge, "When the node started, in seconds since 1970.")
        metrics.seconds(started)
        metrics.family("piko_generation", .gauge, "The generation that gets new connections.")
        metrics.value(UInt64(machine.currentGeneration))
        let workers = processes.workers.map { worker in
            (worker, [("worker", "\(worker.worker)"), ("generation", "\(worker.generation)")], ProcessFigures.read(worker.child.pid))
        }
        metrics.family("piko_worker_cpu_seconds_total", .counter, "Processor time of a worker.")
        for (_, labels, figures) in workers { if let figures { metrics.seconds(figures.processorNanoseconds, labels) } }
        metrics.family("piko_worker_resident_memory_bytes", .gauge, "Memory of a worker.")
        for (_, labels, figures) in workers { if let figures { metrics.value(figures.residentBytes, labels) } }
        metrics.family("piko_worker_connections", .gauge, "Connections that a worker has open, by port.")
        for (worker, labels, _) in workers {
            for port in PortLabel.allCases {
                metrics.value(min(worker.gauge(port.open), UInt64(UInt32.max)), labels + [("port", "\(port)")])
            }
        }
        metrics.family("piko_worker_requests_in_flight", .gauge, "Requests that a worker serves.")
        for (worker, labels, _) in workers { metrics.value(min(worker.gauge(.requestsInFlight), UInt64(UInt32.max)), labels) }
        return [UInt8](copying: metrics.text.span)
    }
}
