// Secret bytes (private keys, keys of tickets) that are overwritten when nobody holds them any more.

internal import CTLS

/// Bytes that leave no trace in this process's memory.
@safe
public final class SecretBytes: @unchecked Sendable {
    /// Never changed between init and deinit.
    private let bytes: UnsafeMutableBufferPointer<UInt8>

    /// A copy; the original is the caller's to wipe.
    public init(copying bytes: Span<UInt8>) {
        let copy = UnsafeMutableBufferPointer<UInt8>.allocate(capacity: bytes.count)
        unsafe bytes.withUnsafeBufferPointer { source in _ = unsafe copy.initialize(from: source) }
        unsafe self.bytes = copy
    }

    /// Takes the bytes over and overwrites the array.
    public convenience init(taking bytes: inout [UInt8]) {
        self.init(copying: bytes.span)
        Self.wipe(&bytes)
    }

    deinit {
        unsafe ctls_wipe(bytes.baseAddress, bytes.count)
        unsafe bytes.deallocate()
    }

    public var count: Int { unsafe bytes.count }

    public var isEmpty: Bool { count == 0 }

    /// Calls `body` with the bytes, which it should not copy.
    public func withSpan<Result: ~Copyable, Failure: Error>(
        _ body: (Span<UInt8>) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        try body(unsafe Span(_unsafeElements: UnsafeBufferPointer(bytes)))
    }

    /// Whether both hold the same bytes.
    public func isSame(as other: SecretBytes) -> Bool {
        unsafe count == other.count && ctls_equal(bytes.baseAddress, other.bytes.baseAddress, count)
    }

    /// Overwrites bytes that stay where they are.
    public static func wipe(_ bytes: inout MutableSpan<UInt8>) {
        unsafe bytes.withUnsafeMutableBufferPointer { unsafe ctls_wipe($0.baseAddress, $0.count) }
    }

    /// Overwrites an array that nothing else shares, and empties it.
    public static func wipe(_ bytes: inout [UInt8]) {
        unsafe bytes.withUnsafeMutableBufferPointer { unsafe ctls_wipe($0.baseAddress, $0.count) }
        bytes = []
    }
}
