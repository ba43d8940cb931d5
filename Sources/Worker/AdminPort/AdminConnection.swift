// The admin port: health, readiness, metrics, status. What only the supervisor knows is asked over the control socket.

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
    let listener = ListenerKind.admin
    var trackedIndex = -1

    private enum Route: CaseIterable {
        case health, ready, metrics, endpoints

        var path: String {
            switch self {
            case .health: "/health"
            case .ready: "/ready"
            case .metrics: "/metrics"
            case .endpoints: "/status/upstream/endpoints"
            }
        }
    }

    private let peer: PeerAddress

    init(_ worker: Worker, stream: Stream, peer: PeerAddress, input: consuming ByteBuffer) {
        self.worker = worker
        self.peer = peer
        super.init(worker.adminContext, channel: stream, clientHost: worker.hostText(of: peer), input: input)
    }

    override func movedAway(descriptor: consuming OwnedDescriptor, input: Span<UInt8>) {
        worker.moveOn(self, descriptor, peer: peer, moves: 0, input: input)
    }

    override func requestArrived() {
        let path = withHeadBytes { bytes in ReservedPath.text(bytes.extracting(head.path(in: bytes))) ?? "" }
        guard let route = Route.allCases.first(where: { $0.path == path }) else {
            let body = Array("404 page not found".utf8)
            respond(status: 404, contentType: "text/plain", body: body.span)
            return
        }
        guard head.method == .get || head.method == .head else {
            respondError(status: 405, "method not allowed")
            return
        }
        switch route {
        case .health:
            respond(status: 200, contentType: "text/plain", body: Span())
        case .ready:
            respond(status: worker.isReady ? 200 : 503, contentType: "text/plain", body: Span())
        case .metrics:
            var text = ByteBuffer()
            worker.telemetry.renderMetrics(into: &text)
            respond(status: 200, contentType: "text/plain; version=0.0.4; charset=utf-8", body: text.span)
        case .endpoints:
            entries = []
            statusRequest = worker.askStatus(self, kind: .endpoints)
        }
    }

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

    override func connectionClosed() {
        if let statusRequest { worker.statusAbandoned(statusRequest) }
        worker.untrack(self)
    }
}
