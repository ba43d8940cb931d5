// Shared memory files as the regions that `Memory` lays its counters out in.
internal import CIOCore
public import Memory

extension SharedRegion {
    /// The whole of a memory file, which stays mapped as long as the region lives.
    public convenience init(_ memory: SharedMemory) {
        unsafe self.init(unsafeBase: memory.base, byteCount: memory.size) { _, _ in _ = memory }
    }

    /// Maps the whole of a memory file that another process made.
    public convenience init(adopting descriptor: consuming OwnedDescriptor) throws(SystemError) {
        let size = cio_descriptor_size(descriptor.raw)
        if size < 0 { throw SystemError.of(size, "fstat") }
        self.init(try SharedMemory(adopting: descriptor, size: Int(size)))
    }
}
