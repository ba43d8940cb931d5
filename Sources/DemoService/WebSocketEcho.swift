// The frames of a WebSocket whose server sends every message back (RFC 6455). Pure: bytes in, bytes out.
//
// It is stricter and knows more than the WebSocket of the tunnel, which carries binary messages only: text is checked as
// UTF-8, fragments and control frames may be mixed as the RFC allows. A piece of a frame goes back as a frame of its own,
// so that memory is bounded by the piece and an error can be said between two frames.

internal import Memory

/// The server's end of an echoing WebSocket.
struct WebSocketEcho: ~Copyable {
    private enum Opcode {
        static let continuation: UInt8 = 0
        static let text: UInt8 = 1
        static let binary: UInt8 = 2
        static let close: UInt8 = 8
        static let ping: UInt8 = 9
        static let pong: UInt8 = 10
    }

    /// The frame whose payload is being read.
    private struct Frame {
        var opcode: UInt8
        var isFinal: Bool
        var remaining: UInt64
        var key: UInt32
        /// Payload bytes read so far, for the mask.
        var offset = 0
    }

    private var header = ByteBuffer()
    private var frame: Frame?
    private var control = ByteBuffer()
    /// A data message has begun and its last frame has not come.
    private var isInMessage = false
    /// The message that is read is text.
    private var isText = false
    /// A piece of this message went back already: the next goes as a continuation.
    private var isAnswering = false
    private var check = UTF8Check()

    init() {}

    /// Takes bytes from the client, appends what to send to `output`. False: the WebSocket is over once that is sent.
    mutating func receive(_ bytes: inout MutableSpan<UInt8>, into output: inout ByteBuffer) -> Bool {
        var offset = 0
        while true {
            if frame == nil {
                guard offset < bytes.count else { return true }
                header.append(bytes[offset])
                offset += 1
                if let code = parseHeader() { return fail(code, into: &output) }
                continue
            }
            let length = Int(min(UInt64(bytes.count - offset), frame!.remaining))
            let range = offset..<(offset + length)
            applyMask(&bytes, range: range, key: frame!.key, offset: frame!.offset & 3)
            frame!.remaining -= UInt64(length)
            frame!.offset += length
            offset += length
            if let code = take(bytes.span, range, into: &output) { return fail(code, into: &output) }
            guard frame!.remaining == 0 else { return true }
            let ended = frame!
            frame = nil
            switch end(ended, into: &output) {
            case .goOn: break
            case .closed: return false
            case .failed(let code): return fail(code, into: &output)
            }
        }
    }

    /// Makes `frame` of `header` once that is whole; the close code when it is wrong.
    private mutating func parseHeader() -> UInt16? {
        switch Self.parse(header.span, isInMessage: isInMessage) {
        case .incomplete:
            return nil
        case .wrong:
            return 1002
        case .frame(let parsed):
            header.removeAll()
            if parsed.opcode == Opcode.text || parsed.opcode == Opcode.binary {
                isInMessage = true
                isAnswering = false
                isText = parsed.opcode == Opcode.text
                check = UTF8Check()
            }
            frame = parsed
            return nil
        }
    }

    private enum Header { case incomplete, wrong, frame(Frame) }

    /// Judges a header as far as it came.
    private static func parse(_ bytes: Span<UInt8>, isInMessage: Bool) -> Header {
        guard bytes.count >= 2 else { return .incomplete }
        let first = bytes[0]
        let second = bytes[1]
        let opcode = first & 0x0F
        let isFinal = first & 0x80 != 0
        let short = second & 0x7F
        if first & 0x70 != 0 || second & 0x80 == 0 { return .wrong }
        if opcode & 0x08 != 0 {
            if opcode > Opcode.pong || !isFinal || short > 125 { return .wrong }
        } else {
            if opcode > Opcode.binary || (opcode == Opcode.continuation) != isInMessage { return .wrong }
        }
        let lengthBytes = short == 126 ? 2 : short == 127 ? 8 : 0
        guard bytes.count == 2 + lengthBytes + 4 else { return .incomplete }
        var length = lengthBytes == 0 ? UInt64(short) : 0
        for index in 0..<lengthBytes { length = length << 8 | UInt64(bytes[2 + index]) }
        if length >> 63 != 0 || (lengthBytes == 2 && length < 126) || (lengthBytes == 8 && length < 65_536) { return .wrong }
        var key: UInt32 = 0
        for index in 0..<4 { key |= UInt32(bytes[2 + lengthBytes + index]) << UInt32(8 * index) }
        return .frame(Frame(opcode: opcode, isFinal: isFinal, remaining: length, key: key))
    }

    /// Payload bytes, unmasked. The close code when they are wrong.
    private mutating func take(_ bytes: Span<UInt8>, _ range: Range<Int>, into output: inout ByteBuffer) -> UInt16? {
        let current = frame!
        if current.opcode & 0x08 != 0 {
            control.append(bytes.extracting(range))
            return nil
        }
        let isLast = current.isFinal && current.remaining == 0
        if isText {
            guard check.accept(bytes, range), !isLast || check.isComplete else { return 1007 }
        }
        if range.isEmpty && !isLast { return nil }
        let opcode = isAnswering ? Opcode.continuation : isText ? Opcode.text : Opcode.binary
        isAnswering = true
        Self.writeFrame(opcode, isFinal: isLast, bytes.extracting(range), into: &output)
        return nil
    }

    private enum FrameEnd { case goOn, closed, failed(UInt16) }

    private mutating func end(_ ended: Frame, into output: inout ByteBuffer) -> FrameEnd {
        switch ended.opcode {
        case Opcode.ping:
            Self.writeFrame(Opcode.pong, isFinal: true, control.span, into: &output)
        case Opcode.close:
            if let code = Self.closeError(control.span) { return .failed(code) }
            Self.writeFrame(Opcode.close, isFinal: true, control.span, into: &output)
            return .closed
        case Opcode.pong:
            break
        default:
            if ended.isFinal { isInMessage = false }
        }
        control.removeAll()
        return .goOn
    }

    /// What is wrong with the payload of a Close frame; nil when it is right.
    private static func closeError(_ payload: Span<UInt8>) -> UInt16? {
        if payload.isEmpty { return nil }
        guard payload.count >= 2 else { return 1002 }
        let code = UInt16(payload[0]) << 8 | UInt16(payload[1])
        switch code {
        case 1000...1003, 1007...1014, 3000...4999: break
        default: return 1002
        }
        var check = UTF8Check()
        return check.accept(payload, 2..<payload.count) && check.isComplete ? nil : 1007
    }

    private mutating func fail(_ code: UInt16, into output: inout ByteBuffer) -> Bool {
        var payload = ByteBuffer()
        payload.append(UInt8(code >> 8))
        payload.append(UInt8(truncatingIfNeeded: code))
        Self.writeFrame(Opcode.close, isFinal: true, payload.span, into: &output)
        return false
    }

    private static func writeFrame(_ opcode: UInt8, isFinal: Bool, _ payload: Span<UInt8>, into output: inout ByteBuffer) {
        output.append((isFinal ? 0x80 : 0) | opcode)
        let length = payload.count
        let lengthBytes: Int
        switch length {
        case ..<126:
            output.append(UInt8(length))
            lengthBytes = 0
        case ..<65_536:
            output.append(126)
            lengthBytes = 2
        default:
            output.append(127)
            lengthBytes = 8
        }
        for index in 0..<lengthBytes {
            output.append(UInt8(truncatingIfNeeded: UInt64(length) >> UInt64(8 * (lengthBytes - 1 - index))))
        }
        output.append(payload)
    }
}
