// What an agent tells the process that is to take its place, in an environment variable: descriptors that it inherits, and when
// it counts as ready. And what the two say over their socket. Text, and versioned: the two may be of different builds.

/// The note of an agent to its successor.
struct HandoverNote: Equatable {
    /// In the environment of the new process; it removes it.
    static let variable = "PIKO_AGENT_HANDOVER"
    /// The descriptor of the socket between the two. Listening sockets for metrics follow it.
    static let socketDescriptor: Int32 = 3
    /// More listening sockets are a mistake.
    static let metricsCountMax = 32

    /// How many listeners of the old process are connected: the new one is not ready with fewer, unless it has fewer.
    var connectedCount: Int
    /// Listening sockets for metrics, and the address as it was configured, for which they are.
    var metricsCount: Int
    var metricsAddress: String

    /// The variable's value.
    var text: String { "1 \(connectedCount) \(metricsCount) \(metricsAddress)" }

    init(connectedCount: Int, metricsCount: Int, metricsAddress: String) {
        self.connectedCount = connectedCount
        self.metricsCount = metricsCount
        self.metricsAddress = metricsAddress
    }

    /// nil when the text is of no version that is known here.
    init?(_ text: String) {
        let words = text.split(separator: " ", maxSplits: 3, omittingEmptySubsequences: false).map(String.init)
        guard words.count == 4, words[0] == "1", let connected = Int(words[1]), connected >= 0,
            let count = Int(words[2]), (0...Self.metricsCountMax).contains(count)
        else { return nil }
        self.init(connectedCount: connected, metricsCount: count, metricsAddress: words[3])
    }

    /// The numbers of the listening sockets.
    var metricsDescriptors: [Int32] { (0..<Int32(metricsCount)).map { Self.socketDescriptor + 1 + $0 } }
}

/// What goes over the socket. What a process does not know it passes over.
enum HandoverMessage: Equatable {
    /// From the new process: it runs.
    case started(version: String)
    /// It serves.
    case ready
    /// It can't, and ends.
    case failed(String)
    /// From the old process: the work is yours.
    case takeOver
    /// It is not wanted any more: finish what runs, and end.
    case giveUp

    /// A reason that is longer is cut.
    static let reasonCharactersMax = 1_000

    var text: String {
        switch self {
        case .started(let version): "started \(version)"
        case .ready: "ready"
        case .failed(let reason): "failed \(reason.prefix(Self.reasonCharactersMax))"
        case .takeOver: "take-over"
        case .giveUp: "give-up"
        }
    }

    init?(_ text: String) {
        let words = text.split(separator: " ", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
        switch words[0] {
        case "started": self = .started(version: words.count > 1 ? words[1] : "")
        case "ready": self = .ready
        case "failed": self = .failed(words.count > 1 ? words[1] : "")
        case "take-over": self = .takeOver
        case "give-up": self = .giveUp
        default: return nil
        }
    }
}
