// The node's listening sockets: made at start, before any worker runs, and accepted from once the workers are READY.
//
// When accepting fails for want of descriptors or memory, the port rests for a moment: the connections wait in the kernel's
// queue meanwhile, and the log says so once a second, not once a connection.

import Base
import Config
import Control
import Reactor
import Telemetry

/// Why a port can't be listened on.
struct BindError: Error, Equatable, CustomStringConvertible {
    /// The key of the configuration.
    var key: String
    /// The address as it is configured.
    var address: String
    /// In the system's words.
    var reason: String

    var description: String { "config: \(key): cannot listen on \(address): \(reason)" }
}

/// All ports of the node.
final class ListenerTable {
    private let loop: Loop
    private var sockets: [ListeningSocket] = []
    private var listeners: [(kind: ListenerKind, listener: Listener, port: AcceptingPort)] = []
    private let warning = AcceptWarning()
    private var acceptsTraffic = true
    private var acceptsAdmin = true

    /// How long an address that is in use is tried again: the process that had it may just be ending.
    private let inUseRetry: Duration

    init(_ loop: Loop, inUseRetry: Duration = .seconds(2)) {
        self.loop = loop
        self.inUseRetry = inUseRetry
    }

    /// Makes the sockets of a port. Waits for the name to be resolved, and for an address that is in use.
    func bind(_ kind: ListenerKind, key: String, address: BindAddress) throws(BindError) {
        func failure(_ reason: String) -> BindError { BindError(key: key, address: address.settingText, reason: reason) }
        let plan: BindPlan
        switch BindPlan(address) {
        case .lookUp(let host):
            switch lookUp(host, port: address.port) {
            case .success(let addresses): plan = .allOf(BindPlan.distinct(addresses))
            case .failure(let error): throw failure(error.description)
            }
        case let known: plan = known
        }
        let deadline = loop.now + inUseRetry
        while true {
            do throws(SystemError) {
                sockets += try Self.open(plan, kind)
                return
            } catch {
                guard error.isAddressInUse, loop.now < deadline else { throw failure(SystemError.text(of: error.code)) }
                let next = loop.now + .milliseconds(100)
                while loop.now < next { loop.runTurn(until: next) }
            }
        }
    }

    private func lookUp(_ host: String, port: UInt16) -> Result<[SocketAddress], ResolveError> {
        var answer: Result<[SocketAddress], ResolveError>?
        Resolver(loop).resolve(host: host, port: port) { answer = $0 }
        while true {
            if let answer { return answer }
            loop.runTurn(until: .never)
        }
    }

    /// The sockets of a plan: all, or the error of the first that failed.
    private static func open(_ plan: BindPlan, _ kind: ListenerKind) throws(SystemError) -> [ListeningSocket] {
        var sockets: [ListeningSocket] = []
        var lastError: SystemError?
        let addresses: [SocketAddress]
        let needsOne: Bool
        switch plan {
        case .firstOf(let list): (addresses, needsOne) = (list, true)
        case .allOf(let list): (addresses, needsOne) = (list, false)
        case .lookUp: preconditionFailure("a name that was not looked up")
        }
        for var address in addresses {
            // A port that the kernel chose is the same for all addresses of a name.
            if address.port == 0, let first = sockets.first?.address { address.port = first.port }
            do throws(SystemError) {
                sockets.append(ListeningSocket(kind, try Listener.bind(address)))
                if needsOne { break }
            } catch {
                guard error.isAddressMissing else { throw error }
                lastError = error
            }
        }
        if sockets.isEmpty, let lastError { throw lastError }
        return sockets
    }

    /// The addresses of a port, as the kernel says them.
    func addresses(_ kind: ListenerKind) -> [SocketAddress] {
        sockets.filter { $0.kind == kind }.compactMap(\.address)
    }

    /// Begins to accept on all ports.
    func accept(_ dispatcher: ConnectionDispatcher, counters: Counters, log: Logger) throws(SystemError) {
        for socket in sockets {
            guard let descriptor = socket.take() else { continue }
            let port = AcceptingPort(
                loop, socket.kind, warning: warning, dispatcher: dispatcher, counters: counters, log: log)
            let listener = try Listener(loop, adopting: descriptor, delegate: port)
            listeners.append((socket.kind, listener, port))
        }
        pauseOrResume()
    }

    /// Lets connections wait in the kernel's queue, or takes them again: those of clients and agents, and those to the
    /// admin port.
    func setAccepting(traffic: Bool, admin: Bool) {
        acceptsTraffic = traffic
        acceptsAdmin = admin
        pauseOrResume()
    }

    private func pauseOrResume() {
        for (kind, listener, port) in listeners {
            let isPaused = kind == .admin ? !acceptsAdmin : !acceptsTraffic
            if port.isPaused == isPaused { continue }
            port.isPaused = isPaused
            if isPaused { listener.pause() } else { listener.resume() }
        }
    }

    /// Closes the ports for clients and agents.
    func closeAllButAdmin() {
        for (kind, listener, port) in listeners where kind != .admin {
            port.isClosed = true
            listener.close()
        }
        listeners.removeAll { $0.kind != .admin }
    }
}

/// A socket that is bound; from `take` on the loop's.
private final class ListeningSocket {
    let kind: ListenerKind
    let address: SocketAddress?
    private var descriptor: OwnedDescriptor?

    init(_ kind: ListenerKind, _ descriptor: consuming OwnedDescriptor) {
        self.kind = kind
        address = SocketAddress.name(of: descriptor.raw)
        self.descriptor = consume descriptor
    }

    func take() -> OwnedDescriptor? { descriptor.take() }
}

/// What all ports share: what one of them is short of, all are.
private final class AcceptWarning {
    var limit = WarningLimit()
}

/// Accepts from one socket.
private final class AcceptingPort: ListenerDelegate {
    private let loop: Loop
    private let kind: ListenerKind
    private let dispatcher: ConnectionDispatcher
    private let counters: Counters
    private let log: Logger
    private let warning: AcceptWarning
    private var resting: CallbackTimer?
    /// Accepting is paused by others.
    var isPaused = false
    var isClosed = false

    private static let rest = Duration.milliseconds(100)

    init(
        _ loop: Loop, _ kind: ListenerKind, warning: AcceptWarning, dispatcher: ConnectionDispatcher, counters: Counters, log: Logger
    ) {
        self.loop = loop
        self.kind = kind
        self.warning = warning
        self.dispatcher = dispatcher
        self.counters = counters
        self.log = log
    }

    override func accepted(_ listener: Listener, descriptor: consuming OwnedDescriptor) {
        counters.add(kind.label.accepted)
        dispatcher.dispatch(descriptor, listener: kind)
    }

    override func acceptFailed(_ listener: Listener, error: SystemError) {
        counters.add(.acceptPauses)
        if warning.limit.isDue(loop.now) {
            log.warn(.server, "cannot accept connections; trying again soon") {
                $0.field("port", kind.name)
                $0.field("err", error.description)
            }
        }
        let timer = CallbackTimer(loop) { [weak self] in
            guard let self else { return }
            resting = nil
            if !isPaused, !isClosed { listener.resume() }
        }
        timer.schedule(after: Self.rest)
        resting = timer
    }
}
