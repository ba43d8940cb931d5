// What all HTTP connections of one port share: the loop, the settings, a scratch buffer.

internal import Base
internal import Memory
public import Reactor
public import Wire

/// Limits and behaviour of HTTP connections, fixed for the life of a configuration. A duration of zero means no limit.
public struct HTTPSettings: Sendable {
    /// Sizes of request and response heads.
    public var headLimits = HeadLimits()
    /// From the first byte of a request's head to its last; for the first request also from the connection's start.
    public var headTimeout: Duration = .seconds(10)
    /// Between two requests of a connection.
    public var idleTimeout: Duration = .seconds(300)
    /// From the request's last progress to the response's head.
    public var responseTimeout: Duration = .seconds(30)
    /// The longest a request's body may stand still while we wait for it.
    public var readTimeout: Duration = .seconds(60)
    /// The bytes a second that a request's body has to bring, counted over stretches of `readTimeout`; zero: one byte in each will do.
    public var bodyRateMin = 0
    /// The longest that a client may take nothing of what waits for it.
    public var writeTimeout: Duration = .seconds(60)
    /// The most of a request's body that is read and dropped to keep a connection after an early answer.
    public var drainBytesMax = 262_144
    /// The most that is kept of what comes behind a head that is not yet served (body, pipelined requests).
    public var pipelineBytesMax = 65_536
    /// Attempts for one request, the first one included.
    public var attemptsMax = 3
    /// Whether forwarded requests say `x-piko-forward: true` (the server does, the agent leaves what it got).
    public var marksForwarded = true
    /// Whether `x-piko-authorization` and `x-piko-endpoint` go on to the service.
    public var keepsAuthorization = false
    public var keepsEndpoint = false
    /// The least of a body that is left to a pump between two sockets.
    public var pumpBytesMin: UInt64 = 65_536
    /// The most of a request's body that is kept while another process or node of ours may still say that it does not serve it.
    public var replayBytesMax = 65_536
    /// Whether requests that do not say what they are known by get a `traceparent` and an `x-request-id`.
    public var makesTraces = false
    /// Put in front of the path of every forwarded request; no slash at its end.
    public var targetPrefix: [UInt8] = []

    public init() {}
}

/// For whom a request is written.
public enum Passage: Equatable, Sendable {
    /// The service, or what leads to it.
    case service
    /// The same, but the client's address stands in the request already: another node of ours wrote it.
    case serviceAfterNode
    /// Another process of this node, which serves the request in our place: what only we may read goes along, and field lines.
    /// `saysContinue`: of a long body it says when it may come.
    case sibling(saysContinue: Bool, fields: [UInt8] = [])
    /// Another node of ours, with field lines that say so.
    case node([UInt8])

    var isSibling: Bool { if case .sibling = self { true } else { false } }

    /// Whether whoever gets it says when a long body may come: none of it is sent before, so that it can still go elsewhere.
    var holdsLongBodies: Bool {
        switch self {
        case .sibling(let saysContinue, _): saysContinue
        case .node: true
        case .service, .serviceAfterNode: false
        }
    }

    /// Whether whoever gets it may say that it was not tried.
    var mayBeDeclined: Bool {
        switch self {
        case .sibling, .node: true
        case .service, .serviceAfterNode: false
        }
    }
}

/// Shared by the HTTP connections of one loop.
public final class HTTPContext {
    public let loop: Loop
    public var settings: HTTPSettings
    /// Whether each response is the last of its connection: clients should go elsewhere.
    public var endsConnections = false
    /// For what requests are known by.
    public var traceNumbers: TraceNumbers
    /// Heads are written here before they go to a channel. Empty between uses.
    var scratch = ByteBuffer()
    private var pumpStart: PumpStart?

    public init(_ loop: Loop, settings: HTTPSettings, traceNumbers: TraceNumbers = TraceNumbers()) {
        self.loop = loop
        self.settings = settings
        self.traceNumbers = traceNumbers
    }

    /// Calls the connection's `startPumps` at the end of the turn: what was received in this turn has gone through us then,
    /// and all that follows may go by itself.
    func pumpSoon(_ connection: HTTPConnection) {
        let task = pumpStart ?? PumpStart()
        pumpStart = task
        task.connections.append(connection)
        loop.afterTurn(task)
    }

    /// Writes what is in `scratch` to the channel and empties it.
    func flush(to channel: Channel) {
        channel.write(scratch.span)
        scratch.removeAll()
    }
}

/// The connections whose bodies go over to pumps at the end of the turn.
private final class PumpStart: AfterTurn {
    var connections: [HTTPConnection] = []

    override func run() {
        for connection in connections { connection.startPumps() }
        connections.removeAll(keepingCapacity: true)
    }
}
