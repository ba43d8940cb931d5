// The worker's entry: a loop, and the control socket that the supervisor left as descriptor 3. Not meant to be started by
// hand.

import Base
import Config
import Control
import Glibc
import Memory
import Reactor

/// `piko-worker`.
@main
enum WorkerMain {
    /// Where the supervisor puts the control socket.
    static let controlDescriptor: Int32 = 3

    static func main() {
        let words = Array(CommandLine.arguments.dropFirst())
        guard words.count == 2, words[0] == "--io-backend", let backend = BackendChoice(rawValue: words[1]) else {
            fail("piko-worker is started by piko-supervisor; see piko server --help", code: 2)
        }
        System.raiseDescriptorLimit()
        signal(SIGPIPE, SIG_IGN)
        do {
            let loop = try Loop(backend: backend, limits: LoopLimits())
            let control = try ControlClient(loop, descriptor: OwnedDescriptor(controlDescriptor))
            loop.run()
            if let failure = control.failure { fail("piko-worker: \(failure)", code: 1) }
        } catch {
            fail("piko-worker: \(error)", code: 1)
        }
    }

    private static func fail(_ reason: String, code: Int32) -> Never {
        var line = ByteBuffer()
        line.append(reason + "\n")
        InheritedOutput.write(descriptor: 2, bytes: line.span)
        exit(code)
    }
}
