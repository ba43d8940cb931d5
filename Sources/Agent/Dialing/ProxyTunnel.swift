// One tunnel through a proxy: what is asked for, and what people are told when there is none: which proxy, who named it, what it
// said, and what to do. Nothing here shows the credentials to anybody but the proxy.

internal import Config
internal import Transport
internal import Wire

/// What is asked of the proxy to which the dialer connects.
struct ProxyTunnel {
    let proxy: NamedProxy
    /// The server's "host:port".
    let target: String

    var request: ConnectRequest {
        ConnectRequest(target: target, credentials: proxy.proxy.credentials.map { "\($0.user):\($0.password)" })
    }

    /// "proxy HOST:PORT (connect.proxy_url)", as messages begin.
    private var name: String { "proxy \(proxy.proxy.authority) (\(proxy.source))" }

    /// What people are told of a failure on the way to the proxy.
    func error(_ failure: DialError) -> DialError { .proxy("\(name): \(failure)") }

    /// What people are told of a failure of CONNECT.
    func error(_ failure: ConnectFailure) -> DialError {
        switch failure {
        case .refused(407, _):
            .proxy(
                proxy.proxy.credentials == nil
                    ? "\(name) asks for credentials: status 407; write them into \(proxy.source) (http://USER:PASSWORD@HOST:PORT)"
                    : "\(name) does not take the credentials: status 407; correct them in \(proxy.source) (they are shown as Basic)")
        case .refused(let status, let reason):
            .proxy("\(name) did not connect to \(target): status \(status)\(reason.isEmpty ? "" : " \(reason)")\(Self.advice(status))")
        case .malformed(let what): .proxy("\(name): \(what); is it an HTTP proxy?")
        case .closed: .proxy("\(name) closed the connection before it answered CONNECT")
        case .timeout: .proxy("\(name) did not answer CONNECT in time")
        }
    }

    private static func advice(_ status: Int) -> String {
        switch status {
        case 403, 405, 501: "; it must allow CONNECT to that host and port"
        case 502, 503, 504: "; it must be able to look up and reach that host"
        default: ""
        }
    }
}
