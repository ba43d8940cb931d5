// The chunked transfer coding, sending side (RFC 9112 section 7.1). The caller writes the data between header and end,
// from wherever it lies.

public import Memory

/// Writes what stands around the data of chunks.
public enum ChunkedEncoder {
    /// What stands before `size` bytes of data. `size` is not zero: an empty chunk would end the body.
    public static func writeHeader(size: Int, into output: inout ByteBuffer) {
        precondition(size > 0, "a chunk of no bytes ends the body")
        output.appendHexadecimal(UInt64(size))
        output.append("\r\n")
    }

    /// What stands after the data of a chunk.
    public static func writeChunkEnd(into output: inout ByteBuffer) { output.append("\r\n") }

    /// The end of the body, without trailers.
    public static func writeEnd(into output: inout ByteBuffer) { output.append("0\r\n\r\n") }

    /// The end of the body with trailers: whole lines with CRLF, as `ChunkedDecoder.trailers` has them.
    public static func writeEnd(trailers: Span<UInt8>, into output: inout ByteBuffer) {
        output.append("0\r\n")
        output.append(trailers)
        output.append("\r\n")
    }
}
