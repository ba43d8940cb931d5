// Random use of many streams at once, from a seed: every byte in order, nothing after the end, nothing left over.
import Base
import Glibc
import Memory
import Reactor
import TestKit
import Testing

/// The byte at a position of every test stream.
private func expectedByte(_ position: Int) -> UInt8 { UInt8(truncatingIfNeeded: (position &* 0x9e37_79b1) >> 13) }

/// One end: sends the sequence, checks that it receives one, and is taken out of the loop and put back now and then.
private final class End: ChannelDelegate {
    let loop: Loop
    var stream: Stream?
    var sent = 0
    var received = 0
    var isFinished = false
    var sawEnd = false
    var isOver = false
    var isDetaching = false
    var isReading = false
    var problems: [String] = []

    init(_ loop: Loop) { self.loop = loop }

    func adopt(_ descriptor: consuming OwnedDescriptor) throws {
        let fresh = try Stream(loop, adopting: descriptor)
        fresh.delegate = self
        stream = fresh
        isDetaching = false
        isReading = false
    }

    func write(_ count: Int) {
        guard let stream, !isFinished, !isDetaching else { return }
        let bytes = (sent..<sent + count).map { expectedByte($0) }
        sent += count
        stream.write(bytes.span)
    }

    override func channel(_ channel: Channel, received bytes: inout MutableSpan<UInt8>) {
        if channel !== stream || isOver { problems.append("data of a dead stream") }
        if sawEnd { problems.append("data after the end") }
        for index in 0..<bytes.count {
            if bytes[index] != expectedByte(received) {
                problems.append("wrong byte at \(received)")
                break
            }
            received += 1
            bytes[index] = 0
        }
    }
    override func channelEnded(_ channel: Channel) {
        // A detached stream that is adopted again sees the end again.
        sawEnd = true
    }
    override func channelFailed(_ channel: Channel, error: ChannelError) {
        if isOver { problems.append("failed after the end") }
        isOver = true
        stream = nil
    }
    override func streamDetached(_ stream: Stream, descriptor: consuming OwnedDescriptor, unsent: Span<UInt8>) {
        if !isDetaching { problems.append("detached without being asked to") }
        do { try adopt(descriptor) } catch { problems.append("\(error)") }
    }
}

extension ReactorTests {
    @Suite struct RandomUse {
        @Test(arguments: backends, Transport.allCases)
        func keepsEveryByte(_ backend: BackendChoice, _ transport: Transport) throws {
            let seed = Random.number()
            var generator = SeededGenerator(seed: seed)
            var limits = LoopLimits()
            // Few and small, so that buffers run short.
            limits.receiveBuffers = 4
            limits.receiveBufferBytes = 4_096
            limits.ringEntries = 8
            let loop = try Loop(backend: backend, limits: limits)
            let before = openDescriptors()
            for round in 0..<3 {
                let pairs = try (0..<12).map { _ in
                    let ends = (End(loop), End(loop))
                    let (left, right) = try connectedPair(loop, transport, ends.0, ends.1)
                    ends.0.stream = left
                    ends.1.stream = right
                    return ends
                }
                for _ in 0..<400 {
                    let pair = pairs.randomElement(using: &generator)!
                    let (end, peer) = Bool.random(using: &generator) ? (pair.0, pair.1) : (pair.1, pair.0)
                    act(end, peer, &generator)
                    if Int.random(in: 0..<3, using: &generator) == 0 { loop.runTurn(until: Instant(nanoseconds: 0)) }
                }
                try finish(loop, pairs, "seed \(seed), round \(round)")
            }
            #expect(openDescriptors() == before, "seed \(seed)")
            #expect(loop.counters.outputBytes == 0)
        }

        private func act(_ end: End, _ peer: End, _ generator: inout SeededGenerator) {
            guard let stream = end.stream else { return }
            switch Int.random(in: 0..<100, using: &generator) {
            case 0..<50: if stream.isWritable { end.write(Int.random(in: 1...40_000, using: &generator)) }
            case 50..<75:
                stream.resumeReading()
                end.isReading = true
            case 75..<88:
                stream.pauseReading()
                end.isReading = false
            case 88..<96:
                end.isDetaching = true
                stream.detach()
                // The peer must read, or the queue before the detach can't be sent.
                peer.stream?.resumeReading()
            case 96..<98:
                if !end.isDetaching {
                    end.isFinished = true
                    stream.finish()
                }
            case 98:
                end.isOver = true
                end.stream = nil
                stream.abort()
            default:
                end.isOver = true
                end.stream = nil
                stream.closeNow()
            }
        }

        /// Lets everything that is on its way arrive, checks it, and closes.
        private func finish(_ loop: Loop, _ pairs: [(End, End)], _ note: String) throws {
            for (left, right) in pairs {
                pump(loop, "arrival, \(note)") {
                    for end in [left, right] where !end.isDetaching { end.stream?.resumeReading() }
                    let over = left.isOver || right.isOver
                    return over || (left.sent == right.received && right.sent == left.received && !left.isDetaching && !right.isDetaching)
                }
                for (end, peer) in [(left, right), (right, left)] {
                    #expect(end.problems.isEmpty, "\(note)")
                    #expect(end.received <= peer.sent, "\(note)")
                    if !end.isOver && !peer.isOver { #expect(!peer.isFinished || end.sawEnd || end.received == peer.sent, "\(note)") }
                }
            }
            for (left, right) in pairs {
                left.stream?.close()
                right.stream?.close()
            }
            pump(loop, "all closed, \(note)") { loop.openHandles == 0 }
        }
    }
}
