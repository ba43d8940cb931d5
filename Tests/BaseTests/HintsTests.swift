// Advice by the words of a message: messages as the programs really write them, and a word of the advice.
import Base
import Testing

@Suite struct HintsTests {
    static let rows: [(String, String?)] = [
        ("config: server.io_backend: cannot use io_uring: io_uring can't be used: io_uring_setup: Operation not permitted", "seccomp"),
        ("io_uring can't be used: io_uring_setup: Cannot allocate memory", "memlock"),
        ("io_uring can't be used: io_uring_setup: Function not implemented", "epoll"),
        ("config: proxy.bind_addr: cannot listen on 127.0.0.1:8000: Address already in use", "ss -ltnp"),
        ("config: proxy.bind_addr: cannot listen on :443: Permission denied", "CAP_NET_BIND_SERVICE"),
        ("config: server.control_socket: cannot listen on /run/piko/server.sock: Permission denied", "folder"),
        ("listen on 10.1.1.1:80: Cannot assign requested address", "ip addr"),
        ("accept: Too many open files", "ulimit -n"),
        ("the server's certificate: unable to get local issuer certificate", "root_cas"),
        ("the server's certificate: self-signed certificate in certificate chain", "root_cas"),
        ("the server's certificate is not for other.example.com", "name"), ("the server's certificate: certificate has expired", "clock"),
        ("the server's certificate: certificate is not yet valid (this machine's clock says 1970-01-01T00:00:42Z)", "NTP"),
        ("the server does not speak TLS", "http://"),
        ("the server refused the TLS handshake or broke it off: certificate required", "client_cas"),
        ("status 401: expired token", "token_file"), ("status 401: endpoint not permitted", "piko.endpoints"), ("status 401: invalid token", "log"),
        ("status 404: not found", "8001"), ("status 503: draining", "drains"), ("timeout", "https://"), ("connect: timed out", "firewall"),
        ("connect: Connection refused", "port"), ("lookup piko.invalid: Name or service not known", "/etc/hosts"),
        ("lookup piko.invalid: Temporary failure in name resolution", "name server"),
        // What speaks for itself, or is about something else.
        ("proxy 127.0.0.1:3128 (connect.proxy_url) did not connect to piko:8001: status 403; it must allow CONNECT to that host and port", nil),
        ("config: server.yaml:3: proxy.timeout: \"soon\" is not a duration; it is too long", nil), ("the answer is cut short", nil),
    ]

    @Test(arguments: rows.indices)
    func tellsWhatToDo(row: Int) {
        let (message, word) = Self.rows[row]
        let hint = Hints.hint(for: message)
        if let word { #expect(hint?.contains(word) == true, "\(message): \(hint ?? "nothing")") } else { #expect(hint == nil) }
        #expect(Hints.lines(message) == message + "\n" + (hint.map { "hint: \($0)\n" } ?? ""))
    }
}
