// Small things that a program asks of the machine: randomness, clocks, limits, socket facts, writes to inherited
// descriptors.
public import Base
internal import CIOCore
internal import Glibc

/// Random numbers from the kernel.
public enum Random {
    /// `count` random bytes.
    public static func bytes(_ count: Int) -> [UInt8] {
        unsafe [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
            let result = unsafe cio_random(buffer.baseAddress, count)
            precondition(result == 0, "the kernel gives no random bytes")
            initialized = count
        }
    }

    /// A random number of 64 bits.
    public static func number() -> UInt64 {
        var value: UInt64 = 0
        let result = unsafe cio_random(&value, 8)
        precondition(result == 0, "the kernel gives no random bytes")
        return value
    }
}

/// The machine's clocks.
public enum SystemClock {
    /// The monotonic clock, read now. In the loop's callbacks `Loop.now` is cheaper.
    public static var now: Instant { Instant(nanoseconds: cio_clock_monotonic()) }

    /// Nanoseconds since 1970.
    public static var unixNanoseconds: UInt64 { cio_clock_realtime() }
}

/// Limits and facts of this process.
public enum System {
    /// Processors that the process may use, at least 1: affinity and cgroup quota count.
    public static var processorCount: Int { Int(cio_processor_count()) }

    /// Raises the limit of open descriptors as far as it goes and returns it.
    @discardableResult
    public static func raiseDescriptorLimit() -> Int { Int(clamping: cio_descriptor_limit_raise()) }

    /// Raises the limit of locked memory, which io_uring's rings count against, as far as it goes; children inherit it.
    public static func raiseLockedMemoryLimit() { cio_memlock_limit_raise() }

    /// What the kernel calls a page; 4 KiB on most machines.
    public static var pageBytes: UInt64 { UInt64(max(sysconf(Int32(_SC_PAGESIZE)), 1)) }

    /// This process's number.
    public static var processIdentifier: Int32 { getpid() }
}

/// What kind of thing a descriptor is.
public enum DescriptorKind: Int32, Sendable {
    case other = 0
    case streamSocket = 1
    case messageSocket = 2
    case datagramSocket = 3
    case listeningSocket = 4
    case file = 5

    /// The kind of a descriptor; nil when it is not open.
    public init?(of descriptor: Int32) { self.init(rawValue: cio_descriptor_kind(descriptor)) }
}

/// Sockets that are in no loop yet.
public enum Sockets {
    public enum PairKind: Sendable {
        case stream
        case seqpacket
    }

    /// Two connected Unix sockets.
    public static func pair(_ kind: PairKind) throws(SystemError) -> DescriptorPair {
        var numbers: [Int32] = [-1, -1]
        let type = kind == .stream ? Int32(SOCK_STREAM.rawValue) : Int32(SOCK_SEQPACKET.rawValue)
        let result = unsafe numbers.withUnsafeMutableBufferPointer { unsafe cio_socket_pair(type, $0.baseAddress) }
        try result.orThrow("socketpair")
        return DescriptorPair(numbers[0], numbers[1])
    }

    /// Who is at the other end of a Unix socket.
    public static func credentials(of descriptor: Int32) throws(SystemError) -> (process: Int32, user: UInt32, group: UInt32) {
        var process: pid_t = 0
        var user: uid_t = 0
        var group: gid_t = 0
        try unsafe cio_socket_credentials(descriptor, &process, &user, &group).orThrow("SO_PEERCRED")
        return (process, user, group)
    }
}

/// Writing to descriptors that were inherited and must stay as they are (no O_NONBLOCK on a shared stderr).
public enum InheritedOutput {
    /// Writes if that does not block; false when it would, or when it failed: the caller counts the line as dropped.
    public static func writeReady(descriptor: Int32, bytes: Span<UInt8>) -> Bool {
        unsafe bytes.withUnsafeBufferPointer { buffer in
            unsafe cio_descriptor_write_ready(descriptor, buffer.baseAddress, buffer.count) >= 0
        }
    }

    /// Writes all, waiting if need be: for command-line output.
    @discardableResult
    public static func write(descriptor: Int32, bytes: Span<UInt8>) -> Bool {
        unsafe bytes.withUnsafeBufferPointer { buffer in
            unsafe cio_descriptor_write(descriptor, buffer.baseAddress, buffer.count) == buffer.count
        }
    }
}
