// What the reactor's tests share: the backends to run on, delegates that record, and a loop pump with a time limit.
import Base
import Glibc
import Memory
import Reactor
import TestKit
import Testing

/// Every test of the reactor is inside this suite: some lower limits of the whole process, so they run one at a time.
@Suite(.serialized) enum ReactorTests {}

/// The backends this machine has. epoll is always there; io_uring may be refused (a container's filter, memlock).
let backends: [BackendChoice] = {
    let hasRing = (try? Loop(backend: .ioUring)) != nil
    return hasRing ? [.epoll, .ioUring] : [.epoll]
}()

/// Runs turns until `condition` holds; records an issue after `limit`.
func pump(
    _ loop: Loop, _ what: Comment, limit: Duration = .seconds(10), sourceLocation: SourceLocation = #_sourceLocation,
    until condition: () -> Bool
) {
    let end = SystemClock.now + limit
    while !condition() {
        if SystemClock.now >= end {
            Issue.record("timed out: \(what)", sourceLocation: sourceLocation)
            return
        }
        loop.runTurn(until: min(end, SystemClock.now + .milliseconds(100)))
    }
}

/// Runs turns for a while, for things that must not happen.
func pump(_ loop: Loop, for duration: Duration) {
    let end = SystemClock.now + duration
    while SystemClock.now < end { loop.runTurn(until: end) }
}

/// Remembers everything that a channel tells.
final class Recorder: ChannelDelegate {
    var bytes: [UInt8] = []
    var log: [String] = []
    var detached: Int32 = -1
    var unsent: [UInt8] = []
    var isPausedAfterEach = false
    var onData: ((Channel, borrowing MutableSpan<UInt8>) -> Void)?

    override func channel(_ channel: Channel, received bytes: inout MutableSpan<UInt8>) {
        bytes.withUnsafeBufferPointer { self.bytes += $0 }
        onData?(channel, bytes)
        if isPausedAfterEach { channel.pauseReading() }
    }
    override func channelEnded(_ channel: Channel) { log.append("end") }
    override func channelDrained(_ channel: Channel) { log.append("drained") }
    override func channelFinished(_ channel: Channel) { log.append("finished") }
    override func channelFailed(_ channel: Channel, error: ChannelError) { log.append("failed \(error)") }
    override func streamConnected(_ stream: Stream) { log.append("connected") }
    override func streamDetached(_ stream: Stream, descriptor: consuming OwnedDescriptor, unsent: Span<UInt8>) {
        log.append("detached")
        self.unsent = [UInt8](copying: unsent)
        detached = descriptor.take()
    }
    func has(_ word: String) -> Bool { log.contains { $0.hasPrefix(word) } }
}

/// Sends everything back, with back-pressure.
final class Echo: ChannelDelegate {
    var log: [String] = []
    override func channel(_ channel: Channel, received bytes: inout MutableSpan<UInt8>) {
        channel.write(bytes.span)
        if !channel.isWritable {
            log.append("paused")
            channel.pauseReading()
        }
    }
    override func channelDrained(_ channel: Channel) {
        log.append("drained")
        channel.resumeReading()
    }
    override func channelEnded(_ channel: Channel) {
        log.append("end")
        channel.finish()
    }
    override func channelFinished(_ channel: Channel) { channel.close() }
    override func channelFailed(_ channel: Channel, error: ChannelError) { log.append("failed \(error)") }
}

/// Keeps what a listener accepts.
final class Accepting: ListenerDelegate {
    var descriptors: [Int32] = []
    var errors: [SystemError] = []
    override func accepted(_ listener: Listener, descriptor: consuming OwnedDescriptor) {
        descriptors.append(descriptor.take())
    }
    override func acceptFailed(_ listener: Listener, error: SystemError) { errors.append(error) }
}

/// How two streams are connected.
enum Transport: CaseIterable, Sendable {
    case tcp, unix
}

/// Two connected streams in one loop.
func connectedPair(_ loop: Loop, _ transport: Transport, _ left: ChannelDelegate, _ right: ChannelDelegate) throws
    -> (Stream, Stream)
{
    switch transport {
    case .unix:
        var pair = try Sockets.pair(.stream)
        let first = try Stream(loop, adopting: pair.takeFirst())
        let second = try Stream(loop, adopting: pair.takeSecond())
        first.delegate = left
        second.delegate = right
        return (first, second)
    case .tcp:
        let accepting = Accepting()
        let address = SocketAddress(address: "127.0.0.1", port: 0)!
        let listener = try Listener(loop, adopting: Listener.bind(address), delegate: accepting)
        let first = try Stream(loop, connectTo: listener.address!)
        first.delegate = left
        pump(loop, "accept") { !accepting.descriptors.isEmpty }
        listener.close()
        let second = try Stream(loop, adopting: OwnedDescriptor(accepting.descriptors[0]))
        second.delegate = right
        return (first, second)
    }
}

/// A TCP connection: one end in the loop, the other a plain blocking descriptor.
func connectedToPlain(_ loop: Loop, _ delegate: Recorder) throws -> (Stream, Int32) {
    let bound = try Listener.bind(SocketAddress(address: "127.0.0.1", port: 0)!)
    let stream = try Stream(loop, connectTo: SocketAddress.name(of: bound.raw)!)
    stream.delegate = delegate
    var descriptor: Int32 = -1
    pump(loop, "plain accept") {
        if descriptor < 0 { descriptor = accept(bound.raw, nil, nil) }
        return descriptor >= 0 && delegate.has("connected")
    }
    return (stream, descriptor)
}

func randomBytes(_ count: Int, seed: UInt64) -> [UInt8] {
    var generator = SeededGenerator(seed: seed)
    return [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
        for start in stride(from: 0, to: count, by: 8) {
            var word = generator.next()
            memcpy(buffer.baseAddress! + start, &word, min(8, count - start))
        }
        initialized = count
    }
}

/// The descriptors this process has open, to notice a leak.
func openDescriptors() -> Int {
    guard let directory = opendir("/proc/self/fd") else { return -1 }
    defer { closedir(directory) }
    var count = 0
    while readdir(directory) != nil { count += 1 }
    return count
}

/// Compares long byte strings; a failure tells where they part instead of printing them.
func expectSame(_ got: [UInt8], _ wanted: [UInt8], _ note: Comment = "", sourceLocation: SourceLocation = #_sourceLocation) {
    if got == wanted { return }
    let place = zip(got, wanted).enumerated().first { $0.element.0 != $0.element.1 }?.offset ?? min(got.count, wanted.count)
    Issue.record("\(got.count) bytes instead of \(wanted.count), different from \(place) on. \(note)", sourceLocation: sourceLocation)
}
