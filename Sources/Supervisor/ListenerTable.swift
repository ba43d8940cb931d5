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
    private let warning = AcceptWarning()
    private var acceptsTraffic = true
    private var acceptsAdmin = true
    private var acceptor: Acceptor?

    /// What connections are accepted for.
    private struct Acceptor {
        var dispatcher: ConnectionDispatcher
        var counters: Counters
        var log: Logger
    }

    /// How long an address that is in use is tried again: the process that had it may just be ending.
    private let inUseRetry: Duration
    /// Sockets whose address another socket has now, which let no new handshake begin, and when they are closed.
    private var leaving: [ListeningSocket] = []
    private var leavingTimer: CallbackTimer?
    /// How long handshakes that have begun may take. A client whose first segment was dropped sends the next after a second.
    private static let handshakeTime = Duration.milliseconds(900)

    init(_ loop: Loop, inUseRetry: Duration = .seconds(2)) {
        self.loop = loop
        self.inUseRetry = inUseRetry
    }

    // MARK: Making sockets

    /// Makes the sockets of a port. Waits for the name to be resolved, and for an address that is in use.
    func bind(_ kind: ListenerKind, key: String, address: BindAddress) throws(BindError) {
        var answer: Result<BindPlan, BindError>?
        plan(key: key, address: address) { answer = $0 }
        while answer == nil { loop.runTurn(until: .never) }
        let plan: BindPlan
        switch answer {
        case .success(let found): plan = found
        case .failure(let error): throw error
        case nil: preconditionFailure("waited for")
        }
        let deadline = loop.now + inUseRetry
        sockets += try prepare(kind, key: key, address: address, plan) {
            guard loop.now < deadline else { return false }
            let next = loop.now + .milliseconds(100)
            while loop.now < next { loop.runTurn(until: next) }
            return true
        }
    }

    /// Takes over a listening socket.
    func adopt(_ kind: ListenerKind, _ descriptor: consuming OwnedDescriptor) {
        sockets.append(ListeningSocket(kind, descriptor))
    }

    /// What the address means: for a name, its addresses. `done` is called at once, or when the name is looked up.
    func plan(key: String, address: BindAddress, _ done: @escaping (Result<BindPlan, BindError>) -> Void) {
        guard case .lookUp(let host) = BindPlan(address) else { return done(.success(BindPlan(address))) }
        Resolver(loop).resolve(host: host, port: address.port) { answer in
            switch answer {
            case .success(let addresses): done(.success(.allOf(BindPlan.distinct(addresses))))
            case .failure(let error):
                done(.failure(BindError(key: key, address: address.settingText, reason: error.description)))
            }
        }
    }

    /// The sockets for another address of a port: those that the port has already, where the address is the same, and new ones.
    /// They count for nothing until `change`.
    func prepare(_ kind: ListenerKind, key: String, address: BindAddress, _ plan: BindPlan) throws(BindError) -> [ListeningSocket] {
        try prepare(kind, key: key, address: address, plan) { false }
    }

    private func prepare(
        _ kind: ListenerKind, key: String, address: BindAddress, _ plan: BindPlan, waitsInUse: () -> Bool
    ) throws(BindError) -> [ListeningSocket] {
        while true {
            do throws(SystemError) {
                return try open(plan, kind)
            } catch {
                guard error.isAddressInUse, waitsInUse() else {
                    throw BindError(key: key, address: address.settingText, reason: SystemError.text(of: error.code))
                }
            }
        }
    }

    /// From now on the port has these sockets: the new ones are accepted from, those that it had and that are not among them
    /// are closed, once what came to them is handed on.
    ///
    /// Where a new one has the same port number, a client that comes while the old one is being closed would be reset. So the
    /// old one lets no handshake begin, and stays until those that had begun are over.
    func change(_ kind: ListenerKind, to prepared: [ListeningSocket]) throws(SystemError) {
        closeLeaving(kind)
        for socket in sockets where socket.kind == kind && !prepared.contains(where: { $0 === socket }) {
            if prepared.contains(where: { $0.address?.port == socket.address?.port }) {
                Listener.dropHandshakes(socket.descriptor)
                leaving.append(socket)
            } else {
                socket.retire()
            }
        }
        sockets = sockets.filter { $0.kind != kind } + prepared
        try acceptFromNew()
        guard !leaving.isEmpty else { return }
        let timer = CallbackTimer(loop) { [weak self] in self?.closeLeaving() }
        timer.schedule(after: Self.handshakeTime)
        leavingTimer = timer
    }

    /// Closes the sockets that leave: those of one port, or all.
    private func closeLeaving(_ kind: ListenerKind? = nil) {
        for socket in leaving where kind == nil || socket.kind == kind { socket.retire() }
        leaving = leaving.filter { kind != nil && $0.kind != kind }
        if leaving.isEmpty { leavingTimer = nil }
    }

    /// The sockets of a plan: all, or the error of the first that failed.
    private func open(_ plan: BindPlan, _ kind: ListenerKind) throws(SystemError) -> [ListeningSocket] {
        let own = sockets.filter { $0.kind == kind }
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
                if address.port != 0, let known = own.first(where: { $0.address == address }) {
                    sockets.append(known)
                } else {
                    sockets.append(ListeningSocket(kind, try Self.open(address, besides: own + leaving)))
                }
                if needsOne { break }
            } catch {
                guard error.isAddressMissing else { throw error }
                lastError = error
            }
        }
        if sockets.isEmpty, let lastError { throw lastError }
        return sockets
    }

    /// A socket for the address, which may overlap with those that the port has, or had a moment ago: the port goes from all
    /// addresses to one of them, say.
    private static func open(_ address: SocketAddress, besides own: [ListeningSocket]) throws(SystemError) -> OwnedDescriptor {
        let overlapping = own.filter { $0.address?.port == address.port }
        do throws(SystemError) {
            return try Listener.bind(address)
        } catch {
            guard error.isAddressInUse, !overlapping.isEmpty else { throw error }
        }
        for socket in overlapping { Listener.setSharesPort(socket.descriptor, true) }
        defer { for socket in overlapping { Listener.setSharesPort(socket.descriptor, false) } }
        let opened = try Listener.bind(address, sharesPort: true)
        Listener.setSharesPort(opened.raw, false)
        return opened
    }

    /// The addresses of a port, as the kernel says them.
    func addresses(_ kind: ListenerKind) -> [SocketAddress] {
        sockets.filter { $0.kind == kind }.compactMap(\.address)
    }

    // MARK: Accepting

    /// Begins to accept on all ports.
    func accept(_ dispatcher: ConnectionDispatcher, counters: Counters, log: Logger) throws(SystemError) {
        acceptor = Acceptor(dispatcher: dispatcher, counters: counters, log: log)
        try acceptFromNew()
    }

    private func acceptFromNew() throws(SystemError) {
        guard let acceptor else { return }
        for socket in sockets {
            try socket.accept(
                loop, warning: warning, dispatcher: acceptor.dispatcher, counters: acceptor.counters, log: acceptor.log)
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
        for socket in sockets { socket.setPaused(socket.kind == .admin ? !acceptsAdmin : !acceptsTraffic) }
    }

    /// Closes the ports for clients and agents.
    func closeAllButAdmin() {
        closeLeaving()
        for socket in sockets where socket.kind != .admin { socket.retire() }
        sockets.removeAll { $0.kind != .admin }
    }

    /// Takes all sockets out of the loop, for another program: connections that were accepted still come until `done` gets
    /// them.
    func detach(_ done: @escaping ([(kind: ListenerKind, descriptor: Int32)]) -> Void) {
        closeLeaving()
        var taken: [(kind: ListenerKind, descriptor: Int32)] = []
        let count = sockets.count
        for socket in sockets {
            let kind = socket.kind
            socket.detach { descriptor in
                taken.append((kind, descriptor.take()))
                if taken.count == count { done(taken) }
            }
        }
        sockets = []
        if count == 0 { done([]) }
    }
}

/// A listening socket: bound at first, then accepted from.
final class ListeningSocket {
    let kind: ListenerKind
    let address: SocketAddress?
    private var bound: OwnedDescriptor?
    private var listener: Listener?
    private var port: AcceptingPort?

    fileprivate init(_ kind: ListenerKind, _ descriptor: consuming OwnedDescriptor) {
        self.kind = kind
        address = SocketAddress.name(of: descriptor.raw)
        bound = consume descriptor
    }

    fileprivate var descriptor: Int32 {
        if let listener { return listener.descriptor }
        return bound?.raw ?? -1
    }

    fileprivate func accept(
        _ loop: Loop, warning: AcceptWarning, dispatcher: ConnectionDispatcher, counters: Counters, log: Logger
    ) throws(SystemError) {
        guard let descriptor = bound.take() else { return }
        let port = AcceptingPort(loop, kind, warning: warning, dispatcher: dispatcher, counters: counters, log: log)
        listener = try Listener(loop, adopting: descriptor, delegate: port)
        self.port = port
    }

    fileprivate func setPaused(_ isPaused: Bool) {
        guard let port, let listener, port.isPaused != isPaused else { return }
        port.isPaused = isPaused
        if isPaused { listener.pause() } else { listener.resume() }
    }

    /// Closes it once the connections that came to it are handed on, those in the kernel's queue too.
    fileprivate func retire() {
        let port = port
        detach { descriptor in
            while let port, let connection = Listener.accept(from: descriptor.raw) { port.take(connection) }
            _ = consume descriptor
        }
    }

    fileprivate func detach(_ done: @escaping (consuming OwnedDescriptor) -> Void) {
        if let descriptor = bound.take() { return done(descriptor) }
        guard let port, let listener else { return }
        port.isClosed = true
        port.detached = done
        // A paused one is taken out as it is.
        listener.detach()
    }
}

/// What all ports share: what one of them is short of, all are.
final class AcceptWarning {
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
    var detached: ((consuming OwnedDescriptor) -> Void)?

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

    override func accepted(_ listener: Listener, descriptor: consuming OwnedDescriptor) { take(descriptor) }

    /// Hands a connection on.
    func take(_ descriptor: consuming OwnedDescriptor) {
        counters.add(kind.label.accepted)
        dispatcher.dispatch(descriptor, listener: kind)
    }

    override func listenerDetached(_ listener: Listener, descriptor: consuming OwnedDescriptor) {
        let done = detached
        detached = nil
        done?(descriptor)
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
