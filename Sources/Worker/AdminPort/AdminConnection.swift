// The admin port: health, readiness, metrics, status, the page for people. What only the supervisor knows is asked over the control socket; what
// another node is to answer (`?forward=`) is asked of that node.

import Base
import Control
import Memory
import Reactor
import Telemetry
import Transport
import Wire

/// One connection of the admin port.
final class AdminConnection: HTTPConnection, TrackedConnection {
    private let worker: Worker
    private var statusRequest: UInt64?
    private var entries: [StatusEntry] = []
    private var report = ByteBuffer()
    /// What a request waits for, and how long.
    private var route = AdminRoute.health
    private var path = ""
    private var forward: AdminForward?
    private var timer: CallbackTimer?
    /// The metrics that are being written, how far, and what of.
    private var metrics = ByteBuffer()
    private var metricsPart = 0
    private var isOpenMetrics = false
    private var traffic: [TrafficEntry] = []
    let listener = ListenerKind.admin
    var trackedIndex = -1
    let isRelayed = false

    private let peer: PeerAddress

    /// The time for what another node answers, and for what the supervisor does.
    private static let forwardTime = Duration.seconds(15)
    private static let reportTime = Duration.seconds(5)

    init(_ worker: Worker, channel: Channel, peer: PeerAddress, input: consuming ByteBuffer) {
        self.worker = worker
        self.peer = peer
        super.init(worker.adminContext, channel: channel, clientHost: worker.hostText(of: peer), input: input)
    }

    override func movedAway(descriptor: consuming OwnedDescriptor, input: Span<UInt8>) {
        worker.moveOn(self, descriptor, peer: peer, moves: 0, input: input)
    }

    override func requestArrived() {
        let target = AdminTarget(withHeadBytes { bytes in ReservedPath.text(bytes.extracting(head.originTarget)) ?? "" })
        do throws(HTTPError) {
            try authorise(target)
        } catch {
            respondError(status: error.status, error.reason)
            return
        }
        guard let route = AdminRoute(path: target.path) else { return notFound() }
        guard head.method == .get || head.method == .head else {
            respondError(status: 405, "method not allowed")
            return
        }
        self.route = route
        path = target.path
        if let node = target.forward, node != "local", node != worker.setup.nodeID {
            guard !node.isEmpty, !route.isOfPage else { return notFound() }
            waitFor(Self.forwardTime)
            statusRequest = worker.dialAdmin(self, node: node)
            return
        }
        switch route {
        case .health:
            respond(status: 200, contentType: "text/plain", body: Span())
        case .ready:
            respond(status: worker.isReady ? 200 : 503, contentType: "text/plain", body: Span())
        case .metrics: ask("metrics")
        case .endpoints:
            entries = []
            statusRequest = worker.askStatus(self, kind: .endpoints)
        case .report(let path): ask(path)
        case .page(let page):
            var text = ByteBuffer()
            page.append(to: &text)
            respond(status: 200, contentType: page.contentType, fields: AdminPage.fields, body: text.span)
        case .pageMoved:
            respond(status: 308, contentType: "text/plain", fields: AdminPage.moved, body: Span())
        }
    }

    /// What is open to everybody needs no token. Another node has asked for the client's.
    private func authorise(_ target: AdminTarget) throws(HTTPError) {
        guard worker.adminAuthentication.isEnabled else { return }
        if target.forward == nil, let route = AdminRoute(path: target.path), route.isOpen { return }
        try withHeadBytes { bytes throws(HTTPError) in
            let isHop = head.contains(.xPikoNode) || head.contains(.xPikoForward)
            let now = ProxyConnection.unixSeconds
            if isHop, worker.hopProof.judge(head, bytes, endpoint: [], tenant: [], now: now, isMember: { worker.nodes.isMember(peer) }) == .node { return }
            _ = try worker.adminAuthentication.authorise(head, bytes, endpoint: nil, worker)
        }
    }

    private func notFound() {
        let body = Array("404 page not found".utf8)
        respond(status: 404, contentType: "text/plain", body: body.span)
    }

    private func waitFor(_ time: Duration) {
        let timer = CallbackTimer(worker.loop) { [unowned self] in timeIsUp() }
        timer.schedule(after: time)
        self.timer = timer
    }

    private func ask(_ report: String) {
        self.report.removeAll()
        waitFor(Self.reportTime)
        statusRequest = worker.askReport(self, report)
    }

    private func timeIsUp() {
        let waitsForNode = forward != nil || statusRequest.map(Worker.isDial) ?? false
        endWaiting()
        guard isRouting else { return }
        if route == .metrics, !waitsForNode { return respondMetrics() }
        respondError(status: 504, "upstream timeout")
    }

    private func endWaiting() {
        timer = nil
        forward?.close()
        forward = nil
        if let statusRequest { worker.statusAbandoned(statusRequest) }
        statusRequest = nil
    }

    // MARK: What comes of it

    /// A page of the supervisor's answer.
    func statusPage(_ page: [StatusEntry], isLast: Bool) {
        entries += page
        guard isLast, isRouting else { return }
        statusRequest = nil
        var text = ByteBuffer()
        text.append("{")
        for (index, entry) in entries.enumerated() {
            if index > 0 { text.append(",") }
            JSONValue.write(entry.name, into: &text)
            text.append(":")
            text.appendDecimal(entry.value)
        }
        text.append("}")
        entries = []
        respond(status: 200, contentType: "application/json; charset=utf-8", body: text.span)
    }

    /// A page of a report.
    func reportPage(_ status: UInt16, _ page: [UInt8], isLast: Bool) {
        report.append(page.span)
        guard isLast, isRouting else { return }
        statusRequest = nil
        endWaiting()
        if route == .metrics {
            if status != 200 { report.removeAll() }
            return respondMetrics()
        }
        respond(status: Int(status), contentType: "application/json; charset=utf-8", body: report.span)
        report.removeAll()
    }

    /// The metrics of this node, a part in each turn; those of its cluster, when the supervisor said them, are in `report`.
    private func respondMetrics() {
        metrics.removeAll()
        metricsPart = 0
        isOpenMetrics = takesOpenMetrics
        let timer = CallbackTimer(worker.loop) { [unowned self] in renderMetrics() }
        self.timer = timer
        renderMetrics()
    }

    private func renderMetrics() {
        guard isRouting else { return }
        var part = ByteBuffer()
        if worker.telemetry.renderMetrics(part: metricsPart, of: &traffic, into: &part) {
            addMetrics(part.span)
            metricsPart += 1
            timer?.schedule(after: .zero)
            return
        }
        timer = nil
        traffic = []
        addMetrics(report.span)
        report.removeAll()
        if isOpenMetrics { OpenMetricsText.end(&metrics) }
        respond(status: 200, contentType: isOpenMetrics ? OpenMetricsText.contentType : MetricsText.contentType, body: metrics.span)
        metrics = ByteBuffer()
    }

    private func addMetrics(_ part: Span<UInt8>) {
        if isOpenMetrics {
            OpenMetricsText.write(part, worker.telemetry.exemplars, into: &metrics)
        } else {
            metrics.append(part)
        }
    }

    /// Whether the client names OpenMetrics among what it takes.
    private var takesOpenMetrics: Bool {
        withHeadBytes { bytes in
            let fields = head.fields
            for index in fields.indices {
                guard Self.isAccept(bytes.extracting(fields[index].name)) else { continue }
                let value = ReservedPath.text(bytes.extracting(fields[index].value)) ?? ""
                if value.split(separator: ",").contains(where: Self.isOpenMetrics) { return true }
            }
            return false
        }
    }

    /// Whether a range of media (RFC 9110 section 12.5.1) is OpenMetrics, and not one that is refused.
    private static func isOpenMetrics(_ range: Substring) -> Bool {
        let parts = range.split(separator: ";").map { $0.filter { $0 != " " }.lowercased() }
        return parts.first == "application/openmetrics-text" && !parts.contains { ["q=0", "q=0.0", "q=0.00", "q=0.000"].contains($0) }
    }

    private static func isAccept(_ name: Span<UInt8>) -> Bool {
        let wanted = Array("accept".utf8)
        guard name.count == wanted.count else { return false }
        for index in name.indices where name[index] | 0x20 != wanted[index] { return false }
        return true
    }

    /// The other node's admin port, or why there is no connection to it: 0 when it is not known.
    func dialed(_ descriptor: consuming OwnedDescriptor?, code: UInt32) {
        statusRequest = nil
        guard isRouting else { return }
        guard let descriptor else {
            endWaiting()
            if code == 0 { return notFound() }
            return respondError(status: 502, "upstream unreachable")
        }
        guard let channel = try? worker.tls.channelToNode(descriptor, .admin) else {
            endWaiting()
            return respondError(status: 502, "upstream unreachable")
        }
        let proof = worker.hopProof.adminFields(path: path, now: ProxyConnection.unixSeconds)
        forward = AdminForward(channel, path: path, fields: proof) { [unowned self] answer in
            forward = nil
            endWaiting()
            guard isRouting else { return }
            guard let answer else { return respondError(status: 502, "upstream unreachable") }
            respond(status: answer.status, contentType: answer.contentType, body: answer.body.span)
        }
    }

    override func connectionClosed() {
        endWaiting()
        worker.untrack(self)
    }
}
