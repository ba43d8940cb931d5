// The worker's entry: a loop, and the control socket that the supervisor left as descriptor 3. Not meant to be started by
// hand.

import Base
import Config
import Control
import Reactor

/// `piko-worker`.
@main
enum WorkerMain {
    /// Where the supervisor puts the control socket.
    static let controlDescriptor: Int32 = 3

    static func main() {
        let words = Array(CommandLine.arguments.dropFirst())
        guard words.count == 2, words[0] == "--io-backend", let backend = BackendChoice(rawValue: words[1]) else {
            Process.fail("piko-worker is started by piko-supervisor; see piko server --help", code: 2)
        }
        Process.prepare()
        do {
            let loop = try Loop(backend: backend, limits: LoopLimits())
            let control = try ControlClient(loop, descriptor: OwnedDescriptor(controlDescriptor))
            loop.run()
            if let failure = control.failure { Process.fail("piko-worker: \(failure)", code: 1) }
        } catch {
            Process.fail("piko-worker: \(error)", code: 1)
        }
    }
}
