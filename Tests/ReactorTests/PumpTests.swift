// Pumps: flows that the core carries by itself, by copying and by splicing, and every way in which one ends.
import Base
import Glibc
import Memory
import Reactor
import TestKit
import Testing

/// Kinds of sockets, and how many pipes there may be.
private let variants: [(transport: Transport, pipes: Int)] = [(.tcp, 64), (.tcp, 0), (.unix, 64), (.unix, 0)]

/// Two connections joined by pumps: `outer` ─ `left` ⇄ `right` ─ `far`. The inner two are the relay's.
private struct Chain {
    let loop: Loop
    let outer, left, right, far: Stream
    let client = Recorder()
    let leftEvents = PumpRecorder()
    let rightEvents = PumpRecorder()
    let server = Recorder()

    init(_ backend: BackendChoice, _ transport: Transport = .tcp, pipes: Int = 64) throws {
        var limits = LoopLimits()
        limits.pipesMax = pipes
        try self.init(Loop(backend: backend, limits: limits), transport)
    }

    init(_ loop: Loop, _ transport: Transport = .tcp) throws {
        self.loop = loop
        (outer, left) = try connectedPair(loop, transport, client, leftEvents)
        (right, far) = try connectedPair(loop, transport, rightEvents, server)
        for stream in [outer, left, right, far] { stream.resumeReading() }
    }

    /// Pumps both ways without a limit, each end passed on as a half-close.
    func join() {
        leftEvents.other = right
        rightEvents.other = left
        #expect(left.pump(to: right))
        #expect(right.pump(to: left))
    }

    func closeAll() {
        for stream in [outer, left, right, far] { stream.closeNow() }
        wait(loop, "closed") { loop.openHandles == 0 }
        #expect(loop.counters.outputBytes == 0)
        #expect(loop.counters.pumps == 0)
    }
}

/// Remembers what the relay's side of a connection tells.
private final class PumpRecorder: ChannelDelegate {
    var log: [String] = []
    var bytes: [UInt8] = []
    /// Finished at the end of this one.
    var other: Stream?

    override func channel(_ channel: Channel, received bytes: inout MutableSpan<UInt8>) {
        bytes.withUnsafeBufferPointer { self.bytes += $0 }
        if log.last != "data" { log.append("data") }
    }
    override func channelEnded(_ channel: Channel) {
        log.append("end")
        other?.finish()
    }
    override func channelFailed(_ channel: Channel, error: ChannelError) { log.append("failed") }
    override func streamPumped(_ stream: Stream) { log.append("pumped") }
}

/// `pump` of the other tests by a name that is free here.
private func wait(_ loop: Loop, _ what: Comment, until condition: () -> Bool) { pump(loop, what, until: condition) }

extension ReactorTests {
    @Suite struct Pumps {
        @Test(arguments: backends, variants)
        func carriesBothWaysToTheEnds(_ backend: BackendChoice, _ variant: (transport: Transport, pipes: Int)) throws {
            let (transport, pipes) = variant
            let chain = try Chain(backend, transport, pipes: pipes)
            let seed = Random.number()
            var generator = SeededGenerator(seed: seed)
            let up = randomBytes(3_000_000, seed: seed)
            let down = randomBytes(2_000_000, seed: seed &+ 1)
            chain.join()
            var (sentUp, sentDown) = (0, 0)
            while sentUp < up.count || sentDown < down.count {
                for (stream, bytes, isUp) in [(chain.outer, up, true), (chain.far, down, false)] {
                    let sent = isUp ? sentUp : sentDown
                    guard sent < bytes.count, stream.isWritable else { continue }
                    let small = Int.random(in: 0..<4, using: &generator) > 0
                    let length = min(bytes.count - sent, Int.random(in: 1...(small ? 3_000 : 300_000), using: &generator))
                    stream.write(bytes.span.extracting(sent..<sent + length))
                    if isUp { sentUp += length } else { sentDown += length }
                }
                if Bool.random(using: &generator) { chain.far.pauseReading() } else { chain.far.resumeReading() }
                chain.loop.runTurn(until: SystemClock.now + .milliseconds(1))
            }
            chain.far.resumeReading()
            chain.outer.finish()
            chain.far.finish()
            wait(chain.loop, "both ends, seed \(seed)") { chain.server.has("end") && chain.client.has("end") }
            expectSame(chain.server.bytes, up, "up, seed \(seed)")
            expectSame(chain.client.bytes, down, "down, seed \(seed)")
            #expect(chain.leftEvents.log == ["end"] && chain.rightEvents.log == ["end"])
            #expect(chain.left.pumpedBytes == UInt64(up.count))
            #expect(chain.left.takenBytes == UInt64(down.count))
            chain.closeAll()
        }

        @Test(arguments: backends, [1, 8_191, 65_535, 65_536, 65_537, 1_000_000, 4_000_001])
        func carriesAnExactLength(_ backend: BackendChoice, _ length: Int) throws {
            for extra in [0, 1, 100_000] {
                let chain = try Chain(backend)
                let bytes = randomBytes(length + extra, seed: UInt64(length + extra))
                #expect(chain.left.pump(to: chain.right, length: UInt64(length)))
                chain.outer.write(bytes.span)
                wait(chain.loop, "length \(length), extra \(extra)") {
                    chain.server.bytes.count == length && chain.leftEvents.bytes.count == extra
                }
                expectSame(chain.server.bytes, Array(bytes[..<length]))
                expectSame(chain.leftEvents.bytes, Array(bytes[length...]))
                #expect(chain.leftEvents.log == (extra == 0 ? ["pumped"] : ["pumped", "data"]))
                #expect(chain.left.pumpedBytes == UInt64(length))
                // And again on the same streams, after bytes that the owner of the streams wrote itself.
                chain.right.write([1, 2, 3].span)
                #expect(chain.left.pump(to: chain.right, length: UInt64(length)))
                chain.outer.write(bytes.span.extracting(0..<length))
                wait(chain.loop, "once more") { chain.server.bytes.count == 2 * length + 3 }
                expectSame(Array(chain.server.bytes[length...]), [1, 2, 3] + bytes[..<length])
                chain.closeAll()
            }
        }

        @Test(arguments: backends)
        func splicesBulkAndCopiesSmallMessages(_ backend: BackendChoice) throws {
            let chain = try Chain(backend)
            chain.join()
            for round in 1...200 {
                chain.outer.write(Array(repeating: UInt8(round), count: 1_000).span)
                wait(chain.loop, "message") { chain.server.bytes.count == 1_000 * round }
            }
            #expect(chain.loop.counters.pumpBytesSpliced == 0)
            #expect(chain.loop.counters.pipes == 0)
            let bulk = randomBytes(16_000_000, seed: 3)
            chain.outer.write(bulk.span)
            wait(chain.loop, "bulk") { chain.server.bytes.count == 200_000 + bulk.count }
            expectSame(Array(chain.server.bytes[200_000...]), bulk)
            let counters = chain.loop.counters
            #expect(counters.pumpBytesSpliced > 12_000_000)
            #expect(counters.pumpBytesCopied + counters.pumpBytesSpliced == 200_000 + UInt64(bulk.count))
            // Small again: no pipe is held while nothing is on its way, and soon none is open.
            chain.server.bytes = []
            for round in 1...50 {
                chain.outer.write(Array(repeating: UInt8(round), count: 1_000).span)
                wait(chain.loop, "message") { chain.server.bytes.count == 1_000 * round }
            }
            #expect(chain.loop.counters.pumpBytesCopied >= 230_000, "it went back to copying")
            wait(chain.loop, "pipes closed") { chain.loop.counters.pipes == 0 }
            chain.closeAll()
        }

        @Test(arguments: backends, variants)
        func slowReaderHoldsTheSource(_ backend: BackendChoice, _ variant: (transport: Transport, pipes: Int)) throws {
            let (transport, pipes) = variant
            let chain = try Chain(backend, transport, pipes: pipes)
            chain.join()
            chain.far.pauseReading()
            let piece = randomBytes(100_000, seed: 5)
            var written = 0
            var idle = 0
            while idle < 20 {
                if chain.outer.isWritable {
                    chain.outer.write(piece.span)
                    written += piece.count
                    idle = 0
                } else {
                    idle += 1
                }
                chain.loop.runTurn(until: SystemClock.now + .milliseconds(2))
            }
            // Sockets of the two connections, the pipe, and what waits: nothing that grows with what is sent.
            #expect(written < 40_000_000)
            #expect(chain.right.pendingBytes <= 2 * 1_048_576)
            let turns = chain.loop.counters.turns
            pump(chain.loop, for: .milliseconds(50))
            #expect(chain.loop.counters.turns - turns < 10, "held, not spinning")
            chain.far.resumeReading()
            chain.outer.finish()
            wait(chain.loop, "all read") { chain.server.has("end") }
            #expect(chain.server.bytes.count == written)
            #expect(stride(from: 0, to: written, by: 100_000).allSatisfy { Array(chain.server.bytes[$0..<$0 + 100_000]) == piece })
            chain.closeAll()
        }

        @Test(arguments: backends, [1_000, 1_000_000])
        func targetThatBreaksStopsTheSource(_ backend: BackendChoice, _ sent: Int) throws {
            for abort in [true, false] {
                let chain = try Chain(backend)
                #expect(chain.left.pump(to: chain.right, length: 10_000_000))
                chain.far.pauseReading()
                chain.outer.write(randomBytes(sent, seed: 1).span)
                wait(chain.loop, "some taken") { chain.left.pumpedBytes > 0 }
                if abort { chain.far.abort() } else { chain.right.closeNow() }
                if abort { wait(chain.loop, "failure told") { chain.rightEvents.log == ["failed"] } }
                pump(chain.loop, for: .milliseconds(30))
                #expect(chain.leftEvents.log.isEmpty)
                // What was taken is known, and what follows comes to the owner.
                chain.left.stopPump()
                let taken = Int(chain.left.pumpedBytes)
                chain.outer.write([7, 7, 7].span)
                wait(chain.loop, "the rest") { taken + chain.leftEvents.bytes.count == sent + 3 }
                #expect(chain.leftEvents.bytes.suffix(3) == [7, 7, 7])
                chain.closeAll()
            }
        }

        @Test(arguments: backends)
        func sourceThatBreaksIsTold(_ backend: BackendChoice) throws {
            for sent in [10, 500_000] {
                let chain = try Chain(backend)
                chain.join()
                chain.far.pauseReading()
                chain.outer.write(randomBytes(sent, seed: 2).span)
                wait(chain.loop, "taken") { chain.left.pumpedBytes == sent }
                chain.outer.abort()
                wait(chain.loop, "told") { chain.leftEvents.log == ["failed"] }
                #expect(chain.rightEvents.log.isEmpty)
                chain.far.resumeReading()
                wait(chain.loop, "what came before") { chain.server.bytes.count > 0 }
                chain.closeAll()
            }
        }

        @Test(arguments: backends)
        func resetOfAHeldSourceIsNoticed(_ backend: BackendChoice) throws {
            let chain = try Chain(backend)
            chain.join()
            chain.far.pauseReading()
            let piece = randomBytes(1_000_000, seed: 4)
            for _ in 0..<30 {
                if chain.outer.isWritable { chain.outer.write(piece.span) }
                chain.loop.runTurn(until: SystemClock.now + .milliseconds(5))
            }
            chain.outer.abort()
            wait(chain.loop, "noticed within seconds") { chain.leftEvents.log == ["failed"] }
            chain.closeAll()
        }

        @Test(arguments: backends)
        func fewPipesAreSharedAndTheRestIsCopied(_ backend: BackendChoice) throws {
            var limits = LoopLimits()
            limits.pipesMax = 2
            let loop = try Loop(backend: backend, limits: limits)
            let chains = try (0..<8).map { _ in try Chain(loop) }
            let bytes = randomBytes(6_000_000, seed: 9)
            for chain in chains {
                chain.join()
                chain.far.pauseReading()
                chain.outer.write(bytes.span)
                chain.outer.finish()
            }
            wait(loop, "shortage") { loop.counters.pipeShortages > 0 }
            #expect(loop.counters.pipes <= 2)
            for chain in chains { chain.far.resumeReading() }
            wait(loop, "all arrived") { chains.allSatisfy { $0.server.has("end") } }
            for chain in chains { expectSame(chain.server.bytes, bytes) }
            for chain in chains { for stream in [chain.outer, chain.left, chain.right, chain.far] { stream.closeNow() } }
            wait(loop, "closed") { loop.openHandles == 0 && loop.counters.pipes == 0 }
        }

        @Test(arguments: backends)
        func refusesWhatCanNotBePumped(_ backend: BackendChoice) throws {
            let chain = try Chain(backend)
            #expect(!chain.left.pump(to: chain.left))
            #expect(!chain.left.pump(to: chain.right, length: 0))
            #expect(chain.left.pump(to: chain.right))
            #expect(!chain.left.pump(to: chain.far), "one pump takes from a stream")
            #expect(!chain.far.pump(to: chain.right), "one pump gives to a stream")
            chain.left.stopPump()
            chain.right.finish()
            #expect(!chain.left.pump(to: chain.right), "it has finished")
            chain.far.closeNow()
            #expect(!chain.left.pump(to: chain.far), "it is closed")
            chain.closeAll()
        }

        /// Anything at any time, from a seed: what arrives is always a beginning of what was sent, all of it when
        /// nobody broke, and nothing is left over.
        @Test(arguments: backends, [0, 1, 64])
        func randomUse(_ backend: BackendChoice, _ pipes: Int) throws {
            let seed = Random.number()
            var generator = SeededGenerator(seed: seed)
            var limits = LoopLimits()
            limits.pipesMax = pipes
            limits.receiveBuffers = 4
            limits.receiveBufferBytes = 4_096
            limits.ringEntries = 8
            let before = openDescriptors()
            do {
                let loop = try Loop(backend: backend, limits: limits)
                let bytes = randomBytes(4_000_000, seed: seed)
                for round in 0..<4 {
                    let note: Comment = "seed \(seed), round \(round)"
                    let chains = try (0..<6).map { index in try Chain(loop, index % 3 == 0 ? .unix : .tcp) }
                    for chain in chains { chain.join() }
                    var sent = Array(repeating: (up: 0, down: 0), count: chains.count)
                    var isBroken = Array(repeating: false, count: chains.count)
                    for _ in 0..<500 {
                        let index = Int.random(in: 0..<chains.count, using: &generator)
                        let chain = chains[index]
                        let isUp = Bool.random(using: &generator)
                        let stream = isUp ? chain.outer : chain.far
                        switch Int.random(in: 0..<100, using: &generator) {
                        case 0..<60 where stream.isWritable:
                            let done = isUp ? sent[index].up : sent[index].down
                            let large = Int.random(in: 0..<3, using: &generator) == 0
                            let count = min(bytes.count - done, Int.random(in: 1...(large ? 400_000 : 5_000), using: &generator))
                            stream.write(bytes.span.extracting(done..<done + count))
                            if isUp { sent[index].up += count } else { sent[index].down += count }
                        case 60..<75: stream.pauseReading()
                        case 75..<95: stream.resumeReading()
                        case 95:
                            isBroken[index] = true
                            stream.abort()
                        case 96:
                            isBroken[index] = true
                            (isUp ? chain.left : chain.right).closeNow()
                        default: break
                        }
                        if Bool.random(using: &generator) { loop.runTurn(until: Instant(nanoseconds: 0)) }
                    }
                    for (index, chain) in chains.enumerated() where !isBroken[index] {
                        chain.outer.resumeReading()
                        chain.far.resumeReading()
                        chain.outer.finish()
                        chain.far.finish()
                        wait(loop, "chain \(index), \(note)") { chain.server.has("end") && chain.client.has("end") }
                        #expect(chain.server.bytes.count == sent[index].up && chain.client.bytes.count == sent[index].down, note)
                    }
                    for chain in chains {
                        expectSame(chain.server.bytes, Array(bytes.prefix(chain.server.bytes.count)), note)
                        expectSame(chain.client.bytes, Array(bytes.prefix(chain.client.bytes.count)), note)
                        for stream in [chain.outer, chain.left, chain.right, chain.far] { stream.closeNow() }
                    }
                    wait(loop, "closed, \(note)") { loop.openHandles == 0 }
                    #expect(loop.counters.pumps == 0 && loop.counters.outputBytes == 0, note)
                }
            }
            #expect(openDescriptors() == before, "seed \(seed)")
        }
    }
}
