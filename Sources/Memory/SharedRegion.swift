// A run of memory that several processes may map. Whoever maps it (the reactor, over a memfd) makes the region; what lies in
// it is the business of the types that are built on it, `CounterRegion` for one.
//
// Invariants: the base is aligned to eight bytes; `words` never leads out of the region; words are
// atomic, since another process may write them at any time.

import Synchronization

/// Memory of a fixed size, accessed as 64-bit words.
@safe
public final class SharedRegion {
    /// The region's size.
    public let byteCount: Int
    private let base: UnsafeMutableRawPointer
    private let release: (UnsafeMutableRawPointer, Int) -> Void

    /// Wraps memory that stays valid until `release` is called with it, which happens once, at the end of the region.
    @unsafe
    public init(
        unsafeBase base: UnsafeMutableRawPointer, byteCount: Int,
        release: @escaping (UnsafeMutableRawPointer, Int) -> Void
    ) {
        precondition(byteCount >= 0 && UInt(bitPattern: base) % 8 == 0, "SharedRegion needs an aligned base")
        unsafe self.base = unsafe base
        self.byteCount = byteCount
        unsafe self.release = unsafe release
    }

    /// Zeroed memory of this process alone: for programs of one process, and for tests.
    public init(privateBytes byteCount: Int) {
        precondition(byteCount >= 0)
        let memory = UnsafeMutableRawPointer.allocate(byteCount: max(byteCount, 8), alignment: 64)
        unsafe memory.initializeMemory(as: UInt8.self, repeating: 0, count: max(byteCount, 8))
        unsafe base = unsafe memory
        self.byteCount = byteCount
        unsafe release = { address, _ in unsafe address.deallocate() }
    }

    deinit { unsafe release(base, byteCount) }

    /// The number of whole words.
    public var wordCount: Int { byteCount / 8 }

    /// The bytes, as they are at this moment.
    public func withUnsafeBytes<Result>(_ body: (UnsafeRawBufferPointer) -> Result) -> Result {
        unsafe body(UnsafeRawBufferPointer(start: base, count: byteCount))
    }

    /// The words from `first`, `count` of them.
    func words(from first: Int, count: Int) -> UnsafeMutablePointer<Atomic<UInt64>> {
        precondition(first >= 0 && count >= 0 && first <= wordCount - count, "words outside of the region")
        return unsafe base.advanced(by: first * 8).assumingMemoryBound(to: Atomic<UInt64>.self)
    }

    /// The same as words of 32 bits.
    func halfWords(from first: Int, count: Int) -> UnsafeMutablePointer<Atomic<UInt32>> {
        precondition(first >= 0 && count >= 0 && first <= byteCount / 4 - count, "words outside of the region")
        return unsafe base.advanced(by: first * 4).assumingMemoryBound(to: Atomic<UInt32>.self)
    }
}
