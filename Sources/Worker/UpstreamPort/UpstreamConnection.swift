// An agent on the upstream port, until it is a tunnel. Two things come here: sessions (WebSocket), which are registered with the
// supervisor and only when they are routable through every worker get their 101; and data connections beside a session,
// which prove themselves by a credential and wait for a stream at once.

import Authentication
import Base
import Config
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

    private let peer: PeerAddress

    init(_ worker: Worker, channel: Channel, peer: PeerAddress, input: consuming ByteBuffer) {
        self.worker = worker
        self.peer = peer
        super.init(worker.upstreamContext, channel: channel, clientHost: worker.hostText(of: peer), input: input)
    }

    override func movedAway(descriptor: consuming OwnedDescriptor, input: Span<UInt8>) {
        worker.moveOn(self, descriptor, peer: peer, moves: 0, input: input)
    }

    override func requestArrived() {
        do throws(HTTPError) {
            let path = try withHeadBytes { bytes throws(HTTPError) in try ReservedPath.upstream(bytes.extracting(head.path(in: bytes))) }
            switch path {
            case .session(let endpoint): try beginSession(endpoint)
            case .data(let endpoint): try acceptData(endpoint)
            }
        } catch {
            respondError(status: error.status, error.reason)
        }
    }

    // MARK: Sessions

    private func beginSession(_ endpoint: String) throws(HTTPError) {
        var permission: TokenPermission?
        let isDirect = try withHeadBytes { bytes throws(HTTPError) in
            permission = try worker.upstreamAuthentication.authorise(head, bytes, endpoint: Array(endpoint.utf8), worker)
            if let problem = WebSocketUpgrade.problem(head, bytes) { throw problem }
            return worker.config.upstream.direct.isEnabled && Direct.names(head, bytes, .xPikoTransport, Direct.transport)
        }
        guard worker.admitsTunnels else { throw HTTPError(status: 503, reason: "draining") }
        let hasPreambles = withHeadBytes { bytes in Direct.names(head, bytes, .xPikoTransport, Direct.preambles) }
        let quotas = permission?.quotas ?? []
        let expiry = worker.config.upstream.auth.disablesDisconnectOnExpiry ? nil : permission?.expiry
        tunnel = worker.register(
            self, endpoint: endpoint, agent: isDirect && !quotas.limitStreams ? Random.bytes(DirectCredential.agentBytes) : nil,
            hasPreambles: hasPreambles, expiry: expiry, quotas: quotas)
    }

    /// The supervisor took the tunnel into its table.
    func registered() {
        guard isRouting, let tunnel else { return }
        var answer = ByteBuffer()
        withHeadBytes { bytes in WebSocketUpgrade.writeAcceptance(head, bytes, into: &answer) }
        if tunnel.agent != nil || tunnel.hasPreambles {
            answer.append("x-piko-transport: ")
            if tunnel.agent != nil { answer.append(Direct.transport) }
            if tunnel.agent != nil, tunnel.hasPreambles { answer.append(", ") }
            if tunnel.hasPreambles { answer.append(Direct.preambles) }
            answer.append("\r\n")
        }
        if let agent = tunnel.agent { writeGrant(agent, tunnel, into: &answer) }
        answer.append("\r\n")
        var leftover = ByteBuffer()
        let hasEnded = clientHasEnded
        let agent = takeOver(leftover: &leftover)
        agent.setKeepAlive(
            idle: .seconds(15), interval: .seconds(5), count: 3, userTimeout: .seconds(30))
        agent.write(answer.span)
        worker.tunnelOpened(tunnel)
        tunnel.start(over: WebSocketChannel(context.loop, over: agent, role: .server, leftover: leftover, hasEnded: hasEnded))
        worker.untrack(self, isOpen: true)
    }

    /// What a session's 101 says about data connections.
    private func writeGrant(_ agent: [UInt8], _ tunnel: Tunnel, into answer: inout ByteBuffer) {
        let direct = worker.config.upstream.direct
        answer.append("x-piko-pool: ")
        DirectPoolLimits(connectionsMax: direct.connectionsMax, idleMax: direct.idleMax).write(into: &answer)
        answer.append("\r\n")
        writeCredential(agent, tunnel.endpoint.bytes, limit: tunnel.expiry, into: &answer)
    }

    private func writeCredential(_ agent: [UInt8], _ endpoint: [UInt8], limit: UInt64?, into answer: inout ByteBuffer) {
        answer.append("x-piko-credential: ")
        worker.credentials.write(agent: agent, endpoint: endpoint, limit: limit, into: &answer)
        answer.append("\r\n")
    }

    /// The supervisor did not.
    func registrationRefused(_ refusal: TunnelRefusal) {
        tunnel = nil
        if refusal == .tableFull { worker.telemetry.tunnelRefused() }
        guard isRouting else { return }
        respondError(status: refusal.status, refusal.text)
    }

    // MARK: Data connections

    private func acceptData(_ name: String) throws(HTTPError) {
        let endpoint = worker.routes.endpoint(named: name)
        let credential: DirectCredential
        do throws(HTTPError) {
            credential = try withHeadBytes { bytes throws(HTTPError) in try admitted(endpoint, bytes) }
        } catch {
            worker.telemetry.dataConnectionRefused()
            throw error
        }
        var answer = ByteBuffer()
        RawUpgrade.writeAcceptance(Direct.dataProtocol, into: &answer)
        writeCredential(credential.agent, endpoint.bytes, limit: credential.limit, into: &answer)
        answer.append("\r\n")
        var leftover = ByteBuffer()
        let hasEnded = clientHasEnded
        let channel = takeOver(leftover: &leftover)
        worker.untrack(self, isOpen: true)
        guard leftover.isEmpty, !hasEnded else {
            // An agent has nothing to say before the first stream.
            worker.telemetry.connectionClosed(.upstream)
            worker.telemetry.dataConnectionRefused()
            channel.abort()
            return
        }
        channel.write(answer.span)
        worker.adoptData(channel, endpoint: endpoint, agent: credential.agent, isUsed: false, limit: credential.limit)
    }

    /// The credential that the request has, when a data connection of the endpoint may be taken.
    private func admitted(_ endpoint: Endpoint, _ bytes: Span<UInt8>) throws(HTTPError) -> DirectCredential {
        guard worker.config.upstream.direct.isEnabled else { throw HTTPError(status: 404, reason: "not found") }
        guard worker.admitsTunnels else { throw HTTPError(status: 503, reason: "draining") }
        guard RawUpgrade.isOffered(head, bytes, Direct.dataProtocol) else {
            throw HTTPError(status: 400, reason: "an upgrade to piko-direct/1 is required")
        }
        if let problem = RawUpgrade.problem(head, bytes) { throw problem }
        guard let field = head.firstValue(of: .xPikoCredential) else {
            throw HTTPError(status: 401, reason: "missing credential")
        }
        let credential = try worker.credentials.credential(bytes.extracting(field), endpoint: endpoint.bytes)
        guard !worker.isDraining else { throw HTTPError(status: 503, reason: "draining") }
        guard !worker.hasLeft(credential.agent) else { throw HTTPError(status: 401, reason: "the session of this credential went away") }
        guard endpoint.direct?.hasRoom ?? true else { throw HTTPError(status: 429, reason: "too many data connections") }
        return credential
    }

    override func connectionClosed() {
        if let tunnel { worker.registrationAbandoned(tunnel) }
        worker.untrack(self)
    }
}
