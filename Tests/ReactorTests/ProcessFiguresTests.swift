// What a process uses, from the text of /proc.

import Testing

@testable import Reactor

@Suite struct ProcessFiguresTests {
    @Test(arguments: [
        ("1 (a) b) S 0 1 1 0 -1 4194560 1 2 3 4 150 50 6 7 20 0 1 0 5 8192 3 184", UInt64(2_000_000_000), UInt64(8_192)),
        ("1 (piko) R 0 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 5 4096 0", 0, 4_096),
    ])
    func readsTheText(_ text: String, _ processor: UInt64, _ virtual: UInt64) throws {
        let figures = try #require(ProcessFigures(parsing: Array(text.utf8)))
        // A hundred ticks a second, on every Linux that Debian has.
        #expect(figures.processorNanoseconds == processor && figures.virtualBytes == virtual)
    }

    @Test(arguments: ["", "1 (piko", "1 (piko) S 1 2 3", "1 (piko) S 0 1 1 0 -1 0 0 0 0 0 x 0 0 0 20 0 1 0 5 4096 0"])
    func refusesOtherText(_ text: String) { #expect(ProcessFigures(parsing: Array(text.utf8)) == nil) }

    @Test func readsItself() throws {
        let figures = try #require(ProcessFigures.read(System.processIdentifier))
        #expect(figures.residentBytes > 1_000_000 && figures.virtualBytes >= figures.residentBytes)
        #expect(try #require(ProcessFigures.openDescriptors(System.processIdentifier)) > 2)
        #expect(ProcessFigures.read(-1) == nil)
    }
}
