// Streams: bytes, back-pressure, and every way a connection ends.
import Base
import Glibc
import Memory
import Reactor
import Testing

extension ReactorTests {
    @Suite struct Streams {
        @Test(arguments: backends, Transport.allCases)
        func echoesRandomBytesInRandomPieces(_ backend: BackendChoice, _ transport: Transport) throws {
            let loop = try Loop(backend: backend)
            let seed = Random.number()
            var generator = SeededGenerator(state: seed)
            let sent = randomBytes(3_000_000, seed: seed)
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
                    loop.runTurn(until: .never)
                }
            }
            client.finish()
            pump(loop, "echo, seed \(seed)") { recorder.has("end") }
            #expect(recorder.bytes == sent, "seed \(seed)")
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
        }
    }
}
