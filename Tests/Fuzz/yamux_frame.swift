// Fuzz driver of the yamux session. The tests of Wire compile this file too (by a symbolic link) and replay the corpus through
// `YamuxFuzz`.
//
// Input: a byte of options, a byte that seeds cuts and operations, the frames. Options: 1 server; 2 streams are accepted;
// 4 the frames are in a short form of four bytes each, which reaches deeper than random headers do. The session reads the
// frames whole and in pieces, which must give the same; then once more while its user opens, writes, consumes, ends and resets
// streams at random, with the windows and the slots checked against an account.

import Base
import Memory

@testable import Wire

enum YamuxFuzz {
    /// What went wrong with this input; nil when nothing did.
    static func failure(of input: [UInt8]) -> String? {
        guard input.count >= 2 else { return nil }
        let frames = input[0] & 4 == 0 ? Array(input[2...]) : lengthen(Array(input[2...]))
        let whole = Run(options: input[0], seed: nil)
        whole.feed(frames)
        let cut = Run(options: input[0], seed: nil)
        feed(cut, frames, seed: input[1])
        let used = Run(options: input[0], seed: input[1])
        feed(used, frames, seed: input[1])
        if let problem = whole.problem ?? cut.problem ?? used.problem { return problem }
        if whole.log != cut.log { return "whole: \(whole.log), cut: \(cut.log)" }
        if whole.output != cut.output { return "whole sends \(whole.output), cut sends \(cut.output)" }
        return nil
    }

    /// Short frames: type and flags, stream, a length and how far it is shifted. Data frames get their payload.
    private static func lengthen(_ short: [UInt8]) -> [UInt8] {
        var bytes: [UInt8] = []
        var index = 0
        while index + 4 <= short.count, bytes.count < 400_000 {
            let length = UInt32(short[index + 2]) << UInt32(short[index + 3] % 26)
            bytes += [0, short[index] & 3, 0, short[index] >> 2 & 15, 0, 0, 0, short[index + 1]]
            for shift in [24, 16, 8, 0] { bytes.append(UInt8(truncatingIfNeeded: length >> UInt32(shift))) }
            if short[index] & 3 == 0 { bytes += [UInt8](repeating: 7, count: Int(min(length, 300_000))) }
            index += 4
        }
        return bytes
    }

    private static func copy(_ buffer: borrowing ByteBuffer) -> [UInt8] {
        let span = buffer.span
        return (0..<span.count).map { span[$0] }
    }

    private static func feed(_ run: Run, _ frames: [UInt8], seed: UInt8) {
        var state = UInt32(seed) &+ 1
        var start = 0
        while start < frames.count, run.session.failure == nil {
            state = state &* 1_664_525 &+ 1_013_904_223
            let most = seed < 100 ? 7 + frames.count / 2_000 : seed < 200 ? 100 + frames.count / 500 : 100_000
            let end = min(frames.count, start + 1 + Int(state >> 8) % most)
            run.feed(Array(frames[start..<end]))
            start = end
        }
    }

    /// One session and all it gave.
    private final class Run {
        var session: YamuxSession
        var now = Instant(nanoseconds: 0)
        var log: [UInt32] = []
        var output: [UInt8] = []
        var problem: String?
        /// The state of the random choices.
        var choices: UInt32
        /// Whether there is a user who does things.
        let isUsed: Bool
        /// The streams that live, as far as the user was told, with what was delivered and not consumed.
        var streams: [UInt32: (id: YamuxStreamID, held: Int, finished: Bool, ended: Bool)] = [:]

        init(options: UInt8, seed: UInt8?) {
            var limits = YamuxLimits()
            limits.streamsMax = 20
            session = YamuxSession(
                role: options & 1 == 0 ? .client : .server, limits: limits, acceptsStreams: options & 2 != 0)
            choices = UInt32(seed ?? 0)
            isUsed = seed != nil
        }

        func feed(_ bytes: [UInt8]) {
            var offset = 0
            while problem == nil {
                let before = offset
                do {
                    let event = try session.receive(bytes.span, at: &offset, now: now)
                    if offset < before || offset > bytes.count { problem = "offset \(offset) after \(before)" }
                    takeOutput()
                    if case .needMore = event {
                        if offset != bytes.count { problem = "bytes left over" }
                        return
                    }
                    record(event, bytes, offset)
                    act()
                    check()
                } catch {
                    takeOutput()
                    if log.last != 0xff00 { log += [error.code.rawValue, 0xff00] }
                    return
                }
            }
        }

        private func takeOutput() {
            output += YamuxFuzz.copy(session.output)
            session.output.removeAll()
        }

        private func record(_ event: YamuxSession.Event, _ bytes: [UInt8], _ offset: Int) {
            switch event {
            case .needMore: break
            case .opened(let id):
                log += [0x100, id.number]
                if streams[id.number] != nil { problem = "opened twice" }
                streams[id.number] = (id, 0, false, false)
            case .data(let id, let range):
                if range.isEmpty || range.upperBound != offset { problem = "range \(range) at \(offset)" }
                logData(id.number, bytes[range])
                if streams[id.number] == nil { problem = "data for no stream" }
                streams[id.number]?.held += range.count
            case .writable(let id): log += [0x300, id.number]
            case .ended(let id):
                log += [0x400, id.number]
                if streams[id.number]?.ended != false { problem = "ended twice or never there" }
                streams[id.number]?.ended = true
                if streams[id.number]?.finished == true { streams[id.number] = nil }
            case .reset(let id):
                log += [0x500, id.number]
                if streams.removeValue(forKey: id.number) == nil { problem = "reset of no stream" }
            case .goAway(let code): log += [0x600, code.rawValue]
            case .pong: log.append(0x700)
            }
        }

        /// Logs data: stream, amount and a checksum, in one entry as long as nothing else comes between.
        private func logData(_ number: UInt32, _ bytes: ArraySlice<UInt8>) {
            let end = log.count
            if end < 4 || log[end - 1] != 0x200 || log[end - 2] != number { log += [0, 0, number, 0x200] }
            let start = log.count - 4
            // Every byte of small amounts, a sample of large ones.
            var index = bytes.startIndex
            while index < bytes.endIndex {
                let position = Int(log[start]) + index - bytes.startIndex
                if position < 256 || position % 64 == 0 { log[start + 1] = log[start + 1] &* 31 &+ UInt32(bytes[index]) }
                index += position < 256 ? 1 : 64 - position % 64
            }
            log[start] += UInt32(bytes.count)
        }

        private func choose(_ count: Int) -> Int {
            choices = choices &* 1_664_525 &+ 1_013_904_223
            return Int(choices >> 10) % count
        }

        /// One random act of the user.
        private func act() {
            guard isUsed else { return }
            now = now + .milliseconds(choose(100))
            if choose(4) == 0, let id = session.open(now: now) { streams[id.number] = (id, 0, false, false) }
            _ = session.tick(now: now)
            guard !streams.isEmpty else { return }
            let number = streams.keys.sorted()[choose(streams.count)]
            let stream = streams[number]!
            switch choose(6) {
            case 0, 1:
                let count = choose(stream.held + 1)
                session.consumed(stream.id, count)
                streams[number]!.held -= count
            case 2, 3:
                let window = session.sendWindow(stream.id)
                if window > 0 {
                    var buffer = ByteBuffer()
                    session.writeDataHeader(stream.id, length: 1 + choose(window), into: &buffer)
                }
            case 4:
                session.finish(stream.id)
                streams[number]!.finished = true
                if stream.ended { streams[number] = nil }
            default:
                session.reset(stream.id)
                streams[number] = nil
            }
        }

        /// Compares the session with the account, now and then.
        private func check() {
            if session.failure != nil || choose(8) != 0 { return }
            if session.streamCount != streams.count { problem = "\(session.streamCount) streams, not \(streams.count)" }
            if Set(streams.values.map(\.id.slot)).count != streams.count { problem = "a slot twice" }
            for (number, stream) in streams {
                let record = session.streams[stream.id.slot]
                if record.number != number { problem = "slot \(stream.id.slot) is not stream \(number)" }
                if Int(record.unconsumed) != stream.held { problem = "holds \(record.unconsumed), not \(stream.held)" }
                if record.receiveWindow + record.unconsumed + record.returnable > 262_144 { problem = "window too large" }
                if stream.id.slot >= 20 { problem = "slot \(stream.id.slot) of 20 streams" }
            }
        }
    }
}

#if FUZZING
    @_cdecl("LLVMFuzzerTestOneInput")
    public func fuzzYamuxFrame(_ bytes: UnsafePointer<UInt8>, _ count: Int) -> Int32 {
        if let failure = YamuxFuzz.failure(of: Array(UnsafeBufferPointer(start: bytes, count: count))) {
            fatalError(failure)
        }
        return 0
    }
#endif
