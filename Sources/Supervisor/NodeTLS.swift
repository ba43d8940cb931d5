// TLS of a node: the files of certificates and keys are read here, by the only process that may, and handed to the workers in
// memory: when a worker starts, when a reload begins a generation, and when the files have changed. Nothing of a key is logged,
// and what is copied on the way is overwritten.
//
// The keys of tickets are made here, so that each worker opens what the others sealed. A new one comes every few hours; the ones
// before still open tickets for as long as a session may be resumed.

import Base
import Config
import Control
import Crypto
import Memory
import Reactor
import Telemetry

/// What the files of a configuration hold.
struct NodeCredentials {
    var ports: [ListenerKind: TLSServerMaterial] = [:]
    /// Towards other nodes; nil: none is spoken to with TLS, or the system has no authorities.
    var nodes: TLSClientMaterial?

    /// Reads the files, and finds out whether they can be used. Nil: no port speaks TLS.
    init?(reading config: ServerConfig) throws(ConfigError) {
        let secure = config.securePorts
        if secure.isEmpty { return nil }
        do throws(TLSFileError) {
            for (port, files) in secure { ports[port] = try files.read(FileContents.read) }
            nodes = try Self.readNodes(config.proxy.nodeTLS)
        } catch {
            throw ConfigError(error.description)
        }
    }

    private static func readNodes(_ tls: ClientTLS) throws(TLSFileError) -> TLSClientMaterial? {
        var files = TLSClientFiles(setting: "proxy.tls.client", trustsEveryone: tls.skipsVerification)
        if !tls.certificate.isEmpty { files.pair = TLSFilePair(certificate: tls.certificate, key: tls.key) }
        files.rootAuthorities = tls.rootAuthorities
        var material = try files.read(FileContents.read)
        guard material.trust == .system else { return material }
        // A worker can't read the system's.
        for path in SystemAuthorities.paths {
            guard let bytes = try? FileContents.read(path, bytesMax: 8 << 20), !bytes.isEmpty else { continue }
            material.trust = .authorities(bytes)
            return material
        }
        return nil
    }

    func isSame(as other: NodeCredentials) -> Bool {
        guard ports.count == other.ports.count else { return false }
        for (port, material) in ports {
            guard let old = other.ports[port], material.isSame(as: old) else { return false }
        }
        switch (nodes, other.nodes) {
        case (nil, nil): return true
        case (let left?, let right?): return left.isSame(as: right)
        default: return false
        }
    }

    /// The bytes of a memory file with all of it.
    private func room(_ tickets: [SecretBytes]) -> Int {
        func size(_ pair: TLSCertificate) -> Int { pair.certificate.count + pair.key.count + 2 * CredentialBundle.entryBytes }
        var total = tickets.reduce(0) { $0 + $1.count + CredentialBundle.entryBytes }
        for material in ports.values {
            total += material.certificates.reduce(0) { $0 + size($1) }
            total += (material.clientAuthorities?.count ?? 0) + CredentialBundle.entryBytes
        }
        if let nodes {
            if case .authorities(let bytes) = nodes.trust { total += bytes.count }
            total += CredentialBundle.entryBytes + (nodes.certificate.map(size) ?? 0)
        }
        return total
    }

    /// A memory file with all of it.
    func file(tickets: [SecretBytes], bytes count: inout UInt64) throws(SystemError) -> OwnedDescriptor {
        var buffer = ByteBuffer()
        CredentialBundle.makeRoom(room(tickets), in: &buffer)
        for key in tickets { key.withSpan { CredentialBundle.append(.ticketKey, $0, to: &buffer) } }
        for (port, material) in ports {
            for pair in material.certificates {
                CredentialBundle.append(.certificate, port: port, pair.certificate.span, to: &buffer)
                pair.key.withSpan { CredentialBundle.append(.key, port: port, $0, to: &buffer) }
            }
            if let authorities = material.clientAuthorities {
                CredentialBundle.append(.clientAuthorities, port: port, authorities.span, to: &buffer)
            }
        }
        if let nodes {
            var authorities: [UInt8] = []
            if case .authorities(let bytes) = nodes.trust { authorities = bytes }
            CredentialBundle.append(.nodeAuthorities, authorities.span, to: &buffer)
            if let pair = nodes.certificate {
                CredentialBundle.append(.nodeCertificate, pair.certificate.span, to: &buffer)
                pair.key.withSpan { CredentialBundle.append(.nodeKey, $0, to: &buffer) }
            }
        }
        defer {
            var span = buffer.mutableSpan
            SecretBytes.wipe(&span)
        }
        count = UInt64(buffer.count)
        return try MemoryFile.make(name: "piko-credentials", holding: buffer.span)
    }
}

extension ServerConfig {
    /// The ports that speak TLS, and their files.
    fileprivate var securePorts: [(ListenerKind, TLSServerFiles)] {
        let ports: [(ListenerKind, String, PortTLS)] = [
            (.proxy, "proxy.tls", proxy.tls), (.upstream, "upstream.tls", upstream.tls), (.admin, "admin.tls", admin.tls),
        ]
        return ports.filter { $0.2.isEnabled }.map { port, setting, tls in
            (
                port,
                TLSServerFiles(
                    setting: setting, pairs: tls.pairs.map { TLSFilePair(certificate: $0.certificate, key: $0.key) },
                    clientAuthorities: tls.clientAuthorities)
            )
        }
    }

    /// Every file of TLS.
    fileprivate var filesOfTLS: [String] {
        var paths = securePorts.flatMap { $0.1.pairs.flatMap { [$0.certificate, $0.key] } + [$0.1.clientAuthorities] }
        paths += [proxy.nodeTLS.certificate, proxy.nodeTLS.key, proxy.nodeTLS.rootAuthorities]
        return paths.filter { !$0.isEmpty }
    }
}

/// The keys of tickets, and the watch over files that change.
final class NodeTLS {
    private unowned let node: Node
    private var ticketKeys: [SecretBytes] = []
    private var rotation: CallbackTimer?
    private var watch: CallbackTimer?
    /// What the files were like when they were looked at last.
    private var stamps: [FileStamp?] = []

    /// Three keys live as long as a session may be resumed (`SESSION_SECONDS` of CTLS), and no longer than a day.
    private static let rotateEvery = Duration.seconds(6 * 3_600)
    private static let keysMax = 3
    private static let lookEvery = Duration.seconds(5)

    init(_ node: Node) {
        self.node = node
        addKey()
        rotation = CallbackTimer(node.loop) { [unowned self] in rotate() }
        watch = CallbackTimer(node.loop) { [unowned self] in look() }
    }

    /// From now on keys change, and files are watched.
    func start() {
        stamps = node.setup.config.filesOfTLS.map { FileStamp(of: $0) }
        rotation?.schedule(after: Self.rotateEvery)
        watch?.schedule(after: Self.lookEvery)
    }

    func stop() {
        rotation?.cancel()
        watch?.cancel()
    }

    /// Gives a worker what its generation has; a worker of a program without TLS has none.
    func give(_ setup: GenerationSetup, to link: WorkerLink) {
        guard let credentials = setup.credentials, link.protocolVersion >= ControlLimits.credentialsVersion else { return }
        do throws(SystemError) {
            var length: UInt64 = 0
            let file = try credentials.file(tickets: ticketKeys, bytes: &length)
            link.send(.credentials(bytes: length), taking: [file.take()])
        } catch {
            node.log.error(.server, "cannot hand certificates to a worker") { $0.field("err", error.description) }
        }
    }

    private func giveAll() {
        guard node.upgrade == nil, !node.isFrozen else { return }
        for process in node.processes.workers where process.generation == node.machine.currentGeneration && process.link.hasGreeted {
            give(node.setup, to: process.link)
        }
    }

    private func addKey() {
        var bytes = Random.bytes(TLSContext.ticketKeyBytes)
        ticketKeys.insert(SecretBytes(taking: &bytes), at: 0)
        if ticketKeys.count > Self.keysMax { ticketKeys.removeLast() }
    }

    private func rotate() {
        addKey()
        giveAll()
        rotation?.schedule(after: Self.rotateEvery)
    }

    /// Reads the files again when one of them is another than before.
    private func look() {
        watch?.schedule(after: Self.lookEvery)
        guard node.upgrade == nil, !node.isFrozen, !node.isReloading, node.setup.credentials != nil else { return }
        let now = node.setup.config.filesOfTLS.map { FileStamp(of: $0) }
        guard now != stamps else { return }
        stamps = now
        do throws(ConfigError) {
            guard let fresh = try NodeCredentials(reading: node.setup.config) else { return }
            if let old = node.setup.credentials, fresh.isSame(as: old) { return }
            node.setups[node.machine.currentGeneration]?.credentials = fresh
            giveAll()
            node.log.info(.server, "certificates read again")
        } catch {
            // A file was replaced and the other is about to be, most likely.
            node.log.warn(.server, "changed certificates can't be used; the ones before go on") { $0.field("err", error.message) }
        }
    }
}
