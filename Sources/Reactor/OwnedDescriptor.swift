// One owner per file descriptor: dropping the value closes it, handing it over consumes it.
internal import CIOCore

/// A file descriptor that belongs to this value alone.
public struct OwnedDescriptor: ~Copyable {
    /// The number, for calls that only look at the descriptor.
    public let raw: Int32

    /// Takes over a descriptor that nobody else will close.
    public init(_ raw: Int32) {
        self.raw = raw
    }

    deinit { cio_descriptor_close(raw) }

    /// Gives up ownership: the caller closes it.
    public consuming func take() -> Int32 {
        let number = raw
        discard self
        return number
    }
}

/// Two connected descriptors. An end that nobody takes is closed.
public struct DescriptorPair: ~Copyable {
    private var first: OwnedDescriptor?
    private var second: OwnedDescriptor?

    init(_ first: Int32, _ second: Int32) {
        self.first = OwnedDescriptor(first)
        self.second = OwnedDescriptor(second)
    }

    /// One end; traps when it was taken before.
    public mutating func takeFirst() -> OwnedDescriptor { first.take()! }

    /// The other end; traps when it was taken before.
    public mutating func takeSecond() -> OwnedDescriptor { second.take()! }
}

/// The descriptors that came with a message. Those that nobody takes are closed.
public struct DescriptorList: ~Copyable {
    private var waiting: [Int32]
    private var next = 0
    /// This process had no room for all descriptors of the message: those at the end of the list are missing.
    public let isShort: Bool

    init(_ numbers: [Int32], isShort: Bool = false) {
        waiting = numbers
        self.isShort = isShort
    }

    deinit {
        for index in next..<waiting.count { cio_descriptor_close(waiting[index]) }
    }

    /// How many are left.
    public var count: Int { waiting.count - next }

    /// The next one, in the order in which they were sent.
    public mutating func takeFirst() -> OwnedDescriptor? {
        if next == waiting.count { return nil }
        next += 1
        return OwnedDescriptor(waiting[next - 1])
    }
}
