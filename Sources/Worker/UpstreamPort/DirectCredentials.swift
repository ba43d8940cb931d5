// The credentials that let data connections in: made with the session's 101, checked with each data connection's request. In a
// cluster with keys they are signed by the cluster's, so that a data connection is taken by whichever node it comes to.

import Crypto
import Memory
import Reactor
import Wire

/// Makes and checks credentials.
struct DirectCredentials {
    private let keys: [MessageAuthentication]

    /// How long a credential is good. Each data connection's 101 brings a new one, so an agent that is in use never runs out.
    static let life: UInt64 = 24 * 3_600

    /// The first key signs, all verify: those of the cluster, and the node's own, for what was signed before there were others.
    init(keys: [[UInt8]]) {
        precondition(!keys.isEmpty, "credentials without a key")
        self.keys = keys.map { MessageAuthentication(key: $0) }
    }

    private static var now: UInt64 { SystemClock.unixNanoseconds / 1_000_000_000 }

    /// Appends a credential for an agent's data connections of the endpoint. `limit`: when the agent's token ends.
    func write(agent: [UInt8], endpoint: [UInt8], tenant: [UInt8], limit: UInt64?, into buffer: inout ByteBuffer) {
        let expiry = min(Self.now + Self.life, limit ?? .max)
        DirectCredential(expiry: expiry, agent: agent, endpoint: endpoint, tenant: tenant, limit: limit).write(into: &buffer) { bytes in
            keys[0].code(for: bytes)
        }
    }

    private func isValid(_ code: Span<UInt8>, _ bytes: Span<UInt8>) -> Bool {
        for key in keys where key.isValid(code, for: bytes) { return true }
        return false
    }

    /// The credential when it is good; refused when it is not ours, is for another endpoint, or is too old.
    func credential(_ text: Span<UInt8>, endpoint: [UInt8]) throws(HTTPError) -> DirectCredential {
        guard let credential = DirectCredential(text, isValid: { code, bytes in isValid(code, bytes) }),
            credential.endpoint == endpoint
        else { throw HTTPError(status: 401, reason: "invalid credential") }
        guard credential.expiry > Self.now else { throw HTTPError(status: 401, reason: "expired credential") }
        return credential
    }
}
