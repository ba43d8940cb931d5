// Message sockets: whole messages with descriptors.
import Base
import Glibc
import Memory
import Reactor
import Testing

/// Remembers messages; takes as many descriptors as asked for, the rest is closed by the list.
private final class Inbox: MessageDelegate {
    var messages: [[UInt8]] = []
    var counts: [Int] = []
    var taken: [Int32] = []
    var takesMax = 64
    var ended = false
    var error: SystemError?

    override func message(_ socket: MessageSocket, bytes: Span<UInt8>, descriptors: inout DescriptorList) {
        messages.append(bytes.withUnsafeBufferPointer { Array($0) })
        counts.append(descriptors.count)
        var left = takesMax
        while left > 0, let descriptor = descriptors.takeFirst() {
            taken.append(descriptor.take())
            left -= 1
        }
    }
    override func messageSocketEnded(_ socket: MessageSocket, error: SystemError?) {
        ended = true
        self.error = error
    }
}

private func socketPair(_ loop: Loop, _ left: MessageDelegate, _ right: MessageDelegate) throws -> (MessageSocket, MessageSocket) {
    var pair = try MessageSocket.pair()
    let first = try MessageSocket(loop, adopting: pair.takeFirst())
    let second = try MessageSocket(loop, adopting: pair.takeSecond())
    first.delegate = left
    second.delegate = right
    return (first, second)
}

/// The errno with which a message is refused.
private func sendError(_ socket: MessageSocket, _ bytes: [UInt8], _ descriptors: [Int32] = []) -> Int32? {
    do {
        try socket.send(bytes.span, descriptors: descriptors)
        return nil
    } catch {
        return error.code
    }
}

extension ReactorTests {
    @Suite struct Messages {
        @Test(arguments: backends)
        func carriesDescriptors(_ backend: BackendChoice) throws {
            let loop = try Loop(backend: backend)
            let inbox = Inbox()
            let (left, right) = try socketPair(loop, Inbox(), inbox)
            let before = openDescriptors()
            for count in [0, 1, 64] {
                let sources = (0..<count).map { _ in dup(0) }
                let waiting = try left.send([UInt8(count)].span, descriptors: sources, taking: true)
                #expect(waiting == 0)
            }
            let kept = dup(0)
            try left.send([7].span, descriptors: [kept], taking: false)
            pump(loop, "messages") { inbox.messages.count == 4 }
            #expect(inbox.messages == [[0], [1], [64], [7]])
            #expect(inbox.counts == [0, 1, 64, 1])
            #expect(fcntl(inbox.taken[0], F_GETFD) & FD_CLOEXEC != 0)
            for descriptor in inbox.taken + [kept] { close(descriptor) }
            #expect(openDescriptors() == before)
            left.close()
            pump(loop, "end") { inbox.ended }
            #expect(inbox.error == nil)
            #expect(!right.isOpen)
            pump(loop, "closed") { loop.openHandles == 0 }
        }

        @Test(arguments: backends)
        func closesWhatNobodyTakes(_ backend: BackendChoice) throws {
            let loop = try Loop(backend: backend)
            let inbox = Inbox()
            inbox.takesMax = 1
            let (left, right) = try socketPair(loop, Inbox(), inbox)
            let before = openDescriptors()
            try left.send([1].span, descriptors: (0..<5).map { _ in dup(0) }, taking: true)
            pump(loop, "message") { inbox.counts == [5] }
            #expect(openDescriptors() == before + 1)
            close(inbox.taken[0])
            left.close()
            right.close()
            pump(loop, "closed") { loop.openHandles == 0 }
        }

        @Test(arguments: backends)
        func keepsOrderThroughAFullSocket(_ backend: BackendChoice) throws {
            let loop = try Loop(backend: backend)
            let inbox = Inbox()
            var pair = try MessageSocket.pair()
            let left = try MessageSocket(loop, adopting: pair.takeFirst())
            let sender = Inbox()
            left.delegate = sender
            let before = openDescriptors()
            let kept = dup(0)
            var waiting = 0
            var sent = 0
            while waiting < 200 {
                let bytes = [UInt8(truncatingIfNeeded: sent), UInt8(truncatingIfNeeded: sent >> 8)] + [UInt8](repeating: 5, count: 3_000)
                waiting = try left.send(bytes.span, descriptors: sent % 3 == 0 ? [kept] : [], taking: false)
                sent += 1
            }
            close(kept)
            let right = try MessageSocket(loop, adopting: pair.takeSecond())
            right.delegate = inbox
            pump(loop, "all") { inbox.messages.count == sent }
            #expect(inbox.messages.indices.allSatisfy {
                inbox.messages[$0][0] == UInt8(truncatingIfNeeded: $0) && inbox.messages[$0][1] == UInt8(truncatingIfNeeded: $0 >> 8)
            })
            #expect(inbox.counts.indices.allSatisfy { inbox.counts[$0] == ($0 % 3 == 0 ? 1 : 0) })
            for descriptor in inbox.taken { close(descriptor) }
            left.close()
            right.close()
            pump(loop, "closed") { loop.openHandles == 0 }
            #expect(openDescriptors() == before - 2)
        }

        @Test(arguments: backends)
        func refusesTooMuch(_ backend: BackendChoice) throws {
            let loop = try Loop(backend: backend)
            let inbox = Inbox()
            let (left, right) = try socketPair(loop, Inbox(), inbox)
            let large = [UInt8](repeating: 1, count: MessageSocket.bytesMax)
            let larger = large + [0]
            let many = [Int32](repeating: 0, count: 65)
            #expect(sendError(left, larger) == EMSGSIZE)
            #expect(sendError(left, []) == EMSGSIZE)
            #expect(sendError(left, [1], many) == EMSGSIZE)
            #expect(sendError(left, [1], [-1]) == EBADF)
            try left.send(large.span)
            pump(loop, "largest") { inbox.messages.count == 1 }
            #expect(inbox.messages[0].count == MessageSocket.bytesMax)
            left.close()
            right.close()
        }

        @Test(arguments: backends)
        func truncatedMessageEndsTheSocketWithoutALeak(_ backend: BackendChoice) throws {
            let loop = try Loop(backend: backend)
            let inbox = Inbox()
            var pair = try MessageSocket.pair()
            let right = try MessageSocket(loop, adopting: pair.takeSecond())
            right.delegate = inbox
            let plain = pair.takeFirst()
            let before = openDescriptors()
            let oversize = [UInt8](repeating: 1, count: MessageSocket.bytesMax + 1)
            #expect(send(plain.raw, oversize, oversize.count, 0) == oversize.count)
            pump(loop, "failure") { inbox.ended }
            #expect(inbox.error?.code == EMSGSIZE)
            pump(loop, "closed") { loop.openHandles == 0 }
            #expect(openDescriptors() == before - 1)
        }

        @Test(arguments: backends)
        func messagesBeforeTheEndAreDelivered(_ backend: BackendChoice) throws {
            let loop = try Loop(backend: backend)
            let inbox = Inbox()
            var pair = try MessageSocket.pair()
            let plain = pair.takeFirst().take()
            for number in 0..<100 as Range<UInt8> { _ = send(plain, [number], 1, 0) }
            close(plain)
            let right = try MessageSocket(loop, adopting: pair.takeSecond())
            right.delegate = inbox
            pump(loop, "end") { inbox.ended }
            #expect(inbox.messages == (0..<100).map { [$0] })
            #expect(inbox.error == nil)
        }

        @Test(arguments: backends)
        func closingWithinAMessageClosesTheDescriptorsOfTheBatch(_ backend: BackendChoice) throws {
            final class Closer: MessageDelegate {
                var count = 0
                override func message(_ socket: MessageSocket, bytes: Span<UInt8>, descriptors: inout DescriptorList) {
                    count += 1
                    socket.close()
                }
            }
            let loop = try Loop(backend: backend)
            let closer = Closer()
            let (left, right) = try socketPair(loop, Inbox(), closer)
            _ = right
            let before = openDescriptors()
            for _ in 0..<10 { try left.send([1].span, descriptors: [dup(0), dup(0)], taking: true) }
            pump(loop, "closed") { closer.count == 1 && loop.openHandles == 1 }
            #expect(openDescriptors() == before - 1)
            left.close()
        }
    }
}
