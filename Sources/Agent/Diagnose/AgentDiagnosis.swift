// `piko agent diagnose`: the way that the agent would go, step by step, and for each listener its service.
//
// The tunnel that an upgrade gives registers the endpoint at the server, so go-away is said on it at once, with a ping behind it whose
// answer says that the server has heard. Requests that came before are refused on their streams.

internal import Base
internal import Config
internal import Crypto
internal import Reactor
internal import Telemetry
internal import Transport
internal import Wire

/// A diagnosis of one configuration.
final class AgentDiagnosis {
    private let config: AgentConfig
    private let environment: ProxyEnvironment
    private let registers: Bool
    private let probe: Probe
    private let context: ProgramContext
    private var report = Diagnosis()
    /// Where connections to the server begin, once it is found: the server's own addresses, or the proxy's.
    private var addresses: [SocketAddress] = []
    private var tunnel: ProxyTunnel?
    private var secure: TLSTarget?
    /// The server that is looked at, and what goes in front of the names of its steps when there are several.
    private var url: ServerURL
    private var prefix = ""
    private var token = ""
    /// Whether the clocks were compared.
    private var hasClock = false

    init(_ config: AgentConfig, environment: ProxyEnvironment, registers: Bool) throws(ProgramError) {
        self.config = config
        url = config.connect.url
        self.environment = environment
        self.registers = registers
        context = try ProgramContext(backend: config.ioBackend, log: config.log)
        // Nobody waits half a minute for each step.
        probe = Probe(context: context, limit: min(config.connect.timeout, .seconds(10)))
    }

    /// Does what the invocation asks for: what to print, and the exit status.
    static func run(
        _ invocation: Invocation, variables: [String: String]
    ) throws(ProgramError) -> (text: String, status: Int32) {
        let format: Diagnosis.Format
        var report = Diagnosis()
        do {
            format = Diagnosis.Format(rawValue: try invocation.diagnosisOutput()) ?? .table
        } catch {
            throw ProgramError("\(error)")
        }
        do {
            let config = try AgentConfig(invocation, environment: variables, read: FileContents.read)
            let diagnosis = try AgentDiagnosis(
                config, environment: ProxyEnvironment(variables), registers: !invocation.isWithoutRegistration)
            report = diagnosis.run()
        } catch {
            report.add("configuration", .fail, "\(error)")
        }
        return (report.text(format), report.isGood ? 0 : 1)
    }

    /// Goes through all steps.
    func run() -> Diagnosis {
        let endpoints = config.listeners.map(\.endpointID)
        let servers = config.connect.servers
        let names = servers.map(\.settingText).joined(separator: ", ")
        let redundancy = servers.count > 1 ? " (\(config.connect.redundancy) at once)" : ""
        report.add("configuration", .ok, "\(names)\(redundancy), listeners: \(endpoints.joined(separator: ", "))")
        report.add("io backend", .ok, context.loop.backendDescription)
        let credentials: AgentCredentials
        do throws(ConfigError) {
            credentials = try AgentCredentials(reading: config, environment: environment)
        } catch {
            report.add("files", .fail, error.description)
            return report
        }
        let isTokenThere = lookAtToken()
        for (url, route) in zip(servers, credentials.routes) {
            self.url = url
            prefix = servers.count > 1 ? "\(servers.count { $0.authority == url.authority } > 1 ? url.settingText : url.authority): " : ""
            tunnel = nil
            secure = context.target(url.isSecure ? credentials.server : nil, host: url.host)
            lookAtServer(route, isTokenThere: isTokenThere)
        }
        if !hasClock { report.add("clock", .note, "unknown: the server did not say what time it has") }
        for (listener, context) in zip(config.listeners, credentials.services) { lookAtService(listener, context) }
        return report
    }

    private func lookAtServer(_ route: ProxyRoute, isTokenThere: Bool) {
        var connection = reachServer(route)
        if connection == nil || !isTokenThere || !registers {
            if let (channel, _) = connection { probe.close(channel) }
            let why = !registers && connection != nil ? "--no-register" : "the server was not reached, or the token not read"
            for listener in config.listeners { skip(tunnelSteps(listener), why) }
        } else {
            for listener in config.listeners {
                register(listener, connection ?? reachAgain())
                connection = nil
            }
        }
    }

    private func skip(_ names: [String], _ why: String) {
        for name in names { report.add(name, .skipped, why) }
    }

    private func add<Value>(_ name: String, _ work: () -> (Value, Diagnosis.Verdict, String, String)) -> Value {
        let started = SystemClock.now
        let (value, verdict, found, hint) = work()
        report.add(name, verdict, found, hint: hint, time: SystemClock.now - started)
        return value
    }

    // MARK: The token

    private func lookAtToken() -> Bool {
        do throws(ConfigError) {
            token = try config.connect.token.read()
        } catch {
            report.add("token", .fail, error.description, hint: "write the token into the file, readable for the agent's user")
            return false
        }
        let checks = TokenReport.checks(
            token, endpoints: config.listeners.map(\.endpointID), now: SystemClock.unixNanoseconds / 1_000_000_000)
        for check in checks { report.add(check) }
        return true
    }

    // MARK: The server

    /// A connection to the server, with TLS where its URL wants it, and what came with a proxy's answer.
    private func reachServer(_ route: ProxyRoute) -> (Channel, [UInt8])? {
        let target = Dialer(loop: context.loop, resolver: context.resolver, host: url.host, port: url.port).target
        var rest = (["DNS", "TCP"] + (secure == nil ? [] : ["TLS"])).map { prefix + $0 }
        do throws(ConfigError) {
            if let proxy = try route.proxy() {
                tunnel = ProxyTunnel(proxy: proxy, target: target)
                rest.insert(prefix + "CONNECT", at: 2)
                report.add(prefix + "proxy", .ok, "\(proxy.proxy.authority) (\(proxy.source)); it looks the server's name up")
            } else {
                report.add(prefix + "proxy", .ok, "none: \(target) is reached directly")
            }
        } catch {
            report.add(prefix + "proxy", .fail, error.description)
            skip(rest, "the proxy is not known")
            return nil
        }
        let failed = "a step before failed"
        rest.removeFirst()
        guard let found = lookUp(prefix + "DNS", tunnel?.proxy.proxy.host ?? url.host, tunnel?.proxy.proxy.port ?? url.port) else {
            skip(rest, failed)
            return nil
        }
        addresses = found
        rest.removeFirst()
        guard let stream = connect(prefix + "TCP", found) else {
            skip(rest, failed)
            return nil
        }
        var early: [UInt8] = []
        if let tunnel {
            rest.removeFirst()
            guard let came = ask(tunnel, over: stream) else {
                skip(rest, failed)
                return nil
            }
            early = came
        }
        guard let secure else { return (stream, early) }
        return handshake(prefix + "TLS", stream, secure, early).map { ($0, []) }
    }

    /// The same again, for a further listener.
    private func reachAgain() -> (Channel, [UInt8])? {
        guard let stream = probe.connect(addresses).1 else { return nil }
        var early: [UInt8] = []
        if let tunnel {
            guard case .success(let came) = probe.tunnel(tunnel, over: stream) else { return nil }
            early = came
        }
        guard let secure else { return (stream, early) }
        return probe.secure(stream, secure).channel.map { ($0, []) }
    }

    private func lookUp(_ name: String, _ host: String, _ port: UInt16) -> [SocketAddress]? {
        add(name) {
            switch probe.resolve(host, port) {
            case .success(let found): (found, .ok, "\(host): \(found.map(\.host).joined(separator: ", "))", "")
            case .failure(let error): (nil, .fail, error.description, "")
            }
        }
    }

    private func connect(_ name: String, _ addresses: [SocketAddress]) -> Stream? {
        add(name) {
            let (attempts, stream) = probe.connect(addresses)
            let lines = attempts.map { attempt in
                "\(attempt.address): " + (attempt.failure?.description ?? "connected in \(Diagnosis.milliseconds(attempt.time)) ms")
            }
            // The others are there for when the first one is not.
            let isFirst = attempts.first?.failure == nil
            return (stream, stream == nil ? .fail : isFirst ? .ok : .note, lines.joined(separator: "\n"), "")
        }
    }

    private func ask(_ tunnel: ProxyTunnel, over stream: Stream) -> [UInt8]? {
        add(prefix + "CONNECT") {
            switch probe.tunnel(tunnel, over: stream) {
            case .success(let early): (early, .ok, "the proxy connected to \(tunnel.target)", "")
            case .failure(let error): (nil, .fail, error.description, "")
            }
        }
    }

    private func handshake(_ name: String, _ stream: Stream, _ target: TLSTarget, _ early: [UInt8] = []) -> TLSChannel? {
        guard early.isEmpty else {
            stream.closeNow()
            report.add(name, .fail, "what came through the proxy is not TLS")
            return nil
        }
        return add(name) {
            let result = probe.secure(stream, target)
            let (lines, verdict, hint) = Self.chain(result.chain, now: Int64(SystemClock.unixNanoseconds / 1_000_000_000))
            guard let channel = result.channel else {
                return (nil, .fail, ([result.failure] + lines).joined(separator: "\n"), "")
            }
            // What the handshake accepts is not for this to refuse: insecure_skip_verify takes everything.
            let text = ["\(result.version), \(result.cipher)"] + lines
            return (channel, verdict == .ok ? .ok : .warn, text.joined(separator: "\n"), hint)
        }
    }

    /// The certificates that were shown, the server's own first, in lines.
    static func chain(_ chain: [CertificateFacts], now: Int64) -> (lines: [String], verdict: Diagnosis.Verdict, hint: String) {
        var worst = (Diagnosis.Verdict.ok, "")
        let lines = chain.map { certificate in
            let (text, verdict, hint) = Diagnosis.validity(notBefore: certificate.notBefore, notAfter: certificate.notAfter, now: now)
            if verdict != .ok, worst.0 != .fail { worst = (verdict, hint) }
            let names = certificate.names.isEmpty ? "" : " for \(certificate.names)"
            return "\(certificate.subject)\(names), signed by \(certificate.issuer), \(text)"
        }
        return (lines, worst.0, worst.1)
    }

    // MARK: A listener

    private func tunnelSteps(_ listener: ListenerConfig) -> [String] {
        ["upgrade", "transport", "session"].map { "\(prefix)\(listener.endpointID): \($0)" }
    }

    private func register(_ listener: ListenerConfig, _ connection: (Channel, [UInt8])?) {
        let names = tunnelSteps(listener)
        guard let (channel, early) = connection else {
            report.add(names[0], .fail, "the server can't be reached any more")
            return skip(Array(names.dropFirst()), "there is no tunnel")
        }
        let upgraded = add(names[0]) { upgrade(listener, channel, early) }
        guard let upgraded else { return skip(Array(names.dropFirst()), "there is no tunnel") }
        judge(upgraded, names[1])
        guard case .webSocket(let carrier) = upgraded.carrier else { return }
        let started = SystemClock.now
        let (time, refused) = probe.leave(carrier)
        let more = refused == 0 ? "" : "; \(refused) requests came meanwhile and were refused"
        if let time {
            report.add(names[2], .ok, "the server answered a ping in \(Diagnosis.milliseconds(time)) ms; the tunnel is closed\(more)", time: time)
        } else {
            report.add(
                names[2], .fail, "the server did not answer a ping on the session: timed out\(more)",
                hint: "something on the way lets the upgrade through and not what follows it: a proxy that buffers, or knows no WebSocket",
                time: SystemClock.now - started)
        }
    }

    private func upgrade(
        _ listener: ListenerConfig, _ channel: Channel, _ early: [UInt8]
    ) -> (Upgraded?, Diagnosis.Verdict, String, String) {
        var request = UpgradeRequest(
            target: "\(url.pathPrefix)/piko/v1/upstream/\(listener.endpointID)", host: url.authority, webSocket: true)
        if config.connect.transport != .mux { request.fields.append("x-piko-transport: \(Direct.transport)") }
        if !config.connect.token.tenantID.isEmpty { request.fields.append("x-piko-tenant-id: \(config.connect.token.tenantID)") }
        if !token.isEmpty { request.fields.append("Authorization: Bearer \(token)") }
        channel.setNoDelay()
        let (answer, date) = probe.upgrade(channel, early: early, request)
        if let date { compareClocks(date) }
        switch answer {
        case .success(let upgraded): return (upgraded, .ok, "the server took the tunnel", "")
        case .failure(let failure): return (nil, .fail, failure.text, "")
        }
    }

    private func compareClocks(_ date: Int64) {
        guard !hasClock else { return }
        hasClock = true
        // The server's has no fractions.
        let difference = Int64(SystemClock.unixNanoseconds / 1_000_000_000) - date
        let isClose = (-2...3).contains(difference)
        let words = difference < 0 ? "\(-difference) s behind" : "\(difference) s ahead of"
        report.add(
            "clock", isClose ? .ok : .warn, isClose ? "as the server's" : "\(words) the server's",
            hint: isClose ? "" : "set both clocks by NTP: times of tokens and certificates are judged by them")
    }

    private func judge(_ upgraded: Upgraded, _ name: String) {
        let isOffered = upgraded.pool != nil && upgraded.credential != nil
        switch (config.connect.transport, isOffered) {
        case (.mux, _): report.add(name, .ok, "mux: connect.transport says so")
        case (_, true):
            let most = upgraded.pool.map { ": at most \($0.connectionsMax) connections beside the session, \($0.idleMax) of them idle" }
            report.add(name, .ok, "direct\(most ?? "")")
        case (.direct, false): report.add(name, .fail, "the server does not offer the direct transport")
        case (.auto, false):
            report.add(
                name, .note,
                "mux: the server does not offer direct (upstream.direct.enabled is false there, it is another version, or a proxy drops X-Piko-Transport)")
        }
    }

    // MARK: A service

    private func lookAtService(_ listener: ListenerConfig, _ credentials: TLSContext?) {
        let name = "\(listener.endpointID): service"
        let address = listener.address
        let isHTTP = listener.protocol == .http
        let rest = (credentials == nil ? [] : ["\(name) TLS"]) + (isHTTP ? ["\(name) HTTP"] : [])
        let found: [SocketAddress]
        switch probe.resolve(address.host, address.port) {
        case .success(let addresses): found = addresses
        case .failure(let error):
            report.add(name, .fail, error.description)
            return skip(rest, "its name is not known")
        }
        guard let stream = connect(name, found) else { return skip(rest, "it can't be reached") }
        var channel: Channel = stream
        if let target = context.target(credentials, host: address.host) {
            guard let secured = handshake("\(name) TLS", stream, target) else {
                return skip(isHTTP ? ["\(name) HTTP"] : [], "there is no TLS connection")
            }
            channel = secured
        }
        guard isHTTP else { return probe.close(channel) }
        let path = address.pathPrefix + "/"
        add("\(name) HTTP") {
            let (status, failure) = probe.head(channel, host: address.authority, path: path)
            guard let status else { return ((), .fail, failure, "is this the port of an HTTP service? For others use a tcp listener") }
            let isGood = status < 500
            return ((), isGood ? .ok : .warn, "HEAD \(path): status \(status)", isGood ? "" : "the service itself says that it has a fault")
        }
    }
}
