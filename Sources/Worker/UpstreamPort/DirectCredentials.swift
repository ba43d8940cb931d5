// The credentials that let data connections in: made with the session's 101, checked with each data connection's request.

import Crypto
import Memory
import Reactor
import Wire

/// Makes and checks credentials under the node's key.
struct DirectCredentials {
    private let authentication: MessageAuthentication

    /// How long a credential is good. Each data connection's 101 brings a new one, so an agent that is in use never runs out.
    static let life: UInt64 = 24 * 3_600

    init(key: [UInt8]) {
        authentication = MessageAuthentication(key: key)
    }

    private static var now: UInt64 { SystemClock.unixNanoseconds / 1_000_000_000 }

    /// Appends a credential for an agent's data connections of the endpoint.
    func write(agent: [UInt8], endpoint: [UInt8], into buffer: inout ByteBuffer) {
        DirectCredential(expiry: Self.now + Self.life, agent: agent, endpoint: endpoint).write(into: &buffer) { bytes in
            authentication.code(for: bytes)
        }
    }

    /// The agent that the credential was made for; refused when it is not ours, is for another endpoint, or is too old.
    func agent(of text: Span<UInt8>, endpoint: [UInt8]) throws(HTTPError) -> [UInt8] {
        guard let credential = DirectCredential(text, isValid: { code, bytes in authentication.isValid(code, for: bytes) }),
            credential.endpoint == endpoint, credential.tenant.isEmpty
        else { throw HTTPError(status: 401, reason: "invalid credential") }
        guard credential.expiry > Self.now else { throw HTTPError(status: 401, reason: "expired credential") }
        return credential.agent
    }
}
