// The demo service's command line.

internal import Reactor

/// What the command line asks for.
struct DemoOptions: Equatable {
    enum Command: Equatable { case help, run(DemoOptions) }

    /// Why the service can't run.
    struct Failure: Error, CustomStringConvertible, Equatable {
        let description: String
        /// The exit status: 2 when the command line is wrong, else 1.
        var status: Int32 = 2
    }

    var listen = SocketAddress(address: "127.0.0.1", port: 0)!
    var tcpEcho: SocketAddress?
    var backend = BackendChoice.auto

    static func parse(_ words: [String]) throws(Failure) -> Command {
        var options = DemoOptions()
        var rest = words[...]
        while let word = rest.popFirst() {
            if word == "--help" || word == "-h" { return .help }
            var name = word
            var value: String?
            if let equals = word.firstIndex(of: "=") {
                name = String(word[..<equals])
                value = String(word[word.index(after: equals)...])
            }
            guard ["--listen", "--tcp-echo", "--io-backend"].contains(name) else {
                throw Failure(description: "unknown argument \"\(word)\"; see --help")
            }
            guard let value = value ?? rest.popFirst() else { throw Failure(description: "\(name): needs a value") }
            switch name {
            case "--listen": options.listen = try address(value, of: name)
            case "--tcp-echo": options.tcpEcho = try address(value, of: name)
            default:
                guard let backend = BackendChoice(rawValue: value) else {
                    throw Failure(description: "--io-backend: \"\(value)\" is none of auto, io_uring, epoll")
                }
                options.backend = backend
            }
        }
        return .run(options)
    }

    /// "127.0.0.1:80", "[::1]:80", ":80".
    private static func address(_ text: String, of name: String) throws(Failure) -> SocketAddress {
        if let colon = text.lastIndex(of: ":"), let port = UInt16(text[text.index(after: colon)...]) {
            var host = String(text[..<colon])
            if host.hasPrefix("[") && host.hasSuffix("]") { host = String(host.dropFirst().dropLast()) }
            if let address = SocketAddress(address: host.isEmpty ? "::" : host, port: port) { return address }
        }
        throw Failure(description: "\(name): \"\(text)\" is no address and port, such as 127.0.0.1:8080")
    }
}
