// Fuzz driver of the WebSocket frame decoder. The tests of Wire compile this file too (by a symbolic link) and replay the
// corpus through `WebSocketFuzz`.
//
// Input: a byte whose lowest bit says whether frames are expected masked; a byte that seeds the cuts; the frames. They are
// read whole and in pieces, which must give the same.

import Memory
import Wire

enum WebSocketFuzz {
    /// What went wrong with this input; nil when nothing did.
    static func failure(of input: [UInt8]) -> String? {
        guard input.count >= 2 else { return nil }
        let frames = Array(input[2...])
        var whole = Run(expectsMasked: input[0] & 1 == 1)
        whole.feed(frames)
        var cut = Run(expectsMasked: input[0] & 1 == 1)
        var state = UInt32(input[1]) &+ 1
        var start = 0
        while start < frames.count {
            state = state &* 1_664_525 &+ 1_013_904_223
            let end = min(frames.count, start + 1 + Int(state >> 24) % (input[1] < 128 ? 7 : 200))
            cut.feed(Array(frames[start..<end]))
            start = end
        }
        if let problem = whole.problem ?? cut.problem { return problem }
        if whole.log != cut.log { return "whole: \(whole.log), cut: \(cut.log)" }
        return nil
    }

    /// One decoder, and all it gave in one array: data as it is, other events with a mark before.
    private struct Run {
        var decoder: WebSocketDecoder
        var log: [UInt16] = []
        var problem: String?
        var ended = false

        init(expectsMasked: Bool) { decoder = WebSocketDecoder(expectsMasked: expectsMasked) }

        mutating func feed(_ piece: [UInt8]) {
            var bytes = piece
            var offset = 0
            while problem == nil {
                let before = offset
                do {
                    var span = bytes.mutableSpan
                    let event = try decoder.next(&span, at: &offset)
                    if offset < before || offset > bytes.count { problem = "offset \(offset) after \(before)" }
                    if ended, event != .needMore { problem = "\(event) after the end" }
                    switch event {
                    case .needMore:
                        if offset != bytes.count { problem = "bytes left over" }
                        return
                    case .data(let range):
                        if range.isEmpty || range.upperBound != offset { problem = "range \(range) at \(offset)" }
                        for index in range { log.append(UInt16(bytes[index])) }
                    case .ping: logControl(0x100)
                    case .pong: logControl(0x200)
                    case .close(let code):
                        log.append(code ?? 0)
                        logControl(0x300)
                        ended = true
                        if !decoder.isClosed { problem = "not closed after a close" }
                    }
                } catch {
                    if log.last != 0x400 { log += [error.code, 0x400] }
                    return
                }
            }
        }

        private mutating func logControl(_ mark: UInt16) {
            log.append(mark)
            let payload = decoder.controlPayload
            if payload.count > 125 { problem = "control frame of \(payload.count)" }
            for index in 0..<payload.count { log.append(UInt16(payload[index])) }
        }
    }
}

#if FUZZING
    @_cdecl("LLVMFuzzerTestOneInput")
    public func fuzzWebSocketFrame(_ bytes: UnsafePointer<UInt8>, _ count: Int) -> Int32 {
        if let failure = WebSocketFuzz.failure(of: Array(UnsafeBufferPointer(start: bytes, count: count))) {
            fatalError(failure)
        }
        return 0
    }
#endif
