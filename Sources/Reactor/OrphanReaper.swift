// Children that this process never started: a process that is pid 1 of its container (or a reaper by prctl) is given
// everyone's orphans, and one that was executed in a shell's place inherits the shell's children. Unless they are reaped,
// each that ends stays in the process table for ever.
//
// Our own children are left to `ChildProcess`, which hears of each by its own descriptor. One of them may be in the way of
// an orphan for the moment between its end and its reaping; then this looks again soon.
internal import Base
internal import CIOCore
internal import Glibc

/// Reaps what nobody else does.
public final class OrphanReaper {
    private let loop: Loop
    private let reaped: (Int32) -> Void
    private var signals: SignalSource?
    private var again: CallbackTimer?

    private static let againAfter = Duration.milliseconds(20)

    /// Reaps from now on, also what ended before. `reaped` is told of each. Children that were taken over from the program
    /// before this one must have their `ChildProcess` by then.
    public init(_ loop: Loop, reaped: @escaping (Int32) -> Void = { _ in }) throws(SystemError) {
        self.loop = loop
        self.reaped = reaped
        again = CallbackTimer(loop) { [unowned self] in look() }
        signals = try SignalSource(loop, signals: [SIGCHLD]) { [unowned self] _ in look() }
        again?.schedule(after: .zero)
    }

    /// Stops reaping.
    public func close() {
        signals?.close()
        again?.cancel()
    }

    private func look() {
        let own = Array(loop.children)
        while true {
            var pid: pid_t = 0
            let found = unsafe own.withUnsafeBufferPointer { buffer in
                unsafe cio_process_reap_other(buffer.baseAddress, UInt32(buffer.count), &pid)
            }
            switch found {
            case 1: reaped(pid)
            case 2:
                again?.schedule(after: Self.againAfter)
                return
            default: return
            }
        }
    }
}
