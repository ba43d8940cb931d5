// Turning a loop until something has happened, for tests that run a few connections in one process.

internal import Base
public import Reactor

extension Loop {
    /// Turns until the condition holds; false when it does not within the time. No test sleeps: each waits for what it
    /// needs to see.
    public func turn(within time: Duration = .seconds(10), until condition: () -> Bool) -> Bool {
        let deadline = SystemClock.now + time
        while !condition() {
            if SystemClock.now >= deadline { return false }
            runTurn(until: min(deadline, SystemClock.now + .milliseconds(50)))
        }
        return true
    }
}

/// Two connected streams on one loop.
public func streamPair(_ loop: Loop) throws -> (Stream, Stream) {
    var pair = try Sockets.pair(.stream)
    let first = try Stream(loop, adopting: pair.takeFirst())
    let second = try Stream(loop, adopting: pair.takeSecond())
    return (first, second)
}
