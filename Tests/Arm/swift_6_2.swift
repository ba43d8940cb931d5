// What the standard library of Swift 6.3 has and that of 6.2 has not. script/check-arm compiles it into the module that uses it, since
// the newest library for 64-bit Arm that Debian has is of 6.2.

extension Array {
    init(capacity: Int, initializingWith initializer: (inout OutputSpan<Element>) -> Void) {
        unsafe self.init(unsafeUninitializedCapacity: capacity) { buffer, count in
            var output = unsafe OutputSpan(buffer: buffer, initializedCount: 0)
            initializer(&output)
            count = unsafe output.finalize(for: buffer)
        }
    }
}
