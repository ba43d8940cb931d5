// Who may say that a request comes from another node, and the words with which this one says it. With keys of the cluster only who
// holds one; without, whoever has the address of a known node.

import Control
import Crypto
import Memory
import Reactor
import Wire

/// Makes and checks what goes with a request from node to node.
struct HopProof {
    private let keys: [MessageAuthentication]
    private let node: [UInt8]

    /// The first key signs, all verify.
    init(keys: [[UInt8]], nodeID: String) {
        self.keys = keys.map { MessageAuthentication(key: $0) }
        node = NodeProof.fieldText(ofNode: nodeID)
    }

    /// Whether there are keys.
    var isKeyed: Bool { !keys.isEmpty }

    /// The field lines for a request to another node. `endpoint` is the whole name, the tenant's before it.
    func fields(_ head: borrowing Head, _ bytes: Span<UInt8>, endpoint: [UInt8], tenant: [UInt8], now: UInt64) -> [UInt8] {
        guard let key = keys.first else { return Self.bareFields + Self.tenantField(tenant) }
        var line = ByteBuffer()
        var target = ByteBuffer()
        HeadWriter.writeTarget(head, bytes, into: &target)
        var signed = ByteBuffer()
        NodeProof.writeSigned(
            node: node.span, time: now, method: bytes.extracting(head.methodRange), target: target.span, endpoint: endpoint.span,
            tenant: tenant.span, into: &signed)
        NodeProof.writeField(node: node.span, time: now, code: key.code(for: signed.span).span, into: &line)
        return [UInt8](copying: line.span) + Self.tenantField(tenant)
    }

    /// The field line that says the tenant to a process or node of ours; nothing for none.
    static func tenantField(_ tenant: [UInt8]) -> [UInt8] {
        tenant.isEmpty ? [] : Array("x-piko-tenant-id: ".utf8) + tenant + [0x0D, 0x0A]
    }

    /// Those for a request to another node's admin port, which is for no endpoint.
    func adminFields(path: String, now: UInt64) -> [UInt8] {
        guard let key = keys.first else { return Self.bareFields }
        var signed = ByteBuffer()
        NodeProof.writeSigned(
            node: node.span, time: now, method: Array("GET".utf8).span, target: Array(path.utf8).span, endpoint: Span(), tenant: Span(),
            into: &signed)
        var line = ByteBuffer()
        NodeProof.writeField(node: node.span, time: now, code: key.code(for: signed.span).span, into: &line)
        return [UInt8](copying: line.span)
    }

    private static let bareFields = Array("x-piko-forward: true\r\n".utf8)

    /// What a request says about its way here.
    enum Verdict {
        /// Nothing, or nothing that counts.
        case client
        /// It says that it comes from a node, and can't prove it.
        case forged
        /// A node sent it, but too long ago by this machine's clock: it proves nothing, and is not sent round.
        case stale
        /// Another node sent it.
        case node
    }

    /// Judges the request. `isMember`: whether its connection comes from the address of a known node.
    func judge(
        _ head: borrowing Head, _ bytes: Span<UInt8>, endpoint: [UInt8], tenant: [UInt8], now: UInt64, isMember: () -> Bool
    ) -> Verdict {
        guard isKeyed else {
            guard head.contains(.xPikoForward) else { return head.contains(.xPikoNode) ? .forged : .client }
            return isMember() ? .node : .forged
        }
        guard head.contains(.xPikoNode) else { return head.contains(.xPikoForward) ? .forged : .client }
        guard head.count(of: .xPikoNode) == 1, let value = head.firstValue(of: .xPikoNode),
            let proof = NodeProof(bytes.extracting(value))
        else { return .forged }
        var signed = ByteBuffer()
        NodeProof.writeSigned(
            node: proof.node.span, time: proof.time, method: bytes.extracting(head.methodRange), target: bytes.extracting(head.target),
            endpoint: endpoint.span, tenant: tenant.span, into: &signed)
        for key in keys where key.isValid(proof.code.span, for: signed.span) { return proof.isTimely(now) ? .node : .stale }
        return .forged
    }
}
