// `piko fetch-key-set`: what the supervisor starts to fetch a key set over HTTP or HTTPS. It parses what strangers send, so it gives up its
// privileges first, and it ends with the one answer. Redirects are not followed. Servers must prove their name to whom the system trusts.
internal import Base
internal import Config
internal import Crypto
internal import Reactor
internal import Wire

enum KeySetFetchCommand {
    private static let output: Int32 = 3

    /// Fetches as the words say; the exit status. Nil when they are not for this.
    static func run(_ words: [String]) -> Int32? {
        guard words.count == 4, words[0] == KeySetHelper.word, let time = Int64(words[2]) else { return nil }
        do throws(CommandFailure) {
            try becomeUser(words[3])
            let body = try fetch(words[1], within: .milliseconds(time))
            return write(KeySetHelper.found, body) ? 0 : 1
        } catch {
            _ = write(KeySetHelper.failed, Array(error.message.utf8))
            return 1
        }
    }

    private static func becomeUser(_ text: String) throws(CommandFailure) {
        let user = text == "-" ? nil : UserIdentity(text: text)
        if user == nil, text != "-" { throw CommandFailure("not a user: \(text)") }
        do throws(SystemError) {
            try Confinement.dropPrivileges(user)
        } catch {
            throw CommandFailure("\(error)")
        }
    }

    private static func fetch(_ text: String, within time: Duration) throws(CommandFailure) -> [UInt8] {
        guard let url = FetchURL(text) else { throw CommandFailure("not an http or https URL") }
        let request = """
            GET \(url.target) HTTP/1.1\r
            Host: \(url.server.authority)\r
            User-Agent: piko/\(BuildInfo.version)\r
            Accept: application/json\r
            Connection: close\r
            \r

            """
        // Room for the head, too.
        let questioner = try Questioner(within: time, answerBytesMax: KeySetHelper.bytesMax + 65_536)
        let target = QuestionTarget.tcp(host: url.server.host, port: url.server.port, try secure(url))
        let bytes = try questioner.ask(target, Array(request.utf8)) { bytes in
            // What is wrong is said below, once for all.
            (try? HTTPAnswer.decode(bytes, hasEnded: false)) != nil
        }
        guard let answer = try HTTPAnswer.decode(bytes.span, hasEnded: true) else { throw CommandFailure("the answer is cut short") }
        guard answer.status == 200 else { throw CommandFailure("status \(answer.status)") }
        guard answer.body.count <= KeySetHelper.bytesMax else { throw CommandFailure("larger than \(KeySetHelper.bytesMax) bytes") }
        return answer.body
    }

    private static func secure(_ url: FetchURL) throws(CommandFailure) -> TLSContext? {
        guard url.server.isSecure else { return nil }
        do {
            return try TLSClientMaterial(trust: .system).context()
        } catch {
            throw CommandFailure("TLS: \(error.description)")
        }
    }

    private static func write(_ kind: UInt8, _ bytes: [UInt8]) -> Bool {
        InheritedOutput.write(descriptor: output, bytes: ([kind] + bytes).span)
    }
}
