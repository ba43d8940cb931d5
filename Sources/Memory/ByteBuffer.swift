// A growable queue of bytes: append at the end, consume at the front. It holds what can't be handled yet: a head that
// has not come whole, a request that was pipelined, a frame that waits for window.
//
// Why not [UInt8]: an empty buffer must own no memory (ten thousand idle connections each have one), consuming at the
// front must not move bytes, and copies out of a `Span` must be one memcpy.
//
// Invariants: 0 <= head <= tail <= capacity; bytes [head, tail) are initialised; storage is nil when capacity is 0.

/// A queue of bytes. Not thread-safe; a class-held one is mutated in place.
@safe
public struct ByteBuffer: ~Copyable {
    private var storage: UnsafeMutablePointer<UInt8>?
    private var capacity: Int
    private var head: Int
    private var tail: Int

    /// An empty buffer that owns no memory.
    public init() {
        unsafe storage = nil
        capacity = 0
        head = 0
        tail = 0
    }

    deinit { unsafe storage?.deallocate() }

    /// The number of bytes that wait.
    public var count: Int { tail - head }

    /// Whether no byte waits.
    public var isEmpty: Bool { head == tail }

    /// The bytes that wait, oldest first.
    public var span: Span<UInt8> {
        @_lifetime(borrow self)
        get {
            let bytes = unsafe UnsafeBufferPointer(start: storage.map { unsafe UnsafePointer($0 + head) }, count: count)
            return unsafe _overrideLifetime(Span(_unsafeElements: bytes), borrowing: self)
        }
    }

    /// The bytes that wait, to be changed in place (unmasking).
    public var mutableSpan: MutableSpan<UInt8> {
        @_lifetime(&self)
        mutating get {
            let start = unsafe storage.map { unsafe $0 + head }
            let bytes = unsafe UnsafeMutableBufferPointer(start: start, count: count)
            return unsafe _overrideLifetime(MutableSpan(_unsafeElements: bytes), mutating: &self)
        }
    }

    /// Calls `body` with the bytes at these places, the oldest one's being 0. For buffers that are held by objects, out of
    /// which a span can't be handed.
    public borrowing func withSpan<Result: ~Copyable, Failure: Error>(
        _ range: Range<Int>, _ body: (Span<UInt8>) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        try body(span.extracting(range))
    }

    /// Appends a copy of the bytes.
    public mutating func append(_ bytes: Span<UInt8>) {
        let length = bytes.count
        if length == 0 { return }
        reserve(length)
        unsafe bytes.withUnsafeBufferPointer { source in
            unsafe (storage! + tail).update(from: source.baseAddress!, count: length)
        }
        tail += length
    }

    /// Appends one byte.
    public mutating func append(_ byte: UInt8) {
        reserve(1)
        unsafe storage![tail] = byte
        tail += 1
    }

    /// Appends the bytes of a literal, without going through String storage.
    public mutating func append(_ text: StaticString) {
        let length = text.utf8CodeUnitCount
        if length == 0 { return }
        reserve(length)
        unsafe (storage! + tail).update(from: text.utf8Start, count: length)
        tail += length
    }

    /// Appends the UTF-8 bytes of a string. Disfavored, so that a literal takes the way above.
    @_disfavoredOverload
    public mutating func append(_ text: String) {
        append(text.utf8Span.span)
    }

    /// Appends an unsigned number in decimal.
    public mutating func appendDecimal(_ number: UInt64) {
        appendDigits(number, radix: 10)
    }

    /// Appends an unsigned number in lower-case hexadecimal.
    public mutating func appendHexadecimal(_ number: UInt64) {
        appendDigits(number, radix: 16)
    }

    private mutating func appendDigits(_ number: UInt64, radix: UInt64) {
        var count = 1
        var rest = number / radix
        while rest > 0 {
            count += 1
            rest /= radix
        }
        reserve(count)
        rest = number
        for place in stride(from: tail + count - 1, through: tail, by: -1) {
            let digit = UInt8(truncatingIfNeeded: rest % radix)
            unsafe storage![place] = digit < 10 ? 48 + digit : 87 + digit
            rest /= radix
        }
        tail += count
    }

    /// Drops the oldest `length` bytes. Traps when there are fewer. An emptied buffer keeps its memory; see `release`.
    public mutating func consume(_ length: Int) {
        precondition(length >= 0 && length <= count, "ByteBuffer.consume past the end")
        head += length
        if head == tail {
            head = 0
            tail = 0
        }
    }

    /// Drops all bytes and keeps the memory for the next.
    public mutating func removeAll() {
        head = 0
        tail = 0
    }

    /// Drops the newest bytes until `length` are left. Traps when there are fewer.
    public mutating func truncate(to length: Int) {
        precondition(length >= 0 && length <= count, "ByteBuffer.truncate past the end")
        tail = head + length
    }

    /// Gives the memory back when the buffer is empty.
    public mutating func releaseIfEmpty() {
        guard isEmpty, unsafe storage != nil else { return }
        unsafe storage!.deallocate()
        unsafe storage = nil
        capacity = 0
        head = 0
        tail = 0
    }

    @inline(__always)
    private mutating func reserve(_ length: Int) {
        if capacity - tail < length { makeRoom(length) }
    }

    /// Makes room for `length` more bytes: by moving to the front when that frees enough, else by doubling.
    @inline(never)
    private mutating func makeRoom(_ length: Int) {
        let waiting = count
        if capacity - waiting >= length && head >= capacity / 2 {
            unsafe storage!.update(from: storage! + head, count: waiting)
        } else {
            var larger = max(capacity, 256)
            while larger - waiting < length { larger *= 2 }
            let fresh = UnsafeMutablePointer<UInt8>.allocate(capacity: larger)
            if waiting > 0 { unsafe fresh.update(from: storage! + head, count: waiting) }
            unsafe storage?.deallocate()
            unsafe storage = fresh
            capacity = larger
        }
        head = 0
        tail = waiting
    }
}

extension [UInt8] {
    /// The bytes of a span.
    public init(copying bytes: Span<UInt8>) {
        self = unsafe bytes.withUnsafeBufferPointer { unsafe [UInt8]($0) }
    }
}
