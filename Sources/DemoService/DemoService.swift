// The running demo service: its loop, its listeners, and the end on a signal.

internal import Glibc
internal import Reactor

/// The demo service.
final class DemoService {
    /// The addresses that it listens on: HTTP, then raw TCP.
    let addresses: [SocketAddress]
    private let loop: Loop
    private var listeners: [Listener] = []
    private var signals: SignalSource?

    init(_ options: DemoOptions) throws(SystemError) {
        let loop = try Loop(backend: options.backend)
        self.loop = loop
        var found: [SocketAddress] = []
        let http = try Listener.bind(options.listen, v6Only: false)
        found.append(SocketAddress.name(of: http.raw) ?? options.listen)
        var opened = [try Listener(loop, adopting: http, delegate: DemoAcceptor(loop: loop, isHTTP: true))]
        if let address = options.tcpEcho {
            let echo = try Listener.bind(address, v6Only: false)
            found.append(SocketAddress.name(of: echo.raw) ?? address)
            opened.append(try Listener(loop, adopting: echo, delegate: DemoAcceptor(loop: loop, isHTTP: false)))
        }
        addresses = found
        listeners = opened
        SignalSource.ignorePipeSignal()
        signals = try SignalSource(loop, signals: [SIGINT, SIGTERM]) { _ in loop.stop() }
    }

    /// The service, or why it can't run.
    static func make(_ options: DemoOptions) throws(DemoOptions.Failure) -> DemoService {
        do throws(SystemError) {
            return try DemoService(options)
        } catch {
            throw DemoOptions.Failure(description: error.description, status: 1)
        }
    }

    /// Serves until SIGINT or SIGTERM.
    func run() { loop.run() }
}

/// Makes a connection of every accepted socket.
final class DemoAcceptor: ListenerDelegate {
    private let loop: Loop
    private let isHTTP: Bool
    private var resume: CallbackTimer?

    init(loop: Loop, isHTTP: Bool) {
        self.loop = loop
        self.isHTTP = isHTTP
    }

    override func accepted(_ listener: Listener, descriptor: consuming OwnedDescriptor) {
        guard let stream = try? Stream(loop, adopting: descriptor) else { return }
        if isHTTP {
            _ = DemoConnection(loop: loop, stream: stream)
        } else {
            stream.setNoDelay()
            stream.delegate = TCPEcho()
            stream.resumeReading()
        }
    }

    /// Out of descriptors: wait until some are free again.
    override func acceptFailed(_ listener: Listener, error: SystemError) {
        resume = CallbackTimer(loop) { listener.resume() }
        resume?.schedule(after: .milliseconds(200))
    }
}
