// The yamux frame header: twelve bytes, big-endian, before every frame. Only data frames have bytes after it.
//
//     version u8 (0) | type u8 | flags u16 | stream u32 | length u32
//
// `length` is the payload's size (data), the window's growth (window update), an opaque value (ping) or a code (go away).
// The reader takes the twelve bytes in any split and judges nothing: what a header may say is the session's business.

import Memory

/// What a frame is.
enum YamuxFrameType: UInt8 {
    case data = 0
    case windowUpdate = 1
    case ping = 2
    case goAway = 3
}

/// The flags of a frame.
struct YamuxFlags: OptionSet, Equatable {
    var rawValue: UInt16

    /// Opens a stream; on a ping: asks.
    static let synchronize = YamuxFlags(rawValue: 1)
    /// Accepts a stream; on a ping: answers.
    static let acknowledge = YamuxFlags(rawValue: 2)
    /// The sender's half of the stream ends.
    static let finish = YamuxFlags(rawValue: 4)
    /// The stream ends at once, both halves.
    static let reset = YamuxFlags(rawValue: 8)

    /// Every flag that exists.
    static let known: YamuxFlags = [.synchronize, .acknowledge, .finish, .reset]
}

/// A header as it stands on the wire; `type` and `version` are unchecked.
struct YamuxHeader: Equatable {
    var version: UInt8
    var type: UInt8
    var flags: YamuxFlags
    var stream: UInt32
    var length: UInt32

    /// The size of a header on the wire.
    static let byteCount = 12

    init(_ type: YamuxFrameType, flags: YamuxFlags = [], stream: UInt32 = 0, length: UInt32) {
        version = 0
        self.type = type.rawValue
        self.flags = flags
        self.stream = stream
        self.length = length
    }

    /// From the first eight and the last four bytes, each read as one big-endian number.
    @inline(__always)
    init(first: UInt64, last: UInt32) {
        version = UInt8(truncatingIfNeeded: first >> 56)
        type = UInt8(truncatingIfNeeded: first >> 48)
        flags = YamuxFlags(rawValue: UInt16(truncatingIfNeeded: first >> 32))
        stream = UInt32(truncatingIfNeeded: first)
        length = last
    }

    /// Appends the twelve bytes.
    func write(into buffer: inout ByteBuffer) {
        let bytes: InlineArray<12, UInt8> = [
            version, type,
            UInt8(truncatingIfNeeded: flags.rawValue >> 8), UInt8(truncatingIfNeeded: flags.rawValue),
            UInt8(truncatingIfNeeded: stream >> 24), UInt8(truncatingIfNeeded: stream >> 16),
            UInt8(truncatingIfNeeded: stream >> 8), UInt8(truncatingIfNeeded: stream),
            UInt8(truncatingIfNeeded: length >> 24), UInt8(truncatingIfNeeded: length >> 16),
            UInt8(truncatingIfNeeded: length >> 8), UInt8(truncatingIfNeeded: length),
        ]
        buffer.append(bytes.span)
    }
}

/// Collects a header that comes in pieces.
struct YamuxHeaderReader {
    /// The bytes so far, big-endian: the first eight in `first`, the others in `last`. Both are zero when `count` is zero.
    private var first: UInt64 = 0
    private var last: UInt32 = 0
    /// How many bytes of the header are there, 0 ..< 12.
    private(set) var count = 0

    /// Takes bytes from `offset` on; nil when they end before the header does.
    @inline(__always)
    mutating func next(_ bytes: Span<UInt8>, at offset: inout Int) -> YamuxHeader? {
        if count == 0 && bytes.count - offset >= YamuxHeader.byteCount {
            // All of it is there, as nearly always: one check of the bounds instead of twelve.
            let whole = bytes.extracting(offset..<offset + YamuxHeader.byteCount)
            offset += YamuxHeader.byteCount
            var first: UInt64 = 0
            for index in 0..<8 { first = first << 8 | UInt64(whole[index]) }
            var last: UInt32 = 0
            for index in 8..<12 { last = last << 8 | UInt32(whole[index]) }
            return YamuxHeader(first: first, last: last)
        }
        while offset < bytes.count {
            let byte = bytes[offset]
            offset += 1
            if count < 8 {
                first = first << 8 | UInt64(byte)
            } else {
                last = last << 8 | UInt32(byte)
            }
            count += 1
            if count == YamuxHeader.byteCount {
                let header = YamuxHeader(first: first, last: last)
                self = YamuxHeaderReader()
                return header
            }
        }
        return nil
    }
}

extension YamuxHeaderReader {
    func write(into state: inout StateWriter) {
        state.write(first)
        state.write(last)
        state.write(count)
    }

    init(reading state: inout StateReader, _ bytes: Span<UInt8>) throws(StateReadError) {
        self.init()
        first = try state.number(bytes)
        last = try state.integer(bytes)
        count = try state.integer(bytes)
        guard count < YamuxHeader.byteCount else { throw StateReadError() }
    }
}
