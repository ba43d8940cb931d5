// What to do about the failures that people meet most often: one table from words of a message to advice, for the diagnosis commands and
// for the errors and log lines of all programs alike.
//
// Why by words: a failure reaches people as text, put together by whoever knows the key, the address and the system's answer. The words
// that count here are the system's and OpenSSL's own, which are the same everywhere (no program of ours sets a locale), and ours,
// which the tests of this table hold on to.

/// Advice for failures.
public enum Hints {
    /// One kind of failure.
    struct Row: Sendable {
        /// All of these are in the message.
        var words: [String]
        /// One of these is, too; empty: nothing more is asked.
        var oneOf: [String] = []
        var hint: String
    }

    /// What to do about a failure with that message; nil: nothing is known that the message does not say.
    public static func hint(for message: String) -> String? {
        // These say by themselves what to do, and quote answers that are not the server's.
        if message.hasPrefix("proxy ") && message.contains("status ") { return nil }
        if message == "timeout" { return unanswered }
        // A configuration speaks of timeouts and the like without anybody's having connected.
        let rows = message.hasPrefix("config: ") ? local : local + remote
        return rows.first { row in
            row.words.allSatisfy(message.contains) && (row.oneOf.isEmpty || row.oneOf.contains(where: message.contains))
        }?.hint
    }

    /// The message, and the hint on a line of its own if there is one: for standard error.
    public static func lines(_ message: String) -> String {
        "\(message)\n" + (hint(for: message).map { "hint: \($0)\n" } ?? "")
    }

    /// The connection stands, and the request to upgrade it was not answered.
    static let unanswered = """
        something took the connection and did not answer: a port that speaks TLS (use https://), a program that is no Piko server, or a \
        server that has too much to do
        """

    // The first row that fits counts.

    /// About this machine and its files.
    static let local = ioUring + binding + certificates
    /// About the other side and the way to it.
    static let remote = statuses + connecting

    private static let ioUring = [
        Row(
            words: ["io_uring", "Operation not permitted"],
            hint: """
                allow io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp profile, and set the sysctl \
                kernel.io_uring_disabled to 0; or leave it: epoll serves as well, with more system calls
                """),
        Row(
            words: ["io_uring", "Cannot allocate memory"],
            hint: "raise the limit of locked memory: ulimit -l, LimitMEMLOCK= of systemd, or --ulimit memlock= of a container"),
        Row(
            words: ["io_uring", "Function not implemented"],
            hint: "this kernel has no io_uring, or something (gVisor, a seccomp profile) hides it; epoll serves as well, with more system calls"),
    ]

    private static let binding = [
        Row(
            words: ["Address already in use"],
            hint: "another process listens there: ss -ltnp shows which; stop it, or choose another address"),
        Row(
            words: ["control_socket", "Permission denied"],
            hint: "the folder of the control socket must be writable for the server's user, or name another: server.control_socket"),
        Row(
            words: ["isten on", "Permission denied"],
            hint: """
                ports below the sysctl net.ipv4.ip_unprivileged_port_start (1024) need CAP_NET_BIND_SERVICE: setcap, AmbientCapabilities= \
                of systemd, socket activation, or a higher port
                """),
        Row(
            words: ["Cannot assign requested address"], oneOf: ["isten on", "bind"],
            hint: "this machine has no such address (ip addr shows them); a host that is left out means all of them"),
        Row(
            words: ["Too many open files"],
            hint: "raise the limit of descriptors: ulimit -n, LimitNOFILE= of systemd, or --ulimit nofile= of a container"),
    ]

    private static let certificates = [
        Row(
            words: ["certificate"], oneOf: ["unable to get local issuer certificate", "self-signed certificate", "self signed certificate"],
            hint: """
                nobody who is trusted signed it: name the authority's file in root_cas (connect.tls.root_cas for the server, tls.root_cas of a \
                listener for its service), and let the other side send its whole chain
                """),
        Row(
            words: ["certificate is not for"],
            hint: "connect by a name that is in the certificate, or have a certificate made for this one"),
        Row(words: ["certificate has expired"], hint: "renew it; if its time is not over, the clock of this machine is wrong"),
        Row(
            words: ["certificate is not yet valid"],
            hint: """
                the clock of this machine is slow, or not set yet (a device without a battery for it learns the time by NTP after it has \
                started; the agent tries again by itself); or the certificate was made with a fast clock
                """),
        Row(
            words: ["the server does not speak TLS"],
            hint: "use an http:// URL, or the port that speaks TLS"),
        Row(
            words: ["refused the TLS handshake"], oneOf: ["certificate required", "handshake failure", "bad certificate", "unknown CA"],
            hint: "the other side wants a certificate of this client: set cert and key, signed by an authority of its client_cas"),
        Row(words: ["the key does not fit the certificate"], hint: "cert and key are of different pairs; the first certificate of the file must be the port's own"),
    ]

    private static let statuses = [
        Row(words: ["status 401", "expired token"], hint: "get a new token; connect.token_file is read anew for each connection"),
        Row(words: ["status 401", "endpoint not permitted"], hint: "the token's claim piko.endpoints does not name this endpoint"),
        Row(words: ["status 401", "unknown tenant"], hint: "connect.tenant_id is none of the server's upstream.tenants"),
        Row(words: ["status 401", "missing authorization"], hint: "the server wants a token: set connect.token_file"),
        Row(
            words: ["status 401"],
            hint: "the token is not one of this server's: key, issuer, audience or time; the server's log says which (docs/tokens.md)"),
        Row(words: ["status 403"], hint: "something in front of the server refuses; Piko itself answers 401 to a bad token"),
        Row(
            words: ["status 404"],
            hint: "this is not the upstream port (8001 by default; 8000 is for clients, 8002 for administration), or the path of connect.url is wrong"),
        Row(words: ["status 400"], hint: "this may be the port for clients (8000) in place of the upstream port (8001), or a port that speaks TLS: try https://"),
        Row(words: ["status 502"], hint: "this may be the port for clients (8000) in place of the upstream port (8001); or a load balancer reaches no server"),
        Row(words: ["status 429"], hint: "a limit of the token (piko.limits) or of the server is reached; the agent tries again"),
        Row(words: ["status 503"], hint: "the server drains or has all the tunnels that it may have (upstream.limits.max_tunnels); the agent tries again"),
        Row(
            words: ["not that of a WebSocket"],
            hint: "a proxy on the way does not pass upgrades; it must pass Connection and Upgrade on for /piko/v1/"),
        Row(
            words: ["does not offer the direct transport"],
            hint: "set connect.transport to auto, or upstream.direct.enabled at the server; a proxy that drops X-Piko-Transport has the same effect"),
    ]

    private static let connecting = [
        Row(
            words: ["Connection refused"],
            hint: "nothing listens there: is it the right port, and does the program run?"),
        Row(
            words: [], oneOf: ["Name or service not known", "No address associated", "nodename nor servname"],
            hint: "the name does not exist for this machine: check its spelling, /etc/resolv.conf and /etc/hosts"),
        Row(words: ["Temporary failure in name resolution"], hint: "the name server does not answer: check /etc/resolv.conf and the network"),
        Row(
            words: [], oneOf: ["No route to host", "Network is unreachable", "Network unreachable"],
            hint: "this machine has no way to that address: check its routes and firewalls; where only a proxy leads out, set connect.proxy_url"),
        Row(
            words: [], oneOf: ["timed out", "too long"],
            hint: "no answer came: a firewall may drop it, or the address is wrong; where only a proxy leads out, set connect.proxy_url"),
    ]
}
