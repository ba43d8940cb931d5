// Fuzz driver of a proxy's answer to CONNECT. The tests of Wire compile this file too (by a symbolic link) and replay the corpus
// through `ConnectFuzz`.
//
// Input: two bytes, little-endian, of how long a field is that is put behind the first line, 0 for none (the bound of a head is more
// than a fuzzer writes); four bytes that cut; the answer. It is read whole and in pieces, which must give the same. What is of the
// tunnel is the end of what came, whole; a head keeps to its bound, and what a proxy says in words to its own.

import Memory
import Wire

enum ConnectFuzz {
    typealias Outcome = Result<ConnectAnswer.Outcome?, ConnectAnswerError>

    /// What went wrong with this input; nil when nothing did.
    static func failure(of input: [UInt8]) -> String? {
        guard input.count > 6 else { return nil }
        let bytes = lengthen(Array(input[6...]), by: (Int(input[0]) | Int(input[1]) << 8) % (ConnectAnswer.headBytesMax + 64))
        let whole = read(bytes, ends: [bytes.count])
        for ends in arrivals(input[2..<6], count: bytes.count) {
            let cut = read(bytes, ends: ends)
            if whole != cut { return "whole: \(whole), cut: \(cut)" }
        }
        return failure(of: whole, bytes)
    }

    /// The answer with a field of so many bytes, its end of line included, behind its first line.
    private static func lengthen(_ bytes: [UInt8], by count: Int) -> [UInt8] {
        guard count >= 5, let end = bytes.firstIndex(of: 10) else { return bytes }
        return bytes[...end] + Array("P: ".utf8) + [UInt8](repeating: UInt8(ascii: "p"), count: count - 5) + [13, 10] + bytes[(end + 1)...]
    }

    /// The ends of pieces, rising, the last one `count`: by the seed, around the bound, and of a byte each where they are few.
    private static func arrivals(_ seed: ArraySlice<UInt8>, count: Int) -> [[Int]] {
        var ends: [Int] = []
        var end = 0
        for byte in seed {
            end += Int(byte % 64) + (byte >= 0xF0 ? 3_997 : 0)
            if end >= count { break }
            ends.append(end)
        }
        let bound = ConnectAnswer.headBytesMax
        let around = [1, bound - 1, bound, bound + 1].filter { $0 < count } + [count]
        return [ends + [count], around, count <= 1_024 ? Array(0...count) : Array(stride(from: 0, to: count, by: 509)) + [count]]
    }

    /// What became of the answer; the bytes of the tunnel that came after the outcome are put to it.
    static func read(_ bytes: [UInt8], ends: [Int]) -> Outcome {
        var answer = ConnectAnswer()
        var start = 0
        for end in ends {
            do throws(ConnectAnswerError) {
                let found = try answer.take(bytes.span.extracting(start..<end))
                start = end
                guard let found else { continue }
                guard case .tunnel(let early) = found else { return .success(found) }
                return .success(.tunnel(early: early + bytes[end...]))
            } catch {
                return .failure(error)
            }
        }
        return .success(nil)
    }

    private static func failure(of outcome: Outcome, _ bytes: [UInt8]) -> String? {
        switch outcome {
        case .success(.tunnel(let early)?):
            let head = bytes.count - early.count
            guard (1...ConnectAnswer.headBytesMax).contains(head), early[...] == bytes[head...] else { return "a head of \(head) bytes" }
            return bytes[..<head].suffix(2) == [13, 10] ? nil : "a tunnel within a line"
        case .success(.refused(let status, let reason)?):
            if (200...299).contains(status) || !(101...599).contains(status) || (102..<200).contains(status) { return "refused with \(status)" }
            // A byte that is no UTF-8 becomes three.
            return reason.utf8.count <= 3 * 128 ? nil : "a reason of \(reason.utf8.count) bytes"
        case .success(nil): return bytes.count < ConnectAnswer.headBytesMax ? nil : "waits for more behind the bound"
        case .failure(.malformed(let reason)): return reason.isEmpty ? "malformed, and no word why" : nil
        case .failure(.tooLong): return bytes.count >= ConnectAnswer.headBytesMax ? nil : "\(bytes.count) bytes are too long"
        }
    }
}

#if FUZZING
    @_cdecl("LLVMFuzzerTestOneInput")
    public func fuzzConnectAnswer(_ bytes: UnsafePointer<UInt8>, _ count: Int) -> Int32 {
        if let failure = ConnectFuzz.failure(of: Array(UnsafeBufferPointer(start: bytes, count: count))) { fatalError(failure) }
        return 0
    }
#endif
