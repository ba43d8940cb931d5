// Signals as calls from the loop: the signals are blocked and read from a descriptor, so no handler ever interrupts.
internal import CIOCore

/// Calls a handler for each of the given signals that the process gets.
public final class SignalSource {
    private let descriptor: OwnedDescriptor
    private var source: ReadinessSource?

    /// Blocks the signals in this thread (and those started later) and starts to listen. They stay blocked after `close`.
    public init(_ loop: Loop, signals: [Int32], handler: @escaping (Int32) -> Void) throws(SystemError) {
        let opened = unsafe signals.withUnsafeBufferPointer { unsafe cio_signal_open($0.baseAddress, UInt32($0.count)) }
        descriptor = OwnedDescriptor(try opened.orThrow("signalfd"))
        let number = descriptor.raw
        source = try ReadinessSource(loop, readable: number) {
            while true {
                let signal = cio_signal_read(number)
                if signal <= 0 { return }
                handler(signal)
            }
        }
    }

    deinit { source?.close() }

    /// Stops listening.
    public func close() {
        source?.close()
        source = nil
    }

    /// Lets writes to closed pipes and sockets fail with EPIPE instead of ending the process.
    public static func ignorePipeSignal() { cio_signal_ignore_pipe() }
}
