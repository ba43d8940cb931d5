// The proof between nodes: as it is written, and everything that is none.

import Memory
import TestKit
import Testing

@testable import Wire

@Suite struct NodeProofTests {
    private static let code = String(repeating: "0a", count: 32)

    private func read(_ text: String) -> NodeProof? { NodeProof(Array(text.utf8).span) }

    @Test func comesBackAsItWasWritten() {
        for (id, text) in [("node-1", "node-1"), ("a b;c", "a%20b%3bc"), ("%", "%25"), ("ü", "%c3%bc")] {
            #expect(NodeProof.fieldText(ofNode: id) == Array(text.utf8))
            var buffer = ByteBuffer()
            let code = (0..<32).map { UInt8($0 * 8) }
            NodeProof.writeField(node: NodeProof.fieldText(ofNode: id).span, time: 1_767_000_000, code: code.span, into: &buffer)
            let line = String(decoding: bytes(of: buffer), as: UTF8.self)
            #expect(line.hasPrefix("x-piko-node: \(text); t=1767000000; mac=0008") && line.hasSuffix("f8\r\n"))
            let proof = read(String(line.dropFirst("x-piko-node: ".count).dropLast()))
            #expect(proof?.node == Array(text.utf8) && proof?.time == 1_767_000_000 && proof?.code == code)
        }
    }

    @Test(arguments: [
        "a; t=1; mac=\(code)", "a;t=1;mac=\(code)", "  a ;  t=000000000000000001 ; MAC=\(code)  ",
    ])
    func isRead(_ text: String) { #expect(read(text)?.time == 1) }

    @Test(arguments: [
        "", "a", ";;", "a; t=1", "; t=1; mac=\(code)", "a; t=; mac=\(code)", "a; t=-1; mac=\(code)", "a; t=1x; mac=\(code)",
        "a; t=1234567890123456789; mac=\(code)", "a; t=1; mac=\(code)0", "a; t=1; mac=\(code)00", "a; t=1; mac=\(code.dropLast())",
        "a; t=1; mac=", "a; t=1; mac=\(code.dropLast())g", "a; t=1; mac=\(code.dropLast())A", "a; mac=\(code); t=1",
        "a; t=1; mac=\(code); x=1", "declined", String(repeating: "a", count: 1_000) + "; t=1; mac=\(code)",
    ])
    func isRefused(_ text: String) { #expect(read(text) == nil) }

    @Test func ends() throws {
        let proof = try #require(read("a; t=1000; mac=\(Self.code)"))
        for (now, isTimely) in [(969, false), (970, true), (1_000, true), (1_030, true), (1_031, false), (0, false), (.max, false)] as [(UInt64, Bool)] {
            #expect(proof.isTimely(now) == isTimely, "\(now)")
        }
    }

    /// Whatever is changed of what is signed changes the bytes that are.
    @Test func everythingIsSigned() {
        func signed(_ node: String, _ time: UInt64, _ method: String, _ target: String, _ endpoint: String, _ tenant: String) -> [UInt8] {
            var buffer = ByteBuffer()
            NodeProof.writeSigned(
                node: Array(node.utf8).span, time: time, method: Array(method.utf8).span, target: Array(target.utf8).span,
                endpoint: Array(endpoint.utf8).span, tenant: Array(tenant.utf8).span, into: &buffer)
            return bytes(of: buffer)
        }
        let all = [
            signed("a", 1, "GET", "/", "e", ""), signed("b", 1, "GET", "/", "e", ""), signed("a", 2, "GET", "/", "e", ""),
            signed("a", 1, "PUT", "/", "e", ""), signed("a", 1, "GET", "/x", "e", ""), signed("a", 1, "GET", "/", "f", ""),
            signed("a", 1, "GET", "/", "e", "t"), signed("a", 1, "GET", "/", "", "e"), signed("a", 1, "GET", "/e", "", ""),
        ]
        #expect(Set(all).count == all.count)
        #expect(String(decoding: all[0], as: UTF8.self) == "piko node request 1\na\n1\nGET\n/\n\ne")
    }
}
