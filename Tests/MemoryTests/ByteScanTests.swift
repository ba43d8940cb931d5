// The searches and comparisons of Memory against plain loops.

import Memory
import Testing

@Suite struct ByteScanTests {
    /// Every byte value at every place, among neighbours that could carry a borrow into it, against the plain loop.
    @Test func searchesAgreeWithThePlainLoop() {
        for fill in [UInt8(0x00), 0x09, 0x1f, 0x20, 0x7f, 0x80] {
            for value in UInt8.min...UInt8.max {
                for place in 0..<19 {
                    var bytes = [UInt8](repeating: fill, count: 19)
                    bytes[place] = value
                    for start in [0, 1, 11] {
                        let range = start..<19
                        let target = range.first { bytes[$0] == value } ?? 19
                        let control = range.first { (bytes[$0] < 0x20 && bytes[$0] != 9) || bytes[$0] == 0x7f } ?? 19
                        if firstIndex(of: value, in: bytes.span, range: range) != target { Issue.record("\(fill) \(value) \(place)") }
                        if firstControl(in: bytes.span, range: range) != control { Issue.record("\(fill) \(value) \(place)") }
                    }
                }
            }
        }
    }

    @Test func comparesText() {
        let bytes = Array("Host_Name host-name".utf8)
        func ignoringCase(_ range: Range<Int>, _ literal: StaticString, folding: Bool = false) -> Bool {
            equalsIgnoringCase(bytes.span, range, literal, foldingUnderscores: folding)
        }
        func exactly(_ range: Range<Int>) -> Bool { equals(bytes.span, range, "host-name") }
        func same(_ left: Range<Int>, _ right: Range<Int>) -> Bool { equalIgnoringCase(bytes.span, left, right) }
        #expect(ignoringCase(0..<9, "host_name"))
        #expect(!ignoringCase(0..<9, "host-name"))
        #expect(ignoringCase(0..<9, "host-name", folding: true))
        #expect(!ignoringCase(0..<8, "host_name"))
        #expect(exactly(10..<19) && !exactly(0..<9))
        #expect(same(0..<4, 10..<14) && !same(0..<9, 10..<19))
    }
}
