// The words of the direct transport: preamble, credential, offer, pool limits. docs/protocol-direct.md.

import Memory
import TestKit
import Testing

@testable import Wire

@Suite struct DirectTests {
    // MARK: Preamble

    private func preamble(_ client: [UInt8]) -> [UInt8] {
        var buffer = ByteBuffer()
        DirectPreamble.write(client: client.span, into: &buffer)
        return bytes(of: buffer)
    }

    private func client(_ bytes: [UInt8]) -> [UInt8]? {
        DirectPreamble.clientRange(bytes.span).map { Array(bytes[$0]) }
    }

    @Test func preambleIsAsSpecified() {
        let address: [UInt8] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 7, 0x12, 0x67]
        let wire = preamble(address)
        #expect(wire == Array("PIKO".utf8) + [1, 0, 0, 0] + address + [0, 0, 0, 0, 0, 0])
        #expect(client(wire) == address)
    }

    @Test func preambleOfAnotherKindIsRefused() {
        let good = preamble(Array(1...18))
        for index in 0..<32 {
            var changed = good
            changed[index] ^= 0x20
            // Magic, version and flags count; reserved bytes may get a meaning; the address is any.
            #expect((client(changed) == nil) == (index < 6), "byte \(index)")
        }
    }

    // MARK: Credential

    private let key: [UInt8] = [7, 3, 5]

    /// No real code: enough to see which bytes are signed.
    private func code(_ bytes: Span<UInt8>) -> [UInt8] {
        var sum: UInt64 = 0x9e37
        for index in bytes.indices { sum = (sum ^ UInt64(bytes[index])) &* 0x100_0000_01b3 }
        return (0..<20).map { UInt8(truncatingIfNeeded: sum >> UInt64($0)) }
    }

    private func text(_ credential: DirectCredential) -> [UInt8] {
        var buffer = ByteBuffer()
        credential.write(into: &buffer) { code($0) }
        return bytes(of: buffer)
    }

    private func read(_ text: [UInt8]) -> DirectCredential? {
        DirectCredential(text.span) { given, signed in
            let wanted = code(signed)
            return given.count == 16 && given.indices.allSatisfy { given[$0] == wanted[$0] }
        }
    }

    @Test func credentialsComeBackAsTheyWere() {
        for (endpoint, tenant) in [("e", ""), ("my-endpoint", "acme"), (String(repeating: "x", count: 255), String(repeating: "t", count: 255))] {
            let credential = DirectCredential(
                expiry: 0x0102_0304_0506_0708, agent: Array(1...16), endpoint: Array(endpoint.utf8), tenant: Array(tenant.utf8))
            let text = text(credential)
            #expect(text.count <= DirectCredential.textBytesMax)
            #expect(read(text) == credential)
        }
    }

    @Test func theEndOfATokenIsKept() {
        for limit: UInt64 in [0, 9, .max] {
            let credential = DirectCredential(expiry: 9, agent: Array(1...16), endpoint: Array("e".utf8), limit: limit)
            let text = text(credential)
            #expect(read(text) == credential && read(text)?.limit == limit)
            for index in text.indices { #expect(read(Array(text[..<index])) == nil) }
        }
        #expect(read(text(DirectCredential(expiry: 9, agent: Array(1...16), endpoint: [])))?.limit == nil)
    }

    @Test func changedCutAndLongerCredentialsAreRefused() {
        let good = text(DirectCredential(expiry: 9, agent: Array(1...16), endpoint: Array("e".utf8), tenant: Array("t".utf8)))
        for index in good.indices {
            for byte in [UInt8(ascii: "A"), UInt8(ascii: "/"), UInt8(ascii: "="), UInt8(ascii: "*")] where good[index] != byte {
                var changed = good
                changed[index] = byte
                #expect(read(changed) == nil, "\(index)")
            }
            #expect(read(Array(good[..<index])) == nil)
        }
        #expect(read(good + Array("AAAA".utf8)) == nil)
        #expect(read(Array(repeating: UInt8(ascii: "A"), count: 1_028)) == nil)
    }

    /// Whatever is signed is read without a fault, and only what the layout allows is taken.
    @Test func signedNonsenseIsRefused() {
        var random = SeededGenerator(seed: 11)
        for _ in 0..<2_000 {
            let count = Int.random(in: 0...80, using: &random)
            let body = (0..<count).map { index in index == 0 ? UInt8(1) : UInt8.random(in: 0...40, using: &random) }
            var signed = ByteBuffer()
            signed.append("piko direct credential 1\n")
            signed.append(body.span)
            let signature = code(signed.span)
            var text = ByteBuffer()
            let whole = body + signature.prefix(16)
            Base64.encode(whole.span, into: &text)
            if let credential = read(bytes(of: text)) {
                #expect(27 + credential.endpoint.count + credential.tenant.count == body.count)
            }
        }
    }

    @Test func base64IsDecodedCanonically() {
        let rows: [(String, String?)] = [
            ("", ""), ("Zg==", "f"), ("Zm8=", "fo"), ("Zm9v", "foo"), ("Zm9vYmFy", "foobar"), ("Zh==", nil), ("Zm9=", nil), ("Zg=", nil), ("Zg", nil),
            ("Z===", nil), ("====", nil), ("Zm9vZg==Zm9v", nil), ("Zm 9v", nil), ("Zm9\n", nil),
        ]
        for (text, wanted) in rows {
            var buffer = ByteBuffer()
            let isGood = Base64.decode(text.utf8Span.span, into: &buffer)
            #expect(isGood == (wanted != nil), "\(text)")
            if let wanted { #expect(bytes(of: buffer) == Array(wanted.utf8)) }
        }
    }

    // MARK: Fields

    private func limits(_ text: String) -> DirectPoolLimits? {
        DirectPoolLimits(text.utf8Span.span, 0..<text.utf8.count)
    }

    @Test func poolLimits() {
        var buffer = ByteBuffer()
        DirectPoolLimits(connectionsMax: 1_024, idleMax: 64).write(into: &buffer)
        #expect(bytes(of: buffer) == Array("connections=1024, idle=64".utf8))
        let rows: [(String, DirectPoolLimits?)] = [
            ("connections=1024, idle=64", DirectPoolLimits(connectionsMax: 1_024, idleMax: 64)),
            ("idle=0,CONNECTIONS=1", DirectPoolLimits(connectionsMax: 1, idleMax: 0)),
            ("connections=2, later=x, =, flag, idle=1", DirectPoolLimits(connectionsMax: 2, idleMax: 1)),
            ("connections=1000000, idle=1", DirectPoolLimits(connectionsMax: 1_000_000, idleMax: 1)),
            ("connections=1000001, idle=1", nil), ("connections=-1, idle=1", nil), ("connections=, idle=1", nil), ("connections=1", nil),
            ("idle=1", nil), ("", nil), ("connections=1 2, idle=1", nil), ("connections=99999999, idle=1", nil),
        ]
        for (text, wanted) in rows { #expect(limits(text) == wanted, "\(text)") }
    }

    @Test func listsNameTheirElements() {
        for (list, isThere) in [
            ("direct/1", true), ("a, DIRECT/1 ,b", true), (",,direct/1", true), ("direct/10", false), ("direct/1;q=1", false), ("direct", false), ("", false),
        ] {
            #expect(Direct.names(list.utf8Span.span, 0..<list.utf8.count, Direct.transport) == isThere, "\(list)")
        }
    }
}
