// The chunked transfer coding, receiving side (RFC 9112 section 7.1).
//
//     size -> [extension ...] -> LF -> data -> CR LF -> size ...
//     size 0 -> ... -> trailer lines -> empty line (finished)
//
// Stricter than the grammar in one place: no white space around extensions, which nobody sends and parsers disagree on.
// Data is never copied; all that is kept between calls is the state, the rest of the chunk and the trailers so far.

public import Memory

/// Bounds of one chunked body beside its data.
public struct ChunkLimits: Sendable {
    /// Bytes of all chunk extensions of a body together.
    public var extensionBytesMax: Int
    /// Bytes of the whole trailer section; lines that we drop count too.
    public var trailerBytesMax: Int
    /// Lines of the trailer section; lines that we drop count too.
    public var trailersMax: Int

    public init(extensionBytesMax: Int = 4_096, trailerBytesMax: Int = 16_384, trailersMax: Int = 64) {
        precondition(extensionBytesMax >= 0 && trailerBytesMax > 0 && trailersMax >= 0, "ChunkLimits out of range")
        self.extensionBytesMax = extensionBytesMax
        self.trailerBytesMax = trailerBytesMax
        self.trailersMax = trailersMax
    }
}

/// What the decoder found.
public enum ChunkEvent: Equatable, Sendable {
    /// All bytes are taken; the body goes on.
    case needMore
    /// A piece of the body, never empty, at this place in the bytes of the call.
    case data(Range<Int>)
    /// The body and its trailers are over; what follows is the next message.
    case end
}

/// Takes the chunked coding off a body. Used again for the next body after `reset`.
public struct ChunkedDecoder: ~Copyable {
    private enum State {
        case size, sizeEnd
        case extensionStart, extensionName, extensionValueStart, extensionValue
        case extensionQuoted, extensionEscape, extensionQuotedEnd
        case data, dataCarriageReturn, dataLineFeed
        case trailerStart, trailerLine, finalLineFeed, finished
    }

    private let limits: ChunkLimits
    private var state = State.size
    /// The size as far as read; then the bytes of the chunk that are still to come.
    private var remaining: UInt64 = 0
    private var digits = 0
    private var extensionBytes = 0
    private var trailerBytes = 0
    private var trailerCount = 0
    private var keptBytes = 0

    /// The trailers, valid after `.end`: lines `Name: value` with CRLF, each checked; those that a trailer section may not
    /// carry (RFC 9110 section 6.5.1) and hop-by-hop ones are left out. `ChunkedEncoder.writeEnd` takes them as they are.
    public private(set) var trailers = ByteBuffer()

    public init(limits: ChunkLimits = ChunkLimits()) { self.limits = limits }

    /// Forgets the body at hand.
    public mutating func reset() {
        state = .size
        remaining = 0
        digits = 0
        extensionBytes = 0
        trailerBytes = 0
        trailerCount = 0
        keptBytes = 0
        trailers.removeAll()
    }

    /// Goes on at `bytes[offset]` and moves `offset` past what it took. After `.end` nothing more is taken. After an error
    /// the body can't be read on.
    public mutating func next(_ bytes: Span<UInt8>, at offset: inout Int) throws(HTTPError) -> ChunkEvent {
        while state != .finished, offset < bytes.count {
            switch state {
            case .data:
                let length = Int(min(remaining, UInt64(bytes.count - offset)))
                let range = offset..<offset + length
                remaining -= UInt64(length)
                offset += length
                if remaining == 0 { state = .dataCarriageReturn }
                return .data(range)
            case .trailerLine:
                try takeTrailer(bytes, at: &offset)
            default:
                try step(bytes[offset])
                // The first byte of a trailer is taken again, with its line.
                if state != .trailerLine { offset += 1 }
            }
        }
        return state == .finished ? .end : .needMore
    }

    private mutating func step(_ byte: UInt8) throws(HTTPError) {
        switch state {
        case .size:
            try stepSize(byte)
        case .sizeEnd:
            guard byte == 0x0a else { throw .malformed("chunk size line without CRLF") }
            digits = 0
            state = remaining == 0 ? .trailerStart : .data
        case .dataCarriageReturn:
            guard byte == 0x0d else { throw .malformed("chunk longer than its size") }
            state = .dataLineFeed
        case .dataLineFeed:
            guard byte == 0x0a else { throw .malformed("chunk without CRLF") }
            state = .size
        case .trailerStart:
            state = byte == 0x0d ? .finalLineFeed : .trailerLine
        case .finalLineFeed:
            guard byte == 0x0a else { throw .malformed("body without a final CRLF") }
            trailers.truncate(to: keptBytes)
            state = .finished
        default:
            try stepExtension(byte)
        }
    }

    private mutating func stepSize(_ byte: UInt8) throws(HTTPError) {
        if let digit = CharacterClass.hexadecimal(byte) {
            digits += 1
            guard digits <= 16 else { throw .malformed("chunk size too large") }
            remaining = remaining << 4 | UInt64(digit)
            return
        }
        guard digits > 0 else { throw .malformed("invalid chunk size") }
        switch byte {
        case 0x0d: state = .sizeEnd
        case 0x3b: try enterExtension()
        default: throw .malformed("invalid chunk size")
        }
    }

    private mutating func enterExtension() throws(HTTPError) {
        try countExtensionByte()
        state = .extensionStart
    }

    private mutating func countExtensionByte() throws(HTTPError) {
        extensionBytes += 1
        guard extensionBytes <= limits.extensionBytesMax else { throw .malformed("chunk extensions too long") }
    }

    private mutating func stepExtension(_ byte: UInt8) throws(HTTPError) {
        let isToken = CharacterClass.isToken(byte)
        let isText = byte >= 0x20 && byte != 0x7f || byte == 0x09
        switch (state, byte) {
        case (.extensionName, 0x0d), (.extensionValue, 0x0d), (.extensionQuotedEnd, 0x0d):
            state = .sizeEnd
            return
        case (.extensionName, 0x3b), (.extensionValue, 0x3b), (.extensionQuotedEnd, 0x3b):
            try enterExtension()
            return
        case (.extensionName, 0x3d): state = .extensionValueStart
        case (.extensionStart, _) where isToken: state = .extensionName
        case (.extensionName, _) where isToken: break
        case (.extensionValueStart, 0x22): state = .extensionQuoted
        case (.extensionValueStart, _) where isToken: state = .extensionValue
        case (.extensionValue, _) where isToken: break
        case (.extensionQuoted, 0x22): state = .extensionQuotedEnd
        case (.extensionQuoted, 0x5c): state = .extensionEscape
        case (.extensionQuoted, _) where isText: break
        case (.extensionEscape, _) where isText: state = .extensionQuoted
        default: throw .malformed("invalid chunk extension")
        }
        try countExtensionByte()
    }

    /// Collects a trailer line behind those that are kept, and keeps or drops it once it is whole.
    private mutating func takeTrailer(_ bytes: Span<UInt8>, at offset: inout Int) throws(HTTPError) {
        let room = limits.trailerBytesMax - trailerBytes
        let bound = min(bytes.count, offset + room)
        let end = firstIndex(of: 0x0a, in: bytes, range: offset..<bound)
        let isWhole = end < bound
        let taken = isWhole ? end + 1 : end
        trailers.append(bytes.extracting(offset..<taken))
        trailerBytes += taken - offset
        offset = taken
        if !isWhole {
            guard trailerBytes < limits.trailerBytesMax else { throw HTTPError(status: 431, reason: "trailers too large") }
            return
        }
        trailerCount += 1
        guard trailerCount <= limits.trailersMax else { throw HTTPError(status: 431, reason: "too many trailers") }
        if try keepsLastTrailer() { keptBytes = trailers.count } else { trailers.truncate(to: keptBytes) }
        state = .trailerStart
    }

    private func keepsLastTrailer() throws(HTTPError) -> Bool {
        let line = keptBytes..<trailers.count - 1
        let span = trailers.span
        guard line.count >= 2, span[line.upperBound - 1] == 0x0d else { throw .malformed("line ends with a bare LF") }
        let field = try FieldLine(span, line.lowerBound..<line.upperBound - 1)
        return !field.known.isForbiddenInTrailer
    }
}
