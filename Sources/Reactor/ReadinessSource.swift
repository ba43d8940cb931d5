// Foreign descriptors (signal descriptors, process handles, anything with poll) watched by a loop.
internal import CIOCore
internal import Glibc

/// Calls a handler whenever a descriptor, which stays the caller's, is readable.
@safe
public final class ReadinessSource {
    private let loop: Loop
    private var handler: (() -> Void)?
    private var handle: cio_handle = 0

    /// Starts to watch. The descriptor must stay open until `close`. The handler must read what made it readable, or it is
    /// called again in the next turn.
    public init(_ loop: Loop, readable descriptor: Int32, handler: @escaping () -> Void) throws(SystemError) {
        self.loop = loop
        self.handler = handler
        var opened: cio_handle = 0
        let tag = handlerTag(self, HandlerKind.readiness)
        try unsafe cio_poll_open(loop.core, descriptor, UInt32(POLLIN), tag, &opened).orThrow("watch a descriptor")
        handle = opened
        retainHandler(self)
    }

    /// Stops watching; the descriptor stays open.
    public func close() {
        if handle == 0 { return }
        unsafe cio_handle_close(loop.core, handle)
        handle = 0
        handler = nil
        releaseHandler(self)
    }

    func handle(_ event: UnsafePointer<cio_event>) {
        handler?()
        if handle != 0 { unsafe cio_poll_arm(loop.core, handle, UInt32(POLLIN)) }
    }
}
