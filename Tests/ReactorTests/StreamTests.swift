// Streams: bytes, back-pressure, and every way a connection ends.
import Base
import Glibc
import Memory
import Reactor
import TestKit
import Testing

extension ReactorTests {
    @Suite struct Streams {
        @Test(arguments: backends, Transport.allCases)
        func echoesRandomBytesInRandomPieces(_ backend: BackendChoice, _ transport: Transport) throws {
            let loop = try Loop(backend: backend)
            let seed = Random.number()
            var generator = SeededGenerator(seed: seed)
            let sent = randomBytes(1_500_000, seed: seed)
            let recorder = Recorder()
            let echo = Echo()
            let (client, server) = try connectedPair(loop, transport, recorder, echo)
            client.resumeReading()
            server.resumeReading()
            var offset = 0
            while offset < sent.count {
                if client.isWritable {
                    let length = min(sent.count - offset, Int.random(in: 1...100_000, using: &generator))
                    client.write(sent.span.extracting(offset..<offset + length))
                    offset += length
                } else {
                    loop.runTurn(until: SystemClock.now + .milliseconds(1))
                }
                if Bool.random(using: &generator) { client.pauseReading() } else { client.resumeReading() }
            }
            client.resumeReading()
            client.finish()
            pump(loop, "echo, seed \(seed)") { recorder.has("end") }
            expectSame(recorder.bytes, sent, "seed \(seed)")
            #expect(recorder.has("finished"))
            client.close()
            pump(loop, "lingering") { loop.openHandles == 0 }
            #expect(loop.counters.outputBytes == 0)
        }

        @Test(arguments: backends, Transport.allCases)
        func slowReaderHoldsTheWriterBack(_ backend: BackendChoice, _ transport: Transport) throws {
            let loop = try Loop(backend: backend)
            let writer = Recorder()
            let reader = Recorder()
            let (left, right) = try connectedPair(loop, transport, writer, reader)
            left.setMarks(high: 100_000, low: 20_000)
            let piece = randomBytes(65_536, seed: 7)
            var written = 0
            while left.isWritable || loop.counters.turns < 50 {
                if left.isWritable {
                    left.write(piece.span)
                    written += piece.count
                }
                loop.runTurn(until: SystemClock.now + .milliseconds(1))
            }
            pump(loop, for: .milliseconds(20))
            #expect(!left.isWritable)
            #expect(!writer.has("drained"))
            #expect(reader.bytes.isEmpty)
            right.resumeReading()
            pump(loop, "all read") { reader.bytes.count == written }
            #expect(writer.log.filter { $0 == "drained" }.count == 1)
            left.closeNow()
            right.closeNow()
            pump(loop, "closed") { loop.openHandles == 0 }
            #expect(loop.counters.outputBytes == 0)
        }

        @Test(arguments: backends)
        func idleLoopDoesNotSpin(_ backend: BackendChoice) throws {
            let loop = try Loop(backend: backend)
            let (left, right) = try connectedPair(loop, .tcp, Recorder(), Recorder())
            right.write([1, 2, 3].span)
            pump(loop, for: .milliseconds(20))
            // The left end has unread bytes and its reading is off: that must not wake the loop again and again.
            let before = loop.counters.turns
            pump(loop, for: .milliseconds(50))
            #expect(loop.counters.turns - before < 5)
            left.closeNow()
            right.closeNow()
        }

        @Test(arguments: backends)
        func producesInPlace(_ backend: BackendChoice) throws {
            let loop = try Loop(backend: backend)
            let recorder = Recorder()
            let (left, right) = try connectedPair(loop, .tcp, Recorder(), recorder)
            right.resumeReading()
            var next: UInt8 = 0
            var calls = 0
            left.write(capacity: 50_000) { output in
                calls += 1
                while output.freeCapacity > 0 {
                    output.append(next)
                    next &+= 1
                }
            }
            left.write(capacity: 10) { $0.append(99) }
            left.write(capacity: 10) { _ in }
            pump(loop, "arrived") { recorder.bytes.count == 50_001 }
            expectSame(recorder.bytes, (0..<50_000).map { UInt8(truncatingIfNeeded: $0) } + [99])
            #expect(calls >= 4)
            left.closeNow()
            right.closeNow()
        }

        @Test(arguments: backends, Transport.allCases)
        func halfClosesBothWays(_ backend: BackendChoice, _ transport: Transport) throws {
            let loop = try Loop(backend: backend)
            let (client, server) = (Recorder(), Recorder())
            let (left, right) = try connectedPair(loop, transport, client, server)
            left.resumeReading()
            right.resumeReading()
            left.write(Array("question".utf8).span)
            left.finish()
            pump(loop, "server sees the end") { server.has("end") }
            #expect(server.bytes == Array("question".utf8))
            #expect(client.log.filter { $0 != "connected" } == ["finished"])
            right.write(Array("answer".utf8).span)
            pump(loop, "answer") { client.bytes.count == 6 }
            #expect(!client.has("end"))
            right.finish()
            pump(loop, "client sees the end") { client.has("end") }
            left.close()
            right.close()
            pump(loop, "closed") { loop.openHandles == 0 }
        }

        @Test(arguments: backends)
        func endComesAfterDataEvenWhenReadingIsLate(_ backend: BackendChoice) throws {
            let loop = try Loop(backend: backend)
            let recorder = Recorder()
            let (stream, plain) = try connectedToPlain(loop, recorder)
            let bytes = randomBytes(100_000, seed: 3)
            #expect(write(plain, bytes, bytes.count) == bytes.count)
            close(plain)
            pump(loop, for: .milliseconds(20))
            #expect(recorder.bytes.isEmpty && !recorder.has("end"))
            stream.resumeReading()
            pump(loop, "end") { recorder.has("end") }
            expectSame(recorder.bytes, bytes)
            stream.close()
            pump(loop, "closed") { loop.openHandles == 0 }
        }

        @Test(arguments: backends)
        func lingeringCloseDeliversTheAnswerWhileThePeerStillSends(_ backend: BackendChoice) throws {
            let loop = try Loop(backend: backend)
            let (stream, plain) = try connectedToPlain(loop, Recorder())
            let chunk = randomBytes(50_000, seed: 1)
            let answer = randomBytes(300_000, seed: 2)
            #expect(write(plain, chunk, chunk.count) == chunk.count)
            stream.write(answer.span)
            stream.close()
            #expect(!stream.isAlive)
            var received: [UInt8] = []
            var buffer = [UInt8](repeating: 0, count: 65_536)
            // The peer goes on sending, slowly reads all of the answer, and sees an orderly end, not a reset.
            var result = 1
            while result > 0 {
                loop.runTurn(until: SystemClock.now + .milliseconds(2))
                _ = send(plain, chunk, 10_000, Int32(MSG_NOSIGNAL) | Int32(MSG_DONTWAIT))
                result = recv(plain, &buffer, buffer.count, Int32(MSG_DONTWAIT))
                if result < 0 && errno == EAGAIN { result = 1; continue }
                if result > 0 { received += buffer[0..<result] }
            }
            #expect(result == 0)
            expectSame(received, answer)
            #expect(loop.counters.handlesLingering == 1)
            close(plain)
            pump(loop, "linger ends with the peer") { loop.openHandles == 0 }
            #expect(loop.counters.handlesLingering == 0)
        }

        @Test func lingeringIsBounded() throws {
            // All backends at once: each waits five seconds for the peer's end.
            let loops = try backends.map { try Loop(backend: $0) }
            var plains: [Int32] = []
            let start = SystemClock.now
            for loop in loops {
                let (stream, plain) = try connectedToPlain(loop, Recorder())
                plains.append(plain)
                stream.close()
            }
            while loops.contains(where: { $0.openHandles > 0 }) && SystemClock.now - start < .seconds(10) {
                for loop in loops { loop.runTurn(until: SystemClock.now + .milliseconds(50)) }
            }
            let lasted = SystemClock.now - start
            #expect(lasted > .seconds(4) && lasted < .seconds(8))
            for plain in plains { close(plain) }
        }

        @Test(arguments: backends)
        func fewLingerAtOnce(_ backend: BackendChoice) throws {
            var limits = LoopLimits()
            limits.handlesMax = 16
            let loop = try Loop(backend: backend, limits: limits)
            var plains: [Int32] = []
            for round in 1...10 {
                let (stream, plain) = try connectedToPlain(loop, Recorder())
                plains.append(plain)
                stream.close()
                pump(loop, for: .milliseconds(2))
                #expect(loop.counters.handlesLingering == min(round, 4))
            }
            for plain in plains { close(plain) }
            pump(loop, "closed") { loop.openHandles == 0 }
        }

        @Test(arguments: backends)
        func lingeringEndsForAPeerThatGoesOnSending(_ backend: BackendChoice) throws {
            let loop = try Loop(backend: backend)
            let (stream, plain) = try connectedToPlain(loop, Recorder())
            stream.close()
            _ = fcntl(plain, F_SETFL, O_NONBLOCK)
            let piece = randomBytes(65_536, seed: 5)
            var sent = 0
            while loop.openHandles > 0 && sent < 64 << 20 {
                let count = piece.withUnsafeBytes { send(plain, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
                if count > 0 { sent += count }
                loop.runTurn(until: SystemClock.now + .milliseconds(1))
            }
            #expect(loop.openHandles == 0, "cut off after \(sent) bytes")
            close(plain)
        }

        @Test(arguments: backends)
        func aResetIsNoticedWhileNobodyReads(_ backend: BackendChoice) throws {
            let loop = try Loop(backend: backend)
            let recorder = Recorder()
            let (stream, plain) = try connectedToPlain(loop, recorder)
            stream.resumeReading()
            pump(loop, for: .milliseconds(5))
            stream.pauseReading()
            pump(loop, for: .milliseconds(5))
            var option = linger(l_onoff: 1, l_linger: 0)
            _ = setsockopt(plain, SOL_SOCKET, SO_LINGER, &option, socklen_t(MemoryLayout<linger>.size))
            close(plain)
            pump(loop, "the reset") { recorder.has("failed") }
            #expect(recorder.log.last == "failed reset")
        }

        @Test(arguments: backends)
        func abortResetsThePeer(_ backend: BackendChoice) throws {
            let loop = try Loop(backend: backend)
            let (client, server) = (Recorder(), Recorder())
            let (left, right) = try connectedPair(loop, .tcp, client, server)
            left.resumeReading()
            right.resumeReading()
            loop.runTurn(until: Instant(nanoseconds: 0))
            left.write(randomBytes(1_000, seed: 1).span)
            left.abort()
            pump(loop, "reset") { server.has("failed") }
            #expect(server.log.last == "failed reset")
            #expect(server.bytes.count == 1_000, "what was written goes before the reset")
            #expect(!right.isAlive)
            #expect(right.delegate == nil)
            pump(loop, "closed") { loop.openHandles == 0 }
            #expect(client.log.filter { $0 != "connected" }.isEmpty)
        }

        @Test(arguments: backends)
        func lastWordsOfAPeerThatResetsComeBeforeTheFailure(_ backend: BackendChoice) throws {
            let loop = try Loop(backend: backend)
            let recorder = Recorder()
            let (stream, plain) = try connectedToPlain(loop, recorder)
            stream.resumeReading()
            // The peer answers early and closes without reading the request: its close becomes a reset.
            let request = randomBytes(400_000, seed: 4)
            stream.write(request.span)
            pump(loop, for: .milliseconds(10))
            let answer = Array("413 too large".utf8)
            #expect(write(plain, answer, answer.count) == answer.count)
            close(plain)
            for _ in 0..<20 where stream.isAlive {
                stream.write(request.span)
                loop.runTurn(until: SystemClock.now + .milliseconds(1))
            }
            pump(loop, "failure") { recorder.has("failed") }
            #expect(recorder.bytes == answer)
            #expect(recorder.log.last == "failed reset")
            pump(loop, "closed") { loop.openHandles == 0 }
            #expect(loop.counters.outputBytes == 0)
        }

        @Test(arguments: backends)
        func writesAfterTheEndAreHarmless(_ backend: BackendChoice) throws {
            let loop = try Loop(backend: backend)
            let recorder = Recorder()
            let (left, right) = try connectedPair(loop, .unix, recorder, Recorder())
            left.closeNow()
            left.write([1, 2, 3].span)
            left.resumeReading()
            left.finish()
            left.close()
            left.abort()
            left.detach()
            #expect(left.pendingBytes == 0 && left.descriptor == -1 && left.peer == nil)
            pump(loop, for: .milliseconds(5))
            #expect(recorder.log.isEmpty)
            right.closeNow()
        }

        @Test(arguments: backends)
        func closingFromWithinCallbacks(_ backend: BackendChoice) throws {
            let loop = try Loop(backend: backend)
            let (client, server) = (Recorder(), Recorder())
            let (left, right) = try connectedPair(loop, .tcp, client, server)
            // Both ends have bytes in the same batch; the first that is told closes both.
            left.write([1].span)
            right.write([2].span)
            pump(loop, for: .milliseconds(5))
            var told = 0
            for recorder in [client, server] {
                recorder.onData = { _, _ in
                    told += 1
                    left.closeNow()
                    right.closeNow()
                }
            }
            left.resumeReading()
            right.resumeReading()
            pump(loop, "told") { told > 0 }
            pump(loop, for: .milliseconds(5))
            #expect(told == 1)
            pump(loop, "closed") { loop.openHandles == 0 }
        }

        @Test(arguments: backends)
        func outputLimitFailsTheWriterLater(_ backend: BackendChoice) throws {
            var limits = LoopLimits()
            limits.outputBytesMax = 200_000
            let loop = try Loop(backend: backend, limits: limits)
            let recorder = Recorder()
            let (left, right) = try connectedPair(loop, .tcp, recorder, Recorder())
            left.write(randomBytes(150_000, seed: 1).span)
            #expect(left.pendingBytes == 150_000)
            left.write(randomBytes(100_000, seed: 1).span)
            #expect(left.pendingBytes == 150_000)
            #expect(!recorder.has("failed"))
            pump(loop, "failure") { recorder.has("failed") }
            #expect(recorder.log.last == "failed system(\(ENOBUFS))")
            pump(loop, "gone") { loop.counters.outputBytes == 0 }
            right.closeNow()
        }

        @Test(arguments: backends)
        func handleTableHasAnEnd(_ backend: BackendChoice) throws {
            var limits = LoopLimits()
            limits.handlesMax = 4
            let loop = try Loop(backend: backend, limits: limits)
            var streams: [Stream] = []
            for _ in 0..<2 {
                var pair = try Sockets.pair(.stream)
                streams.append(try Stream(loop, adopting: pair.takeFirst()))
                streams.append(try Stream(loop, adopting: pair.takeSecond()))
            }
            let before = openDescriptors()
            #expect(throws: SystemError.self) {
                var pair = try Sockets.pair(.stream)
                _ = try Stream(loop, adopting: pair.takeFirst())
            }
            #expect(openDescriptors() == before)
            for stream in streams { stream.closeNow() }
            pump(loop, "closed") { loop.openHandles == 0 }
        }
    }
}
