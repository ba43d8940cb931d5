// `piko bench http`: upstreams and clients in this one process, with a server between them, and what came of it. It measures the
// whole, its own share included; where the clients or upstreams should not count, use a load generator of its own.

internal import Base
internal import Config
internal import Reactor
internal import Telemetry
internal import Wire

/// A running benchmark.
final class BenchProgram {
    let loop: Loop
    /// The server's proxy port.
    private(set) var address: SocketAddress
    /// A request's body, and how long an answer may take.
    let body: [UInt8]
    let requestTimeout = Duration.seconds(30)

    private let context: ProgramContext
    private let config: BenchConfig
    private var listeners: [TunnelListener] = []
    private var clients: [BenchClient] = []
    private var waiting: [BenchClient] = []
    private var poll: CallbackTimer?
    private var heads: [[UInt8]] = []
    private var sent = 0
    private var running = 0
    private var latencies = LatencyHistogram()
    private var statuses: [Int: Int] = [:]
    private var failures: [BenchFailure: Int] = [:]
    private var began = Instant(nanoseconds: 0)
    private var took: Duration = .zero
    private var gaveUp: String?
    private let print: (String) -> Void

    /// How often it is looked whether all upstreams are connected, or a client that failed tries again.
    private static let pollEvery = Duration.milliseconds(20)

    init(_ config: BenchConfig, print: @escaping (String) -> Void) throws(ProgramError) {
        self.config = config
        self.print = print
        var log = config.log
        // A line for each upstream is not what this is for.
        if log.level == .info { log.level = .error }
        context = try ProgramContext(backend: config.ioBackend, log: log)
        loop = context.loop
        body = [UInt8](repeating: UInt8(ascii: "x"), count: config.size)
        address = try Self.resolve(config.connect.proxyURL)
        try context.watchSignals { [unowned self] _ in self.finish("interrupted") }
        let connector = ServerConnector(
            loop: loop, resolver: context.resolver, url: config.connect.upstreamURL, timeout: config.connect.timeout)
        let run = String(Random.number(), radix: 36)
        let names = (0..<config.endpoints).map { "bench-\(run)-\($0)" }
        for index in 0..<config.upstreams {
            listeners.append(
                TunnelListener(
                    endpoint: names[index % names.count], loop: loop, connector: connector, service: BenchUpstream(),
                    logger: context.logger, transport: config.connect.transport, finished: {}))
        }
        let url = config.connect.proxyURL
        heads = names.map { name in
            let head = "POST \(url.pathPrefix)/bench HTTP/1.1\r\nHost: \(url.authority)\r\nx-piko-endpoint: \(name)\r\n"
            return Array("\(head)Content-Length: \(config.size)\r\n\r\n".utf8)
        }
        poll = CallbackTimer(loop) { [unowned self] in self.polled() }
    }

    private static func resolve(_ url: ServerURL) throws(ProgramError) -> SocketAddress {
        let host = url.host == "localhost" ? "127.0.0.1" : url.host
        guard let address = SocketAddress(address: host, port: url.port) else {
            throw ProgramError("config: connect.proxy_url: the benchmark needs an IP address or localhost, not \(url.host)")
        }
        return address
    }

    /// Runs to the last request; the exit status.
    func run() -> Int32 {
        began = loop.now
        for listener in listeners { listener.start() }
        poll?.schedule(after: Self.pollEvery)
        let status = context.run()
        report()
        return gaveUp != nil || failures.values.contains { $0 > 0 } || statuses.contains { $0.key != 200 } ? 1 : status
    }

    private func polled() {
        if clients.isEmpty {
            guard listeners.allSatisfy(\.isConnected) else {
                if loop.now - began > config.connect.timeout {
                    let count = listeners.count { !$0.isConnected }
                    finish("\(count) of \(listeners.count) upstreams could not connect within \(GoDuration.format(config.connect.timeout))")
                } else {
                    poll?.schedule(after: Self.pollEvery)
                }
                return
            }
            startClients()
        }
        let again = waiting
        waiting = []
        for client in again { client.next() }
        if running > 0 { poll?.schedule(after: Self.pollEvery) }
    }

    private func startClients() {
        running = config.clients
        began = SystemClock.now
        clients = (0..<config.clients).map { _ in BenchClient(self) }
        waiting = clients
    }

    // MARK: From the clients

    /// The next request's head; nil: all were sent.
    func nextRequest() -> [UInt8]? {
        guard sent < config.requests, gaveUp == nil else { return nil }
        sent += 1
        return heads[sent % heads.count]
    }

    func requestAnswered(status: Int, latency: Duration) {
        latencies.add(latency)
        statuses[status, default: 0] += 1
    }

    func requestFailed(_ failure: BenchFailure) { failures[failure, default: 0] += 1 }

    /// A client whose connection broke goes on in a moment.
    func later(_ client: BenchClient) { waiting.append(client) }

    func clientEnded() {
        running -= 1
        if running == 0 { finish(nil) }
    }

    private func finish(_ reason: String?) {
        took = SystemClock.now - began
        gaveUp = reason
        poll?.cancel()
        for listener in listeners { listener.abandon() }
        context.end(0, lingerMax: .zero)
    }

    // MARK: The result

    private func report() {
        if let gaveUp { print("bench: \(gaveUp)\n") }
        let seconds = Double(took.components.seconds) + Double(took.components.attoseconds) / 1e18
        guard latencies.count > 0, seconds > 0 else { return }
        let rate = Double(latencies.count) / seconds
        var lines = [
            "Requests:   \(latencies.count) in \(Self.rounded(seconds)) s (\(config.clients) clients, \(config.endpoints) endpoints, "
                + "\(config.upstreams) upstreams, \(config.size) bytes each)",
            "Throughput: \(Int(rate)) requests/sec, \(Self.rounded(rate * Double(config.size) / 1e6)) MB/sec",
            "Latency:    "
                + [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)].map { "\($0.0) \(Self.text(latencies.percentile($0.1)))" }
                .joined(separator: "  ") + "  max \(Self.text(latencies.longest))",
        ]
        for (status, count) in statuses.sorted(by: { $0.key < $1.key }) where status != 200 { lines.append("Status \(status): \(count)") }
        for failure in BenchFailure.allCases {
            if let count = failures[failure] { lines.append("Failed:     \(count) (\(failure.rawValue))") }
        }
        print(lines.joined(separator: "\n") + "\n")
    }

    /// With two digits behind the point.
    private static func rounded(_ value: Double) -> String {
        let hundredths = Int((value * 100).rounded())
        let fraction = hundredths % 100
        return "\(hundredths / 100).\(fraction < 10 ? "0" : "")\(fraction)"
    }

    private static func text(_ duration: Duration) -> String {
        rounded(Double(duration.components.seconds) * 1_000 + Double(duration.components.attoseconds) / 1e15) + " ms"
    }
}
