// What is to be known of a worker that no longer answers, before it is killed: its own stack, which it writes to the log by
// itself when it can, and what the kernel says of it when it can't.

import Reactor
import Telemetry

extension WorkerProcess {
    /// The time that the worker gets to write its stack. It is to be killed only after that.
    static let stackTime = Duration.milliseconds(250)

    /// Asks for the worker's stack and logs where the kernel sees it.
    func reportStuck(_ log: Logger) {
        let view = child.requestStack()
        log.error(.server, "worker does not answer") {
            $0.field("stuck_worker", UInt64(worker))
            $0.field("pid", Int(child.pid))
            $0.field("process_state", view.state)
            if !view.waitChannel.isEmpty { $0.field("wait_channel", view.waitChannel) }
            if !view.systemCall.isEmpty { $0.field("system_call", view.systemCall) }
            if !view.kernelStack.isEmpty { $0.field("kernel_stack", view.kernelStack) }
        }
    }
}
