// The event loop: one thread, one kernel interface (io_uring or epoll, chosen when it is made), timers, and a place for
// work that should run once at the end of a turn.
//
// Why the C core hands out batches: it never calls into Swift. A turn asks it for an array of plain records and works
// through them here. A record's tag is the address of the object that opened the handle, with the object's kind in the
// low bits; the loop holds one reference to the object for as long as the handle is open, and asks the core whether the
// handle is still alive before it looks at the object.
//
// Invariants: everything runs on the thread that made the loop, but for `LoopWaker`. A turn is bounded: it works through
// one batch, the timers that were due when it began to fire them, and the tasks that were queued when it began to run them.
public import Base
internal import CIOCore

/// Which kernel interface a loop uses.
public enum BackendChoice: String, Sendable {
    case auto
    case ioUring = "io_uring"
    case epoll
}

/// The sizes of a loop.
public struct LoopLimits: Sendable {
    /// Most handles (streams, listeners, …) open at once, lingering ones included.
    public var handlesMax = 65_536
    /// Submission entries of the ring, a power of two.
    public var ringEntries = 1_024
    /// Receive buffers, a power of two, and the bytes of each. More than the processor's cache holds is slower.
    public var receiveBuffers = 128
    public var receiveBufferBytes = 8_192
    /// Most pipes that pumps splice through at a time, at most 1,024. A pump without one copies.
    public var pipesMax = 64
    /// Most bytes that wait for sending over all streams; 0: no limit. A write beyond it fails its stream.
    public var outputBytesMax = 0

    public init() {}
}

/// What a loop counted since it was made; the last six are gauges.
public struct LoopCounters: Sendable {
    public var turns: UInt64
    public var events: UInt64
    public var staleCompletions: UInt64
    public var receiveBufferShortages: UInt64
    public var systemCalls: UInt64
    /// What pumps carried, by copying and by splicing, and how often one had to copy for want of a pipe.
    public var pumpBytesCopied: UInt64
    public var pumpBytesSpliced: UInt64
    public var pipeShortages: UInt64
    public var handlesOpen: UInt64
    public var handlesLingering: UInt64
    public var outputBytes: UInt64
    public var outputChunks: UInt64
    public var pumps: UInt64
    public var pipes: UInt64
}

/// Work to be done once at the end of a turn. Subclass it; a task is queued at most once at a time.
open class AfterTurn {
    fileprivate final var isQueued = false
    public init() {}
    open func run() {}
}

/// Ends a loop's wait from any thread.
public struct LoopWaker: @unchecked Sendable {
    /// Only `cio_loop_wake`, which is safe on every thread, is called on it.
    private let loop: Loop

    fileprivate init(_ loop: Loop) { self.loop = loop }

    public func wake() { unsafe cio_loop_wake(loop.core) }
}

/// One thread's event loop.
@safe
public final class Loop {
    /// Which backend runs and why, for the log.
    public let backendDescription: String
    /// `.ioUring` or `.epoll`.
    public let backend: BackendChoice
    /// The time, read once a turn.
    public private(set) var now: Instant

    let core: OpaquePointer
    let timers = TimerHeap()
    /// Children that a `ChildProcess` of this loop reaps.
    var children: Set<Int32> = []
    private let events: UnsafeMutablePointer<cio_event>
    private var isStopping = false
    private var isInTurn = false
    private var tasks: [AfterTurn] = []
    private var tasksRunning: [AfterTurn] = []

    private static let eventsMax = 256

    /// What it was made with.
    public let limits: LoopLimits
    /// How long its turns were.
    public private(set) var turnTimes = TurnTimes()

    /// Makes a loop. The error's text names the backend and why it can't be had.
    public init(backend: BackendChoice, limits: LoopLimits = LoopLimits()) throws(SystemError) {
        self.limits = limits
        var options = cio_loop_options()
        switch backend {
        case .auto: options.backend = CIO_BACKEND_AUTO.rawValue
        case .ioUring: options.backend = CIO_BACKEND_IO_URING.rawValue
        case .epoll: options.backend = CIO_BACKEND_EPOLL.rawValue
        }
        options.handles_max = UInt32(limits.handlesMax)
        options.ring_entries = UInt32(limits.ringEntries)
        options.receive_buffers = UInt32(limits.receiveBuffers)
        options.receive_buffer_bytes = UInt32(limits.receiveBufferBytes)
        options.pipes_max = UInt32(limits.pipesMax)
        options.output_bytes_max = UInt64(limits.outputBytesMax)
        var made: OpaquePointer?
        let (result, reason) = unsafe withUnsafeTemporaryAllocation(of: CChar.self, capacity: 256) { text in
            unsafe text.initialize(repeating: 0)
            let result = unsafe cio_loop_create(&made, &options, text.baseAddress!, text.count)
            return unsafe (result, String(cString: text.baseAddress!))
        }
        guard result == 0, let made = unsafe made else {
            // The reason ends with the errno's text, which the error adds by itself.
            let text = ": " + SystemError.text(of: -result)
            throw SystemError(code: -result, call: reason.hasSuffix(text) ? String(reason.dropLast(text.count)) : reason)
        }
        unsafe core = made
        self.backend = unsafe cio_loop_backend(made) == CIO_BACKEND_IO_URING.rawValue ? .ioUring : .epoll
        backendDescription = reason
        now = Instant(nanoseconds: cio_clock_monotonic())
        unsafe events = .allocate(capacity: Loop.eventsMax)
    }

    deinit {
        unsafe cio_loop_destroy(core)
        unsafe events.deallocate()
    }

    /// Runs turns until `stop` is called.
    public func run() {
        isStopping = false
        while !isStopping { runTurn(until: .never) }
    }

    /// Lets `run` return after the turn in progress.
    public func stop() { isStopping = true }

    /// One turn: waits until something happens, a timer is due or `limit` is reached, and handles it.
    public func runTurn(until limit: Instant) {
        precondition(!isInTurn, "a turn within a turn")
        isInTurn = true
        defer { isInTurn = false }
        let deadline = tasks.isEmpty ? min(limit, timers.nextDeadline) : Instant(nanoseconds: 0)
        let count = unsafe cio_loop_turn(core, deadline.nanoseconds, events, UInt32(Loop.eventsMax))
        precondition(count >= 0, "cio_loop_turn failed")
        now = Instant(nanoseconds: unsafe cio_loop_now(core))
        for index in 0..<Int(count) { unsafe dispatch(events + index) }
        timers.fire(until: now)
        runTasks()
        turnTimes.add(cio_clock_monotonic() &- now.nanoseconds)
    }

    /// Queues a task for the end of this turn. Queued while the tasks of a turn run, it runs at the end of the next turn,
    /// which then does not wait.
    public func afterTurn(_ task: AfterTurn) {
        if task.isQueued { return }
        task.isQueued = true
        tasks.append(task)
    }

    /// Something that another thread may hold to end the wait.
    public var waker: LoopWaker { LoopWaker(self) }

    /// Open handles, those that linger included.
    public var openHandles: Int { Int(counters.handlesOpen) }

    /// A snapshot of the counters.
    public var counters: LoopCounters {
        var raw = cio_loop_counters()
        unsafe cio_loop_counters_read(core, &raw)
        return LoopCounters(
            turns: raw.turns, events: raw.events, staleCompletions: raw.stale_completions,
            receiveBufferShortages: raw.receive_buffer_shortages, systemCalls: raw.system_calls,
            pumpBytesCopied: raw.pump_bytes_copied, pumpBytesSpliced: raw.pump_bytes_spliced,
            pipeShortages: raw.pipe_shortages, handlesOpen: raw.handles_open, handlesLingering: raw.handles_lingering,
            outputBytes: raw.output_bytes, outputChunks: raw.output_chunks, pumps: raw.pumps, pipes: raw.pipes)
    }

    private func runTasks() {
        if tasks.isEmpty { return }
        swap(&tasks, &tasksRunning)
        for index in tasksRunning.indices {
            let task = tasksRunning[index]
            task.isQueued = false
            task.run()
        }
        tasksRunning.removeAll(keepingCapacity: true)
    }

    private func dispatch(_ event: UnsafePointer<cio_event>) {
        if unsafe !cio_handle_alive(core, event.pointee.handle) {
            unsafe Loop.dispose(event)
            return
        }
        let tag = unsafe UInt(event.pointee.tag)
        let object = unsafe UnsafeRawPointer(bitPattern: tag & ~HandlerKind.mask)!
        switch tag & HandlerKind.mask {
        case HandlerKind.stream: unsafe Unmanaged<Stream>.fromOpaque(object).takeUnretainedValue().handle(event)
        case HandlerKind.listener: unsafe Unmanaged<Listener>.fromOpaque(object).takeUnretainedValue().handle(event)
        case HandlerKind.message: unsafe Unmanaged<MessageSocket>.fromOpaque(object).takeUnretainedValue().handle(event)
        case HandlerKind.readiness:
            unsafe Unmanaged<ReadinessSource>.fromOpaque(object).takeUnretainedValue().handle(event)
        case HandlerKind.resolution: unsafe Unmanaged<Resolution>.fromOpaque(object).takeUnretainedValue().handle(event)
        case HandlerKind.watch: unsafe Unmanaged<SocketWatch>.fromOpaque(object).takeUnretainedValue().handle(event)
        default: preconditionFailure("an event with a tag that no handle has")
        }
    }

    /// Closes the descriptors of an event whose handle was closed earlier in the same batch.
    private static func dispose(_ event: UnsafePointer<cio_event>) {
        switch unsafe event.pointee.kind {
        case CIO_EVENT_ACCEPTED.rawValue, CIO_EVENT_DETACHED.rawValue:
            if unsafe event.pointee.result >= 0 { unsafe cio_descriptor_close(event.pointee.result) }
        case CIO_EVENT_MESSAGE.rawValue:
            for index in 0..<Int(unsafe event.pointee.descriptor_count) {
                unsafe cio_descriptor_close(event.pointee.descriptors[index])
            }
        default: break
        }
    }
}

/// The low bits of a tag: which class the object is of. Objects are aligned to at least eight bytes.
enum HandlerKind {
    static let stream: UInt = 0
    static let listener: UInt = 1
    static let message: UInt = 2
    static let readiness: UInt = 3
    static let resolution: UInt = 4
    static let watch: UInt = 5
    static let mask: UInt = 7
}

/// The tag of an object, without a reference; `retainHandler` adds the one that the open handle holds.
func handlerTag(_ object: AnyObject, _ kind: UInt) -> UInt64 {
    unsafe UInt64(UInt(bitPattern: Unmanaged.passUnretained(object).toOpaque()) | kind)
}

/// The reference that an open handle holds to its object, and its release.
func retainHandler(_ object: AnyObject) { _ = unsafe Unmanaged.passRetained(object) }
func releaseHandler(_ object: AnyObject) { unsafe Unmanaged.passUnretained(object).release() }
