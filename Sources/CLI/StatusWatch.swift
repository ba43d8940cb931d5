// `--watch`: asks again and again, and shows what is counted per second as well.
internal import Base
internal import Config
internal import Reactor
internal import Telemetry

enum StatusWatch {
    /// Prints answers until the output can't be written, or the process is interrupted.
    static func run(_ command: Command, _ path: String, _ config: StatusConfig) throws(CommandFailure) -> String {
        let pause = try Pause()
        let isTerminal = ProgramEnvironment.isTerminal(1)
        var before: (at: Instant, answer: JSONValue)?
        while true {
            let started = SystemClock.now
            var text: String
            do throws(CommandFailure) {
                let answer = try StatusCommand.answer(command, path, config)
                let shown = before.map { StatusRates.added(to: answer, since: $0.answer, seconds: (started - $0.at).inSeconds) } ?? answer
                before = (started, answer)
                text = StatusCommand.text(of: shown, config.output)
            } catch {
                text = "\(config.url.settingText): \(error.message)\n"
            }
            // A terminal is cleared, and gets the whole answer at once.
            if isTerminal { text = "\u{1b}[H\u{1b}[2J" + text } else if config.output != .json { text += "\n" }
            guard Output.print(text) else { return "" }
            pause.wait(until: started + config.watch)
        }
    }
}

/// Waits for a time.
private struct Pause {
    private let loop: Loop

    init() throws(CommandFailure) {
        do throws(SystemError) {
            loop = try Loop(backend: .epoll)
        } catch {
            throw CommandFailure("piko: \(error)")
        }
    }

    func wait(until end: Instant) {
        while loop.now < end { loop.runTurn(until: end) }
    }
}

/// What two answers tell together.
enum StatusRates {
    /// The names of what is counted, and what its rate is called.
    private static let counted = [
        "requests": "requests_per_second", "total": "requests_per_second", "errors": "errors_per_second", "bytes_in": "bytes_in_per_second",
        "bytes_out": "bytes_out_per_second", "in": "in_per_second", "out": "out_per_second", "cpu_seconds": "cpu",
    ]
    /// By what elements of two lists are known to be the same.
    private static let keys = ["tunnel", "id", "worker", "endpoint"]

    /// The answer, with rates behind what is counted.
    static func added(to answer: JSONValue, since before: JSONValue, seconds: Double) -> JSONValue {
        guard seconds > 0 else { return answer }
        switch answer {
        case .array(let elements): return .array(elements.map { added(to: $0, since: match($0, in: before) ?? .null, seconds: seconds) })
        case .object(let members):
            var shown: [JSONMember] = []
            for member in members {
                let earlier = before[member.name] ?? .null
                shown.append(JSONMember(member.name, added(to: member.value, since: earlier, seconds: seconds)))
                guard let name = counted[member.name], let now = member.value.amount, let then = earlier.amount, now >= then else { continue }
                shown.append(JSONMember(name, .number((now - then) / seconds)))
            }
            return .object(shown)
        default: return answer
        }
    }

    private static func match(_ element: JSONValue, in before: JSONValue) -> JSONValue? {
        guard let earlier = before.array, let key = keys.first(where: { element[$0] != nil }) else { return nil }
        return earlier.first { $0[key] == element[key] && $0["tenant"] == element["tenant"] }
    }
}

extension JSONValue {
    /// A number of either kind.
    fileprivate var amount: Double? {
        switch self {
        case .integer(let number): Double(number)
        case .number(let number): number
        default: nil
        }
    }
}

extension Duration {
    fileprivate var inSeconds: Double { Double(clampedNanoseconds) / 1e9 }
}
