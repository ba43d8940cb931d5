// IP addresses and blocks of them: what is read, what is refused, what a block contains, and who may come.

import Base
import Testing

@Suite struct IPAddressTests {
    /// A text and its canonical form.
    static let addresses: [(String, String)] = [
        ("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "0.0.0.0"), ("255.255.255.255", "255.255.255.255"), ("::", "::"), ("::1", "::1"), ("1::", "1::"),
        ("2001:db8::1", "2001:db8::1"), ("2001:DB8:0:0:0:0:0:1", "2001:db8::1"), ("::ffff:10.1.2.3", "10.1.2.3"), ("::ffff:a01:203", "10.1.2.3"),
        ("1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:8"), ("1:0:0:2:0:0:0:3", "1:0:0:2::3"), ("1:0:2:0:3:0:4:0", "1:0:2:0:3:0:4:0"),
        ("64:ff9b::192.0.2.1", "64:ff9b::c000:201"), ("1:2:3:4:5:6:1.2.3.4", "1:2:3:4:5:6:102:304"), ("1:2:3:4:5:6:7::", "1:2:3:4:5:6:7:0"),
        ("::2:3:4:5:6:7:8", "0:2:3:4:5:6:7:8"), ("fe80::00ab", "fe80::ab"),
    ]

    @Test(arguments: addresses.indices)
    func readsAndWrites(row: Int) throws {
        let (text, canonical) = Self.addresses[row]
        let address = try #require(IPAddress(text: text))
        #expect(address.description == canonical)
        #expect(IPAddress(text: canonical) == address)
        #expect(IPAddress(bytes: address.bytes.span, at: 0) == address)
    }

    @Test(arguments: [
        "", ".", "1", "1.2.3", "1.2.3.4.5", "256.1.1.1", "01.2.3.4", "1.2.3.04", "1.2.3.", ".1.2.3", "1..2.3", "1.2.3.4 ", " 1.2.3.4", "1.2.3.4:80", "a.b.c.d",
        ":", ":::", "1:", ":1", "1::2::3", "1:2:3:4:5:6:7", "1:2:3:4:5:6:7:8:9", "1:2:3:4:5:6:7:8::", "::1:2:3:4:5:6:7:8", "12345::", "g::", "[::1]", "::1%1",
        "1:2:3:4:5:6:7:1.2.3.4", "::1.2.3", "::1.2.3.4:1", "1.2.3.4::", "0x1.2.3.4", "+1.2.3.4", "1.2.3.-4", "::ffff:1.2.3.256",
        "0000:0000:0000:0000:0000:0000:0000:0000:0000:0000",
    ])
    func refuses(text: String) {
        #expect(IPAddress(text: text) == nil)
    }

    @Test func sourcesAreNetworksOfIPv6() {
        #expect(IPAddress(text: "2001:db8:1:2:3:4:5:6")?.source == IPAddress(text: "2001:db8:1:2::"))
        #expect(IPAddress(text: "192.0.2.7")?.source == IPAddress(text: "192.0.2.7"))
    }
}

@Suite struct AddressBlockTests {
    /// A block, an address, and whether it is in there.
    static let members: [(String, String, Bool)] = [
        ("10.0.0.0/8", "10.255.0.1", true), ("10.0.0.0/8", "11.0.0.0", false), ("10.0.0.0/8", "::ffff:10.0.0.1", true), ("10.0.0.0/8", "::10.0.0.1", false),
        ("::ffff:10.0.0.0/104", "10.9.9.9", true), ("::ffff:10.0.0.0/104", "11.0.0.0", false), ("0.0.0.0/0", "203.0.113.1", true), ("0.0.0.0/0", "::1", false),
        ("::/0", "2001:db8::1", true), ("::/0", "10.0.0.1", false), ("::/64", "10.0.0.1", false), ("::ffff:0.0.0.0/96", "10.0.0.1", true),
        ("192.0.2.1", "192.0.2.1", true), ("192.0.2.1", "192.0.2.2", false), ("192.0.2.0/31", "192.0.2.1", true), ("192.0.2.0/31", "192.0.2.2", false),
        ("2001:db8::/32", "2001:db8:ffff::", true), ("2001:db8::/32", "2001:db9::", false), ("2001:db8::1", "2001:db8::1", true),
        ("2001:db8::/127", "2001:db8::1", true), ("2001:db8::/127", "2001:db8::2", false), ("fe80::/10", "febf::1", true), ("fe80::/10", "fec0::", false),
        ("2001:db8:0:1::/64", "2001:db8:0:1:ffff::", true), ("2001:db8:0:1::/64", "2001:db8:0:2::", false), ("128.0.0.0/1", "255.0.0.1", true),
        ("128.0.0.0/1", "127.0.0.1", false),
    ]

    @Test(arguments: members.indices)
    func contains(row: Int) throws {
        let (block, address, isIn) = Self.members[row]
        #expect(try AddressBlock(block).contains(#require(IPAddress(text: address))) == isIn)
    }

    @Test(arguments: [
        "", "/8", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/08", "10.0.0.0/8/8", "10.0.0.0/-1", "10.0.0.0/+8", "10.0.0.0/ 8", "::/129", "::1/64/1", "a/8", "10/8",
        "10.0.0.1/8", "2001:db8::1/64", "::ffff:10.0.0.1/104", "localhost", "10.0.0.0/8 ", "*",
    ])
    func refuses(text: String) {
        #expect(throws: AddressBlockError.self) { try AddressBlock(text) }
    }

    @Test func saysWhichBlockIsMeant() {
        do {
            _ = try AddressBlock("10.1.2.3/8")
            Issue.record("taken")
        } catch {
            #expect(error.message.hasSuffix("the block is 10.0.0.0/8"))
        }
    }

    @Test(arguments: [("10.0.0.0/8", "10.0.0.0/8"), ("::ffff:10.0.0.0/104", "10.0.0.0/8"), ("2001:DB8::/32", "2001:db8::/32"), ("::/0", "::/0")])
    func writes(text: String, canonical: String) throws {
        #expect(try AddressBlock(text).description == canonical)
    }

    /// Allowed, denied, an address, and whether it may come.
    static let access: [([String], [String], String?, Bool)] = [
        ([], [], "192.0.2.1", true), ([], [], nil, true), ([], ["192.0.2.0/24"], "192.0.2.1", false), ([], ["192.0.2.0/24"], "192.0.3.1", true),
        (["192.0.2.0/24"], [], "192.0.2.1", true), (["192.0.2.0/24"], [], "192.0.3.1", false), (["192.0.2.0/24"], [], "::1", false),
        (["192.0.2.0/24"], ["192.0.2.1"], "192.0.2.1", false), (["192.0.2.0/24"], ["192.0.2.1"], "192.0.2.2", true), (["192.0.2.0/24"], [], nil, false),
        ([], ["192.0.2.0/24"], nil, false), (["0.0.0.0/0"], [], "::1", false), (["0.0.0.0/0", "::/0"], [], "::1", true),
    ]

    @Test(arguments: access.indices)
    func admits(row: Int) {
        let (allow, deny, address, may) = Self.access[row]
        let access = AddressAccess(allow: AddressBlocks(checked: allow), deny: AddressBlocks(checked: deny))
        #expect(access.admits(address.flatMap { IPAddress(text: $0) }) == may)
    }
}
