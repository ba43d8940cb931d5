// Fuzz targets of HTTP/1.1: heads and chunked bodies. What we accept and write on must be read by ourselves as the same
// message again: a head that means one thing to us and another to the next reader is how requests are smuggled.

internal import Memory
internal import Wire

/// The first byte: request or response. Four bytes: cuts. The rest: a head.
func fuzzHead(_ input: [UInt8]) {
    guard input.count > 5 else { return }
    let kind = input[0] & 1 == 0 ? HeadKind.request : .response
    let bytes = Array(input[5...])
    let whole = parseHead(bytes, kind: kind, ends: [bytes.count])
    let cut = parseHead(bytes, kind: kind, ends: pieceEnds(input.span.extracting(1..<5), count: bytes.count))
    precondition(whole.outcome == cut.outcome, "the outcome depends on how the head arrives")
    if case .complete = whole.outcome { checkWriting(whole.head, bytes, kind: kind) }
}

private enum HeadOutcome: Equatable {
    case incomplete
    case complete(length: Int, fields: Int)
    case refused(status: Int)
}

private func parseHead(_ bytes: [UInt8], kind: HeadKind, ends: [Int]) -> (outcome: HeadOutcome, head: Head) {
    var parser = HeadParser(kind: kind)
    var head = Head()
    do throws(HTTPError) {
        for end in ends where try parser.parse(bytes.span.extracting(0..<end), into: &head) == .complete {
            return (.complete(length: head.length, fields: head.fields.count), head)
        }
        return (.incomplete, head)
    } catch {
        return (.refused(status: error.status), head)
    }
}

/// A head that was accepted is written for the next hop, and read by ourselves again.
private func checkWriting(_ head: Head, _ bytes: [UInt8], kind: HeadKind) {
    precondition(head.length <= bytes.count, "a head longer than its bytes")
    var output = ByteBuffer()
    if kind == .request {
        guard let _ = try? EndpointName.endpoint(from: head, bytes: bytes.span) else { return }
        var rewrite = RequestRewrite()
        rewrite.framing = BodyFraming.request(head)
        rewrite.client = Array("127.0.0.1".utf8)
        rewrite.forward = true
        HeadWriter.writeRequest(head, bytes.span, rewrite: rewrite, into: &output)
    } else {
        guard let framing = try? BodyFraming.response(head, to: .get) else { return }
        var rewrite = ResponseRewrite()
        rewrite.framing = framing
        if framing == .tunnel { rewrite.connection = .upgrade }
        HeadWriter.writeResponse(head, bytes.span, rewrite: rewrite, into: &output)
    }
    var parser = HeadParser(kind: kind, limits: HeadLimits(bytesMax: 1 << 20, fieldsMax: 1000, targetBytesMax: 1 << 16))
    var again = Head()
    do throws(HTTPError) {
        let progress = try parser.parse(output.span, into: &again)
        precondition(progress == .complete && again.length == output.count, "a written head ends early or not at all")
    } catch {
        preconditionFailure("we refuse what we wrote: \(error)")
    }
    if kind == .request {
        precondition(BodyFraming.request(again) == BodyFraming.request(head), "the framing changed")
        precondition(again.method == head.method, "the method changed")
        precondition(again.count(of: .host) == 1, "not one Host")
        precondition(!again.contains(.xPikoAuthorization) && !again.contains(.xPikoNode), "an internal field leaks")
    } else {
        precondition(again.status == head.status, "the status changed")
    }
}

/// Four bytes: cuts. The rest: a chunked body.
func fuzzChunked(_ input: [UInt8]) {
    guard input.count > 4 else { return }
    let bytes = Array(input[4...])
    let whole = decodeChunks(bytes, ends: [bytes.count])
    precondition(whole == decodeChunks(bytes, ends: pieceEnds(input.span.extracting(0..<4), count: bytes.count)), "cuts matter")
    precondition(whole == decodeChunks(bytes, ends: Array(0...bytes.count)), "the outcome depends on how the body arrives")
    if whole.taken == nil { return }
    // What was decoded, encoded again, decodes to the same.
    var output = ByteBuffer()
    if !whole.data.isEmpty {
        ChunkedEncoder.writeHeader(size: whole.data.count, into: &output)
        output.append(whole.data.span)
        ChunkedEncoder.writeChunkEnd(into: &output)
    }
    ChunkedEncoder.writeEnd(trailers: whole.trailers.span, into: &output)
    let written = copy(output.span)
    let again = decodeChunks(written, ends: [written.count])
    precondition(again.data == whole.data && again.trailers == whole.trailers && again.taken == written.count, "not the same body again")
}

private struct ChunkOutcome: Equatable {
    var data: [UInt8] = []
    var trailers: [UInt8] = []
    /// The bytes taken when the body ended; nil when it did not end.
    var taken: Int?
    var status = 0
}

private func decodeChunks(_ bytes: [UInt8], ends: [Int]) -> ChunkOutcome {
    var decoder = ChunkedDecoder()
    var outcome = ChunkOutcome()
    var offset = 0
    do throws(HTTPError) {
        for end in ends {
            let available = bytes.span.extracting(0..<end)
            arrival: while true {
                switch try decoder.next(available, at: &offset) {
                case .needMore: break arrival
                case .data(let range): for index in range { outcome.data.append(bytes[index]) }
                case .end:
                    outcome.taken = offset
                    outcome.trailers = copy(decoder.trailers.span)
                    return outcome
                }
            }
        }
    } catch {
        outcome.status = error.status
    }
    return outcome
}

/// The bytes of a span.
func copy(_ span: Span<UInt8>) -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.reserveCapacity(span.count)
    for index in span.indices { bytes.append(span[index]) }
    return bytes
}
