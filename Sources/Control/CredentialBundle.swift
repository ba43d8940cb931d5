// What a worker needs for TLS and may not read by itself: certificates, private keys, authorities, keys of tickets. It comes in
// a memory file beside `ControlMessage.credentials`, because it is secret and may be long.
//
// Bytes: entries, one behind the other: kind (1 byte), port (1 byte, 0: none), length (4 bytes, little-endian), and so many
// bytes. The key of a certificate follows it. Reading gives places in the bytes and copies nothing, so that whoever reads knows
// where secrets are.

public import Memory

/// What an entry holds.
public enum CredentialKind: UInt8, Sendable {
    /// A certificate of a port with its chain (PEM); the first one of a port is its default.
    case certificate = 1
    /// Its private key (PEM).
    case key = 2
    /// Who signs the certificates of the port's clients (PEM).
    case clientAuthorities = 3
    /// A key of tickets, the newest first.
    case ticketKey = 4
    /// This node's certificate towards other nodes, and its key.
    case nodeCertificate = 5
    case nodeKey = 6
    /// Who signs the certificates of other nodes (PEM); empty: everybody is taken. Without it, other nodes are talked to
    /// without TLS.
    case nodeAuthorities = 7
}

/// One entry of a bundle.
public struct CredentialEntry: Equatable, Sendable {
    public var kind: CredentialKind
    public var port: ListenerKind?
    /// Where its bytes are.
    public var range: Range<Int>
}

/// Bytes and places of a bundle.
public enum CredentialBundle {
    /// A whole bundle.
    public static let bytesMax = 64 << 20
    /// Certificates of all ports.
    public static let entriesMax = 16_384

    static let headerBytes = 6

    /// Appends an entry.
    public static func append(_ kind: CredentialKind, port: ListenerKind? = nil, _ bytes: Span<UInt8>, to buffer: inout ByteBuffer) {
        buffer.append(kind.rawValue)
        buffer.append(port?.rawValue ?? 0)
        for index in 0..<4 { buffer.append(UInt8(truncatingIfNeeded: bytes.count >> (8 * index))) }
        buffer.append(bytes)
    }

    /// Makes room in an empty buffer, so that it does not move, and leave a copy behind, while it is filled.
    public static func makeRoom(_ length: Int, in buffer: inout ByteBuffer) {
        let zeros = [UInt8](repeating: 0, count: length)
        buffer.append(zeros.span)
        buffer.removeAll()
    }

    /// Bytes that an entry takes beside its own.
    public static let entryBytes = headerBytes

    /// The entries of a whole bundle.
    public static func entries(_ bytes: Span<UInt8>) throws(ControlError) -> [CredentialEntry] {
        var entries: [CredentialEntry] = []
        var offset = 0
        while offset < bytes.count {
            guard bytes.count - offset >= headerBytes else { throw .truncated }
            guard entries.count < entriesMax else { throw .oversized }
            guard let kind = CredentialKind(rawValue: bytes[offset]) else { throw .invalidValue }
            let number = bytes[offset + 1]
            let port = ListenerKind(rawValue: number)
            guard number == 0 || port != nil else { throw .invalidValue }
            var length = 0
            for index in 0..<4 { length |= Int(bytes[offset + 2 + index]) << (8 * index) }
            let start = offset + headerBytes
            guard length <= bytes.count - start else { throw .truncated }
            entries.append(CredentialEntry(kind: kind, port: port, range: start..<start + length))
            offset = start + length
        }
        return entries
    }
}
