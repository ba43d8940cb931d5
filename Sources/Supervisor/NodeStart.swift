// From a configuration to a running node, in this order: loop, signals, ports, control socket, workers. What fails names
// what was asked for, and nothing is left behind.

import Base
import Config
import Control
import Glibc
import Reactor
import Telemetry

/// Why a node can't start, as a line for people.
struct StartError: Error, CustomStringConvertible {
    var description: String
    init(_ description: String) { self.description = description }
}

/// Starts and runs a node.
enum NodeStart {
    /// Runs until the node ends; the exit status.
    static func run(_ config: ServerConfig, log: Logger) throws(StartError) -> Int32 {
        let room = WorkerRoom(descriptors: System.raiseDescriptorLimit())
        SignalSource.ignorePipeSignal()
        let loop = try makeLoop(config)
        log.info(.server, "starting server") {
            $0.field("version", BuildInfo.version)
            $0.field("pid", Int(System.processIdentifier))
            $0.field("io_backend", loop.backendDescription)
        }
        guard let workerPath = ProgramEnvironment.siblingPath("piko-worker") else {
            throw StartError("cannot find piko-worker: /proc is not mounted")
        }
        var node: Node?
        let signals = try orFail("signals") { () throws(SystemError) in
            try SignalSource(loop, signals: EndSignal.all) { signal in
                log.info(.main, "signal") { $0.field("signal", Int(signal)) }
                if let node { node.handle(.terminate) } else { exit(0) }
            }
        }
        let confinement = try WorkerConfinement(config, log: log)
        let ports = try bind(loop, config)
        let made = try orFail("counters") { () throws(SystemError) in
            try Node(loop, config: config, log: log, ports: ports, workerPath: workerPath, room: room)
        }
        let controlServer = try makeControlServer(loop, config, log: log) { [unowned made] in made.answer($0) }
        made.processes.confinement = confinement
        node = made
        // A process that is pid 1 has everybody's orphans to reap. Not before all children of our own are known.
        let reaper = try orFail("signals") { () throws(SystemError) in
            try OrphanReaper(loop) { pid in log.debug(.main, "reaped an orphan") { $0.field("pid", Int(pid)) } }
        }
        made.start(controlServer)
        loop.run()
        signals.close()
        reaper.close()
        return made.exitCode
    }

    private static func orFail<Value>(
        _ what: String, _ make: () throws(SystemError) -> Value
    ) throws(StartError) -> Value {
        do throws(SystemError) {
            return try make()
        } catch {
            throw StartError("\(what): \(error)")
        }
    }

    /// The supervisor moves no bodies: few and small buffers.
    private static func makeLoop(_ config: ServerConfig) throws(StartError) -> Loop {
        var limits = LoopLimits()
        limits.handlesMax = 4_096
        limits.ringEntries = 256
        limits.receiveBuffers = 16
        limits.receiveBufferBytes = 4_096
        let choice = BackendChoice(rawValue: config.server.ioBackend.rawValue) ?? .auto
        do throws(SystemError) {
            return try Loop(backend: choice, limits: limits)
        } catch {
            throw StartError("config: server.io_backend: cannot use \(choice.rawValue): \(error)")
        }
    }

    private static func bind(_ loop: Loop, _ config: ServerConfig) throws(StartError) -> ListenerTable {
        let ports = ListenerTable(loop)
        do throws(BindError) {
            try ports.bind(.proxy, key: "proxy.bind_addr", address: config.proxy.bindAddress)
            try ports.bind(.upstream, key: "upstream.bind_addr", address: config.upstream.bindAddress)
            try ports.bind(.admin, key: "admin.bind_addr", address: config.admin.bindAddress)
        } catch {
            throw StartError(error.description)
        }
        return ports
    }

    /// The control socket where it is configured, or at the first usable default place. Without a place of its own a
    /// server still runs: commands can't reach it then.
    private static func makeControlServer(
        _ loop: Loop, _ config: ServerConfig, log: Logger, answer: @escaping (JSONValue) -> JSONValue
    ) throws(StartError) -> ControlServer? {
        let configured = config.server.controlSocket
        if !configured.isEmpty {
            do throws(SystemError) {
                return try ControlServer(loop, path: configured, answer: answer)
            } catch {
                let reason = SystemError.text(of: error.code)
                throw StartError("config: server.control_socket: cannot listen on \(configured): \(reason)")
            }
        }
        let candidates = ControlSocketPath.candidates(
            environment: ProgramEnvironment.variables, userID: ProgramEnvironment.userIdentifier)
        var lastError: SystemError?
        for path in candidates {
            do throws(SystemError) {
                if let slash = path.lastIndex(of: "/") { try FileContents.makePrivateDirectory(String(path[..<slash])) }
                return try ControlServer(loop, path: path, answer: answer)
            } catch {
                lastError = error
                // Another server has it; the next place would only hide this one from commands.
                if error.isAddressInUse { break }
            }
        }
        log.warn(.server, "no control socket: commands such as piko server info can't reach this server") {
            $0.field("err", lastError?.description ?? "no place for it")
            $0.field("tried", candidates)
        }
        return nil
    }
}
