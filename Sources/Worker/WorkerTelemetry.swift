// What the worker counts and logs. Counters go into the worker's slab of the shared memory, where the sum over all processes
// is read for /metrics and where they outlive the worker.

import Authentication
import Base
import Config
import Control
import Glibc
import Memory
import Reactor
import Telemetry
import Transport
import Wire

/// Counters, log and access log of one worker.
final class WorkerTelemetry {
    let log: Logger
    private let sink: TurnSink
    private let loop: Loop
    private let counters: Counters
    private let region: CounterRegion
    /// The traffic of endpoints; nil in memory that a supervisor without it made.
    private let traffic: NamedTraffic?
    private let nodeStart: UInt64
    /// Requests that this worker served, for those who ask for OpenMetrics.
    private(set) var exemplars = Exemplars()
    private var nextExemplar = Instant(nanoseconds: 0)
    let accessLog: ProxyAccessLog

    init(_ loop: Loop, setup: WorkerSetup, config: ServerConfig, counters descriptor: consuming OwnedDescriptor) throws {
        self.loop = loop
        nodeStart = setup.nodeStart
        let memory = try SharedRegion(adopting: descriptor)
        region = try CounterRegion(opening: memory)
        traffic = NamedTraffic(opening: memory, behind: region)
        guard Int(setup.slab) < region.slabCount else { throw WorkerSetupError.noSlab }
        counters = Counters(slab: region.slab(Int(setup.slab)))
        sink = TurnSink(loop)
        log = Logger(
            settings: LogSettings(
                level: config.log.level, subsystems: config.log.subsystems,
                format: StandardErrorSink.isTerminal ? .human : .json),
            worker: setup.worker, clock: { SystemClock.unixNanoseconds }, sink: sink)
        log.counters = counters
        sink.dropped = { [counters] lines in counters.add(.logLinesDropped, lines) }
        accessLog = ProxyAccessLog(log, config.proxy.accessLog, node: setup.nodeID)
    }

    /// Writes what waits for the turn's end: there is no next turn.
    func flushLog() { sink.flush() }

    // MARK: Connections

    func connectionOpened(_ listener: ListenerKind, isMoved: Bool) {
        counters.add(isMoved ? .connectionsMovedIn : .connectionsReceived)
        counters.add(PortLabel(listener).open)
    }

    func connectionClosed(_ listener: ListenerKind) {
        counters.subtract(PortLabel(listener).open)
    }

    /// A connection that came from the supervisor could not be served.
    func connectionLost(_ listener: ListenerKind) {
        counters.add(.connectionsReceived)
        counters.add(.refusedByLimit)
    }

    /// A connection was turned away unread.
    func refused(_ counter: Counter) { counters.add(counter) }

    /// Something else that a sibling sent could not be taken.
    func shed() { counters.add(.refusedByLimit) }

    func moved() { counters.add(.connectionsMovedOut) }
    func moveFailed() { counters.add(.controlErrors) }
    func relayed() { counters.add(.connectionsRelayed) }
    func controlMessageRefused() { counters.add(.controlErrors) }
    func lookupRefused() { counters.add(.refusedByLimit) }
    func tunnelRefused() { counters.add(.refusedByLimit) }
    func refusedByQuota(_ counter: Counter) { counters.add(counter) }
    func tunnelBrokeProtocol() { counters.add(.tunnelProtocolErrors) }

    func dataConnectionOpened() { counters.add(.dataConnectionsOpen) }
    func dataConnectionClosed() {
        counters.subtract(.dataConnectionsOpen)
        connectionClosed(.upstream)
    }
    func dataConnectionRefused() { counters.add(.dataConnectionsRefused) }
    func dataConnectionMoved() { counters.add(.dataConnectionsMoved) }
    func dataStream() { counters.add(.dataStreams) }
    func dataShortage() { counters.add(.dataShortages) }

    /// A request goes to another node.
    func remoteRequest(_ node: PeerNode) {
        counters.add(.remoteRequests)
        guard let traffic = traffic?.nodes else { return }
        let seconds = loop.now.nanoseconds / 1_000_000_000
        if let known = node.traffic, traffic.isGood(known, now: seconds) {
            traffic.touch(known, now: seconds)
            return traffic.add(known, .connections)
        }
        let name = Array(node.id.utf8)
        let place = traffic.place(of: name.span, now: seconds)
        node.traffic = place
        traffic.add(place, .connections)
    }
    func nodeRequest() { counters.add(.nodeRequests) }
    func nodeRequestDeclined() { counters.add(.nodeRequestsDeclined) }
    func tunnelExpired() { counters.add(.tunnelsExpired) }

    /// A request without a good token. What exactly is wrong with it is for the log.
    func tokenRefused(_ listener: ListenerKind, _ error: AuthenticationError) {
        counters.add(.tokensRefused)
        log.debug(.server, "no valid token") {
            $0.field("port", "\(listener)")
            $0.field("err", error.detail)
        }
    }

    func nodeProofRefused() { counters.add(.nodeProofsRefused) }
    func nodeConnectionOpened() { counters.add(.nodeConnectionsOpen) }
    func nodeConnectionClosed() { counters.subtract(.nodeConnectionsOpen) }
    func nodeConnectionRefused() { counters.add(.refusedByLimit) }
    func nodeDialFailed() { counters.add(.nodeDialFailures) }

    func handshakeDone(isResumed: Bool) {
        counters.add(.handshakes)
        if isResumed { counters.add(.handshakesResumed) }
    }
    func handshakeFailed() { counters.add(.handshakesFailed) }

    func tunnelMoved() { counters.add(.sessionsMoved) }
    func parked() { counters.add(.reconnectWaits) }
    func parkRefused() { counters.add(.refusedByLimit) }

    func streams(_ count: Int) { counters.set(.streamsOpen, UInt64(count)) }

    // MARK: Requests

    func requestStarted() { counters.add(.requestsInFlight) }
    func headRefused() { counters.add(.requestHeadErrors) }
    func upstreamRequest() { counters.add(.upstreamRequests) }
    func requestTooSlow() { counters.add(.requestsTooSlow) }
    func retried() { counters.add(.requestRetries) }
    func withoutUpstream() { counters.add(.requestsWithoutUpstream) }

    /// A request moved to a sibling before it was served: the sibling counts it.
    func requestMoved() { counters.subtract(.requestsInFlight) }

    /// The request of `head` is over. What was never sent on counts for no endpoint: clients can name any.
    func requestFinished(_ head: borrowing Head, _ summary: ExchangeSummary, _ endpoint: Endpoint?, _ trace: RequestTrace = RequestTrace()) {
        counters.subtract(.requestsInFlight)
        guard summary.status != 0 else { return }
        let method = MethodLabel(rawValue: head.method.rawValue) ?? .other
        counters.request(status: summary.status, method: method, latency: loop.now - summary.started)
        counters.observe(.requestBytes, summary.requestBodyBytes)
        counters.observe(.responseBytes, summary.responseBodyBytes)
        if let firstByte = summary.firstByte {
            counters.observe(.timeToFirstByte, firstByte - summary.started)
            if trace.isKnown, loop.now >= nextExemplar { note(trace, firstByte - summary.started) }
        }
        if summary.status == 504 { counters.add(.requestTimeouts) }
        if summary.wasUpgraded { counters.add(.upgrades) }
        // One that became a byte stream is a connection, and no request that took so long.
        if let endpoint, let traffic = traffic?.endpoints, summary.attempts > 0, summary.status != 101 {
            let place = place(of: endpoint, traffic)
            traffic.add(place, .status(summary.status))
            traffic.add(place, .nanoseconds, (loop.now - summary.started).clampedNanoseconds)
            traffic.add(place, .bytesIn, summary.requestBodyBytes)
            traffic.add(place, .bytesOut, summary.responseBodyBytes)
        }
        if summary.wasUpgraded { streamEnded(endpoint, received: summary.requestBodyBytes, sent: summary.responseBodyBytes) }
    }

    /// A request that may stand for those that took as long. A few a second will do.
    private func note(_ trace: RequestTrace, _ time: Duration) {
        nextExemplar = loop.now + .milliseconds(100)
        exemplars.note(
            Exemplar(high: trace.high, low: trace.low, nanoseconds: time.clampedNanoseconds, at: SystemClock.unixNanoseconds))
    }

    /// Where the endpoint is counted.
    private func place(of endpoint: Endpoint, _ traffic: TrafficRegion) -> TrafficPlace {
        let seconds = loop.now.nanoseconds / 1_000_000_000
        if let known = endpoint.traffic, traffic.isGood(known, now: seconds) {
            traffic.touch(known, now: seconds)
            return known
        }
        let name = endpoint.bytes
        let found = traffic.place(of: name.span, now: seconds)
        endpoint.traffic = found
        return found
    }

    func upstreamError() { counters.add(.requestUpstreamErrors) }

    /// A raw connection ended.
    func streamEnded(_ endpoint: Endpoint?, received: UInt64, sent: UInt64) {
        counters.add(.streamBytesReceived, received)
        counters.add(.streamBytesSent, sent)
        guard let endpoint, let traffic = traffic?.endpoints else { return }
        let place = place(of: endpoint, traffic)
        traffic.add(place, .connections)
        traffic.add(place, .bytesIn, received)
        traffic.add(place, .bytesOut, sent)
    }

    // MARK: Metrics

    /// Adds a part of the node's metrics; false when there is no such part. In one go they would hold up the loop.
    func renderMetrics(part: Int, of entries: inout [TrafficEntry], into text: inout ByteBuffer) -> Bool {
        if part == 0 {
            publishLoop()
            MetricsText.render(region.read(), version: BuildInfo.version, nodeStart: nodeStart, into: &text)
            return true
        }
        guard let traffic else { return false }
        if part == 1 {
            entries = traffic.endpoints.read()
            return true
        }
        var metrics = MetricsWriter()
        guard MetricsText.render(piece: part - 2, entries, traffic.nodes, into: &metrics) else { return false }
        text.append(metrics.text.span)
        return true
    }

    /// Copies the loop's counters into the slab; done now and then.
    func publishLoop() {
        let loop = loop.counters
        counters.setLoop(
            turns: loop.turns, events: loop.events, systemCalls: loop.systemCalls, staleCompletions: loop.staleCompletions,
            bufferShortages: loop.receiveBufferShortages, handlesOpen: loop.handlesOpen,
            handlesLingering: loop.handlesLingering, outputBytes: loop.outputBytes, outputChunks: loop.outputChunks,
            pumpBytesCopied: loop.pumpBytesCopied, pumpBytesSpliced: loop.pumpBytesSpliced,
            pipeShortages: loop.pipeShortages, pumps: loop.pumps, pipes: loop.pipes)
        counters.set(.loopTurn, self.loop.turnTimes.counts)
    }
}

/// Why a worker can't take its place.
enum WorkerSetupError: Error {
    /// There is no counter slab of that number.
    case noSlab
}

/// Lines to the process's stderr, which is shared with siblings and never waited for.
final class StandardErrorSink: LogSink {
    override func write(_ line: Span<UInt8>) -> Bool { InheritedOutput.writeReady(descriptor: 2, bytes: line) }

    /// Whether a person reads along.
    static var isTerminal: Bool { isatty(2) == 1 }
}

/// The same, with the lines of a turn in as few writes as they fit into: each is a system call, and the lines of a busy worker are many. A
/// write is never longer than what a pipe takes whole, so that lines of siblings do not get in between.
final class TurnSink: LogSink {
    private let loop: Loop
    private var waiting = ByteBuffer()
    private var lines: UInt64 = 0
    private var task: TurnFlush?
    /// Told of lines that had to be dropped.
    var dropped: (UInt64) -> Void = { _ in }

    /// PIPE_BUF (pipe(7)), which a line is never longer than.
    private static let bytesMax = 4_096

    init(_ loop: Loop) {
        self.loop = loop
        super.init()
        task = TurnFlush(self)
    }

    override func write(_ line: Span<UInt8>) -> Bool {
        if waiting.count + line.count > Self.bytesMax { flush() }
        waiting.append(line)
        lines += 1
        if let task { loop.afterTurn(task) }
        return true
    }

    /// Writes what waits.
    func flush() {
        guard lines > 0 else { return }
        if !InheritedOutput.writeReady(descriptor: 2, bytes: waiting.span) { dropped(lines) }
        waiting.removeAll()
        lines = 0
    }
}

/// Writes a turn's lines at its end.
private final class TurnFlush: AfterTurn {
    private unowned let sink: TurnSink

    init(_ sink: TurnSink) { self.sink = sink }

    override func run() { sink.flush() }
}

extension PortLabel {
    init(_ listener: ListenerKind) {
        switch listener {
        case .proxy: self = .proxy
        case .upstream: self = .upstream
        case .admin: self = .admin
        }
    }
}
