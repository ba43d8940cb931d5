// The nodes that this one knows, as lives: a node that starts again is another life. And what remains of ended ones: graves.

internal import Base

/// A life of a node.
struct Member {
    enum State: Equatable {
        case alive
        /// This node got no answer and waits until then.
        case suspect(until: Instant)
        /// Since when it is held dead; whether this node may say so without others asking for themselves.
        case dead(since: Instant, isCertain: Bool)
        case left(since: Instant)
    }

    var life: UInt64
    var id: String
    var incarnation: UInt64
    var address: GossipAddress
    /// How often it said that it lives after all.
    var refutation: UInt32 = 0
    var state = State.alive
    /// When its last own message came.
    var heard = Instant(nanoseconds: 0)
    var entries = EntryTable()
    /// What it adds to the hash of the state; zero when it is gone.
    var hash: UInt64 = 0
    /// Its place in the list of the living; -1 for this node itself and for the gone.
    var position: Int32 = -1
    /// When a probe was last begun because somebody doubted it.
    var doubted = Instant(nanoseconds: 0)

    // What is news about it (Rumours.swift).

    /// How often it is still told; zero: no news.
    var sendsLeft: UInt16 = 0
    /// The news are the entries after this version.
    var newsBase: UInt64 = 0
    /// Versions that it had at some instants, oldest first; the news begin at the first.
    var newsMarks: [NewsMark] = []
    /// Somebody suspects it, and it should hear of it.
    var isAccused = false

    struct NewsMark: Equatable {
        var version: UInt64
        var instant: Instant
    }

    var isGone: Bool {
        switch state {
        case .alive, .suspect: false
        case .dead, .left: true
        }
    }

    var isSuspect: Bool {
        if case .suspect = state { true } else { false }
    }

    var introduction: Introduction { Introduction(id: id, incarnation: incarnation, address: address) }

    /// The hash bucket of a life.
    static func bucket(of life: UInt64) -> Int { Int(life & UInt64(GossipMessage.buckets - 1)) }

    /// What it would add to the hash.
    var wantedHash: UInt64 {
        if isGone { return 0 }
        return GossipRandom.mix(life ^ GossipRandom.mix(entries.version &+ 0x5851_F42D_4C95_7F2D &* UInt64(refutation &+ 1)))
    }
}

/// All lives, this node's own at place 0.
struct MemberTable {
    private(set) var members: [Member]
    private var free: [Int] = []
    private var byLife: [UInt64: Int] = [:]
    private var byID: [String: Int] = [:]
    /// Places of the living but this node, in no order.
    private(set) var living: [Int] = []
    /// Places of the gone that are not yet forgotten.
    private(set) var gone: [Int] = []
    /// The hash of all living, and of each bucket.
    private(set) var hash: UInt64 = 0
    private(set) var bucketHashes = [UInt64](repeating: 0, count: GossipMessage.buckets)
    /// Slots of all tables together.
    private(set) var slots = 0

    init(local: Member) {
        members = [local]
        byLife[local.life] = 0
        byID[local.id] = 0
        slots = local.entries.slots.count
        settle(0)
    }

    /// Known lives, this node's own included.
    var count: Int { byLife.count }

    subscript(_ place: Int) -> Member {
        _read { yield members[place] }
        _modify {
            let before = members[place].entries.slots.count
            yield &members[place]
            slots += members[place].entries.slots.count - before
        }
    }

    func place(of life: UInt64) -> Int? { byLife[life] }

    func place(ofID id: String) -> Int? { byID[id] }

    /// Places of all known lives in the order in which places were taken, this node's first.
    var places: [Int] { members.indices.filter { members[$0].life != 0 } }

    mutating func add(_ member: Member) -> Int {
        let place: Int
        if let reused = free.popLast() {
            members[reused] = member
            place = reused
        } else {
            members.append(member)
            place = members.count - 1
        }
        members[place].position = -1
        members[place].hash = 0
        slots += member.entries.slots.count
        byLife[member.life] = place
        byID[member.id] = place
        if member.isGone { gone.append(place) }
        settle(place)
        return place
    }

    mutating func remove(_ place: Int) {
        precondition(place != 0, "this node is always known")
        let member = members[place]
        updateHash(place, to: 0)
        if member.position >= 0 { leaveLiving(place) }
        gone.removeAll { $0 == place }
        slots -= member.entries.slots.count
        byLife[member.life] = nil
        if byID[member.id] == place { byID[member.id] = nil }
        members[place] = Member(life: 0, id: "", incarnation: 0, address: GossipAddress(""))
        free.append(place)
    }

    /// This node is another life now.
    mutating func renameLocal(life: UInt64, incarnation: UInt64) {
        updateHash(0, to: 0)
        byLife[members[0].life] = nil
        members[0].life = life
        members[0].incarnation = incarnation
        members[0].refutation = 0
        byLife[life] = 0
        settle(0)
    }

    mutating func setState(_ place: Int, _ state: Member.State) {
        let wasGone = members[place].isGone
        members[place].state = state
        let isGone = members[place].isGone
        if isGone, !wasGone { gone.append(place) }
        if !isGone, wasGone { gone.removeAll { $0 == place } }
        settle(place)
    }

    /// Makes hash and list agree with what the member is now.
    mutating func settle(_ place: Int) {
        updateHash(place, to: members[place].wantedHash)
        guard place != 0 else { return }
        let lives = !members[place].isGone
        if lives, members[place].position < 0 {
            members[place].position = Int32(living.count)
            living.append(place)
        } else if !lives, members[place].position >= 0 {
            leaveLiving(place)
        }
    }

    private mutating func leaveLiving(_ place: Int) {
        let position = Int(members[place].position)
        let last = living.removeLast()
        if last != place {
            living[position] = last
            members[last].position = Int32(position)
        }
        members[place].position = -1
    }

    private mutating func updateHash(_ place: Int, to hash: UInt64) {
        let before = members[place].hash
        guard before != hash else { return }
        members[place].hash = hash
        self.hash = self.hash &- before &+ hash
        let bucket = Member.bucket(of: members[place].life)
        bucketHashes[bucket] = bucketHashes[bucket] &- before &+ hash
    }
}

/// Lives that ended or were held dead when they were forgotten: what is told of them by those who did not hear of it brings them
/// back only when they themselves said something newer.
struct Graves {
    struct Grave: Equatable {
        var life: UInt64
        /// Nil: it ended for good.
        var refutation: UInt32?
        var until: Instant
    }

    private let gravesMax: Int
    private var places: [UInt64: Grave] = [:]
    /// In the order of burial; lives that were exhumed may still be in it.
    private(set) var order: [Grave] = []
    private var head = 0

    init(gravesMax: Int) { self.gravesMax = gravesMax }

    /// The graves that there are, oldest first.
    var all: [Grave] { order[head...].filter { places[$0.life] == $0 } }

    func grave(of life: UInt64) -> Grave? { places[life] }

    mutating func bury(_ grave: Grave) {
        places[grave.life] = grave
        order.append(grave)
        while places.count > gravesMax || order.count - head > 2 * gravesMax { removeFirst() }
    }

    mutating func exhume(_ life: UInt64) { places[life] = nil }

    mutating func expire(now: Instant) {
        while head < order.count, order[head].until <= now { removeFirst() }
        if head > 1_024, head * 2 > order.count {
            order.removeFirst(head)
            head = 0
        }
    }

    private mutating func removeFirst() {
        let grave = order[head]
        if places[grave.life] == grave { places[grave.life] = nil }
        head += 1
    }
}
