// `piko test cluster`: several servers on this machine as child processes, and one address in front of them. For trying things
// out: a node that is killed is left dead, and the others go on.
internal import Base
internal import Config
internal import Glibc
internal import Memory
internal import Reactor
internal import Telemetry

/// The nodes, and what passes connections to them.
final class TestCluster {
    /// One node.
    final class Member {
        let name: String
        let controlSocket: String
        fileprivate(set) var child: ChildProcess?
        /// Where its ports are, once it serves.
        fileprivate(set) var addresses: [String: SocketAddress] = [:]

        fileprivate init(name: String, folder: String) {
            self.name = name
            controlSocket = "\(folder)/\(name).sock"
        }
    }

    private let loop: Loop
    private let config: TestClusterConfig
    private let passed: [FlagValue]
    private let program: String
    private let folder: String
    private var members: [Member] = []
    private var balancers: [PortBalancer] = []
    private var inquiry: MemberInquiry?
    private var isEnding = false
    private var status: Int32 = 0

    /// Runs until all nodes have ended.
    static func run(_ invocation: Invocation) throws(CommandFailure) -> String {
        // A file is the nodes', not this command's.
        var own = invocation
        own.flags.removeAll { $0.name.hasPrefix("config.") }
        let config = try ConfigurationFile.load(TestClusterConfig.self, own, environment: [:])
        guard let program = ProgramEnvironment.siblingPath("piko") else {
            throw CommandFailure("piko test cluster: can't find out where it runs from (is /proc mounted?)")
        }
        do throws(SystemError) {
            let cluster = try TestCluster(config, invocation.flags.filter { $0.name.hasPrefix("config.") }, program)
            try cluster.run()
            if cluster.status != 0 { throw SystemError(code: ECHILD, call: "a node could not start; its messages say why") }
            return ""
        } catch {
            throw CommandFailure("piko test cluster: \(error)")
        }
    }

    private init(_ config: TestClusterConfig, _ passed: [FlagValue], _ program: String) throws(SystemError) {
        self.config = config
        self.passed = passed
        self.program = program
        loop = try Loop(backend: .auto)
        folder = "/tmp/piko-test-cluster-\(System.processIdentifier)"
        try FileContents.makePrivateDirectory(folder)
    }

    private func run() throws(SystemError) {
        defer { FileContents.removeDirectory(folder) }
        SignalSource.ignorePipeSignal()
        System.raiseDescriptorLimit()
        let signals = try SignalSource(loop, signals: [SIGINT, SIGTERM, SIGHUP]) { [unowned self] in signal($0) }
        defer { signals.close() }
        for (name, address) in [("proxy", config.proxy), ("upstream", config.upstream), ("admin", config.admin)] {
            balancers.append(try PortBalancer(loop, address) { [unowned self] in targets(name) })
        }
        try start(1, join: nil)
        loop.run()
        for balancer in balancers { balancer.close() }
    }

    /// The port of the nodes that live.
    private func targets(_ port: String) -> [SocketAddress] {
        members.filter { $0.child != nil }.compactMap { $0.addresses[port] }
    }

    // MARK: Nodes

    private func start(_ number: Int, join: SocketAddress?) throws(SystemError) {
        let member = Member(name: "node-\(number)", folder: folder)
        members.append(member)
        var words = ["piko", "server"] + passed.map { "--\($0.name)=\($0.value)" }
        for port in ["proxy", "upstream", "admin", "cluster.gossip"] { words += ["--\(port).bind-addr", "127.0.0.1:0"] }
        words += [
            "--cluster.node-id", member.name, "--server.control-socket", member.controlSocket, "--log.level",
            config.log.level.rawValue,
        ]
        if !config.log.subsystems.isEmpty { words += ["--log.subsystems", config.log.subsystems.joined(separator: ",")] }
        words += ["--cluster.join", join?.description ?? ""]
        var description = ProcessDescription(path: program, arguments: words, environment: ProgramEnvironment.strings)
        description.diesWithParent = true
        member.child = try ChildProcess.spawn(loop, description) { [unowned self] status in ended(member, status) }
        ask(member)
    }

    /// Waits until the node serves; then the next one is started.
    private func ask(_ member: Member) {
        inquiry = MemberInquiry(loop, path: member.controlSocket) { [unowned self] addresses in
            inquiry = nil
            member.addresses = addresses
            if members.count < config.nodes, !isEnding {
                do throws(SystemError) {
                    try start(members.count + 1, join: members.first?.addresses["gossip"])
                } catch {
                    Output.complain("piko test cluster: \(error)\n")
                    end(1)
                }
            } else if members.count == config.nodes {
                let ports = ["clients", "agents", "admin"]
                let texts = zip(ports, balancers).map { "\($0) at \($1.address?.description ?? "?")" }
                _ = Output.print("\(config.nodes) nodes serve: " + texts.joined(separator: ", ") + "\n")
            }
        }
    }

    private func ended(_ member: Member, _ how: ExitStatus) {
        member.child = nil
        FileContents.remove(member.controlSocket)
        if !isEnding {
            Output.complain("piko test cluster: \(member.name) ended: \(how)\n")
            // One that never served: something is wrong that the others have, too.
            if member.addresses.isEmpty { end(1) }
        }
        if members.allSatisfy({ $0.child == nil }) { loop.stop() }
    }

    // MARK: Signals

    private func signal(_ number: Int32) {
        switch number {
        case SIGHUP: for member in members { member.child?.signal(SIGHUP) }
        default: end(status)
        }
    }

    private func end(_ status: Int32) {
        self.status = status
        inquiry?.cancel()
        inquiry = nil
        // A second signal is for those in a hurry; a node understands it so, too.
        isEnding = true
        for member in members { member.child?.signal(SIGTERM) }
        if members.allSatisfy({ $0.child == nil }) { loop.stop() }
    }
}

/// Asks a node on its control socket until it serves.
private final class MemberInquiry: ChannelDelegate {
    private let loop: Loop
    private let path: String
    private var done: (([String: SocketAddress]) -> Void)?
    private var stream: Stream?
    private var input = ByteBuffer()
    private var timer: CallbackTimer?

    private static let every = Duration.milliseconds(50)

    init(_ loop: Loop, path: String, done: @escaping ([String: SocketAddress]) -> Void) {
        self.loop = loop
        self.path = path
        self.done = done
        super.init()
        timer = CallbackTimer(loop) { [unowned self] in ask() }
        timer?.schedule(after: Self.every)
    }

    func cancel() {
        done = nil
        timer?.cancel()
        stream?.closeNow()
    }

    private func ask() {
        guard done != nil else { return }
        input.removeAll()
        guard let stream = try? Stream(loop, connectToUnix: path) else { return again() }
        self.stream = stream
        stream.delegate = self
        stream.write(Array("{\"command\":\"info\"}\n".utf8).span)
        stream.resumeReading()
    }

    private func again() {
        stream?.closeNow()
        stream = nil
        timer?.schedule(after: Self.every)
    }

    override func channel(_ channel: Channel, received bytes: inout MutableSpan<UInt8>) {
        input.append(bytes.span)
        guard input.span[input.count - 1] == UInt8(ascii: "\n") else { return }
        guard let info = try? JSONValue.parse(input.span), info["state"]?.string == "serving" else { return again() }
        var addresses: [String: SocketAddress] = [:]
        for listener in info["listeners"]?.array ?? [] {
            if let name = listener["name"]?.string, let text = listener["address"]?.string {
                addresses[name] = SocketAddress(text: text)
            }
        }
        let told = done
        cancel()
        told?(addresses)
    }

    override func channelEnded(_ channel: Channel) { again() }
    override func channelFailed(_ channel: Channel, error: ChannelError) { again() }
}
