// Fuzz driver of HTTP/1.1: heads and chunked bodies. The tests of Wire compile this file too (by a symbolic link) and replay
// the corpus through `HTTPFuzz`.
//
// Input: a byte that says what follows (0 a request's head, 1 a response's, 2 a chunked body); four bytes that cut; the bytes.
// They are read whole and in pieces, which must give the same. What we accept and write on must be read by ourselves as the
// same message again: a head that means one thing to us and another to the next reader is how requests are smuggled.

import Memory
import Wire

enum HTTPFuzz {
    /// What went wrong with this input; nil when nothing did.
    static func failure(of input: [UInt8]) -> String? {
        guard input.count > 5 else { return nil }
        let bytes = Array(input[5...])
        let cuts = cuts(input[1..<5], count: bytes.count)
        switch input[0] % 3 {
        case 0: return headFailure(bytes, kind: .request, cuts: cuts)
        case 1: return headFailure(bytes, kind: .response, cuts: cuts)
        default: return chunkFailure(bytes, cuts: cuts)
        }
    }

    /// The ends of pieces, rising, the last one `count`.
    private static func cuts(_ seed: ArraySlice<UInt8>, count: Int) -> [Int] {
        var ends: [Int] = []
        var end = 0
        for byte in seed {
            end += Int(byte % 64) + (byte >= 0xF0 ? 997 : 0)
            if end >= count { break }
            ends.append(end)
        }
        return ends + [count]
    }

    // MARK: Heads

    private enum HeadOutcome: Equatable {
        case incomplete
        case complete(length: Int, fields: Int)
        case refused(status: Int)
    }

    private static func headFailure(_ bytes: [UInt8], kind: HeadKind, cuts: [Int]) -> String? {
        let whole = parseHead(bytes, kind: kind, ends: [bytes.count])
        let cut = parseHead(bytes, kind: kind, ends: cuts)
        if whole.outcome != cut.outcome { return "whole: \(whole.outcome), cut: \(cut.outcome)" }
        guard case .complete(let length, _) = whole.outcome else { return nil }
        if length > bytes.count { return "a head longer than its bytes" }
        return kind == .request ? requestFailure(whole.head, bytes) : responseFailure(whole.head, bytes)
    }

    private static func parseHead(_ bytes: [UInt8], kind: HeadKind, ends: [Int]) -> (outcome: HeadOutcome, head: Head) {
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

    private static func requestFailure(_ head: Head, _ bytes: [UInt8]) -> String? {
        guard (try? EndpointName.endpoint(from: head, bytes: bytes.span)) != nil else { return nil }
        var rewrite = RequestRewrite()
        rewrite.framing = BodyFraming.request(head)
        rewrite.client = Array("127.0.0.1".utf8)
        rewrite.forward = true
        var output = ByteBuffer()
        HeadWriter.writeRequest(head, bytes.span, rewrite: rewrite, into: &output)
        let (again, problem) = readAgain(output, kind: .request)
        if let problem { return problem }
        if BodyFraming.request(again) != BodyFraming.request(head) { return "the framing changed" }
        if again.method != head.method { return "the method changed" }
        if again.count(of: .host) != 1 { return "\(again.count(of: .host)) Host fields written" }
        if again.contains(.xPikoAuthorization) || again.contains(.xPikoNode) { return "an internal field leaks" }
        return nil
    }

    private static func responseFailure(_ head: Head, _ bytes: [UInt8]) -> String? {
        guard let framing = try? BodyFraming.response(head, to: .get) else { return nil }
        var rewrite = ResponseRewrite()
        rewrite.framing = framing
        if framing == .tunnel { rewrite.connection = .upgrade }
        var output = ByteBuffer()
        HeadWriter.writeResponse(head, bytes.span, rewrite: rewrite, into: &output)
        let (again, problem) = readAgain(output, kind: .response)
        if let problem { return problem }
        if again.status != head.status { return "the status changed" }
        if let framingAgain = try? BodyFraming.response(again, to: .get), framingAgain == framing { return nil }
        return "the framing changed"
    }

    private static func readAgain(_ output: borrowing ByteBuffer, kind: HeadKind) -> (Head, String?) {
        var parser = HeadParser(kind: kind, limits: HeadLimits(bytesMax: 1 << 20, fieldsMax: 1000, targetBytesMax: 1 << 16))
        var head = Head()
        do throws(HTTPError) {
            let progress = try parser.parse(output.span, into: &head)
            let isWhole = progress == .complete && head.length == output.count
            return (head, isWhole ? nil : "a head that we wrote ends early or not at all")
        } catch {
            return (head, "we refuse what we wrote: \(error)")
        }
    }

    // MARK: Chunked bodies

    private struct ChunkOutcome: Equatable {
        var data: [UInt8] = []
        var trailers: [UInt8] = []
        /// The bytes taken when the body ended; nil when it did not end.
        var taken: Int?
        var status = 0
    }

    private static func chunkFailure(_ bytes: [UInt8], cuts: [Int]) -> String? {
        let whole = decode(bytes, ends: [bytes.count])
        for ends in [cuts, Array(0...bytes.count)] where decode(bytes, ends: ends) != whole { return "cuts matter" }
        if whole.taken == nil { return nil }
        // What was decoded, encoded again, decodes to the same.
        var output = ByteBuffer()
        if !whole.data.isEmpty {
            ChunkedEncoder.writeHeader(size: whole.data.count, into: &output)
            output.append(whole.data.span)
            ChunkedEncoder.writeChunkEnd(into: &output)
        }
        ChunkedEncoder.writeEnd(trailers: whole.trailers.span, into: &output)
        let written = copy(output.span)
        let again = decode(written, ends: [written.count])
        let isSame = again.data == whole.data && again.trailers == whole.trailers && again.taken == written.count
        return isSame ? nil : "not the same body after encoding"
    }

    private static func decode(_ bytes: [UInt8], ends: [Int]) -> ChunkOutcome {
        var decoder = ChunkedDecoder()
        var outcome = ChunkOutcome()
        var offset = 0
        do throws(HTTPError) {
            for end in ends {
                let available = bytes.span.extracting(0..<end)
                arrival: while true {
                    switch try decoder.next(available, at: &offset) {
                    case .needMore: break arrival
                    case .data(let range): outcome.data += bytes[range]
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

    private static func copy(_ span: Span<UInt8>) -> [UInt8] { span.indices.map { span[$0] } }
}

#if FUZZING
    @_cdecl("LLVMFuzzerTestOneInput")
    public func fuzzHTTPMessage(_ bytes: UnsafePointer<UInt8>, _ count: Int) -> Int32 {
        if let failure = HTTPFuzz.failure(of: Array(UnsafeBufferPointer(start: bytes, count: count))) {
            fatalError(failure)
        }
        return 0
    }
#endif
