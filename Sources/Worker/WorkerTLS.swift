// TLS at a worker: the certificates of the ports, as the supervisor sent them last, and the engine that all TLS connections of
// the worker share. Connections go on with what they began with.
//
// A port that is to speak TLS and has no certificates takes no connections: nothing that was meant to be secret is ever carried
// in the open for want of a file.

import Config
import Control
import Crypto
import Memory
import Reactor
import Transport

/// What a worker knows of TLS.
final class WorkerTLS {
    let engine: TLSEngine
    private var contexts: [ListenerKind: TLSContext] = [:]
    /// Towards other nodes. The context is made when it is needed first: it may be of many authorities.
    private var nodeMaterial: TLSClientMaterial?
    private var nodeContext: TLSContext?
    /// The name that other nodes' certificates must be for; empty: their address.
    let nodeName: String
    private let isWanted: [ListenerKind: Bool]

    /// How a connection of a port begins.
    enum Beginning {
        case plain
        case secure(TLSContext)
        /// It is to be secure, and can't be.
        case refused
    }

    init(_ loop: Loop, config: ServerConfig) {
        engine = TLSEngine(loop)
        nodeName = config.proxy.nodeTLS.serverName
        isWanted = [
            .proxy: config.proxy.tls.isEnabled, .upstream: config.upstream.tls.isEnabled, .admin: config.admin.tls.isEnabled,
        ]
    }

    /// How a connection that comes from outside begins.
    func beginning(_ port: ListenerKind) -> Beginning {
        guard isWanted[port] ?? false else { return .plain }
        return contexts[port].map { .secure($0) } ?? .refused
    }

    /// A connection to that port of another node, which speaks TLS if this node's own port does.
    func channelToNode(_ descriptor: consuming OwnedDescriptor, _ port: ListenerKind) throws -> Channel {
        guard isWanted[port] ?? false else { return try Stream(engine.loop, adopting: descriptor) }
        let context = try nodeContext ?? nodeMaterial?.context()
        guard let context else { throw TLSError(part: .authorities, description: "there are none of other nodes") }
        nodeContext = context
        let name = nodeName.isEmpty ? SocketAddress.peer(of: descriptor.raw)?.host ?? "" : nodeName
        return try TLSChannel(engine, adopting: descriptor, context: context, name: name)
    }

    /// Takes what is in the bundle in place of what was there.
    func take(_ bundle: Span<UInt8>) throws {
        var ports: [ListenerKind: TLSServerMaterial] = [:]
        var tickets: [SecretBytes] = []
        var nodes: TLSClientMaterial?
        var certificate: [UInt8] = []
        for entry in try CredentialBundle.entries(bundle) {
            switch (entry.kind, entry.port) {
            case (.certificate, _?), (.nodeCertificate, nil): certificate = [UInt8](copying: bundle.extracting(entry.range))
            case (.key, let port?):
                ports[port, default: TLSServerMaterial(certificates: [])].certificates.append(
                    TLSCertificate(certificate: certificate, key: SecretBytes(copying: bundle.extracting(entry.range))))
            case (.clientAuthorities, let port?):
                ports[port, default: TLSServerMaterial(certificates: [])].clientAuthorities = [UInt8](
                    copying: bundle.extracting(entry.range))
            case (.ticketKey, nil): tickets.append(SecretBytes(copying: bundle.extracting(entry.range)))
            case (.nodeAuthorities, nil):
                let authorities = [UInt8](copying: bundle.extracting(entry.range))
                nodes = TLSClientMaterial(trust: authorities.isEmpty ? .everyone : .authorities(authorities))
            case (.nodeKey, nil): nodes?.certificate = TLSCertificate(certificate: certificate, key: SecretBytes(copying: bundle.extracting(entry.range)))
            default: throw ControlError.invalidValue
            }
        }
        var fresh: [ListenerKind: TLSContext] = [:]
        for (port, material) in ports {
            let context = try material.context(name: port.settingName)
            context.setTicketKeys(tickets)
            fresh[port] = context
        }
        contexts = fresh
        nodeMaterial = nodes
        nodeContext = nil
    }
}

extension ListenerKind {
    /// The port's name in the configuration.
    var settingName: String {
        switch self {
        case .proxy: "proxy"
        case .upstream: "upstream"
        case .admin: "admin"
        }
    }
}
