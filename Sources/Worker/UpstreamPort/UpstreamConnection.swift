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
    let isRelayed = false

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
        var tokens = worker.upstreamAuthentication
        var tenant: Tenant?
        var name = endpoint
        let isDirect = try withHeadBytes { bytes throws(HTTPError) in
            tenant = try worker.tenants.ofAgent(head, bytes, portHasKeys: tokens.isEnabled)
            if let tenant {
                tokens = tenant.upstream
                name = try Self.name(endpoint, ofTenant: tenant.id)
            }
            permission = try tokens.authorise(head, bytes, endpoint: Array(endpoint.utf8), worker)
            if let problem = WebSocketUpgrade.problem(head, bytes) { throw problem }
            return worker.config.upstream.direct.isEnabled && Direct.names(head, bytes, .xPikoTransport, Direct.transport)
        }
        guard worker.admitsTunnels else { throw HTTPError(status: 503, reason: "draining") }
        let hasPreambles = withHeadBytes { bytes in Direct.names(head, bytes, .xPikoTransport, Direct.preambles) }
        let quotas = (permission?.quotas ?? []) + (tenant?.tunnelQuotas ?? [])
        let expiry = tokens.endsTunnels ? permission?.expiry : nil
        tunnel = worker.register(
            self, endpoint: name, agent: isDirect && !quotas.limitStreams ? Random.bytes(DirectCredential.agentBytes) : nil,
            hasPreambles: hasPreambles, expiry: expiry, quotas: quotas)
        tunnel?.origin = origin
    }

    /// Who the agent is, as far as it is known.
    private var origin: TunnelOrigin {
        var origin = TunnelOrigin()
        origin.address = SocketAddress(encoded: peer.bytes.span)?.description ?? ""
        origin.program = withHeadBytes { bytes in
            guard let field = head.firstValue(of: .userAgent) else { return "" }
            let value = bytes.extracting(field)
            // What can't be shown as it is, is not shown.
            for index in value.indices where value[index] < 0x20 || value[index] > 0x7e { return "" }
            return ReservedPath.text(value.extracting(first: TunnelOrigin.textBytesMax)) ?? ""
        }
        return origin
    }

    /// The endpoint's whole name.
    private static func name(_ endpoint: String, ofTenant tenant: String) throws(HTTPError) -> String {
        guard !tenant.isEmpty else { return endpoint }
        let name = tenant + "/" + endpoint
        guard name.utf8.count <= EndpointName.bytesMax else { throw HTTPError(status: 400, reason: "invalid endpoint id") }
        return name
    }

    /// The supervisor took the tunnel into its table.
    func registered() {
        guard isRouting, let tunnel else { return }
        var answer = ByteBuffer()
        withHeadBytes { bytes in WebSocketUpgrade.writeAcceptance(head, bytes, into: &answer) }
        // Agents whose clocks are wrong can find out.
        answer.append("Date: ")
        HTTPDate.write(Int64(ProxyConnection.unixSeconds), into: &answer)
        answer.append("\r\n")
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
        writeCredential(agent, tunnel.endpoint, limit: tunnel.expiry, into: &answer)
    }

    private func writeCredential(_ agent: [UInt8], _ endpoint: Endpoint, limit: UInt64?, into answer: inout ByteBuffer) {
        answer.append("x-piko-credential: ")
        worker.credentials.write(
            agent: agent, endpoint: endpoint.ownBytes, tenant: endpoint.tenant, limit: limit, into: &answer)
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
        let endpoint: Endpoint
        let credential: DirectCredential
        do throws(HTTPError) {
            (credential, endpoint) = try withHeadBytes { bytes throws(HTTPError) in try admitted(name, bytes) }
        } catch {
            worker.telemetry.dataConnectionRefused()
            throw error
        }
        var answer = ByteBuffer()
        RawUpgrade.writeAcceptance(Direct.dataProtocol, into: &answer)
        writeCredential(credential.agent, endpoint, limit: credential.limit, into: &answer)
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

    /// The credential that the request has, when a data connection of the endpoint may be taken, and the endpoint: it is the credential
    /// that names the tenant.
    private func admitted(_ name: String, _ bytes: Span<UInt8>) throws(HTTPError) -> (DirectCredential, Endpoint) {
        guard worker.config.upstream.direct.isEnabled else { throw HTTPError(status: 404, reason: "not found") }
        guard worker.admitsTunnels else { throw HTTPError(status: 503, reason: "draining") }
        guard RawUpgrade.isOffered(head, bytes, Direct.dataProtocol) else {
            throw HTTPError(status: 400, reason: "an upgrade to piko-direct/1 is required")
        }
        if let problem = RawUpgrade.problem(head, bytes) { throw problem }
        guard let field = head.firstValue(of: .xPikoCredential) else {
            throw HTTPError(status: 401, reason: "missing credential")
        }
        let credential = try worker.credentials.credential(bytes.extracting(field), endpoint: Array(name.utf8))
        guard !worker.isDraining else { throw HTTPError(status: 503, reason: "draining") }
        guard !worker.hasLeft(credential.agent) else { throw HTTPError(status: 401, reason: "the session of this credential went away") }
        guard let tenant = ReservedPath.text(credential.tenant.span), worker.tenants.knows(tenant) else { throw HTTPError(status: 401, reason: "invalid credential") }
        let endpoint = worker.routes.endpoint(named: try Self.name(name, ofTenant: tenant))
        guard endpoint.direct?.hasRoom ?? true else { throw HTTPError(status: 429, reason: "too many data connections") }
        return (credential, endpoint)
    }

    override func connectionClosed() {
        if let tunnel { worker.registrationAbandoned(tunnel) }
        worker.untrack(self)
    }
}
