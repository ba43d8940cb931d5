// Taking sockets out of a loop and going on with them in another: nothing that was sent, received or accepted is lost, whatever
// was under way at that moment. This is what moves connections between workers and listeners over a change of the program.
import Base
import Glibc
import Memory
import Reactor
import TestKit
import Testing

/// Keeps messages as text, and the descriptor when the socket is detached.
private final class MessageTexts: MessageDelegate {
    var texts: [String] = []
    var detached: Int32 = -1
    override func message(_ socket: MessageSocket, bytes: Span<UInt8>, descriptors: inout DescriptorList) {
        texts.append(String(decoding: [UInt8](copying: bytes), as: UTF8.self))
    }
    override func messageSocketDetached(_ socket: MessageSocket, descriptor: consuming OwnedDescriptor) {
        detached = descriptor.take()
    }
}

private final class DetachingListener: ListenerDelegate {
    var accepted: [Int32] = []
    var detached: Int32 = -1
    override func accepted(_ listener: Listener, descriptor: consuming OwnedDescriptor) { accepted.append(descriptor.take()) }
    override func listenerDetached(_ listener: Listener, descriptor: consuming OwnedDescriptor) { detached = descriptor.take() }
}

extension ReactorTests {
    @Suite struct DetachTests {
        /// A peer that reads nothing: what the kernel did not take comes back, and sent by another stream it makes the whole.
        @Test(arguments: backends, [0, 1, 5_000, 300_000, 9_000_000])
        func unsentBytesComeBack(_ backend: BackendChoice, count: Int) throws {
            let loop = try Loop(backend: backend)
            let (recorder, peer) = (Recorder(), Recorder())
            let (left, right) = try connectedPair(loop, .tcp, recorder, peer)
            let bytes = randomBytes(count, seed: UInt64(count))
            left.write(bytes.span)
            // Some of it is with the kernel by now, and a send may be in flight.
            if count > 0 { loop.runTurn(until: SystemClock.now) }
            left.detachWithUnsent()
            pump(loop, "detached") { recorder.detached >= 0 }
            #expect(recorder.unsent.count <= count)
            if count > 8_000_000 { #expect(!recorder.unsent.isEmpty) }
            let again = try Stream(loop, adopting: OwnedDescriptor(recorder.detached))
            again.delegate = Recorder()
            let rest = recorder.unsent
            again.write(rest.span)
            again.finish()
            right.resumeReading()
            pump(loop, "all there") { peer.has("end") }
            expectSame(peer.bytes, bytes)
            again.closeNow()
            right.closeNow()
            pump(loop, "closed") { loop.openHandles == 0 }
            #expect(loop.counters.outputBytes == 0)
        }

        /// The same again and again while both sides send, with turns at random between.
        @Test(arguments: backends, [1, 2, 3, 4, 5, 6] as [UInt64])
        func handedOnInTheMiddle(_ backend: BackendChoice, seed: UInt64) throws {
            var generator = SeededGenerator(seed: seed)
            let loop = try Loop(backend: backend)
            let peer = Recorder()
            var recorder = Recorder()
            var (left, right) = try connectedPair(loop, seed % 2 == 0 ? .tcp : .unix, recorder, peer)
            let down = randomBytes(2_000_000, seed: seed)
            let up = randomBytes(1_000_000, seed: seed + 100)
            var (sent, received) = (0, [UInt8]())
            right.write(up.span)
            right.resumeReading()
            left.resumeReading()
            while sent < down.count || received.count + recorder.bytes.count < up.count || peer.bytes.count < down.count {
                if sent < down.count {
                    let part = min(down.count - sent, Int.random(in: 1...200_000, using: &generator))
                    left.write(down.span.extracting(sent..<sent + part))
                    sent += part
                }
                for _ in 0..<Int.random(in: 0...3, using: &generator) { loop.runTurn(until: SystemClock.now + .milliseconds(1)) }
                guard Int.random(in: 0...3, using: &generator) == 0 || sent == down.count else { continue }
                left.detachWithUnsent()
                pump(loop, "detached") { recorder.detached >= 0 }
                received += recorder.bytes
                let next = Recorder()
                left = try Stream(loop, adopting: OwnedDescriptor(recorder.detached))
                left.delegate = next
                let rest = recorder.unsent
                left.write(rest.span)
                left.resumeReading()
                recorder = next
            }
            expectSame(peer.bytes, down)
            expectSame(received + recorder.bytes, up)
            left.closeNow()
            right.closeNow()
            pump(loop, "closed") { loop.openHandles == 0 }
        }

        /// Every connection that reached the backlog is served by the old loop or the new one.
        @Test(arguments: backends, backends)
        func listenersGoOnElsewhere(_ backend: BackendChoice, next: BackendChoice) throws {
            let first = try Loop(backend: backend)
            let second = try Loop(backend: next)
            let accepting = DetachingListener()
            let listener = try Listener(
                first, adopting: Listener.bind(SocketAddress(address: "127.0.0.1", port: 0)!), delegate: accepting)
            let address = listener.address!
            var clients: [Stream] = []
            let connects = try Loop(backend: .epoll)
            func connect(_ count: Int) throws {
                let recorders = (0..<count).map { _ in Recorder() }
                for recorder in recorders {
                    let stream = try Stream(connects, connectTo: address)
                    stream.delegate = recorder
                    clients.append(stream)
                }
                pump(connects, "connected") { recorders.allSatisfy { $0.has("connected") } }
            }
            first.runTurn(until: SystemClock.now)
            try connect(5)
            first.runTurn(until: SystemClock.now)
            try connect(5)
            listener.detach()
            pump(first, "detached") { accepting.detached >= 0 }
            #expect(listener.descriptor == -1)
            try connect(5)
            let goingOn = DetachingListener()
            let again = try Listener(second, adopting: OwnedDescriptor(accepting.detached), delegate: goingOn)
            pump(second, "all accepted") { accepting.accepted.count + goingOn.accepted.count == 15 }
            #expect(!goingOn.accepted.isEmpty)
            again.close()
            for client in clients { client.closeNow() }
            for descriptor in accepting.accepted + goingOn.accepted { close(descriptor) }
            pump(first, "first is empty") { first.openHandles == 0 }
            pump(second, "second is empty") { second.openHandles == 0 }
        }

        /// MessageTexts that wait are sent first; messages that came meanwhile are read by one or the other, in order.
        @Test(arguments: backends)
        func messageSocketsGoOnElsewhere(_ backend: BackendChoice) throws {
            let loop = try Loop(backend: backend)
            let (mine, theirs) = (MessageTexts(), MessageTexts())
            var pair = try MessageSocket.pair()
            let left = try MessageSocket(loop, adopting: pair.takeFirst())
            let right = try MessageSocket(loop, adopting: pair.takeSecond())
            left.delegate = mine
            right.delegate = theirs
            func text(_ number: Int) -> [UInt8] { Array("message \(number)".utf8) + [UInt8](repeating: 0x2e, count: 2_000) }
            let count = 1_000
            for number in 0..<count { try left.send(text(number).span) }
            for number in 0..<50 { try right.send(text(number).span) }
            left.detach()
            // The peer reads nothing while the messages wait: they can't have been sent, so the socket stays.
            #expect(mine.detached < 0)
            pump(loop, "detached") { mine.detached >= 0 }
            #expect(!left.isOpen)
            for number in 50..<60 { try right.send(text(number).span) }
            let before = mine.texts
            let again = try MessageSocket(loop, adopting: OwnedDescriptor(mine.detached))
            let later = MessageTexts()
            again.delegate = later
            try again.send(text(count).span)
            pump(loop, "all there") { theirs.texts.count == count + 1 && before.count + later.texts.count == 60 }
            #expect(theirs.texts.enumerated().allSatisfy { $1.hasPrefix("message \($0).") })
            #expect((before + later.texts).enumerated().allSatisfy { $1.hasPrefix("message \($0).") })
            again.close()
            right.close()
            pump(loop, "closed") { loop.openHandles == 0 }
        }
    }
}
