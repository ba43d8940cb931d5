// The libFuzzer driver: hands each input to the target that the environment variable PIKO_FUZZ_TARGET names. Built by
// Tests/Fuzz/run; not part of the package, whose executables can't have libFuzzer's entry point.

import FuzzTargets
import Glibc

nonisolated(unsafe) private var target: FuzzTarget?

@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOneInput(_ bytes: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    if target == nil {
        guard let name = getenv("PIKO_FUZZ_TARGET").map({ String(cString: $0) }), let named = FuzzTarget(rawValue: name) else {
            fatalError("PIKO_FUZZ_TARGET must be one of \(FuzzTarget.allCases.map(\.rawValue))")
        }
        target = named
    }
    target?.run(Array(UnsafeBufferPointer(start: bytes, count: count)))
    return 0
}
