// An agent on the upstream port, until it is a tunnel: checks the upgrade, registers the endpoint with the supervisor, and only
// when it is routable through every worker answers 101 and lets the session begin.

import Base
import Control
import Memory
import Reactor
import Transport
import Wire

/// One connection of the upstream port.
final class UpstreamConnection: HTTPConnection, TrackedConnection {
    private let worker: Worker
    private var tunnel: Tunnel?
    let listener = ListenerKind.upstream
    var trackedIndex = -1

    init(_ worker: Worker, stream: Stream, peer: PeerAddress) {
        self.worker = worker
        super.init(worker.upstreamContext, channel: stream, clientHost: worker.hostText(of: peer))
    }

    override func requestArrived() {
        do throws(HTTPError) {
            let name = try withHeadBytes { bytes throws(HTTPError) in
                let name = try ReservedPath.upstreamEndpoint(bytes.extracting(head.path(in: bytes)))
                if let problem = WebSocketUpgrade.problem(head, bytes) { throw problem }
                return name
            }
            guard !worker.isDraining else { throw HTTPError(status: 503, reason: "draining") }
            tunnel = worker.register(self, endpoint: name)
        } catch {
            respondError(status: error.status, error.reason)
        }
    }

    /// The supervisor took the tunnel into its table.
    func registered() {
        guard isRouting, let tunnel else { return }
        var answer = ByteBuffer()
        withHeadBytes { bytes in WebSocketUpgrade.writeAcceptance(head, bytes, into: &answer) }
        var leftover = ByteBuffer()
        let agent = takeOver(leftover: &leftover)
        (agent as? Stream)?.setKeepAlive(
            idle: .seconds(15), interval: .seconds(5), count: 3, userTimeout: .seconds(30))
        agent.write(answer.span)
        worker.tunnelOpened(tunnel)
        tunnel.start(over: WebSocketChannel(context.loop, over: agent, role: .server, leftover: leftover))
        worker.untrack(self, isOpen: true)
    }

    /// The supervisor did not.
    func registrationRefused() {
        tunnel = nil
        worker.telemetry.tunnelRefused()
        guard isRouting else { return }
        respondError(status: 503, "too many endpoints")
    }

    override func connectionClosed() {
        if let tunnel { worker.registrationAbandoned(tunnel) }
        worker.untrack(self)
    }
}
