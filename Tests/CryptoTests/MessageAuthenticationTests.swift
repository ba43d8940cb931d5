// HMAC-SHA-256 against the vectors of RFC 4231, and the check of shortened codes.

import Testing

@testable import Crypto

@Suite struct MessageAuthenticationTests {
    // RFC 4231 sections 4.2 to 4.8; that of 4.6 is given shortened there.
    @Test(arguments: [
        (Array(repeating: 0x0b, count: 20), Array("Hi There".utf8), "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
        (Array("Jefe".utf8), Array("what do ya want for nothing?".utf8), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
        (
            Array(repeating: 0xaa, count: 20), Array(repeating: 0xdd, count: 50),
            "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"
        ),
        (Array(1...25), Array(repeating: 0xcd, count: 50), "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b"),
        (Array(repeating: 0x0c, count: 20), Array("Test With Truncation".utf8), "a3b6167473100ee06e0c796c2955552b"),
        (
            Array(repeating: 0xaa, count: 131), Array("Test Using Larger Than Block-Size Key - Hash Key First".utf8),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        ),
    ] as [([UInt8], [UInt8], String)])
    func vectors(_ key: [UInt8], _ message: [UInt8], _ code: String) {
        let wanted = stride(from: 0, to: code.count, by: 2).map { at in
            UInt8(code.dropFirst(at).prefix(2), radix: 16)!
        }
        let authentication = MessageAuthentication(key: key)
        let made = authentication.code(for: message.span)
        #expect(made.count == 32 && Array(made.prefix(wanted.count)) == wanted)
        let isValid = wanted.count < 16 || authentication.isValid(wanted.span, for: message.span)
        #expect(isValid)
    }

    @Test func shortLongAndChangedCodesProveNothing() {
        let authentication = MessageAuthentication(key: [1, 2, 3])
        let message: [UInt8] = [4, 5, 6]
        let code = authentication.code(for: message.span)
        for length in 0...33 {
            let shortened = (code + [0]).prefix(length).map { $0 }
            let isValid = authentication.isValid(shortened.span, for: message.span)
            #expect(isValid == (16...32).contains(length))
        }
        for index in code.indices {
            var changed = code
            changed[index] ^= 1
            let isValid = authentication.isValid(changed.span, for: message.span)
            #expect(!isValid)
        }
        let isValidElsewhere = MessageAuthentication(key: [1, 2, 4]).isValid(code.span, for: message.span)
        #expect(!isValidElsewhere)
        let ofNothing = authentication.code(for: [UInt8]().span)
        let isValid = authentication.isValid(ofNothing.span, for: [UInt8]().span)
        #expect(isValid)
    }
}
