// What the yamux tests share: frames written byte by byte, without the code under test; a session with a log of its events;
// the ways to cut an input into pieces.

import Base
import Memory

@testable import Wire

/// The bytes of a frame's header, and of its payload if there is one.
func yamuxFrame(
    _ type: UInt8, _ flags: UInt16, _ stream: UInt32, _ length: UInt32, _ payload: [UInt8] = [], version: UInt8 = 0
) -> [UInt8] {
    var bytes: [UInt8] = [version, type, UInt8(flags >> 8), UInt8(flags & 0xff)]
    for number in [stream, length] {
        for shift in [24, 16, 8, 0] { bytes.append(UInt8(truncatingIfNeeded: number >> UInt32(shift))) }
    }
    return bytes + payload
}

/// A data frame with its payload.
func yamuxData(_ stream: UInt32, _ payload: [UInt8], flags: UInt16 = 0) -> [UInt8] {
    yamuxFrame(0, flags, stream, UInt32(payload.count), payload)
}

/// The flags, as numbers.
let yamuxSYN: UInt16 = 1
let yamuxACK: UInt16 = 2
let yamuxFIN: UInt16 = 4
let yamuxRST: UInt16 = 8

/// One event, with the bytes that belong to it.
enum YamuxLogEntry: Equatable {
    case opened(UInt32)
    case data(UInt32, [UInt8])
    case writable(UInt32)
    case ended(UInt32)
    case reset(UInt32)
    case goAway(UInt32)
    case pong
    case failed(YamuxError)
}

/// A session and what happened on it. Pieces of data that follow each other on one stream are logged as one.
final class YamuxHarness {
    var session: YamuxSession
    var now = Instant(nanoseconds: 1_000_000_000)
    var log: [YamuxLogEntry] = []
    /// The names of the streams by number, as events or `open` gave them.
    var names: [UInt32: YamuxStreamID] = [:]
    /// Whether data counts as consumed at once.
    var consumesAtOnce = false

    init(_ role: YamuxSession.Role, limits: YamuxLimits = YamuxLimits(), acceptsStreams: Bool? = nil) {
        session = YamuxSession(role: role, limits: limits, acceptsStreams: acceptsStreams)
    }

    // The session cannot be copied, so a test reads these here.
    var mayOpen: Bool { session.mayOpen }
    var isGoingAway: Bool { session.isGoingAway }
    func isAcknowledged(_ number: UInt32) -> Bool { session.isAcknowledged(names[number]!) }

    /// Opens a stream that must be possible to open.
    @discardableResult
    func open() -> YamuxStreamID {
        guard let id = session.open(now: now) else { fatalError("no stream could be opened") }
        names[id.number] = id
        return id
    }

    /// Feeds the bytes in one piece. After an error the rest is dropped.
    func feed(_ bytes: [UInt8]) {
        var offset = 0
        while true {
            do throws(YamuxError) {
                let event = try session.receive(bytes.span, at: &offset, now: now)
                if case .needMore = event { return }
                record(event, bytes)
            } catch {
                if log.last != .failed(error) { log.append(.failed(error)) }
                return
            }
        }
    }

    /// Feeds the bytes in the pieces that end at the offsets.
    func feed(_ bytes: [UInt8], cutAt cuts: [Int]) {
        var start = 0
        for end in cuts + [bytes.count] {
            feed(Array(bytes[start..<end]))
            start = end
        }
    }

    private func record(_ event: YamuxSession.Event, _ bytes: [UInt8]) {
        switch event {
        case .needMore: break
        case .opened(let id):
            names[id.number] = id
            log.append(.opened(id.number))
        case .data(let id, let range):
            if case .data(id.number, let before) = log.last {
                log[log.count - 1] = .data(id.number, before + bytes[range])
            } else {
                log.append(.data(id.number, Array(bytes[range])))
            }
            if consumesAtOnce { session.consumed(id, range.count) }
        case .writable(let id): log.append(.writable(id.number))
        case .ended(let id): log.append(.ended(id.number))
        case .reset(let id): log.append(.reset(id.number))
        case .goAway(let code): log.append(.goAway(code.rawValue))
        case .pong: log.append(.pong)
        }
    }

    /// Takes what waits in `output`.
    func takeOutput() -> [UInt8] {
        let bytes = bytes(of: session.output)
        session.output.removeAll()
        return bytes
    }

    /// Sends data on a stream: header and payload as they go to the carrier.
    func send(_ id: YamuxStreamID, _ payload: [UInt8]) -> [UInt8] {
        var buffer = ByteBuffer()
        session.writeDataHeader(id, length: payload.count, into: &buffer)
        return bytes(of: buffer) + payload
    }

    /// Lets time pass while the peer shows now and then that it lives; the streams that were dropped meanwhile.
    func pass(_ time: Duration) -> [UInt32] {
        let end = now + time
        var dropped: [UInt32] = []
        while now < end {
            feed(yamuxFrame(2, yamuxSYN, 0, 0))
            let result = tick(after: min(end - now, .seconds(5)))
            precondition(result.error == nil)
            dropped += result.dropped
        }
        return dropped
    }

    /// Runs `tick` until it is quiet; the streams it dropped, and the error if the session is dead.
    func tick(after time: Duration = .zero) -> (dropped: [UInt32], error: YamuxError?) {
        now = now + time
        var dropped: [UInt32] = []
        while true {
            switch session.tick(now: now) {
            case .quiet: return (dropped, nil)
            case .dropped(let id): dropped.append(id.number)
            case .dead(let error): return (dropped, error)
            }
        }
    }
}

/// The bytes that wait in a buffer.
func bytes(of buffer: borrowing ByteBuffer) -> [UInt8] {
    let span = buffer.span
    return (0..<span.count).map { span[$0] }
}

/// Every way a short input is cut in these tests: not at all, at every byte, and once at each offset.
func everyCut(of count: Int) -> [[Int]] {
    guard count > 1 else { return [[]] }
    return [[], Array(1..<count)] + (1..<count).map { [$0] }
}
