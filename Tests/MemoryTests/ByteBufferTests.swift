// The byte queue and the mask: order through growth and consumption, numbers as text, pieces as the whole.

import Memory
import Testing

@Suite struct ByteBufferTests {
    @Test func keepsOrderThroughGrowthAndConsumption() {
        var buffer = ByteBuffer()
        var expected: [UInt8] = []
        var next: UInt8 = 0
        for round in 0..<2_000 {
            let piece = (0..<(round % 37)).map { _ in next &+= 1; return next }
            buffer.append(piece.span)
            expected += piece
            let drop = min(expected.count, round % 31)
            buffer.consume(drop)
            expected.removeFirst(drop)
            #expect(buffer.count == expected.count)
        }
        let span = buffer.span
        #expect((0..<span.count).allSatisfy { span[$0] == expected[$0] })
    }

    @Test func writesNumbers() {
        var buffer = ByteBuffer()
        buffer.appendDecimal(0)
        buffer.append(" ")
        buffer.appendDecimal(.max)
        buffer.append(" ")
        buffer.appendHexadecimal(0xdead_beef)
        #expect(text(buffer) == "0 18446744073709551615 deadbeef")
    }

    @Test func masksInPiecesAsInOne() {
        let payload = (0..<100).map { UInt8($0) }
        let key: UInt32 = 0x0403_0201
        let expected = payload.enumerated().map { $1 ^ UInt8([1, 2, 3, 4][$0 % 4]) }
        for split in 0...100 {
            var bytes = payload
            var span = bytes.mutableSpan
            applyMask(&span, range: 0..<split, key: key, offset: 0)
            applyMask(&span, range: split..<100, key: key, offset: split)
            #expect(bytes == expected)
        }
    }
}

private func text(_ buffer: borrowing ByteBuffer) -> String {
    let span = buffer.span
    return String(decoding: (0..<span.count).map { span[$0] }, as: UTF8.self)
}
