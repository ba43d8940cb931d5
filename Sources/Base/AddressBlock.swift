// Blocks of IP addresses (CIDR), lists of them, and the rule of who may come that is made of two such lists.
//
// A block of IPv4 addresses is one however it is written: 10.0.0.0/8 and ::ffff:10.0.0.0/104 are the same. A block that is wider
// than all of IPv4 (::/0, say) is of IPv6 addresses only: who writes it means those.

/// The addresses whose first bits are the same.
public struct AddressBlock: Equatable, Hashable, Sendable, CustomStringConvertible {
    private let address: IPAddress
    /// Of 128 bits; of an IPv4 block 96 and more.
    private let prefix: Int

    /// Where IPv4 addresses begin in IPv6.
    private static let mappedBits = 96

    /// From `10.0.0.0/8`, `2001:db8::/32`, or an address alone.
    public init(_ text: String) throws(AddressBlockError) {
        let (address, prefix) = try Self.parse(text)
        let start = Self.masked(address, prefix)
        guard start == address else {
            throw AddressBlockError("has bits beyond its length; the block is \(AddressBlock(start: start, prefix: prefix))")
        }
        self.init(start: address, prefix: prefix)
    }

    /// The same, where bits beyond the length may be set and mean nothing; nil: it is no block.
    public init?(masking text: String) {
        guard let (address, prefix) = try? Self.parse(text) else { return nil }
        self.init(start: Self.masked(address, prefix), prefix: prefix)
    }

    private static func parse(_ text: String) throws(AddressBlockError) -> (IPAddress, prefix: Int) {
        let parts = text.split(separator: "/", maxSplits: 1, omittingEmptySubsequences: false)
        guard let address = IPAddress(text: String(parts[0])) else { throw AddressBlockError("is not an address block (for example 10.0.0.0/8 or 2001:db8::/32)") }
        // What is written in IPv6's form counts its bits from there.
        let isShort = address.isIPv4 && !parts[0].contains(":")
        guard parts.count == 2 else { return (address, 128) }
        let digits = parts[1].utf8
        guard (1...3).contains(digits.count), digits.allSatisfy({ $0 >= 0x30 && $0 <= 0x39 }), digits.count == 1 || digits.first != 0x30,
            let bits = Int(parts[1]), bits <= (isShort ? 32 : 128)
        else { throw AddressBlockError("has no valid length after the slash (0 to \(isShort ? 32 : 128))") }
        return (address, bits + (isShort ? Self.mappedBits : 0))
    }

    private init(start: IPAddress, prefix: Int) {
        address = start
        self.prefix = prefix
    }

    private static func mask(_ bits: Int) -> UInt64 { bits <= 0 ? 0 : bits >= 64 ? .max : ~(UInt64.max >> UInt64(bits)) }

    private static func masked(_ address: IPAddress, _ prefix: Int) -> IPAddress {
        IPAddress(high: address.high & mask(prefix), low: address.low & mask(prefix - 64))
    }

    /// Whether the address is in the block.
    public func contains(_ other: IPAddress) -> Bool {
        if prefix < Self.mappedBits, other.isIPv4 { return false }
        return Self.masked(other, prefix) == address
    }

    public var description: String {
        address.isIPv4 && prefix >= Self.mappedBits ? "\(address)/\(prefix - Self.mappedBits)" : "\(address)/\(prefix)"
    }
}

/// Why a text is no block, as it follows the text in a message.
public struct AddressBlockError: Error, Equatable {
    public let message: String
    init(_ message: String) { self.message = message }
}

/// A list of blocks.
public struct AddressBlocks: Equatable, Sendable {
    private let blocks: [AddressBlock]

    /// Blocks of one list.
    public static let countMax = 1_024

    public init(_ blocks: [AddressBlock] = []) { self.blocks = blocks }

    /// From texts that were checked when the configuration was read.
    public init(checked texts: [String]) {
        blocks = texts.compactMap { text in try? AddressBlock(text) }
        precondition(blocks.count == texts.count, "a list of blocks that was not checked")
    }

    public var isEmpty: Bool { blocks.isEmpty }

    /// Whether one of the blocks has the address.
    public func contains(_ address: IPAddress) -> Bool { blocks.contains { $0.contains(address) } }
}

/// Who may come to a port: those in `allow`, or everybody where that is empty, but nobody in `deny`.
public struct AddressAccess: Equatable, Sendable {
    public let allow: AddressBlocks
    public let deny: AddressBlocks

    public init(allow: AddressBlocks = AddressBlocks(), deny: AddressBlocks = AddressBlocks()) {
        self.allow = allow
        self.deny = deny
    }

    /// Whether it refuses nobody.
    public var isOpen: Bool { allow.isEmpty && deny.isEmpty }

    /// Whether the address may come. One that is not known (a Unix socket) may where the lists are empty.
    public func admits(_ address: IPAddress?) -> Bool {
        if isOpen { return true }
        guard let address, !deny.contains(address) else { return false }
        return allow.isEmpty || allow.contains(address)
    }
}
