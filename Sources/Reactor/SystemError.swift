// The machine said no: an errno and the call that said it.
internal import Glibc

/// A failed system call.
public struct SystemError: Error, Equatable, Sendable, CustomStringConvertible {
    /// The errno, positive.
    public var code: Int32
    /// What was called, in words a person can look up.
    public var call: String

    public init(code: Int32, call: String) {
        self.code = code
        self.call = call
    }

    /// For example `bind: Address already in use`.
    public var description: String { "\(call): \(SystemError.text(of: code))" }

    /// Whether there is nobody at the other end any more, or the socket is closed here.
    public var isPeerGone: Bool { code == EPIPE || code == ECONNRESET || code == ENOTCONN || code == EBADF }

    /// What the C library says about an errno.
    public static func text(of code: Int32) -> String {
        unsafe withUnsafeTemporaryAllocation(of: CChar.self, capacity: 256) { buffer in
            unsafe buffer.initialize(repeating: 0)
            unsafe strerror_r(code, buffer.baseAddress!, buffer.count)
            return unsafe String(cString: buffer.baseAddress!)
        }
    }

    /// The error of a C core call that returned -errno.
    static func of(_ result: some BinaryInteger, _ call: String) -> SystemError {
        SystemError(code: Int32(-Int64(result)), call: call)
    }
}

extension Int32 {
    /// The value of a C core call, or its failure.
    @discardableResult
    func orThrow(_ call: String) throws(SystemError) -> Int32 {
        if self < 0 { throw SystemError.of(self, call) }
        return self
    }
}
