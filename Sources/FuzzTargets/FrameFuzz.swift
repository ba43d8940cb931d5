// Fuzz targets of the framed protocols: WebSocket and yamux.

internal import Base
internal import Memory
internal import Wire

/// The first byte: which side. Four bytes: cuts. The rest: frames.
func fuzzWebSocket(_ input: [UInt8]) {
    guard input.count > 5 else { return }
    let masked = input[0] & 1 == 0
    let bytes = Array(input[5...])
    let whole = decodeFrames(bytes, masked: masked, ends: [bytes.count])
    precondition(whole == decodeFrames(bytes, masked: masked, ends: pieceEnds(input.span.extracting(1..<5), count: bytes.count)), "cuts matter")
    precondition(whole == decodeFrames(bytes, masked: masked, ends: Array(0...bytes.count)), "the outcome depends on how frames arrive")
}

private struct FrameOutcome: Equatable {
    var data: [UInt8] = []
    /// Control frames: a letter, and what they carried.
    var controls: [[UInt8]] = []
    var error: WebSocketError?
}

private func decodeFrames(_ bytes: [UInt8], masked: Bool, ends: [Int]) -> FrameOutcome {
    var decoder = WebSocketDecoder(expectsMasked: masked)
    var outcome = FrameOutcome()
    var start = 0
    do throws(WebSocketError) {
        for end in ends {
            var piece = Array(bytes[start..<end])
            start = end
            var offset = 0
            arrival: while true {
                var span = piece.mutableSpan
                let event = try decoder.next(&span, at: &offset)
                switch event {
                case .needMore: break arrival
                case .data(let range): outcome.data += copy(piece.span.extracting(range))
                case .ping: outcome.controls.append([0x69] + copy(decoder.controlPayload))
                case .pong: outcome.controls.append([0x6F] + copy(decoder.controlPayload))
                case .close(let code):
                    precondition(code.map { $0 >= 1000 && $0 < 5000 } ?? true, "a close code that may not be on the wire")
                    outcome.controls.append([0x63] + copy(decoder.controlPayload))
                }
            }
            precondition(offset == piece.count, "bytes were left although more are needed")
        }
    } catch {
        outcome.error = error
    }
    return outcome
}

/// A session under fire: each step is one byte of what to do and, for some, what follows it. Raw bytes, well-formed frames of
/// all kinds with small numbers, and the shell's own calls mix. Streams, output and data must keep within their bounds.
func fuzzYamux(_ input: [UInt8]) {
    guard let first = input.first else { return }
    var limits = YamuxLimits()
    limits.streamsMax = 64
    limits.unacknowledgedStreamsMax = 16
    var session = YamuxSession(role: first & 1 == 0 ? .server : .client, limits: limits, acceptsStreams: first & 2 == 0 ? nil : true)
    var shell = YamuxShell()
    var index = 1
    while index < input.count {
        let step = input[index]
        index += 1
        switch step & 7 {
        case 0, 1:
            let count = min(Int(step >> 3), input.count - index)
            shell.receive(Array(input[index..<index + count]), by: &session)
            index += count
        case 2, 3, 4:
            guard index + 3 <= input.count else { return }
            shell.receive(frame(kind: step >> 3, input[index], input[index + 1], input[index + 2]), by: &session)
            index += 3
        case 5: shell.act(step >> 3, on: &session)
        case 6: shell.now = shell.now + .milliseconds(Int(step >> 3) * 500)
        default:
            shell.tick(&session)
        }
        precondition(session.streamCount <= limits.streamsMax + 1, "more streams than allowed")
        precondition(session.output.count < 1 << 20, "control frames without end")
        if step & 0x80 != 0 { session.output.removeAll() }
    }
}

/// A frame whose parts are likely to mean something: a small stream number, flags, a length that is small or large.
private func frame(kind: UInt8, _ flags: UInt8, _ number: UInt8, _ length: UInt8) -> [UInt8] {
    let size = UInt32(length) << (flags & 0x10 == 0 ? 0 : flags & 0x20 == 0 ? 11 : 24)
    let type = kind & 3
    var bytes: [UInt8] = [kind == 0x1F ? 1 : 0, kind == 0x1E ? 9 : type, 0, flags & 15, 0, 0, 0, number % 48]
    for shift in [24, 16, 8, 0] { bytes.append(UInt8(truncatingIfNeeded: size >> UInt32(shift))) }
    if type == 0 { bytes += [UInt8](repeating: 0x78, count: Int(min(size, 600_000))) }
    return bytes
}

/// What a shell does around the session, and what it knows of its streams.
private struct YamuxShell {
    var now = Instant(nanoseconds: 1)
    /// Living streams and the bytes each has received and not consumed.
    var streams: [(id: YamuxStreamID, held: Int)] = []
    var isOver = false

    mutating func receive(_ bytes: [UInt8], by session: inout YamuxSession) {
        var offset = 0
        do throws(YamuxError) {
            while true {
                switch try session.receive(bytes.span, at: &offset, now: now) {
                case .needMore:
                    precondition(offset == bytes.count, "bytes were left although more are needed")
                    return
                case .opened(let id):
                    precondition(!streams.contains { $0.id == id }, "opened twice")
                    streams.append((id, 0))
                case .data(let id, let range):
                    precondition(range.lowerBound >= 0 && range.upperBound <= bytes.count && !range.isEmpty, "data out of bounds")
                    guard let position = streams.firstIndex(where: { $0.id == id }) else { preconditionFailure("data for no stream") }
                    streams[position].held += range.count
                    precondition(streams[position].held <= YamuxLimits.initialWindowBytes, "more data than the window")
                case .reset(let id): streams.removeAll { $0.id == id }
                case .ended(let id), .writable(let id):
                    precondition(streams.contains { $0.id == id }, "an event for no stream")
                case .goAway, .pong: break
                }
            }
        } catch {
            isOver = true
            precondition(session.failure == error, "the failure is kept")
        }
    }

    mutating func act(_ choice: UInt8, on session: inout YamuxSession) {
        if isOver { return }
        if choice & 7 == 0 {
            if let id = session.open(now: now) { streams.append((id, 0)) }
            return
        }
        if choice == 0x1F { return session.goAway(.normal) }
        guard !streams.isEmpty else { return }
        let position = Int(choice >> 3) % streams.count
        let id = streams[position].id
        switch choice & 7 {
        case 1, 2:
            let length = min(session.sendWindow(id), choice & 2 == 0 ? 1 : 70_000)
            var output = ByteBuffer()
            if length > 0 { session.writeDataHeader(id, length: length, into: &output) }
        case 3, 4:
            session.consumed(id, streams[position].held)
            streams[position].held = 0
        case 5: session.finish(id)
        default:
            session.reset(id)
            streams.remove(at: position)
        }
    }

    mutating func tick(_ session: inout YamuxSession) {
        for _ in 0..<1000 {
            switch session.tick(now: now) {
            case .quiet: return
            case .dead:
                isOver = true
                return
            case .dropped(let id): streams.removeAll { $0.id == id }
            }
        }
        preconditionFailure("tick without end")
    }
}
