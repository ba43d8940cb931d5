// Timers: an indexed heap with four children a node, held by the loop.
//
// Most timers of a proxy are timeouts that are moved later again and again and hardly ever fire. So moving one later only
// writes its new deadline; the heap's entry keeps the old one and is put right when it reaches the top.
//
// Invariants: an entry's deadline is never later than its timer's; `timer.position` is the index of its entry, or -1. The
// heap does not own timers: a timer that goes away takes its entry with it.
public import Base

/// Something that happens at a point in time. Subclass it, or use `CallbackTimer`.
open class Timer {
    /// The loop that runs it.
    public final let loop: Loop
    fileprivate final var position: Int32 = -1
    fileprivate final var deadline = Instant.never

    public init(_ loop: Loop) {
        self.loop = loop
    }

    deinit { cancel() }

    /// Called once at the deadline; the timer may be scheduled again from within.
    open func fired() {}

    /// Fires once, `duration` from now; replaces an earlier deadline.
    public final func schedule(after duration: Duration) { schedule(at: loop.now + duration) }

    /// Fires once at `instant`, or in the next turn when that has passed; replaces an earlier deadline.
    public final func schedule(at instant: Instant) { loop.timers.schedule(self, at: instant) }

    /// Takes the deadline back.
    public final func cancel() {
        if position >= 0 { loop.timers.remove(self) }
    }

    /// Whether it is going to fire.
    public final var isScheduled: Bool { position >= 0 }
}

/// A timer that calls a closure.
public final class CallbackTimer: Timer {
    private let callback: () -> Void

    public init(_ loop: Loop, _ callback: @escaping () -> Void) {
        self.callback = callback
        super.init(loop)
    }

    override public func fired() { callback() }
}

/// The timers of one loop, the earliest at the top.
@safe
final class TimerHeap {
    @safe private struct Entry {
        var deadline: Instant
        var timer: Unmanaged<Timer>
    }

    private var entries: UnsafeMutablePointer<Entry>
    private var capacity = 16
    private var count = 0
    /// While timers fire, the time up to which they do: a timer that is set to it or earlier waits for the next turn.
    private var firingUntil: Instant?

    init() {
        unsafe entries = .allocate(capacity: 16)
    }

    deinit { unsafe entries.deallocate() }

    /// When the next timer is due.
    var nextDeadline: Instant {
        while count > 0 {
            let top = unsafe entries[0]
            let deadline = unsafe top.timer._withUnsafeGuaranteedRef { $0.deadline }
            if top.deadline == deadline { return deadline }
            unsafe siftDown(from: 0, Entry(deadline: deadline, timer: top.timer))
        }
        return .never
    }

    func schedule(_ timer: Timer, at instant: Instant) {
        var deadline = instant
        if let firingUntil, deadline <= firingUntil { deadline = Instant(nanoseconds: firingUntil.nanoseconds + 1) }
        timer.deadline = deadline
        let entry = unsafe Entry(deadline: deadline, timer: Unmanaged.passUnretained(timer))
        if timer.position >= 0 {
            let position = Int(timer.position)
            if unsafe deadline < entries[position].deadline { siftUp(from: position, entry) }
            return
        }
        if count == capacity { grow() }
        count += 1
        siftUp(from: count - 1, entry)
    }

    func remove(_ timer: Timer) {
        let position = Int(timer.position)
        timer.position = -1
        timer.deadline = .never
        count -= 1
        if position == count { return }
        let last = unsafe entries[count]
        if position > 0, unsafe last.deadline < entries[(position - 1) / 4].deadline {
            siftUp(from: position, last)
        } else {
            siftDown(from: position, last)
        }
    }

    /// Fires what is due at `now`.
    func fire(until now: Instant) {
        firingUntil = now
        while nextDeadline <= now {
            let timer = unsafe entries[0].timer.takeUnretainedValue()
            remove(timer)
            timer.fired()
        }
        firingUntil = nil
    }

    private func grow() {
        let larger = UnsafeMutablePointer<Entry>.allocate(capacity: capacity * 2)
        unsafe larger.moveInitialize(from: entries, count: count)
        unsafe entries.deallocate()
        unsafe entries = larger
        capacity *= 2
    }

    private func place(_ entry: Entry, at position: Int) {
        unsafe (entries + position).initialize(to: entry)
        unsafe entry.timer._withUnsafeGuaranteedRef { $0.position = Int32(position) }
    }

    private func siftUp(from start: Int, _ entry: Entry) {
        var position = start
        while position > 0 {
            let parent = (position - 1) / 4
            if unsafe entries[parent].deadline <= entry.deadline { break }
            unsafe place(entries[parent], at: position)
            position = parent
        }
        place(entry, at: position)
    }

    private func siftDown(from start: Int, _ entry: Entry) {
        var position = start
        while true {
            let first = position * 4 + 1
            if first >= count { break }
            var least = first
            for child in (first + 1)..<max(first + 1, min(first + 4, count))
            where unsafe entries[child].deadline < entries[least].deadline { least = child }
            if unsafe entry.deadline <= entries[least].deadline { break }
            unsafe place(entries[least], at: position)
            position = least
        }
        place(entry, at: position)
    }
}
