// How soon a process gets a processor that others keep busy. Since Linux 6.12 a process can ask the scheduler for short turns, which
// come sooner; before, nothing changes.
internal import CIOCore

/// The scheduler's view of a process.
public enum ProcessorTurns {
    /// Short turns that come soon, for a process that passes on what others wait for; 0: this one. Programs that this one starts begin
    /// with long turns, so that their start holds nobody up.
    public static func hurry(_ pid: Int32 = 0) { cio_process_set_slice(pid, UInt32(CIO_SLICE_SHORT)) }
}
