// Memory that processes share, and files that live in memory only.
internal import CIOCore
internal import Glibc
public import Memory

/// A mapped memory file of a fixed size, shared by everyone who has its descriptor.
@safe
public final class SharedMemory {
    /// The memory file, to be handed to another process.
    public var descriptor: Int32 { file.raw }
    /// Bytes mapped.
    public let size: Int
    /// The first byte; valid as long as this object lives. What lies there may be changed by other processes at any time.
    @unsafe public let base: UnsafeMutableRawPointer
    private let file: OwnedDescriptor

    /// A new one, full of zeros; its size is sealed.
    public init(name: String, size: Int) throws(SystemError) {
        precondition(size > 0, "shared memory needs a size")
        file = OwnedDescriptor(try unsafe cio_memory_create(name, size).orThrow("memfd_create"))
        self.size = size
        unsafe base = try SharedMemory.map(file.raw, size)
    }

    /// One that another process made. Throws EINVAL when it is smaller than `size`.
    public init(adopting descriptor: consuming OwnedDescriptor, size: Int) throws(SystemError) {
        file = descriptor
        self.size = size
        guard size > 0, cio_descriptor_kind(file.raw) == 5, cio_descriptor_size(file.raw) >= Int64(size) else {
            throw SystemError(code: EINVAL, call: "map shared memory")
        }
        unsafe base = try SharedMemory.map(file.raw, size)
    }

    /// The bytes of a memory file.
    public static func size(of descriptor: Int32) -> Int { Int(clamping: cio_descriptor_size(descriptor)) }

    deinit { unsafe cio_memory_unmap(base, size) }

    private static func map(_ descriptor: Int32, _ size: Int) throws(SystemError) -> UnsafeMutableRawPointer {
        guard let address = unsafe cio_memory_map(descriptor, size) else { throw SystemError(code: errno, call: "mmap") }
        return unsafe address
    }
}

extension SharedMemory {
    /// The memory as a region, which keeps it mapped.
    public var region: SharedRegion {
        unsafe SharedRegion(unsafeBase: base, byteCount: size) { _, _ in withExtendedLifetime(self) {} }
    }
}

extension SharedRegion {
    /// Maps the whole of a memory file that another process made.
    public convenience init(adopting descriptor: consuming OwnedDescriptor) throws(SystemError) {
        let size = Int(cio_descriptor_size(descriptor.raw))
        let memory = try SharedMemory(adopting: descriptor, size: size)
        unsafe self.init(unsafeBase: memory.base, byteCount: size) { _, _ in withExtendedLifetime(memory) {} }
    }
}

/// Bytes in a memory file, for what is too long for a message.
public enum MemoryFile {
    /// A memory file that holds a copy of the bytes.
    public static func make(name: String, holding bytes: Span<UInt8>) throws(SystemError) -> OwnedDescriptor {
        let file = OwnedDescriptor(try unsafe cio_memory_create(name, 0).orThrow("memfd_create"))
        let written = unsafe bytes.withUnsafeBufferPointer { buffer in
            unsafe cio_descriptor_write(file.raw, buffer.baseAddress, buffer.count)
        }
        if written < 0 { throw SystemError.of(written, "write") }
        if written < bytes.count { throw SystemError(code: ENOSPC, call: "write") }
        return file
    }

    /// Appends everything that the file holds. Throws EFBIG when that is more than `bytesMax`.
    public static func read(_ descriptor: Int32, bytesMax: Int, into buffer: inout ByteBuffer) throws(SystemError) {
        let size = cio_descriptor_size(descriptor)
        if size < 0 { throw SystemError.of(size, "fstat") }
        if size > Int64(bytesMax) { throw SystemError(code: EFBIG, call: "read") }
        var offset = 0
        while offset < Int(size) {
            let count = unsafe withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 16_384) { piece in
                let want = min(piece.count, Int(size) - offset)
                let got = unsafe cio_descriptor_read_at(descriptor, piece.baseAddress, want, UInt64(offset))
                if got > 0 { unsafe buffer.append(Span(_unsafeElements: UnsafeBufferPointer(rebasing: piece[..<got]))) }
                // It may be a key.
                unsafe explicit_bzero(piece.baseAddress!, piece.count)
                return got
            }
            if count < 0 { throw SystemError.of(count, "read") }
            if count == 0 { return }
            offset += count
        }
    }
}
