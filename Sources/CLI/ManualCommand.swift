// `piko man`: a manual page of this version, with its date.
internal import Base
internal import Config
internal import Reactor
internal import Telemetry

enum ManualCommand {
    /// The page that the argument names.
    static func run(_ invocation: Invocation) throws(CommandFailure) -> String {
        let date = try date(ProgramEnvironment.variables["SOURCE_DATE_EPOCH"])
        guard let page = ManualPage.make(invocation.arguments[0], date: date, version: BuildInfo.version) else {
            throw CommandFailure("piko man: there is no page \(invocation.arguments[0])")
        }
        return page
    }

    /// The day of `seconds`, as builds that are to come out the same again set it; without them today.
    static func date(_ seconds: String?) throws(CommandFailure) -> String {
        guard let seconds else { return String(Timestamp.text(unixNanoseconds: SystemClock.unixNanoseconds).prefix(10)) }
        guard let number = UInt64(seconds), number < 253_402_300_800 else {
            throw CommandFailure("piko man: SOURCE_DATE_EPOCH: \"\(seconds)\" is not a number of seconds")
        }
        return String(Timestamp.text(unixSeconds: number).prefix(10))
    }
}
