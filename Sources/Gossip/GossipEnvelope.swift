// What is around every packet and stream message: from which life of a node to which, of which cluster, its number, and the
// proof that a holder of the cluster's key made it. docs/cluster.md is the specification.
//
// A node's life is a random number of 64 bits, drawn when it starts. As every message names the life that it is for, what was
// recorded before a node started again is not for it, whatever clocks say. The one exception is `hello`, for whoever has an
// address; it changes nothing at its receiver.
//
// Keys are not used as they are: the cluster's id is mixed into them, so that two clusters with one key don't understand
// each other, and a proof of gossip proves nothing elsewhere.

internal import Base
internal import Crypto

/// The envelope of one node's messages.
struct GossipEnvelope {
    /// Version, flags, cluster, sender, recipient, number.
    static let headerBytes = 30
    /// Bytes of the proof at the end: half of an HMAC-SHA-256.
    static let proofBytes = 16
    private static let formatVersion: UInt8 = 1
    private static let signedFlag: UInt8 = 1
    private static let streamFlag: UInt8 = 2

    /// What came of opening one.
    enum Opened: Equatable {
        /// A message for this life of this node; where its body is.
        case message(sender: UInt64, body: Range<Int>)
        /// For whoever has this address.
        case greeting(sender: UInt64, body: Range<Int>)
        /// Sound, but for another life: the sender does not know that this node is a new one.
        case misdirected(sender: UInt64)
        case dropped(GossipCounter)
    }

    private let clusterID: String
    private let clusterTag: UInt32
    private var keys: [MessageAuthentication] = []
    /// This node's life.
    private(set) var life: UInt64
    /// The numbers that were used last.
    private(set) var packetNumber: UInt64 = 0
    private(set) var streamNumber: UInt64 = 0
    private(set) var replayGuard: ReplayGuard

    init(clusterID: String, keys: [[UInt8]], life: UInt64, sendersMax: Int) {
        self.clusterID = clusterID
        // FNV-1a: it only has to tell clusters apart that have no keys; with keys the proof does.
        clusterTag = clusterID.utf8.reduce(2_166_136_261) { ($0 ^ UInt32($1)) &* 16_777_619 }
        self.life = life
        replayGuard = ReplayGuard(sendersMax: sendersMax)
        setKeys(keys)
    }

    /// Bytes that the envelope takes of a message.
    var overhead: Int { Self.headerBytes + (keys.isEmpty ? 0 : Self.proofBytes) }

    mutating func setKeys(_ keys: [[UInt8]]) {
        let purpose = Array("piko gossip 1:\(clusterID)".utf8)
        self.keys = keys.filter { !$0.isEmpty }.map { key in
            MessageAuthentication(key: MessageAuthentication(key: key).code(for: purpose.span))
        }
    }

    /// A new life begins; its messages are numbered anew.
    mutating func beginLife(_ life: UInt64) {
        self.life = life
        packetNumber = 0
        streamNumber = 0
    }

    /// Goes on with numbers that were used.
    mutating func restore(packetNumber: UInt64, streamNumber: UInt64, replayGuard: ReplayGuard) {
        self.packetNumber = packetNumber
        self.streamNumber = streamNumber
        self.replayGuard = replayGuard
    }

    /// Begins a message; its body is appended to the writer, then `seal` closes it.
    mutating func begin(to recipient: UInt64, isStream: Bool, capacity: Int) -> GossipWriter {
        var writer = GossipWriter(capacity: capacity)
        writer.write(byte: Self.formatVersion)
        writer.write(byte: (keys.isEmpty ? 0 : Self.signedFlag) | (isStream ? Self.streamFlag : 0))
        writer.write(clusterTag)
        writer.write(life)
        writer.write(recipient)
        if isStream {
            streamNumber += 1
            writer.write(streamNumber)
        } else {
            packetNumber += 1
            writer.write(packetNumber)
        }
        return writer
    }

    /// Appends the proof.
    func seal(_ writer: inout GossipWriter) {
        guard let key = keys.first else { return }
        writer.bytes.append(contentsOf: key.code(for: writer.bytes.span).prefix(Self.proofBytes))
    }

    /// Judges bytes that came.
    mutating func open(_ bytes: [UInt8], isStream: Bool, now: Instant) -> Opened {
        guard bytes.count > Self.headerBytes else { return .dropped(.droppedEnvelope) }
        var reader = GossipReader(bytes)
        guard let version = try? reader.byte(), let flags = try? reader.byte(), let tag = try? reader.number32(),
            let sender = try? reader.number64(), let recipient = try? reader.number64(), let number = try? reader.number64()
        else { return .dropped(.droppedEnvelope) }
        guard version == Self.formatVersion, flags & ~(Self.signedFlag | Self.streamFlag) == 0,
            (flags & Self.streamFlag != 0) == isStream, sender != 0
        else { return .dropped(.droppedEnvelope) }
        guard tag == clusterTag else { return .dropped(.droppedCluster) }
        guard (flags & Self.signedFlag != 0) == !keys.isEmpty else { return .dropped(.droppedSignature) }
        guard bytes.count > overhead else { return .dropped(.droppedEnvelope) }
        var end = bytes.count
        if !keys.isEmpty {
            end -= Self.proofBytes
            guard isProven(bytes, end) else { return .dropped(.droppedSignature) }
        }
        guard sender != life, replayGuard.accept(sender, number, isStream: isStream, now: now) else {
            return .dropped(.droppedReplay)
        }
        let body = Self.headerBytes..<end
        if recipient == life { return .message(sender: sender, body: body) }
        return recipient == 0 ? .greeting(sender: sender, body: body) : .misdirected(sender: sender)
    }

    private func isProven(_ bytes: [UInt8], _ end: Int) -> Bool {
        let span = bytes.span
        for key in keys where key.isValid(span.extracting(end..<bytes.count), for: span.extracting(0..<end)) { return true }
        return false
    }
}
