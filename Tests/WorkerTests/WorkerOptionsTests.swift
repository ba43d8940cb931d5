// The words that a supervisor starts a worker with.
import Reactor
import Testing

@testable import Worker

@Suite struct WorkerOptionsTests {
    @Test(arguments: [
        ("--io-backend auto", BackendChoice.auto, UserIdentity?.none, true),
        ("--io-backend epoll --seccomp false", .epoll, nil, false),
        ("--io-backend io_uring --user 12:34 --seccomp true", .ioUring, UserIdentity(user: 12, group: 34), true),
    ])
    func understands(_ line: String, _ backend: BackendChoice, _ user: UserIdentity?, _ isFiltered: Bool) {
        let options = WorkerOptions(line.split(separator: " ").map(String.init))
        #expect(options?.backend == backend && options?.user == user && options?.isFiltered == isFiltered)
    }

    @Test(arguments: [
        "", "--io-backend", "--io-backend kqueue", "--io-backend epoll --user", "--io-backend epoll --user root",
        "--io-backend epoll --seccomp maybe", "--io-backend epoll --colour red", "--user 1:2",
    ])
    func refuses(_ line: String) {
        #expect(WorkerOptions(line.split(separator: " ").map(String.init)) == nil)
    }
}
