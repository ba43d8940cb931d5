// The commands that ask a server on this machine over its control socket: one line of JSON there, one line back.
//
//     {"command":"info"}  ->  {…}, the answer itself, or {"error":"…"}
internal import Config
internal import Memory
internal import Reactor
internal import Telemetry

enum ControlCommand {
    /// The time for a reload or an upgrade: the server's own limits are shorter.
    static let changeTimeMax = Duration.seconds(120)

    /// Asks for what `command` names, with `members` beside it, and prints the result as YAML.
    static func run(
        _ command: String, _ invocation: Invocation, _ members: [JSONMember] = [], within time: Duration = Questioner.timeMax
    ) throws(CommandFailure) -> String {
        let environment = ProgramEnvironment.variables
        let config = try ConfigurationFile.load(ServerConfig.self, invocation, environment: environment)
        var failures: [String] = []
        for path in paths(config, environment) {
            let answer: [UInt8]
            do throws(CommandFailure) {
                answer = try ask(command, members, at: path, within: time)
            } catch {
                failures.append("\(path): \(error.message)")
                continue
            }
            do throws(CommandFailure) {
                return YAML.write(JSONAsYAML.convert(try result(of: answer), isSorted: false))
            } catch {
                throw CommandFailure("piko: \(path): \(error.message)")
            }
        }
        throw CommandFailure(
            """
            piko: no answer from a server on this machine: \(failures.joined(separator: "; "))
            Start one with "piko server", or name its socket with --server.control-socket.
            """)
    }

    /// What a server on this machine that has one of the configuration's sockets says of itself, and the socket; nil: none answers.
    static func info(_ config: ServerConfig) -> (path: String, answer: JSONValue)? {
        for path in paths(config, ProgramEnvironment.variables) {
            guard let bytes = try? ask("info", [], at: path, within: .seconds(2)), let answer = try? result(of: bytes) else { continue }
            return (path, answer)
        }
        return nil
    }

    /// Where the server's socket may be, the likeliest place first.
    private static func paths(_ config: ServerConfig, _ environment: [String: String]) -> [String] {
        var paths = config.server.controlSocket.isEmpty
            ? ControlSocketPath.candidates(environment: environment, userID: ProgramEnvironment.userIdentifier)
            : [config.server.controlSocket]
        // Root's session has a folder of its own for sockets; the system's server is meant all the same.
        if config.server.controlSocket.isEmpty && !paths.contains(ControlSocketPath.system) { paths.append(ControlSocketPath.system) }
        return paths
    }

    private static func ask(
        _ command: String, _ members: [JSONMember], at path: String, within time: Duration
    ) throws(CommandFailure) -> [UInt8] {
        var question = ByteBuffer()
        JSONValue.object([JSONMember("command", .string(command))] + members).write(into: &question)
        question.append(UInt8(ascii: "\n"))
        var words: [UInt8] = []
        for index in 0..<question.count { words.append(question.span[index]) }
        return try Questioner(within: time).ask(.unix(path: path), words) { $0[$0.count - 1] == UInt8(ascii: "\n") }
    }

    /// The path from the root.
    static func absolutePath(_ path: String) throws(CommandFailure) -> String {
        if path.hasPrefix("/") { return path }
        guard let folder = ProgramEnvironment.workingDirectory else {
            throw CommandFailure("piko: \(path): the working directory is not known; give a path that begins with /")
        }
        return "\(folder)/\(path)"
    }

    /// What an answer says.
    static func result(of bytes: [UInt8]) throws(CommandFailure) -> JSONValue {
        let answer: JSONValue
        do throws(JSONError) {
            answer = try JSONValue.parse(bytes.span)
        } catch {
            throw CommandFailure("the answer is not JSON; is this a server's control socket?")
        }
        if let error = answer["error"]?.string { throw CommandFailure(error) }
        guard case .object = answer else { throw CommandFailure("the answer is not an object") }
        return answer
    }
}
