// Reads the frames of a WebSocket (RFC 6455 section 5) that carries a byte stream: binary messages only, whose boundaries
// mean nothing. Payload is unmasked where it lies and handed on in the pieces it comes in; only the payload of a control
// frame, at most 125 bytes, is collected. Nothing is allocated.
//
// Driving it: `next` again and again until `needMore`. Pings want a pong with `controlPayload`; a shell keeps at most one
// answer waiting (section 5.5.3 lets it answer only the latest), so that a flood of pings costs no memory. After `close` or an
// error, nothing more is read: what follows is taken and dropped, or the error is thrown again.

public import Memory

/// The receiving half of one WebSocket connection.
public struct WebSocketDecoder {
    /// What `next` found.
    public enum Event: Equatable, Sendable {
        /// All bytes are taken.
        case needMore
        /// Payload: this range of the bytes, unmasked.
        case data(Range<Int>)
        /// A ping; its payload is in `controlPayload`.
        case ping
        /// A pong; its payload is in `controlPayload`.
        case pong
        /// The peer ends the connection, with the code if it gave one; its reason is in `controlPayload`.
        case close(code: UInt16?)
    }

    // The states, and what leads from one to the next:
    //
    //     header ──complete, data───► data ───────all bytes──► header
    //     header ──complete, control─► control ───all bytes──► header, or closed after a Close frame
    //     any    ──violation─────────► failed
    //
    // An empty data frame leads from header to header.

    /// Where in a frame the next byte belongs.
    private enum State {
        /// In a header of which `headerCount` bytes are in `header`.
        case header
        /// In the payload of a data frame; so many bytes are left.
        case data(left: UInt64)
        /// In the payload of a control frame of so many bytes; `controlCount` are there.
        case control(WebSocketOpcode, length: Int)
        /// After the peer's Close frame.
        case closed
        /// After a violation.
        case failed(WebSocketError)
    }

    private let expectsMasked: Bool
    private let limits: WebSocketLimits
    private var state = State.header
    /// Whether a message has begun and not ended.
    private var isInMessage = false
    /// The header so far, at most two bytes, a length of eight, and a key.
    private var header: InlineArray<14, UInt8> = .init(repeating: 0)
    private var headerCount = 0
    /// The mask of the frame being read, first byte lowest; 0 when it has none.
    private var maskKey: UInt32 = 0
    /// The position in the mask, 0 ..< 4, of the next payload byte.
    private var maskOffset = 0
    private var control: InlineArray<125, UInt8> = .init(repeating: 0)
    private var controlStart = 0
    private var controlCount = 0

    /// A decoder for one connection. Servers expect masked frames, clients unmasked ones.
    public init(expectsMasked: Bool, limits: WebSocketLimits = WebSocketLimits()) {
        self.expectsMasked = expectsMasked
        self.limits = limits
    }

    /// The payload of the control frame that `next` just gave: of a ping or pong all of it, of a Close frame the reason.
    public var controlPayload: Span<UInt8> {
        @_lifetime(borrow self)
        get { control.span.extracting(controlStart..<controlCount) }
    }

    /// Whether the peer's Close frame has come.
    public var isClosed: Bool { if case .closed = state { true } else { false } }

    /// Takes bytes from `offset` on, up to the next event, and unmasks payload in place. The error ends the connection; its
    /// code goes into our Close frame.
    public mutating func next(
        _ bytes: inout MutableSpan<UInt8>, at offset: inout Int
    ) throws(WebSocketError) -> Event {
        while true {
            switch state {
            case .header:
                guard readHeader(bytes.span, at: &offset) else { return .needMore }
                do throws(WebSocketError) {
                    try beginFrame()
                } catch {
                    state = .failed(error)
                    throw error
                }
            case .data(let left):
                let taken = Int(min(UInt64(bytes.count - offset), left))
                if taken == 0 { return .needMore }
                let range = offset..<offset + taken
                unmask(&bytes, range)
                offset += taken
                state = left == UInt64(taken) ? .header : .data(left: left - UInt64(taken))
                return .data(range)
            case .control(let opcode, let length):
                collectControl(&bytes, at: &offset, length: length)
                if controlCount < length { return .needMore }
                do throws(WebSocketError) {
                    return try endControl(opcode)
                } catch {
                    state = .failed(error)
                    throw error
                }
            case .closed:
                offset = bytes.count
                return .needMore
            case .failed(let error):
                throw error
            }
        }
    }

    // MARK: Header

    /// Collects the header. True when it is complete; false when the bytes end before.
    @inline(__always)
    private mutating func readHeader(_ bytes: Span<UInt8>, at offset: inout Int) -> Bool {
        while true {
            if headerCount >= 2 && headerCount == headerLength { return true }
            if offset == bytes.count { return false }
            header[headerCount] = bytes[offset]
            offset += 1
            headerCount += 1
        }
    }

    /// The length of the header, as its second byte says.
    private var headerLength: Int {
        let extended = header[1] & 0x7f == 126 ? 2 : header[1] & 0x7f == 127 ? 8 : 0
        return 2 + extended + (header[1] & 0x80 != 0 ? 4 : 0)
    }

    /// Judges a complete header and enters the payload.
    private mutating func beginFrame() throws(WebSocketError) {
        let isFinal = header[0] & 0x80 != 0
        let isMasked = header[1] & 0x80 != 0
        let length = try payloadLength()
        guard header[0] & 0x70 == 0 else { throw .reservedBits }
        guard let opcode = WebSocketOpcode(rawValue: header[0] & 0x0f) else { throw .reservedOpcode }
        guard isMasked == expectsMasked else { throw .badMasking }
        maskKey = isMasked ? keyFromHeader() : 0
        maskOffset = 0
        headerCount = 0
        switch opcode {
        case .continuation, .binary, .text:
            guard (opcode == .continuation) == isInMessage else { throw .badContinuation }
            guard opcode != .text else { throw .textMessage }
            guard length <= limits.frameBytesMax else { throw .frameTooLarge }
            isInMessage = !isFinal
            state = length == 0 ? .header : .data(left: length)
        case .close, .ping, .pong:
            guard isFinal, length <= 125 else { throw .badControlFrame }
            controlStart = 0
            controlCount = 0
            state = .control(opcode, length: Int(length))
        }
    }

    /// The length in the header, which must be in its shortest form and below 2^63 (section 5.2).
    private func payloadLength() throws(WebSocketError) -> UInt64 {
        let short = header[1] & 0x7f
        if short < 126 { return UInt64(short) }
        var length: UInt64 = 0
        for index in 2..<(short == 126 ? 4 : 10) { length = length << 8 | UInt64(header[index]) }
        guard length > (short == 126 ? 125 : 0xffff), length >> 63 == 0 else { throw .badLength }
        return length
    }

    private func keyFromHeader() -> UInt32 {
        let end = headerLength
        return UInt32(header[end - 4]) | UInt32(header[end - 3]) << 8 | UInt32(header[end - 2]) << 16
            | UInt32(header[end - 1]) << 24
    }

    // MARK: Payload

    private mutating func unmask(_ bytes: inout MutableSpan<UInt8>, _ range: Range<Int>) {
        if maskKey != 0 { applyMask(&bytes, range: range, key: maskKey, offset: maskOffset) }
        maskOffset = (maskOffset + range.count) & 3
    }

    private mutating func collectControl(_ bytes: inout MutableSpan<UInt8>, at offset: inout Int, length: Int) {
        let taken = min(bytes.count - offset, length - controlCount)
        unmask(&bytes, offset..<offset + taken)
        for _ in 0..<taken {
            control[controlCount] = bytes[offset]
            controlCount += 1
            offset += 1
        }
    }

    private mutating func endControl(_ opcode: WebSocketOpcode) throws(WebSocketError) -> Event {
        switch opcode {
        case .ping:
            state = .header
            return .ping
        case .pong:
            state = .header
            return .pong
        case .close:
            let code = try closeCode()
            state = .closed
            return .close(code: code)
        case .continuation, .text, .binary:
            preconditionFailure("a data frame is not collected")
        }
    }

    /// The code of a Close frame (section 7.4), after which `controlPayload` is the reason.
    private mutating func closeCode() throws(WebSocketError) -> UInt16? {
        if controlCount == 0 { return nil }
        guard controlCount >= 2 else { throw .badCloseCode }
        let code = UInt16(control[0]) << 8 | UInt16(control[1])
        guard WebSocketEncoder.mayBeSent(closeCode: code) else { throw .badCloseCode }
        controlStart = 2
        do {
            _ = try UTF8Span(validating: controlPayload)
        } catch {
            throw .badCloseReason
        }
        return code
    }
}

// MARK: - On the way to another process

extension WebSocketDecoder {
    /// Writes down where the decoder stands. Not after a violation.
    public func write(into state: inout StateWriter) {
        switch self.state {
        case .header: state.write(0)
        case .data(let left):
            state.write(1)
            state.write(left)
        case .control(let opcode, let length):
            state.write(2)
            state.write(opcode.rawValue)
            state.write(length)
        case .closed, .failed: state.write(3)
        }
        state.write(isInMessage)
        state.write(header.span.extracting(0..<headerCount))
        state.write(maskKey)
        state.write(maskOffset)
        state.write(control.span.extracting(0..<controlCount))
    }

    /// A decoder that goes on where another one stood.
    public init(reading state: inout StateReader, _ bytes: Span<UInt8>, expectsMasked: Bool) throws(StateReadError) {
        self.init(expectsMasked: expectsMasked)
        switch try state.number(bytes) {
        case 0: self.state = .header
        case 1: self.state = .data(left: try state.number(bytes))
        case 2:
            guard let opcode = WebSocketOpcode(rawValue: try state.integer(bytes)), opcode != .binary, opcode != .text,
                opcode != .continuation
            else { throw StateReadError() }
            let length: Int = try state.integer(bytes)
            guard length <= 125 else { throw StateReadError() }
            self.state = .control(opcode, length: length)
        case 3: self.state = .closed
        default: throw StateReadError()
        }
        isInMessage = try state.truth(bytes)
        headerCount = try Self.read(&state, bytes, into: &header)
        maskKey = try state.integer(bytes)
        maskOffset = try state.integer(bytes)
        controlCount = try Self.read(&state, bytes, into: &control)
        guard maskOffset < 4 else { throw StateReadError() }
        if case .control(_, let length) = self.state, controlCount > length { throw StateReadError() }
    }

    private static func read<let size: Int>(
        _ state: inout StateReader, _ bytes: Span<UInt8>, into array: inout InlineArray<size, UInt8>
    ) throws(StateReadError) -> Int {
        var buffer = ByteBuffer()
        try state.string(bytes, into: &buffer)
        guard buffer.count <= size else { throw StateReadError() }
        for index in 0..<buffer.count { array[index] = buffer.span[index] }
        return buffer.count
    }
}
