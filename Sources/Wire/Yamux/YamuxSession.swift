// One yamux session, either side: many streams with flow control over one byte stream. A pure machine: received bytes and
// the time go in, events and control frames come out; the shell around it owns the carrier, the users of the streams and
// the bytes that wait for window.
//
// How the shell drives it:
//  - What it receives goes through `receive`, again and again until `needMore`, even when no byte is left: one frame may
//    mean several events.
//  - Control frames wait in `output`. They go out before anything that comes later: `writeDataHeader` takes them along, and
//    after every other call the shell sends `output`, at the latest at the end of its turn.
//  - Data goes out as `writeDataHeader` and then exactly so many bytes. `finish` comes after the last of them.
//  - Back-pressure: a shell that does not call `consumed` gets no more than one window of data for that stream.
//  - `tick` runs at `nextDeadline`.
//
// A stream's name stays good until the shell is told `ended` or `reset` for the second half, `tick` says `dropped`, or the
// shell itself calls `reset` or, after `ended`, `finish`. Calls with the name of a stream that is gone do nothing.
//
// Departures from the reference implementation, all of them towards the tolerant side: any frame of the peer's accepts a
// stream, not only one with ACK; data after the peer's FIN is discarded (that side may swap the two when it closes while it
// writes); anything received counts as a sign of life, not only the ping's answer; progress prolongs a half-closed stream.

public import Base
public import Memory

/// One yamux session.
public struct YamuxSession: ~Copyable {
    /// Which side this is. The client opens odd streams, the server even ones.
    public enum Role: Sendable {
        case client
        case server
    }

    /// What `receive` found.
    public enum Event: Equatable, Sendable {
        /// All bytes are taken.
        case needMore
        /// The peer opened a stream. It is accepted already; `reset` refuses it.
        case opened(YamuxStreamID)
        /// Data for a stream: this range of the bytes. The shell calls `consumed` for it, now or later.
        case data(YamuxStreamID, Range<Int>)
        /// The stream's send window was empty and no longer is.
        case writable(YamuxStreamID)
        /// The peer ended its half. When ours has ended too, the stream is gone.
        case ended(YamuxStreamID)
        /// The peer reset the stream, which is gone.
        case reset(YamuxStreamID)
        /// The peer wants no more streams from us. With a code other than `normal` the session is over.
        case goAway(YamuxGoAwayCode)
        /// The peer answered our ping.
        case pong
    }

    /// What `tick` found.
    public enum TickResult: Equatable, Sendable {
        /// Nothing, until `nextDeadline`.
        case quiet
        /// This half-closed stream made no progress for too long and is gone; its reset is in `output`. Call again.
        case dropped(YamuxStreamID)
        /// The session is over.
        case dead(YamuxError)
    }

    /// What the bytes to come belong to.
    private enum Reading {
        /// A header, as far as `headerReader` has not got it.
        case header
        /// So many bytes of data for a stream; then its end, if `ends`.
        case payload(id: YamuxStreamID, left: UInt32, ends: Bool)
        /// So many bytes of data for nobody.
        case discard(left: UInt32)
    }

    /// Control frames that wait to be sent. Bounded: what the peer can cause is bounded by budgets, by the streams that
    /// live and by what was consumed.
    public var output = ByteBuffer()

    /// The side this is.
    public let role: Role
    private let limits: YamuxLimits
    private let acceptsStreams: Bool
    private(set) var streams = YamuxStreamTable()
    private var budgets: YamuxBudgets
    private var reading = Reading.header
    private var headerReader = YamuxHeaderReader()
    private var history = YamuxNumberHistory()
    /// The number of the next stream we open. Above UInt32.max when they are used up.
    var nextNumber: UInt64
    /// The latest time we were told.
    private var clock = Instant(nanoseconds: 0)
    /// When something was last received.
    private var receivedAt = Instant(nanoseconds: 0)
    /// When the next ping goes out; nil before the session was told the time.
    private var pingAt: Instant?
    /// When the ping that is not answered yet went out.
    private var pingSentAt: Instant?
    /// The value of the latest ping.
    private var pingValue: UInt32 = 0

    /// Why the session is over, if an error ended it. From then on nothing goes into `output`.
    public private(set) var failure: YamuxError?
    /// The go-away that we sent.
    public private(set) var localGoAway: YamuxGoAwayCode?
    /// Whether streams that the peer opens are taken although we said go-away: it may not have heard it yet.
    private var acceptsLateStreams = false
    /// The go-away that the peer sent.
    public private(set) var remoteGoAway: YamuxGoAwayCode?

    /// A session whose carrier has just been set up. `acceptsStreams` says whether the peer may open streams; by default a
    /// client lets it and a server does not.
    public init(role: Role, limits: YamuxLimits = YamuxLimits(), acceptsStreams: Bool? = nil) {
        precondition(limits.areConsistent, "yamux: limits contradict each other")
        self.role = role
        self.limits = limits
        self.acceptsStreams = acceptsStreams ?? (role == .client)
        budgets = YamuxBudgets(limits: limits)
        nextNumber = role == .client ? 1 : 2
    }

    /// Streams that live.
    public var streamCount: Int { streams.count }

    /// Streams of ours that the peer has not accepted yet.
    public var unacknowledgedCount: Int { streams.unacknowledgedCount }

    /// Whether no new stream will ever be opened on this session: it failed, either side went away, or all numbers are used.
    public var isGoingAway: Bool {
        failure != nil || localGoAway != nil || remoteGoAway != nil || nextNumber > UInt64(UInt32.max)
    }

    /// Whether `open` would give a stream now.
    public var mayOpen: Bool {
        !isGoingAway && streams.count < limits.streamsMax
            && streams.unacknowledgedCount < limits.unacknowledgedStreamsMax
    }

    // MARK: Streams, from our side

    /// Opens a stream; data may be sent on it at once. Nil when a limit is reached or the session is going away.
    public mutating func open(now: Instant) -> YamuxStreamID? {
        advance(now)
        guard mayOpen else { return nil }
        let number = UInt32(nextNumber)
        nextNumber += 2
        let slot = streams.insert(number: number, event: .open, now: clock)
        setWindows(slot)
        let extra = UInt32(limits.windowBytesMax - YamuxLimits.initialWindowBytes)
        send(YamuxHeader(.windowUpdate, flags: .synchronize, stream: number, length: extra))
        return YamuxStreamID(slot: slot, number: number)
    }

    /// Whether the stream is there and the peer has accepted it.
    public func isAcknowledged(_ id: YamuxStreamID) -> Bool {
        guard let slot = streams.slot(of: id) else { return false }
        return !streams[slot].state.waits(in: .unacknowledged)
    }

    /// How much data may be sent on the stream now; 0 when it is gone or our half has ended.
    public func sendWindow(_ id: YamuxStreamID) -> Int {
        guard let slot = streams.slot(of: id), streams[slot].state.maySend else { return 0 }
        return Int(streams[slot].sendWindow)
    }

    /// Writes what waits in `output`, then the header of a data frame; the shell sends exactly `length` bytes after it.
    /// The length must be at least 1 and within `sendWindow`.
    public mutating func writeDataHeader(_ id: YamuxStreamID, length: Int, into buffer: inout ByteBuffer) {
        guard let slot = streams.slot(of: id), streams[slot].state.maySend else {
            preconditionFailure("yamux: data on a stream that takes none")
        }
        precondition(length > 0 && length <= Int(streams[slot].sendWindow), "yamux: data beyond the send window")
        if !output.isEmpty {
            buffer.append(output.span)
            output.removeAll()
        }
        streams[slot].sendWindow -= UInt32(length)
        YamuxHeader(.data, stream: id.number, length: UInt32(length)).write(into: &buffer)
    }

    /// The user has taken so many bytes of the stream's data. A user that waits for more must hold less than half a window.
    public mutating func consumed(_ id: YamuxStreamID, _ count: Int) {
        guard let slot = streams.slot(of: id) else { return }
        precondition(count >= 0 && count <= Int(streams[slot].unconsumed), "yamux: consumed more than was delivered")
        streams[slot].unconsumed -= UInt32(count)
        streams[slot].returnable += UInt32(count)
        returnWindow(slot)
    }

    /// Ends our half of the stream. When the peer's has ended, the stream is gone. Nothing happens when it had ended before.
    public mutating func finish(_ id: YamuxStreamID) {
        guard let slot = streams.slot(of: id) else { return }
        let wasEnded = streams[slot].state == .ended
        guard streams.apply(.finish, to: slot, now: clock) else { return }
        if wasEnded { budgets.expectStray(bytes: 0) }
        send(YamuxHeader(.windowUpdate, flags: .finish, stream: id.number, length: 0))
    }

    /// Ends both halves of the stream at once; it is gone.
    public mutating func reset(_ id: YamuxStreamID) {
        guard let slot = streams.slot(of: id) else { return }
        drop(slot)
    }

    /// Tells the peer to open no more streams. Those that run go on, unless the code says that the session is over. A second
    /// call does nothing unless it turns `normal` into an error. With `acceptingLate`, streams that the peer opened before it
    /// heard of it are taken, until `refuseLateStreams`; a ping goes after it, whose `pong` says that the peer has heard of it. `now` is
    /// when the ping goes out.
    public mutating func goAway(_ code: YamuxGoAwayCode, acceptingLate: Bool = false, now: Instant? = nil) {
        if let now { advance(now) }
        if let localGoAway, localGoAway != .normal || code == .normal { return }
        localGoAway = code
        acceptsLateStreams = acceptingLate && code == .normal
        send(YamuxHeader(.goAway, length: code.rawValue))
        if acceptsLateStreams { sendPing() }
    }

    /// A ping in place of one that may be under way: only the answer to this one counts.
    private mutating func sendPing() {
        pingValue &+= 1
        pingSentAt = clock
        pingAt = clock + limits.keepAliveInterval
        send(YamuxHeader(.ping, flags: .synchronize, length: pingValue))
    }

    /// Asks the peer to open no more streams and to go elsewhere, while streams of ours may still be opened.
    public mutating func askToLeave() { send(YamuxHeader(.goAway, length: YamuxGoAwayCode.normal.rawValue)) }

    /// From now on a stream that the peer opens is refused, if we said go-away.
    public mutating func refuseLateStreams() { acceptsLateStreams = false }

    // MARK: Time

    /// When `tick` must run next. It is enough to look after each `tick`: other calls do not move it forward.
    public var nextDeadline: Instant {
        if failure != nil { return .never }
        guard let pingAt else { return Instant(nanoseconds: 0) }
        var next = answerDeadline ?? pingAt
        if let oldest = streams.oldest(in: .unacknowledged) { next = min(next, oldest.since + limits.openTimeMax) }
        if let oldest = streams.oldest(in: .halfClosed) { next = min(next, oldest.since + limits.halfClosedTimeMax) }
        return next
    }

    /// Sends pings and finds what has waited too long. Called until it says `quiet` or `dead`.
    public mutating func tick(now: Instant) -> TickResult {
        if let failure { return .dead(failure) }
        advance(now)
        if let answerDeadline, answerDeadline <= now { return .dead(fail(.keepAliveTimeout)) }
        if let oldest = streams.oldest(in: .unacknowledged), oldest.since + limits.openTimeMax <= now {
            return .dead(fail(.openTimeout))
        }
        if let oldest = streams.oldest(in: .halfClosed), oldest.since + limits.halfClosedTimeMax <= now {
            let id = YamuxStreamID(slot: oldest.slot, number: streams[oldest.slot].number)
            drop(oldest.slot)
            return .dropped(id)
        }
        if let due = pingAt, due <= now, pingSentAt == nil { sendPing() }
        return .quiet
    }

    /// When the ping that is under way counts as unanswered: anything received puts it off.
    private var answerDeadline: Instant? {
        guard let pingSentAt else { return nil }
        return max(pingSentAt, receivedAt) + limits.answerTimeMax
    }

    /// Takes over the time. The first call starts the pings.
    private mutating func advance(_ now: Instant) {
        clock = max(clock, now)
        if pingAt == nil { pingAt = now + limits.keepAliveInterval }
    }

    // MARK: Receiving

    /// Takes bytes from `offset` on, up to the next event. The error ends the session; the go-away that tells the peer is
    /// in `output` then.
    public mutating func receive(
        _ bytes: Span<UInt8>, at offset: inout Int, now: Instant
    ) throws(YamuxError) -> Event {
        if let failure { throw failure }
        advance(now)
        if offset < bytes.count { receivedAt = clock }
        do throws(YamuxError) {
            while true {
                switch reading {
                case .header:
                    guard let header = headerReader.next(bytes, at: &offset) else { return .needMore }
                    if let event = try receive(header) { return event }
                case .payload(let id, let left, let ends):
                    if let event = try receivePayload(bytes, at: &offset, id: id, left: left, ends: ends) { return event }
                case .discard(let left):
                    let taken = min(UInt32(clamping: bytes.count - offset), left)
                    offset += Int(taken)
                    reading = left == taken ? .header : .discard(left: left - taken)
                    if left > taken { return .needMore }
                }
            }
        } catch {
            throw fail(error)
        }
    }

    /// Takes the next piece of a data frame, or its end.
    @inline(__always)
    private mutating func receivePayload(
        _ bytes: Span<UInt8>, at offset: inout Int, id: YamuxStreamID, left: UInt32, ends: Bool
    ) throws(YamuxError) -> Event? {
        guard let slot = streams.slot(of: id) else {
            // The shell dropped the stream in the middle of the frame.
            reading = .discard(left: left)
            return nil
        }
        if left == 0 {
            reading = .header
            return ends ? try end(slot, id) : nil
        }
        let taken = min(UInt32(clamping: bytes.count - offset), left)
        if taken == 0 { return .needMore }
        let range = offset..<offset + Int(taken)
        offset += Int(taken)
        streams[slot].unconsumed += taken
        reading = taken == left && !ends ? .header : .payload(id: id, left: left - taken, ends: ends)
        return .data(id, range)
    }

    /// Judges a frame by its header. Nil when it means no event, or when its data comes next.
    @inline(__always)
    private mutating func receive(_ header: YamuxHeader) throws(YamuxError) -> Event? {
        guard header.version == 0 else { throw .unsupportedVersion }
        guard let type = YamuxFrameType(rawValue: header.type) else { throw .unknownType }
        guard header.flags.isSubset(of: .known) else { throw .badFlags }
        switch type {
        case .data, .windowUpdate:
            return try receiveStreamFrame(header, isData: type == .data)
        case .ping:
            return try receivePing(header)
        case .goAway:
            return try receiveGoAway(header)
        }
    }

    private mutating func receivePing(_ header: YamuxHeader) throws(YamuxError) -> Event? {
        guard header.stream == 0 else { throw .badStreamNumber }
        switch header.flags {
        case .synchronize:
            try budgets.drawPing(now: clock)
            send(YamuxHeader(.ping, flags: .acknowledge, length: header.length))
            return nil
        case .acknowledge:
            guard pingSentAt != nil, header.length == pingValue else {
                try budgets.drawOddFrame(now: clock)
                return nil
            }
            pingSentAt = nil
            return .pong
        default:
            throw .badFlags
        }
    }

    private mutating func receiveGoAway(_ header: YamuxHeader) throws(YamuxError) -> Event? {
        guard header.stream == 0 else { throw .badStreamNumber }
        guard header.flags.isEmpty else { throw .badFlags }
        let code = YamuxGoAwayCode(rawValue: header.length)
        if remoteGoAway == code {
            try budgets.drawOddFrame(now: clock)
            return nil
        }
        remoteGoAway = code
        return .goAway(code)
    }

    @inline(__always)
    private mutating func receiveStreamFrame(_ header: YamuxHeader, isData: Bool) throws(YamuxError) -> Event? {
        guard header.stream != 0 else { throw .badStreamNumber }
        if header.flags.contains(.reset) {
            guard header.length == 0 else { throw .badLength }
            guard !header.flags.contains(.synchronize) else { throw .badFlags }
        }
        if header.flags.contains(.synchronize) { return try receiveOpen(header, isData: isData) }
        guard let slot = streams.slot(ofNumber: header.stream) else {
            try receiveStray(header, dataLength: isData ? header.length : 0)
            return nil
        }
        let id = YamuxStreamID(slot: slot, number: header.stream)
        if header.flags.contains(.reset) { return try receiveReset(slot, id) }
        if streams[slot].state.waits(in: .unacknowledged) {
            _ = streams.apply(.acknowledge, to: slot, now: clock)
        } else if header.length == 0 && !header.flags.contains(.finish) {
            try budgets.drawOddFrame(now: clock)
            return nil
        }
        let ends = header.flags.contains(.finish)
        if isData { return try receiveData(header, slot, id, ends: ends) }
        if let event = try grow(slot, id, by: header.length) {
            if ends { reading = .payload(id: id, left: 0, ends: true) }
            return event
        }
        return ends ? try end(slot, id) : nil
    }

    /// A data frame for a stream that lives.
    @inline(__always)
    private mutating func receiveData(
        _ header: YamuxHeader, _ slot: UInt32, _ id: YamuxStreamID, ends: Bool
    ) throws(YamuxError) -> Event? {
        guard header.length <= streams[slot].receiveWindow else { throw .receiveWindowExceeded }
        guard streams[slot].state.mayReceive else {
            if ends { throw .endedTwice }
            try budgets.drawOddFrame(now: clock)
            reading = .discard(left: header.length)
            return nil
        }
        streams[slot].receiveWindow -= header.length
        returnWindow(slot)
        if streams[slot].state == .finished { streams.refreshHalfClosed(slot, now: clock) }
        reading = .payload(id: id, left: header.length, ends: ends)
        return nil
    }

    /// A frame with SYN: a stream of the peer's.
    private mutating func receiveOpen(_ header: YamuxHeader, isData: Bool) throws(YamuxError) -> Event? {
        guard !header.flags.contains(.acknowledge) else { throw .badFlags }
        guard !isOurs(header.stream) else { throw .wrongParity }
        if isData {
            guard header.length <= YamuxLimits.initialWindowBytes else { throw .receiveWindowExceeded }
        } else {
            guard header.length <= UInt32.max - UInt32(YamuxLimits.initialWindowBytes) else { throw .sendWindowOverflow }
        }
        guard acceptsStreams else {
            try budgets.drawOddFrame(now: clock)
            refuse(header, dataLength: isData ? header.length : 0)
            return nil
        }
        switch history.claim(header.stream) {
        case .fresh: break
        case .used: throw .numberReused
        case .tooOld:
            if streams.slot(ofNumber: header.stream) != nil { throw .numberReused }
            try budgets.drawOddFrame(now: clock)
            refuse(header, dataLength: isData ? header.length : 0)
            return nil
        }
        guard localGoAway == nil || acceptsLateStreams, streams.count < limits.streamsMax else {
            try budgets.drawChurn(now: clock)
            refuse(header, dataLength: isData ? header.length : 0)
            return nil
        }
        let slot = streams.insert(number: header.stream, event: .accept, now: clock)
        setWindows(slot)
        let id = YamuxStreamID(slot: slot, number: header.stream)
        let extra = UInt32(limits.windowBytesMax - YamuxLimits.initialWindowBytes)
        send(YamuxHeader(.windowUpdate, flags: .acknowledge, stream: header.stream, length: extra))
        if isData {
            streams[slot].receiveWindow -= header.length
        } else {
            streams[slot].sendWindow += header.length
        }
        let left = isData ? header.length : 0
        let ends = header.flags.contains(.finish)
        if left > 0 || ends { reading = .payload(id: id, left: left, ends: ends) }
        return .opened(id)
    }

    /// Answers an open with a reset.
    private mutating func refuse(_ header: YamuxHeader, dataLength: UInt32) {
        budgets.expectStray(bytes: UInt32(YamuxLimits.initialWindowBytes) - dataLength)
        send(YamuxHeader(.windowUpdate, flags: .reset, stream: header.stream, length: 0))
        if dataLength > 0 { reading = .discard(left: dataLength) }
    }

    /// A frame for a stream that is not there: one that is gone, or never was.
    private mutating func receiveStray(_ header: YamuxHeader, dataLength: UInt32) throws(YamuxError) {
        guard dataLength <= UInt32(limits.windowBytesMax) else { throw .receiveWindowExceeded }
        try budgets.drawStray(bytes: dataLength, now: clock)
        if dataLength > 0 { reading = .discard(left: dataLength) }
    }

    private mutating func receiveReset(_ slot: UInt32, _ id: YamuxStreamID) throws(YamuxError) -> Event {
        if !isOurs(id.number) { try budgets.drawChurn(now: clock) }
        _ = streams.apply(.reset, to: slot, now: clock)
        return .reset(id)
    }

    /// The peer's FIN.
    private mutating func end(_ slot: UInt32, _ id: YamuxStreamID) throws(YamuxError) -> Event {
        let wasFinished = streams[slot].state == .finished
        guard streams.apply(.end, to: slot, now: clock) else { throw .endedTwice }
        if wasFinished { budgets.expectStray(bytes: 0) }
        return .ended(id)
    }

    /// A window update.
    private mutating func grow(_ slot: UInt32, _ id: YamuxStreamID, by growth: UInt32) throws(YamuxError) -> Event? {
        let old = streams[slot].sendWindow
        let (sum, overflow) = old.addingReportingOverflow(growth)
        if overflow { throw .sendWindowOverflow }
        streams[slot].sendWindow = sum
        return old == 0 && sum > 0 && streams[slot].state.maySend ? .writable(id) : nil
    }

    // MARK: Parts

    /// Whether the number is one that this side opens streams with.
    private func isOurs(_ number: UInt32) -> Bool { (number % 2 == 1) == (role == .client) }

    private mutating func setWindows(_ slot: UInt32) {
        streams[slot].sendWindow = UInt32(YamuxLimits.initialWindowBytes)
        streams[slot].receiveWindow = UInt32(limits.windowBytesMax)
    }

    /// Gives consumed window back: once half of it can be, or an eighth when the peer has less than that left and would
    /// stall. Smaller updates would only make the peer send in small pieces.
    private mutating func returnWindow(_ slot: UInt32) {
        let returnable = streams[slot].returnable
        let window = UInt32(limits.windowBytesMax)
        guard returnable >= window / 8 else { return }
        guard returnable >= window / 2 || streams[slot].receiveWindow < window / 8 else { return }
        guard streams[slot].state.mayReceive else { return }
        streams[slot].returnable = 0
        streams[slot].receiveWindow += returnable
        send(YamuxHeader(.windowUpdate, stream: streams[slot].number, length: returnable))
    }

    /// Resets a stream that lives.
    private mutating func drop(_ slot: UInt32) {
        let number = streams[slot].number
        budgets.expectStray(bytes: streams[slot].state.mayReceive ? streams[slot].receiveWindow : 0)
        _ = streams.apply(.reset, to: slot, now: clock)
        send(YamuxHeader(.windowUpdate, flags: .reset, stream: number, length: 0))
    }

    /// Ends the session because of an error, and tells the peer.
    private mutating func fail(_ error: YamuxError) -> YamuxError {
        goAway(error.code)
        failure = error
        return error
    }

    private mutating func send(_ header: YamuxHeader) {
        if failure == nil { header.write(into: &output) }
    }
}

// MARK: - On the way to another process

extension YamuxSession {
    /// Writes down where the session stands, with what waits in `output`. Not when it has failed.
    public func write(into state: inout StateWriter) {
        state.write(output.span)
        streams.write(into: &state)
        budgets.write(into: &state)
        switch reading {
        case .header: state.write(0)
        case .payload(let id, let left, let ends):
            // The number may be that of a stream that is gone: then the rest of the frame is for nobody.
            state.write(1)
            state.write(id.number)
            state.write(left)
            state.write(ends)
        case .discard(let left):
            state.write(2)
            state.write(left)
        }
        headerReader.write(into: &state)
        history.write(into: &state)
        state.write(nextNumber)
        for time in [clock, receivedAt, pingAt ?? .never, pingSentAt ?? .never] { state.write(time.nanoseconds) }
        state.write(pingValue)
        for code in [localGoAway, remoteGoAway] { state.write(code.map { UInt64($0.rawValue) + 1 } ?? 0) }
    }

    /// A session that goes on where another one stood.
    public init(
        reading state: inout StateReader, _ bytes: Span<UInt8>, role: Role, limits: YamuxLimits = YamuxLimits()
    ) throws(StateReadError) {
        self.init(role: role, limits: limits)
        try state.string(bytes, into: &output)
        streams = try YamuxStreamTable(reading: &state, bytes)
        budgets = try YamuxBudgets(reading: &state, bytes, limits: limits)
        switch try state.number(bytes) {
        case 0: reading = .header
        case 1:
            let number: UInt32 = try state.integer(bytes)
            let left: UInt32 = try state.integer(bytes)
            let ends = try state.truth(bytes)
            if let slot = streams.slot(ofNumber: number) {
                reading = .payload(id: YamuxStreamID(slot: slot, number: number), left: left, ends: ends)
            } else {
                reading = .discard(left: left)
            }
        case 2: reading = .discard(left: try state.integer(bytes))
        default: throw StateReadError()
        }
        headerReader = try YamuxHeaderReader(reading: &state, bytes)
        history = try YamuxNumberHistory(reading: &state, bytes)
        nextNumber = try state.number(bytes)
        func time() throws(StateReadError) -> Instant { Instant(nanoseconds: try state.number(bytes)) }
        clock = try time()
        receivedAt = try time()
        let ping = try time()
        pingAt = ping == .never ? nil : ping
        let sent = try time()
        pingSentAt = sent == .never ? nil : sent
        pingValue = try state.integer(bytes)
        localGoAway = try Self.code(&state, bytes)
        remoteGoAway = try Self.code(&state, bytes)
    }

    private static func code(_ state: inout StateReader, _ bytes: Span<UInt8>) throws(StateReadError) -> YamuxGoAwayCode? {
        let number = try state.number(bytes)
        if number == 0 { return nil }
        guard let code = UInt32(exactly: number - 1).flatMap({ YamuxGoAwayCode(rawValue: $0) }) else { throw StateReadError() }
        return code
    }

    /// The stream of this number, when it lives.
    public func stream(numbered number: UInt32) -> YamuxStreamID? {
        streams.slot(ofNumber: number).map { YamuxStreamID(slot: $0, number: number) }
    }
}
