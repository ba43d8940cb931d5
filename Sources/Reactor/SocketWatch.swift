// A socket that somebody else reads and writes (OpenSSL): the loop says when that is worth trying.
//
// The kernel is asked once for each event, and only while somebody wants it. A wish that is taken back while the kernel is
// already asked is not told to the kernel: its answer is ignored when it comes.
internal import CIOCore
internal import Glibc

/// What a socket can be ready for.
public struct SocketReadiness: OptionSet, Sendable {
    public let rawValue: UInt32
    public init(rawValue: UInt32) { self.rawValue = rawValue }

    public static let readable = SocketReadiness(rawValue: UInt32(POLLIN))
    public static let writable = SocketReadiness(rawValue: UInt32(POLLOUT))
    public static let both: SocketReadiness = [.readable, .writable]
}

/// Whoever reads and writes a watched socket.
public protocol SocketWatchUser: AnyObject {
    /// The socket is ready, or broken, which the next read or write will find out. `SocketWatch.want` follows for more.
    func socketReady(_ readiness: SocketReadiness)
}

/// A socket and the loop that watches it. The loop holds the watch, and the watch its user, until `release`.
@safe
public final class SocketWatch {
    private let loop: Loop
    private var user: (any SocketWatchUser)?
    private var handle: cio_handle = 0
    private var descriptor: Int32
    private var wanted: SocketReadiness = .readable
    /// What the kernel was asked for and has not answered.
    private var asked: SocketReadiness = .readable

    /// Takes over a connected socket and waits until it is readable.
    public init(_ loop: Loop, adopting descriptor: consuming OwnedDescriptor, user: any SocketWatchUser) throws(SystemError) {
        self.loop = loop
        self.user = user
        // Whoever writes to a socket in another way than the loop is not to be ended by a peer that left.
        cio_signal_ignore_pipe()
        cio_socket_nonblocking(descriptor.raw)
        self.descriptor = descriptor.raw
        var opened: cio_handle = 0
        let tag = handlerTag(self, HandlerKind.watch)
        try unsafe cio_poll_open(loop.core, descriptor.raw, UInt32(POLLIN), tag, &opened).orThrow("watch a socket")
        _ = descriptor.take()
        handle = opened
        retainHandler(self)
    }

    /// The socket's number; -1 after `release`.
    public var number: Int32 { descriptor }

    /// Bytes that the peer has not acknowledged; nil for a Unix socket.
    public var unacknowledgedBytes: Int? {
        let waiting = cio_socket_unacknowledged(descriptor)
        return waiting < 0 ? nil : Int(waiting)
    }

    /// Sends small writes at once (TCP_NODELAY).
    public func setNoDelay() { _ = cio_socket_nodelay(descriptor) }

    /// As `Channel.limitUnsent`.
    public func limitUnsent() { _ = cio_socket_unsent_max(descriptor, Channel.unsentBytesMax) }

    /// As `Channel.setKeepAlive`.
    public func setKeepAlive(idle: Duration, interval: Duration, count: Int, userTimeout: Duration) {
        setSocketKeepAlive(descriptor, idle: idle, interval: interval, count: count, userTimeout: userTimeout)
    }

    /// The other end's address; nil for a Unix socket.
    public var peer: SocketAddress? { SocketAddress.peer(of: descriptor) }

    /// Which readiness is to be told: once, then it has to be wanted again.
    public func want(_ readiness: SocketReadiness) {
        wanted = readiness
        ask()
    }

    private func ask() {
        guard handle != 0, !asked.isSuperset(of: wanted) else { return }
        asked = wanted
        unsafe cio_poll_arm(loop.core, handle, wanted.rawValue)
    }

    /// Stops watching and gives the socket back.
    public func release() -> OwnedDescriptor {
        precondition(handle != 0, "a socket that was given back before")
        unsafe cio_handle_close(loop.core, handle)
        handle = 0
        user = nil
        let number = descriptor
        descriptor = -1
        releaseHandler(self)
        return OwnedDescriptor(number)
    }

    func handle(_ event: UnsafePointer<cio_event>) {
        asked = []
        var ready = SocketReadiness.both
        if unsafe event.pointee.kind == CIO_EVENT_READY.rawValue {
            let mask = unsafe UInt32(bitPattern: event.pointee.result)
            if mask & UInt32(POLLERR | POLLHUP) == 0 { ready = SocketReadiness(rawValue: mask).intersection(.both) }
        }
        ready.formIntersection(wanted)
        wanted.subtract(ready)
        if !ready.isEmpty { user?.socketReady(ready) }
        if handle != 0, !wanted.isEmpty { ask() }
    }
}
