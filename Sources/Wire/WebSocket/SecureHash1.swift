// SHA-1 (RFC 3174), which the WebSocket handshake prescribes. It protects nothing there: it only proves that the server
// understood the request. Nothing else may use it.

/// The SHA-1 digest of some bytes.
enum SecureHash1 {
    /// The size of a digest.
    static let byteCount = 20

    /// The digest of `bytes`.
    static func digest(_ bytes: Span<UInt8>) -> InlineArray<20, UInt8> {
        var state: InlineArray<5, UInt32> = [0x6745_2301, 0xEFCD_AB89, 0x98BA_DCFE, 0x1032_5476, 0xC3D2_E1F0]
        // The padded message: the bytes, 0x80, zeros, and the length in bits as 64 bits, a multiple of 64 bytes in all.
        let blockCount = (bytes.count + 8) / 64 + 1
        let lengthStart = blockCount * 64 - 8
        let bitCount = UInt64(bytes.count) * 8
        for block in 0..<blockCount {
            var words: InlineArray<80, UInt32> = .init(repeating: 0)
            for position in 0..<64 {
                let index = block * 64 + position
                let byte: UInt8 =
                    if index < bytes.count {
                        bytes[index]
                    } else if index == bytes.count {
                        0x80
                    } else if index >= lengthStart {
                        UInt8(truncatingIfNeeded: bitCount >> UInt64((7 - (index - lengthStart)) * 8))
                    } else {
                        0
                    }
                words[position / 4] = words[position / 4] << 8 | UInt32(byte)
            }
            mix(&words, into: &state)
        }
        var digest: InlineArray<20, UInt8> = .init(repeating: 0)
        for index in 0..<20 {
            digest[index] = UInt8(truncatingIfNeeded: state[index / 4] >> UInt32((3 - index % 4) * 8))
        }
        return digest
    }

    /// Takes one block, in `words[0 ..< 16]`, into the state.
    private static func mix(_ words: inout InlineArray<80, UInt32>, into state: inout InlineArray<5, UInt32>) {
        for index in 16..<80 {
            words[index] = rotate(words[index - 3] ^ words[index - 8] ^ words[index - 14] ^ words[index - 16], by: 1)
        }
        var (a, b, c, d, e) = (state[0], state[1], state[2], state[3], state[4])
        for index in 0..<80 {
            let (choice, constant): (UInt32, UInt32) =
                switch index / 20 {
                case 0: (b & c | ~b & d, 0x5A82_7999)
                case 1: (b ^ c ^ d, 0x6ED9_EBA1)
                case 2: (b & c | b & d | c & d, 0x8F1B_BCDC)
                default: (b ^ c ^ d, 0xCA62_C1D6)
                }
            let next = rotate(a, by: 5) &+ choice &+ e &+ words[index] &+ constant
            (e, d, c, b, a) = (d, c, rotate(b, by: 30), a, next)
        }
        state[0] &+= a
        state[1] &+= b
        state[2] &+= c
        state[3] &+= d
        state[4] &+= e
    }

    private static func rotate(_ word: UInt32, by count: UInt32) -> UInt32 { word << count | word >> (32 - count) }
}
