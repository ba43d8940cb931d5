// Listening sockets: making one, and accepting from it in a loop.
internal import CIOCore

/// Who is told of a listener's connections.
open class ListenerDelegate {
    public init() {}

    /// A connection came.
    open func accepted(_ listener: Listener, descriptor: consuming OwnedDescriptor) {}

    /// Accepting failed for want of descriptors or memory. The listener is paused; call `resume` when it makes sense to
    /// try again.
    open func acceptFailed(_ listener: Listener, error: SystemError) {}

    /// The listener was taken out of its loop: the descriptor is the delegate's, the listener is closed.
    open func listenerDetached(_ listener: Listener, descriptor: consuming OwnedDescriptor) {}
}

/// A listening socket in a loop.
@safe
public final class Listener {
    /// The loop that drives it.
    public let loop: Loop
    /// Who is told; nil after `close`.
    public private(set) var delegate: ListenerDelegate?
    private var handle: cio_handle = 0

    /// Takes over a listening socket and starts to accept.
    public init(_ loop: Loop, adopting descriptor: consuming OwnedDescriptor, delegate: ListenerDelegate)
        throws(SystemError)
    {
        self.loop = loop
        self.delegate = delegate
        var opened: cio_handle = 0
        let tag = handlerTag(self, HandlerKind.listener)
        try unsafe cio_listener_open(loop.core, descriptor.take(), tag, &opened).orThrow("listen")
        handle = opened
        retainHandler(self)
    }

    /// Stops accepting for now. A connection that was accepted before is still delivered.
    public func pause() { unsafe cio_listener_accept(loop.core, handle, false) }

    /// Accepts again.
    public func resume() { unsafe cio_listener_accept(loop.core, handle, true) }

    /// Takes the socket out of the loop: connections that the kernel had accepted for us still come, then the delegate's
    /// `listenerDetached` gets the descriptor.
    public func detach() { _ = unsafe cio_handle_detach(loop.core, handle) }

    /// Closes the socket of this process; another process that holds it goes on.
    public func close() {
        if handle == 0 { return }
        unsafe cio_handle_close(loop.core, handle)
        handle = 0
        delegate = nil
        releaseHandler(self)
    }

    /// The descriptor, to be duplicated or asked for its name; -1 when closed.
    public var descriptor: Int32 { max(-1, unsafe cio_handle_descriptor(loop.core, handle)) }

    /// The address it listens on; nil for a Unix socket.
    public var address: SocketAddress? { SocketAddress.name(of: descriptor) }

    /// A listening TCP socket. `v6Only` keeps an IPv6 socket from taking IPv4 as well.
    ///
    /// Its connections have TCP keep-alive on, which an accepted socket takes over from the listening one: a peer that vanished
    /// without a word is noticed within two minutes even when nothing is sent to it, and holds nothing for ever.
    /// `sharesPort`: other sockets that share theirs (`setSharesPort`) may have the address, or one that overlaps with it.
    public static func bind(
        _ address: SocketAddress, v6Only: Bool = false, sharesPort: Bool = false
    ) throws(SystemError) -> OwnedDescriptor {
        let result = unsafe address.withKernelAddress { pointer, length in
            unsafe cio_socket_listen(pointer, length, v6Only, sharesPort)
        }
        let descriptor = OwnedDescriptor(try result.orThrow("listen on \(address)"))
        _ = cio_socket_keepalive(descriptor.raw, 60, 15, 4, 0)
        return descriptor
    }

    /// Prepares a listening socket that another program made, as `bind` prepares its own.
    public static func adopt(_ descriptor: consuming OwnedDescriptor) -> OwnedDescriptor {
        cio_socket_nonblocking(descriptor.raw)
        _ = cio_socket_keepalive(descriptor.raw, 60, 15, 4, 0)
        return descriptor
    }

    /// Whether sockets that are bound later may have an address that overlaps with this one's (SO_REUSEPORT).
    public static func setSharesPort(_ descriptor: Int32, _ shares: Bool) { _ = cio_socket_share_port(descriptor, shares) }

    /// Lets no new handshake begin, without a word to the peer: its next attempt, a second later, goes to whoever listens on
    /// the address then. Handshakes that have begun are still answered.
    public static func dropHandshakes(_ descriptor: Int32) { _ = cio_socket_drop_handshakes(descriptor) }

    /// A connection that waits at a socket which no loop accepts from; nil when none does.
    public static func accept(from descriptor: Int32) -> OwnedDescriptor? {
        let accepted = cio_socket_accept(descriptor)
        return accepted < 0 ? nil : OwnedDescriptor(accepted)
    }

    /// A listening Unix socket with the given permissions; takes the place of a stale one.
    public static func bindUnix(_ path: String, mode: UInt32) throws(SystemError) -> OwnedDescriptor {
        OwnedDescriptor(try unsafe cio_socket_listen_unix(path, mode).orThrow("listen on \(path)"))
    }

    func handle(_ event: UnsafePointer<cio_event>) {
        let result = unsafe event.pointee.result
        if unsafe event.pointee.kind == CIO_EVENT_DETACHED.rawValue {
            let descriptor = OwnedDescriptor(result)
            let told = delegate
            close()
            told?.listenerDetached(self, descriptor: descriptor)
        } else if result >= 0 {
            let descriptor = OwnedDescriptor(result)
            delegate?.accepted(self, descriptor: descriptor)
        } else {
            delegate?.acceptFailed(self, error: SystemError.of(result, "accept"))
        }
    }
}
