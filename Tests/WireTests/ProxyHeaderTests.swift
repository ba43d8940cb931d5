// Headers of the PROXY protocol: rows of bytes, each whole, byte by byte and split at every place; what is written is read back.

import Base
import Foundation
import Memory
import Testing

@testable import Wire

@Suite struct ProxyHeaderTests {
    private static let signature = "\r\n\r\n\0\r\nQUIT\n"

    private static func end(_ address: String, _ port: UInt16) -> ProxyEnd { ProxyEnd(IPAddress(text: address)!, port) }

    private static func both(_ source: ProxyEnd, _ destination: ProxyEnd) -> ProxyHeader {
        ProxyHeader(source: source, destination: destination)
    }

    /// A header of version 2.
    private static func two(_ command: UInt8, _ family: UInt8, _ rest: [UInt8], length: Int? = nil) -> [UInt8] {
        let length = length ?? rest.count
        return latin1(signature) + [command, family, UInt8(length >> 8), UInt8(length & 255)] + rest
    }

    private static let four: [UInt8] = [192, 0, 2, 1, 198, 51, 100, 2, 0x30, 0x39, 0x01, 0xbb]
    private static let six: [UInt8] = IPAddress(text: "2001:db8::1")!.bytes + IPAddress(text: "2001:db8::2")!.bytes + [0, 80, 1, 187]

    /// The same with a checksum that is right, behind other extensions.
    private static func checked(_ command: UInt8, _ family: UInt8, _ rest: [UInt8]) -> [UInt8] {
        var header = two(command, family, rest + [3, 0, 4, 0, 0, 0, 0])
        let place = header.count - 4
        let sum = ProxyHeader.checksum(header.span, zeroing: place..<place + 4)
        for index in 0..<4 { header[place + index] = UInt8(truncatingIfNeeded: sum >> (24 - 8 * UInt32(index))) }
        return header
    }

    private static let fourHeader = both(end("192.0.2.1", 12_345), end("198.51.100.2", 443))
    private static let sixHeader = both(end("2001:db8::1", 80), end("2001:db8::2", 443))

    static let taken: [([UInt8], ProxyHeader)] = [
        (latin1("PROXY TCP4 192.0.2.1 198.51.100.2 12345 443\r\n"), fourHeader),
        (latin1("PROXY TCP6 2001:db8::1 2001:db8::2 80 443\r\n"), sixHeader),
        (latin1("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n"), both(end("255.255.255.255", 65_535), end("255.255.255.255", 65_535))),
        (
            latin1("PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n"),
            both(end("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 65_535), end("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 65_535))
        ),
        (latin1("PROXY TCP6 ::ffff:192.0.2.1 ::1 1 0\r\n"), both(end("192.0.2.1", 1), end("::1", 0))),
        (latin1("PROXY UNKNOWN\r\n"), ProxyHeader()), (latin1("PROXY UNKNOWN what ever\r\n"), ProxyHeader()),
        (latin1("PROXY UNKNOWN " + String(repeating: "x", count: 91) + "\r\n"), ProxyHeader()),
        (two(0x21, 0x11, four), fourHeader), (two(0x21, 0x21, six), sixHeader), (two(0x20, 0x00, []), ProxyHeader()), (two(0x20, 0x11, four), ProxyHeader()),
        (two(0x20, 0xff, [1, 2, 3]), ProxyHeader()), (two(0x21, 0x00, []), ProxyHeader()), (two(0x21, 0x00, [9, 9, 9]), ProxyHeader()),
        (two(0x21, 0x31, [UInt8](repeating: 7, count: 216)), ProxyHeader()), (two(0x21, 0x11, four + [4, 0, 0]), fourHeader),
        (two(0x21, 0x11, four + [1, 0, 2, 104, 50, 4, 0, 1, 0]), fourHeader), (checked(0x21, 0x11, four), fourHeader),
        (checked(0x21, 0x21, six + [2, 0, 1, 97]), sixHeader), (two(0x21, 0x11, four + [4, 0x0f, 0xe1] + [UInt8](repeating: 0, count: 0xfe1)), fourHeader),
    ]

    @Test(arguments: taken.indices)
    func takes(row: Int) throws {
        let (header, expected) = Self.taken[row]
        for rest in [[], latin1("GET / HTTP/1.1\r\n")] {
            let bytes = header + rest
            let whole = try ProxyHeader.parse(bytes.span)
            #expect(whole == .complete(expected, length: header.count))
        }
        for length in 0..<header.count {
            let progress = try ProxyHeader.parse(header.span.extracting(0..<length))
            #expect(progress == .incomplete, "\(length) bytes")
        }
    }

    /// Bytes, and how many of them show that they are no header.
    static let refused: [([UInt8], Int)] = [
        (latin1("GET / HTTP/1.1\r\n"), 1), (latin1("POST / HTTP/1.1\r\n"), 2), (latin1("proxy TCP4 1.1.1.1 1.1.1.1 1 1\r\n"), 1), (latin1("PROXY\r\n"), 6),
        (latin1("PROXY \r\n"), 8), (latin1("PROXY TCP4\r\n"), 12), (latin1("PROXY TCP4 1.1.1.1 1.1.1.1 1 1\n"), 31), (latin1("PROXY UNKNOWN\n"), 14),
        (latin1("PROXY TCP4  1.1.1.1 1.1.1.1 1 1\r\n"), 33), (latin1("PROXY TCP4 1.1.1.1 1.1.1.1 1 1 \r\n"), 33), (latin1("PROXY TCP4 1.1.1.1 1.1.1.1 1\r\n"), 30),
        (latin1("PROXY TCP4 1.1.1.1 1.1.1.1 1 65536\r\n"), 36), (latin1("PROXY TCP4 1.1.1.1 1.1.1.1 1 01\r\n"), 33), (latin1("PROXY TCP4 1.1.1.1 1.1.1.1 -1 1\r\n"), 33),
        (latin1("PROXY TCP4 1.1.1.1 1.1.1.1 1 100000\r\n"), 37), (latin1("PROXY TCP4 1.1.1.1 1.1.1.1 1 \r\n"), 31), (latin1("PROXY TCP4 ::1 ::1 1 1\r\n"), 24),
        (latin1("PROXY TCP6 1.1.1.1 1.1.1.1 1 1\r\n"), 32), (latin1("PROXY TCP4 01.1.1.1 1.1.1.1 1 1\r\n"), 33), (latin1("PROXY TCP5 1.1.1.1 1.1.1.1 1 1\r\n"), 32),
        (latin1("PROXY tcp4 1.1.1.1 1.1.1.1 1 1\r\n"), 32), (latin1("PROXY unknown\r\n"), 15), (latin1("PROXY UDP4 1.1.1.1 1.1.1.1 1 1\r\n"), 32),
        (latin1("PROXY TCP4 1.1.1.1 1.1.1.1 1 1\t\r\n"), 33), (latin1("PROXY UNKNOWN " + String(repeating: "x", count: 92) + "\r\n"), 107),
        (latin1("\r\n\r\n\0\r\nQUIT\r"), 12), (latin1("\r\nGET"), 3), (two(0x11, 0x11, four), 13), (two(0x22, 0x11, four), 13), (two(0x31, 0x11, four), 13),
        (two(0x21, 0x12, four), 16), (two(0x21, 0x41, four), 16), (two(0x21, 0x10, four), 16), (two(0x21, 0x11, Array(four.dropLast())), 16),
        (two(0x21, 0x21, four), 16), (two(0x21, 0x11, four, length: 4_081), 16), (two(0x21, 0x11, four + [4, 0]), 30),
        (two(0x21, 0x11, four + [4, 0, 1]), 31), (two(0x21, 0x11, four + [4]), 29), (two(0x21, 0x11, four + [3, 0, 4, 0, 0, 0, 0]), 35),
        (two(0x21, 0x11, four + [3, 0, 3, 0, 0, 0]), 34), (checked(0x21, 0x11, four + [3, 0, 4, 0, 0, 0, 0]), 42),
    ]

    @Test(arguments: refused.indices)
    func refuses(row: Int) throws {
        let (bytes, needed) = Self.refused[row]
        for length in 0...bytes.count {
            do {
                let progress = try ProxyHeader.parse(bytes.span.extracting(0..<length))
                #expect(progress == .incomplete && length < needed, "\(length) bytes of \(needed)")
            } catch {
                #expect(length >= needed, "\(length) bytes of \(needed): \(error.reason)")
            }
        }
    }

    @Test func checksumIsCastagnolis() {
        #expect(ProxyHeader.checksum(latin1("123456789").span, zeroing: 0..<0) == 0xe306_9283)
        #expect(ProxyHeader.checksum([UInt8](repeating: 0, count: 32).span, zeroing: 0..<0) == 0x8a91_36aa)
    }

    @Test func everyChangedBitBreaksAChecksum() throws {
        let header = Self.checked(0x21, 0x11, Self.four)
        for index in 16..<28 {
            for bit in 0..<8 {
                var changed = header
                changed[index] ^= 1 << UInt8(bit)
                #expect(throws: ProxyHeaderError.self) { try ProxyHeader.parse(changed.span) }
            }
        }
    }

    /// A header, and its line.
    static let written: [(ProxyHeader, String)] = [
        (fourHeader, "PROXY TCP4 192.0.2.1 198.51.100.2 12345 443\r\n"), (sixHeader, "PROXY TCP6 2001:db8::1 2001:db8::2 80 443\r\n"),
        (both(end("192.0.2.1", 1), end("::1", 2)), "PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n"), (ProxyHeader(), "PROXY UNKNOWN\r\n"),
    ]

    @Test(arguments: written.indices)
    func writes(row: Int) throws {
        let (header, line) = Self.written[row]
        for version in [ProxyVersion.one, .two] {
            var buffer = ByteBuffer()
            header.write(version, into: &buffer)
            if version == .one { #expect(text(buffer) == line) }
            let bytes = [UInt8](copying: buffer.span)
            let again = try ProxyHeader.parse(bytes.span)
            #expect(again == .complete(header, length: bytes.count))
        }
    }
}

@Suite struct ProxyCorpusTests {
    @Test func corpus() throws {
        let folder = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .appending(path: "Corpus/proxy_header")
        let files = try FileManager.default.contentsOfDirectory(atPath: folder.path).sorted()
        #expect(files.count >= 8)
        for file in files {
            let bytes = try [UInt8](Data(contentsOf: folder.appending(path: file)))
            #expect(ProxyFuzz.failure(of: bytes) == nil, "\(file)")
        }
    }
}
