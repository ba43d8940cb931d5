// The first bytes of a stream on a data connection of the `direct` transport: who the client is. docs/protocol-direct.md
// specifies them. After them nothing is framed.
//
//     0   magic "PIKO"          4   version 1           5   flags 0        6   zero, 2 bytes
//     8   address, 16 bytes (IPv4 mapped into IPv6; zero: none)           24   port, big-endian
//     26  zero, 6 bytes

public import Memory

/// The preamble of a stream.
public enum DirectPreamble {
    /// Its length; always the same.
    public static let byteCount = 32
    /// Bytes of the encoded address with its port.
    public static let addressBytes = 18

    private static let magic: StaticString = "PIKO"
    private static let version: UInt8 = 1
    private static let addressStart = 8

    /// Appends the preamble of a client whose address has these 18 bytes: 16 of the address, then the port.
    public static func write(client: Span<UInt8>, into buffer: inout ByteBuffer) {
        precondition(client.count == addressBytes, "an address of 18 bytes")
        buffer.append(magic)
        buffer.append(version)
        for _ in 5..<addressStart { buffer.append(0) }
        buffer.append(client)
        for _ in (addressStart + addressBytes)..<byteCount { buffer.append(0) }
    }

    /// Where the client's 18 address bytes lie; nil when `bytes`, of which there must be 32, are no preamble of a version
    /// that we know. Reserved bytes may have a meaning in a later minor change and are not looked at; flags change how the
    /// stream is read, so an unknown one is refused.
    public static func clientRange(_ bytes: Span<UInt8>) -> Range<Int>? {
        precondition(bytes.count == byteCount)
        let magicBytes: [4 of UInt8] = [0x50, 0x49, 0x4b, 0x4f]
        for index in 0..<4 where bytes[index] != magicBytes[index] { return nil }
        guard bytes[4] == version, bytes[5] == 0 else { return nil }
        return addressStart..<addressStart + addressBytes
    }
}
