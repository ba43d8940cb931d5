// Who may use a port of this worker: the keys as the supervisor told them last, and the check of a request's token. A port that is
// configured to have keys lets nobody in while it has none.
//
// A token that was found good is remembered, whole, with what it permits: clients send the same one again and again, and a
// signature costs more than the rest of a request. Keys that change make all of them forgotten.

import Authentication
import Config
import Control
import Memory
import Reactor
import Telemetry
import Wire

/// The tokens of one port, or of one tenant at a port.
final class PortAuthentication {
    let port: TokenPort
    /// Whether the port is for those with tokens only.
    let isEnabled: Bool
    /// Whether there may be newer keys somewhere.
    let isFetched: Bool
    private var verifier: TokenVerifier
    /// Keys that are being told, and the beginning of a long one.
    private var incoming = TokenKeys()
    private var piece: [UInt8] = []
    private var known: [[UInt8]: TokenPermission] = [:]
    private var missingKeyNotice = WarningLimit()

    /// Tokens that are remembered, and the longest of them.
    private static let knownMax = 1_024
    private static let knownBytesMax = 4_096

    /// Whether tunnels end with their token.
    let endsTunnels: Bool

    /// `subjectKey`: the node's, for the subjects of quotas.
    init(_ listener: ListenerKind, tenant: String = "", _ config: AuthConfig, subjectKey: [UInt8]) {
        port = TokenPort(listener, tenant: tenant)
        endsTunnels = !config.disablesDisconnectOnExpiry
        isEnabled = config.isEnabled
        isFetched = config.jwks.httpURL != nil
        var policy = TokenPolicy()
        if !config.audience.isEmpty { policy.audience = Array(config.audience.utf8) }
        if !config.issuer.isEmpty { policy.issuer = Array(config.issuer.utf8) }
        policy.requiresEndpoints = config.requiresEndpoints
        policy.port = listener.rawValue
        policy.tenant = Array(tenant.utf8)
        policy.subjectKey = subjectKey
        verifier = TokenVerifier(keys: TokenKeys(), policy: policy)
    }

    /// The supervisor told a key, or a piece of one. It has looked at each before.
    func told(_ kind: TokenKeyKind, _ bytes: [UInt8]) {
        switch kind {
        case .begin:
            incoming = TokenKeys()
            piece = []
            return
        case .piece:
            if piece.count + bytes.count <= KeyDocument.bytesMax { piece += bytes }
            return
        case .secret: try? incoming.add(secret: piece + bytes)
        case .rsa: try? incoming.add(rsaPEM: piece + bytes)
        case .ecdsa: try? incoming.add(ecdsaPEM: piece + bytes)
        case .fileDocument, .fetchedDocument:
            let whole = piece + bytes
            if let document = try? KeyDocument(whole.span, from: kind == .fileDocument ? .file : .network) { incoming.add(document) }
        case .end:
            verifier.keys = incoming
            incoming = TokenKeys()
            known = [:]
        }
        piece = []
    }

    /// What the request's token permits; nil: the port asks for none. `now`: seconds since 1970.
    func permission(_ head: borrowing Head, _ bytes: Span<UInt8>, now: UInt64) throws(AuthenticationError) -> TokenPermission? {
        guard isEnabled else { return nil }
        var field = KnownHeader.authorization
        if let own = head.firstValue(of: .xPikoAuthorization), !own.isEmpty || head.count(of: .xPikoAuthorization) > 1 {
            field = .xPikoAuthorization
        }
        guard let place = head.firstValue(of: field) else { throw .missingAuthorization }
        guard head.count(of: field) == 1 else { throw .invalidAuthorization }
        let value = bytes.extracting(place)
        return try permission(value.extracting(try BearerToken.token(in: value)), now: now)
    }

    private func permission(_ token: Span<UInt8>, now: UInt64) throws(AuthenticationError) -> TokenPermission {
        guard token.count <= Self.knownBytesMax else { return try verifier.verify(token, now: now) }
        let key = [UInt8](copying: token)
        if let permission = known[key] {
            guard permission.hasExpired(at: now) else { return permission }
            known[key] = nil
            throw .expired
        }
        let permission = try verifier.verify(token, now: now)
        if known.count >= Self.knownMax { known = [:] }
        known[key] = permission
        return permission
    }
}

extension PortAuthentication {
    /// Refuses a request without a token for the endpoint, as HTTP says it; the permission of one that has it. `endpoint` nil: there
    /// is none to ask for, and a token for some is not enough.
    func authorise(
        _ head: borrowing Head, _ bytes: Span<UInt8>, endpoint: [UInt8]?, _ worker: Worker
    ) throws(HTTPError) -> TokenPermission? {
        do throws(AuthenticationError) {
            guard let permission = try permission(head, bytes, now: ProxyConnection.unixSeconds) else { return nil }
            let permits = endpoint.map { permission.endpoints.permits($0) } ?? permission.endpoints.isUnlimited
            guard permits else { throw .notPermitted }
            return permission
        } catch {
            if isFetched, error == .invalid(.noKey), missingKeyNotice.isDue(worker.loop.now) { worker.keyMissing(port) }
            worker.telemetry.tokenRefused(port.listener, error)
            throw HTTPError(status: 401, reason: error.text)
        }
    }

    /// Refuses a request without any good token, whose endpoint is not known.
    func authenticate(_ head: borrowing Head, _ bytes: Span<UInt8>, _ worker: Worker) throws(HTTPError) {
        do throws(AuthenticationError) {
            _ = try permission(head, bytes, now: ProxyConnection.unixSeconds)
        } catch {
            worker.telemetry.tokenRefused(port.listener, error)
            throw HTTPError(status: 401, reason: error.text)
        }
    }
}
