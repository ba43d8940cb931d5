// Fuzz driver of what the direct transport and other nodes say in fields: credentials, pool limits, preambles, proofs. The tests of
// Wire compile this file too (by a symbolic link) and replay the corpus through `DirectFuzz`.
//
// Input: a byte that says what the rest is; the rest. A credential's code is taken for good, so that the layout behind it is
// reached; what is read and written again must be the same text.

import Memory
import Wire

enum DirectFuzz {
    /// What went wrong with this input; nil when nothing did.
    static func failure(of input: [UInt8]) -> String? {
        guard let kind = input.first else { return nil }
        let rest = Array(input.dropFirst())
        if kind == UInt8(ascii: "N") { return proof(rest) }
        switch kind % 3 {
        case 0: return credential(rest)
        case 1: return limits(rest)
        default: return preamble(rest)
        }
    }

    private static func credential(_ text: [UInt8]) -> String? {
        var code: [UInt8] = []
        let read = DirectCredential(text.span) { signature, _ in
            code = [UInt8](copying: signature)
            return true
        }
        guard let read else { return nil }
        if read.agent.count != DirectCredential.agentBytes { return "an agent of \(read.agent.count) bytes" }
        var written = ByteBuffer()
        read.write(into: &written) { _ in code }
        return [UInt8](copying: written.span) == text ? nil : "written, it is another"
    }

    /// The proof of a request from another node.
    private static func proof(_ text: [UInt8]) -> String? {
        guard let read = NodeProof(text.span) else { return nil }
        if read.code.count != NodeProof.codeBytes || read.node.isEmpty { return "a proof without its parts" }
        var written = ByteBuffer()
        NodeProof.writeField(node: read.node.span, time: read.time, code: read.code.span, into: &written)
        let prefix = "x-piko-node: ".utf8.count
        let again = written.withSpan(prefix..<written.count - 2) { NodeProof($0) }
        return again == read ? nil : "written, it is another"
    }

    private static func limits(_ text: [UInt8]) -> String? {
        guard let read = DirectPoolLimits(text.span, 0..<text.count) else { return nil }
        if !(0...1_000_000).contains(read.connectionsMax) || !(0...1_000_000).contains(read.idleMax) { return "limits \(read)" }
        var written = ByteBuffer()
        read.write(into: &written)
        let again = written.withSpan(0..<written.count) { DirectPoolLimits($0, 0..<$0.count) }
        return again == read ? nil : "written, they are others"
    }

    private static func preamble(_ bytes: [UInt8]) -> String? {
        guard bytes.count == DirectPreamble.byteCount, let range = DirectPreamble.clientRange(bytes.span) else { return nil }
        return range.count == DirectPreamble.addressBytes && range.upperBound <= bytes.count ? nil : "address at \(range)"
    }
}

#if FUZZING
    @_cdecl("LLVMFuzzerTestOneInput")
    public func fuzzDirect(_ bytes: UnsafePointer<UInt8>, _ count: Int) -> Int32 {
        if let failure = DirectFuzz.failure(of: Array(UnsafeBufferPointer(start: bytes, count: count))) {
            fatalError(failure)
        }
        return 0
    }
#endif
