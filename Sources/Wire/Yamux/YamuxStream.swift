// One stream of a yamux session: its name, its state machine and what the session keeps about it. Plain values only, so
// that a session can be written down and go on in another process.

import Base

/// Names a stream for the life of its session. `number` is never used twice, so an old name never means a newer stream in
/// the same slot.
public struct YamuxStreamID: Hashable, Sendable {
    /// A small dense index, for the user's own table. Used again once the stream is gone.
    public var slot: UInt32
    /// The number on the wire, never 0.
    public var number: UInt32

    public init(slot: UInt32, number: UInt32) {
        self.slot = slot
        self.number = number
    }
}

/// What happens to a stream.
enum YamuxStreamEvent: CaseIterable {
    /// We open it: SYN goes out.
    case open
    /// The peer opens it: SYN came, ACK goes out.
    case accept
    /// The first frame from the peer came, with ACK or without. Repeats on every frame.
    case acknowledge
    /// We end our half: FIN goes out.
    case finish
    /// The peer ends its half: FIN came.
    case end
    /// RST, from either side.
    case reset
}

// The states of a stream, and every legal transition:
//
//             open                 acknowledge             accept
//      free ─────────► opening ─────────────────► open ◄───────── free
//                         │ finish          finish │ │ end
//                         ▼                        │ │
//                  openingFinished                 │ │
//                         │ acknowledge            │ │
//                         └──────► finished ◄──────┘ └──► ended
//                                      │ end                │ finish
//                                      └─────► free ◄───────┘
//
//  - reset leads from every state but `free` to `free`.
//  - acknowledge leaves open, finished and ended as they are.
//  - A FIN from the peer is always preceded by acknowledge (any frame but RST shows that the peer took the stream), so
//    opening and openingFinished never see `end`.
//  - Everything else is illegal: `next` gives nil. From the peer that is a violation; from our own user it is ignored
//    (ending a half twice) or stopped before (a stale name).

/// Where a stream stands.
enum YamuxStreamState: UInt8, CaseIterable {
    /// The slot has no stream.
    case free
    /// We sent SYN and have heard nothing yet. Data may go out already.
    case opening
    /// As `opening`, and we ended our half.
    case openingFinished
    /// Both halves run.
    case open
    /// We ended our half; the peer's runs.
    case finished
    /// The peer ended its half; ours runs.
    case ended

    /// The state after the event; nil when the event is illegal here.
    func next(_ event: YamuxStreamEvent) -> YamuxStreamState? {
        switch (self, event) {
        case (.free, .open): .opening
        case (.free, .accept): .open
        case (.free, .acknowledge), (.free, .finish), (.free, .end), (.free, .reset): nil

        case (.opening, .acknowledge): .open
        case (.opening, .finish): .openingFinished
        case (.opening, .open), (.opening, .accept), (.opening, .end): nil

        case (.openingFinished, .acknowledge): .finished
        case (.openingFinished, .open), (.openingFinished, .accept), (.openingFinished, .finish),
            (.openingFinished, .end):
            nil

        case (.open, .acknowledge): .open
        case (.open, .finish): .finished
        case (.open, .end): .ended
        case (.open, .open), (.open, .accept): nil

        case (.finished, .acknowledge): .finished
        case (.finished, .end): .free
        case (.finished, .open), (.finished, .accept), (.finished, .finish): nil

        case (.ended, .acknowledge): .ended
        case (.ended, .finish): .free
        case (.ended, .open), (.ended, .accept), (.ended, .end): nil

        case (.opening, .reset), (.openingFinished, .reset), (.open, .reset), (.finished, .reset), (.ended, .reset): .free
        }
    }

    /// Whether the stream waits in `list`.
    func waits(in list: YamuxStreamList) -> Bool {
        switch (list, self) {
        case (.unacknowledged, .opening), (.unacknowledged, .openingFinished): true
        case (.unacknowledged, .free), (.unacknowledged, .open), (.unacknowledged, .finished),
            (.unacknowledged, .ended):
            false
        case (.halfClosed, .finished), (.halfClosed, .openingFinished): true
        case (.halfClosed, .free), (.halfClosed, .opening), (.halfClosed, .open), (.halfClosed, .ended): false
        }
    }

    /// Whether we may send data.
    var maySend: Bool { self == .opening || self == .open || self == .ended }

    /// Whether the peer may send data.
    var mayReceive: Bool { self != .free && self != .ended }
}

/// The lists of streams whose time may run out, each ordered by the time of entry.
enum YamuxStreamList: Int {
    /// Opened by us and not yet accepted.
    case unacknowledged = 0
    /// Our half has ended and the peer's has not.
    case halfClosed = 1
}

/// A stream's place in one list. Meaningful only while its state says that it waits there.
struct YamuxStreamLink {
    /// The slots before and after; `none` at the ends.
    var previous = YamuxStreamLink.none
    var next = YamuxStreamLink.none
    /// When it was put at the end of the list.
    var since = Instant(nanoseconds: 0)

    /// No slot.
    static let none = UInt32.max
}

/// What a session keeps about the stream in one slot.
struct YamuxStreamRecord {
    /// The number on the wire; 0 exactly when `state` is `free`.
    var number: UInt32 = 0
    var state = YamuxStreamState.free
    /// What we may still send.
    var sendWindow: UInt32 = 0
    /// What the peer may still send. A data frame is taken off whole when its header comes.
    var receiveWindow: UInt32 = 0
    /// Handed to the user and not yet consumed.
    var unconsumed: UInt32 = 0
    /// Consumed and not yet given back to the peer. With `receiveWindow`, `unconsumed` and what is still to come of a
    /// frame that is being read, this adds up to the whole window.
    var returnable: UInt32 = 0
    /// The places in the two lists. A free slot uses the first one's `next` for the list of free slots.
    var links: InlineArray<2, YamuxStreamLink> = .init(repeating: YamuxStreamLink())
}
