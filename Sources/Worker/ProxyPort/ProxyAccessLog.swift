// The proxy port's access log: a line for each request, and one for each TCP connection at its end. What the line of a request has
// in its object `request` is the same in all programs (Telemetry/AccessLog.swift); what only the gateway knows stands beside it, and
// before it, so that long headers leave it whole.
//
// Who relays a request to a sibling or another node writes its line: a sibling writes none, another node one of its own with the same
// trace.

import Base
import Config
import Control
import Telemetry
import Transport
import Wire

/// What a request went over.
enum RequestWay {
    /// Nothing: it was answered here.
    case none
    /// A stream of a session of this worker.
    case session(UInt64)
    /// A data connection of this worker, of the pool that is registered under that number.
    case data(UInt64)
    /// Another worker of this node.
    case sibling(UInt32)
    /// Another node.
    case node(String)
}

/// What the gateway knows of a request or connection.
struct AccessEntry {
    var client: PeerAddress
    var endpoint: Endpoint?
    var way: RequestWay
    var trace: RequestTrace
    var summary: ExchangeSummary
    var duration: Duration
    /// Of the trace, or any: it decides whether the line is written.
    var number: UInt64

    /// Of a TCP connection that is over: what it carried, with `early` bytes of the client before.
    mutating func end(_ outcome: RelayOutcome, early: Int, duration: Duration) {
        summary.requestBodyBytes = outcome.leftBytes &+ UInt64(early)
        summary.responseBodyBytes = outcome.rightBytes
        summary.outcome = outcome.endedBy
        self.duration = duration
    }
}

/// Writes the lines.
final class ProxyAccessLog {
    private let log: Logger
    private let settings: AccessLogSettings
    private let node: String

    init(_ log: Logger, _ config: AccessLogConfig, node: String) {
        self.log = log
        self.node = node
        settings = AccessLogSettings(
            isDisabled: config.isDisabled, level: config.level,
            requestHeaders: Telemetry.HeaderFilter(
                allow: config.requestHeaders.allowList, block: config.requestHeaders.blockList, showsSecrets: config.showsSecrets),
            responseHeaders: Telemetry.HeaderFilter(
                allow: config.responseHeaders.allowList, block: config.responseHeaders.blockList, showsSecrets: config.showsSecrets),
            isCombined: config.form == .combined, sample: config.sample)
    }

    /// Whether lines are written at all.
    var isEnabled: Bool { !settings.isDisabled && log.isEnabled(settings.level(status: 500), .proxyAccess) }

    /// Whether response heads must be kept for the lines.
    var keepsResponses: Bool { isEnabled && !settings.isCombined }

    /// The level of a line that is wanted; nil: it is not.
    private func level(_ summary: ExchangeSummary) -> LogLevel? {
        let level = settings.level(status: summary.status)
        return !settings.isDisabled && log.isEnabled(level, .proxyAccess) ? level : nil
    }

    /// A request is over.
    func request(
        _ entry: AccessEntry, _ head: borrowing Head, _ bytes: Span<UInt8>, response: borrowing Head, responseBytes: Span<UInt8>
    ) {
        let summary = entry.summary
        guard let level = level(summary),
            settings.wants(status: summary.status, isCompleted: summary.outcome == .completed, number: entry.number)
        else { return }
        let status = summary.status == 0 ? AccessLogSettings.statusOfNone : summary.status
        let proto: StaticString = head.minorVersion == 0 ? "HTTP/1.0" : "HTTP/1.1"
        if settings.isCombined {
            let line = CombinedEntry(client: entry.client.ip, proto: proto, status: status, bytes: summary.responseBodyBytes)
            log.combined(
                level, .proxyAccess, line, method: bytes.extracting(head.methodRange), target: bytes.extracting(head.originTarget),
                referer: bytes.extracting(shown(.referer, head)), userAgent: bytes.extracting(shown(.userAgent, head)))
            return
        }
        log.log(level, .proxyAccess, "request") { line in
            write(entry, requestID: bytes.extracting(entry.trace.requestID ?? 0..<0), to: &line)
            line.beginObject("request")
            line.request(
                proto: proto, method: bytes.extracting(head.methodRange), host: bytes.extracting(head.hostRange ?? 0..<0),
                target: bytes.extracting(head.originTarget))
            let fields = head.fields
            line.headers("request_headers", settings.requestHeaders, in: bytes, count: fields.count) { index in
                LoggedHeader(name: fields[index].name, value: fields[index].value)
            }
            let answered = response.fields
            line.headers("response_headers", settings.responseHeaders, in: responseBytes, count: answered.count) { index in
                LoggedHeader(name: answered[index].name, value: answered[index].value)
            }
            line.field("status", status)
            line.field("duration", entry.duration)
            line.endObject()
        }
    }

    /// Where the value of a header lies that the lists don't leave out; empty when there is none.
    private func shown(_ known: KnownHeader, _ head: borrowing Head) -> Range<Int> {
        guard let value = head.firstValue(of: known), settings.requestHeaders.logs(known.name) else { return 0..<0 }
        return value
    }

    /// A TCP connection is over, or was refused.
    func connection(_ entry: AccessEntry, requestID: [UInt8]) {
        guard let level = level(entry.summary) else { return }
        log.log(level, .proxyAccess, "connection") { line in
            write(entry, requestID: requestID.span, to: &line)
            if entry.summary.status != 101 {
                line.field("status", entry.summary.status == 0 ? AccessLogSettings.statusOfNone : entry.summary.status)
            }
            line.field("duration", entry.duration)
        }
    }

    /// What stands beside `request`. `requestID`: the one that the request brought, or nothing.
    private func write(_ entry: AccessEntry, requestID: Span<UInt8>, to line: inout LogLine) {
        if let address = entry.client.ip { line.field("client_addr", address) }
        if let endpoint = entry.endpoint {
            line.field("endpoint-id", endpoint.ownName)
            if !endpoint.tenant.isEmpty { line.field("tenant-id", String(decoding: endpoint.tenant, as: UTF8.self)) }
        }
        line.field("node-id", node)
        switch entry.way {
        case .none: break
        case .session(let number):
            line.field("transport", "mux" as StaticString)
            line.field("tunnel", number)
        case .data(let number):
            line.field("transport", "direct" as StaticString)
            line.field("tunnel", number)
        case .sibling(let worker): line.field("to-worker", UInt64(worker))
        case .node(let other): line.field("to-node-id", other)
        }
        let summary = entry.summary
        line.field("bytes_in", summary.requestBodyBytes)
        line.field("bytes_out", summary.responseBodyBytes)
        if let first = summary.firstByte { line.field("ttfb", first - summary.started) }
        line.field("outcome", summary.outcome.name)
        let trace = entry.trace.id
        if !requestID.isEmpty {
            line.field("request_id", requestID)
        } else if entry.trace.isComplete {
            line.field("request_id", trace.span)
        }
        if entry.trace.isKnown { line.field("trace_id", trace.span) }
    }
}
