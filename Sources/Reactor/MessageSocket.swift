// Whole messages with descriptors over a SEQPACKET Unix socket: how the supervisor and its workers talk.
internal import CIOCore

/// Who is told of a message socket's messages.
open class MessageDelegate {
    public init() {}

    /// A message came. Descriptors that are not taken from the list are closed after the call.
    open func message(_ socket: MessageSocket, bytes: Span<UInt8>, descriptors: inout DescriptorList) {}

    /// The other end closed (no error), or the socket broke. The socket is closed.
    open func messageSocketEnded(_ socket: MessageSocket, error: SystemError?) {}

    /// The socket was taken out of its loop: the descriptor is the delegate's, the socket is closed.
    open func messageSocketDetached(_ socket: MessageSocket, descriptor: consuming OwnedDescriptor) {}
}

/// A connected SEQPACKET socket in a loop.
@safe
public final class MessageSocket {
    /// Most bytes and descriptors of one message.
    public static let bytesMax = Int(CIO_MESSAGE_BYTES_MAX)
    public static let descriptorsMax = Int(CIO_DESCRIPTORS_MAX)

    /// The loop that drives it.
    public let loop: Loop
    /// Who is told. Set it before the first turn after `init`; nil after the end.
    public var delegate: MessageDelegate?
    private var handle: cio_handle = 0

    /// Takes over a connected SEQPACKET socket and starts to receive.
    public init(_ loop: Loop, adopting descriptor: consuming OwnedDescriptor) throws(SystemError) {
        self.loop = loop
        var opened: cio_handle = 0
        let tag = handlerTag(self, HandlerKind.message)
        try unsafe cio_message_open(loop.core, descriptor.take(), tag, &opened).orThrow("open a message socket")
        handle = opened
        retainHandler(self)
    }

    /// A connected pair; each end goes to one process.
    public static func pair() throws(SystemError) -> DescriptorPair {
        try Sockets.pair(.seqpacket)
    }

    /// Whether it is neither closed nor ended.
    public var isOpen: Bool { handle != 0 }

    /// The descriptor, for credentials and for handing it over; -1 when closed.
    public var descriptor: Int32 { max(-1, unsafe cio_handle_descriptor(loop.core, handle)) }

    /// Sends a message, at once or, when the socket is full, later in order. With `taking` the descriptors are closed once
    /// they are sent; otherwise they stay the caller's. When it throws, nothing was sent and nothing was taken: EAGAIN
    /// says that too many messages wait. Returns how many messages wait.
    @discardableResult
    public func send(_ bytes: Span<UInt8>, descriptors: [Int32] = [], taking: Bool = false) throws(SystemError) -> Int {
        let result = unsafe bytes.withUnsafeBufferPointer { buffer in
            unsafe descriptors.withUnsafeBufferPointer { numbers in
                unsafe cio_message_send(
                    loop.core, handle, buffer.baseAddress, buffer.count, numbers.baseAddress, UInt32(numbers.count), taking)
            }
        }
        return Int(try result.orThrow("send a message"))
    }

    /// How many messages wait until the socket has room.
    public var waitingCount: Int { unsafe cio_message_waiting(loop.core, handle) }

    /// Takes the socket out of the loop: messages that were received still come and those that wait are sent, then the
    /// delegate's `messageSocketDetached` gets the descriptor.
    public func detach() { _ = unsafe cio_handle_detach(loop.core, handle) }

    /// Closes the socket; messages that wait are dropped.
    public func close() {
        if handle == 0 { return }
        unsafe cio_handle_close(loop.core, handle)
        handle = 0
        delegate = nil
        releaseHandler(self)
    }

    func handle(_ event: UnsafePointer<cio_event>) {
        switch unsafe event.pointee.kind {
        case CIO_EVENT_MESSAGE.rawValue:
            let count = unsafe Int(event.pointee.descriptor_count)
            let numbers = unsafe count == 0 ? [] : Array(UnsafeBufferPointer(start: event.pointee.descriptors, count: count))
            var list = unsafe DescriptorList(numbers, isShort: event.pointee.result != 0)
            let buffer = unsafe UnsafeBufferPointer(start: event.pointee.data, count: Int(event.pointee.length))
            delegate?.message(self, bytes: unsafe Span(_unsafeElements: buffer), descriptors: &list)
        case CIO_EVENT_DETACHED.rawValue:
            let descriptor = unsafe OwnedDescriptor(event.pointee.result)
            let told = delegate
            close()
            told?.messageSocketDetached(self, descriptor: descriptor)
        case CIO_EVENT_END.rawValue: ended(nil)
        case CIO_EVENT_FAILED.rawValue: ended(SystemError.of(unsafe event.pointee.result, "receive a message"))
        default: preconditionFailure("an event that no message socket has")
        }
    }

    private func ended(_ error: SystemError?) {
        let told = delegate
        close()
        told?.messageSocketEnded(self, error: error)
    }
}
