// Bodies of messages: rows of bytes and what they mean, whole and cut off at each byte; bytes that are no body.

import Testing

@testable import Gossip

@Suite struct MessageTests {
    static let life: [UInt8] = [1, 2, 3, 4, 5, 6, 7, 8]
    static let number: UInt64 = 0x0807_0605_0403_0201

    static func message(_ change: (inout GossipMessage) -> Void) -> GossipMessage {
        var message = GossipMessage()
        change(&message)
        return message
    }

    /// Bytes, and what they say.
    static let rows: [([UInt8], GossipMessage)] = [
        ([1] + life, message { $0.ping = number }),
        ([2] + life, message { $0.ack = number }),
        ([3] + life, message { $0.relay = number }),
        ([4] + life, message { $0.relayed = number }),
        ([5] + [UInt8](repeating: 1, count: 256), message { $0.bucketHashes = [UInt32](repeating: 0x0101_0101, count: 64) }),
        (
            [6] + [UInt8](repeating: 0xFF, count: 8) + [2] + life + [0x80, 1, 0] + life + [5, 3],
            message {
                $0.digestMask = .max
                $0.digest = [
                    DigestEntry(life: number, version: 128, refutation: 0), DigestEntry(life: number, version: 5, refutation: 3),
                ]
            }
        ),
        ([7, 1] + life + [0, 0], message { $0.want = [DigestEntry(life: number, version: 0, refutation: 0)] }),
        (
            [8, 9, 1, 0x61, 2, 0x62, 0x63],
            message { $0.hello = Introduction(id: "a", incarnation: 9, address: GossipAddress("bc")) }
        ),
        (
            [9, 9, 1, 0x61, 2, 0x62, 0x63],
            message { $0.welcome = Introduction(id: "a", incarnation: 9, address: GossipAddress("bc")) }
        ),
        // State and refutation only.
        (
            [10] + life + [2 | 4, 7],
            message { $0.sections = [Section(life: number, state: .dead, isFresh: true, refutation: 7, introduction: nil)] }
        ),
        // Who it is, an endpoint, a removed one, the size.
        (
            [10] + life + [8 | 16, 0, 1, 1, 0x61, 1, 0x62, 4, 9, 1, 3, 1, 0x78, 10, 1, 0, 0, 8, 1, 9, 0, 0],
            message {
                var section = Section(
                    life: number, state: .alive, isFresh: false, refutation: 0,
                    introduction: Introduction(id: "a", incarnation: 1, address: GossipAddress("b")))
                section.base = 4
                section.entries = [
                    DeltaEntry(slot: 8, version: 5, count: 3, text: "x"), DeltaEntry(slot: 9, version: 6, count: 0, text: ""),
                    DeltaEntry(slot: 7, version: 7, count: 9, text: ""),
                ]
                $0.sections = [section]
            }
        ),
        ([2] + life + [1] + life, message { ($0.ack, $0.ping) = (number, number) }),
    ]

    @Test(arguments: rows)
    func whole(_ bytes: [UInt8], _ message: GossipMessage) throws {
        #expect(try Body.read(bytes) == message)
    }

    /// Cut off anywhere, it is none; and nothing is read beyond its end. (A part of two may be cut off between them.)
    @Test(arguments: rows)
    func cutOff(_ bytes: [UInt8], _ message: GossipMessage) {
        for length in 0..<bytes.count {
            let part = try? Body.read(Array(bytes.prefix(length)))
            let isWhole = part == Self.message { $0.ack = Self.number }
            // The part of sections may be empty.
            let isEmpty = part == GossipMessage() && bytes.prefix(length) == [10]
            #expect(part == nil || isWhole || isEmpty)
        }
        for behind in [[0], [11], [0xFF], [bytes[0]]] as [[UInt8]] { #expect((try? Body.read(bytes + behind)) == nil) }
    }

    static let long = [UInt8](repeating: 0x61, count: 300)
    /// Bytes that are no body, and why.
    static let wrong: [([UInt8], GossipWireError)] = [
        ([], .truncated),
        ([0], .invalidValue), ([11] + life, .invalidValue), ([255], .invalidValue),
        ([1] + life + [1] + life, .invalidValue),
        // A life of no number, a state or flag that is none.
        ([7, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], .invalidValue),
        ([10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], .invalidValue),
        ([10] + life + [32, 0], .invalidValue),
        // Varints that are too long or not the shortest.
        ([7, 1] + life + [0x80, 0, 0], .invalidValue),
        ([7, 1] + life + [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 2, 0], .invalidValue),
        ([7, 1] + life + [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x81, 0], .invalidValue),
        // Counts over their limits: of entries, of a refutation's bits, of text.
        ([7, 0x81, 0x20], .oversized),
        ([7, 1] + life + [0, 0xFF, 0xFF, 0xFF, 0xFF, 0x1F], .oversized),
        ([8, 0, 0x81, 1] + long, .oversized),
        ([8, 0, 1, 0x61, 0x81, 2] + long, .oversized),
        ([10] + life + [16, 0, 0, 9, 1, 1, 0x81, 2] + long, .oversized),
        ([10] + life + [16, 0, 0, 0x82, 0x80, 0x40, 1, 1, 1, 0x61, 0], .oversized),
        // An id or address of no bytes, text that is not UTF-8.
        ([8, 0, 0, 1, 0x61], .invalidValue), ([8, 0, 1, 0x61, 0], .invalidValue),
        ([8, 0, 1, 0xFF, 1, 0x61], .invalidText), ([8, 0, 1, 0x61, 2, 0xC3, 0x28], .invalidText),
        // Versions that don't grow, or beyond the last number.
        ([10] + life + [16, 0, 0, 9, 0, 1, 1, 0x61, 0], .invalidValue),
        ([10] + life + [16, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1, 9, 1, 1, 1, 0x61, 0], .invalidValue),
        // An endpoint without a name or without listeners.
        ([10] + life + [16, 0, 0, 9, 1, 1, 0, 0], .invalidValue), ([10] + life + [16, 0, 0, 9, 1, 0, 1, 0x61, 0], .invalidValue),
    ]

    @Test(arguments: wrong)
    func refused(_ bytes: [UInt8], _ error: GossipWireError) {
        #expect(throws: error) { try Body.read(bytes) }
    }

    @Test(arguments: [0, 1, 127, 128, 16_383, 16_384, 1 << 32, UInt64.max - 1, .max])
    func varints(_ number: UInt64) throws {
        let bytes = Body.bytes { $0.write(varint: number) }
        #expect(bytes.count == GossipWriter.bytes(ofVarint: number))
        var reader = GossipReader(bytes)
        let read = try reader.varint()
        #expect(read == number && reader.isAtEnd)
    }

    /// A section that has no room is cut off between entries, and says where.
    @Test func sectionsEndWhereTheirRoomDoes() throws {
        var table = EntryTable()
        var changed: [String] = []
        for index in 0..<20 { table.write(8 + index, "endpoint-\(index)", 1, version: UInt64(index + 1), changed: &changed) }
        for limit in 0..<500 {
            var writer = GossipWriter()
            writer.write(.sections)
            var written = 0
            let end = writer.write(
                section: 9, .alive, isFresh: false, refutation: 0, introduction: nil, entries: table, base: 3, limit: limit, written: &written)
            #expect(writer.count <= max(1, limit))
            guard let end else {
                #expect(writer.count == 1 && written == 0)
                continue
            }
            let message = try Body.read(writer.bytes)
            #expect(message.sections.count == 1 && message.sections[0].entries.count == written)
            #expect(message.sections[0].entries.map(\.version) == Array(4..<UInt64(4 + written)) && end == UInt64(3 + written))
        }
    }
}
