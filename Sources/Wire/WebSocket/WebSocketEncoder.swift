// Writes the frames of a WebSocket (RFC 6455 section 5), each a whole message. A client gives a fresh unpredictable mask with
// each frame, a server none. `maskKey` holds the key's four bytes in wire order, the first in the lowest bits, as
// `applyMask` wants it.

public import Memory

/// The sending half of a WebSocket connection, which has no state.
public enum WebSocketEncoder {
    /// The most bytes a header has.
    public static let headerBytesMax = 14
    /// The most bytes the payload of a control frame has.
    public static let controlBytesMax = 125

    /// Appends the header of a frame whose payload of `length` bytes follows, masked with the key by the caller.
    public static func writeHeader(
        _ opcode: WebSocketOpcode, length: Int, maskKey: UInt32?, into buffer: inout ByteBuffer
    ) {
        precondition(length >= 0 && (!opcode.isControl || length <= controlBytesMax), "bad WebSocket frame length")
        var header: InlineArray<14, UInt8> = .init(repeating: 0)
        header[0] = 0x80 | opcode.rawValue
        var count = 2
        if length <= 125 {
            header[1] = UInt8(length)
        } else {
            let wide = length > 0xffff
            header[1] = wide ? 127 : 126
            var shift = wide ? 56 : 8
            while shift >= 0 {
                header[count] = UInt8(truncatingIfNeeded: length >> shift)
                count += 1
                shift -= 8
            }
        }
        if let maskKey {
            header[1] |= 0x80
            for index in 0..<4 {
                header[count] = UInt8(truncatingIfNeeded: maskKey >> UInt32(index * 8))
                count += 1
            }
        }
        buffer.append(header.span.extracting(0..<count))
    }

    /// Appends a whole frame: the header and a copy of the payload, masked if there is a key.
    public static func write(
        _ opcode: WebSocketOpcode, payload: Span<UInt8>, maskKey: UInt32?, into buffer: inout ByteBuffer
    ) {
        writeHeader(opcode, length: payload.count, maskKey: maskKey, into: &buffer)
        let start = buffer.count
        buffer.append(payload)
        guard let maskKey, !payload.isEmpty else { return }
        var bytes = buffer.mutableSpan
        applyMask(&bytes, range: start..<start + payload.count, key: maskKey, offset: 0)
    }

    /// Appends a Close frame. Without a code it is empty; the reason is at most 123 bytes of UTF-8.
    public static func writeClose(
        _ code: UInt16?, reason: StaticString = "", maskKey: UInt32?, into buffer: inout ByteBuffer
    ) {
        var payload = ByteBuffer()
        if let code {
            precondition(mayBeSent(closeCode: code), "this close code is never sent")
            payload.append(UInt8(truncatingIfNeeded: code >> 8))
            payload.append(UInt8(truncatingIfNeeded: code))
            payload.append(reason)
        }
        write(.close, payload: payload.span, maskKey: maskKey, into: &buffer)
    }

    /// Whether a Close frame may carry the code (section 7.4, and the registry): 1004 … 1006 and 1015 are never sent, and
    /// below 1000, from 1016 to 2999 and above 4999 nothing is defined.
    static func mayBeSent(closeCode code: UInt16) -> Bool {
        switch code {
        case 1000...1003, 1007...1014, 3000...4999: true
        default: false
        }
    }
}
