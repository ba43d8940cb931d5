// Every command of every program. `piko` itself knows the whole tree; the programs that it executes know their part, so
// that help and refusals are the same words wherever they come from.

/// Flags that are not settings.
enum CommonFlags {
    static let configPath = FlagSpec(
        name: "config.path", placeholder: "FILE", help: "The YAML file to read. Flags win over what it says.")

    static let expandEnvironment = FlagSpec(
        name: "config.expand-env", placeholder: "BOOL", isTruth: true,
        help: """
            Replace ${NAME}, $NAME and ${NAME:default} in the file by environment variables. One that is not set is \
            replaced by the default, or by nothing. $$ stands for $.
            """)

    static let all = [configPath, expandEnvironment]

    /// Of an agent that starts from a file.
    static let lastGoodPath = FlagSpec(
        name: "config.last-good-path", placeholder: "FILE",
        help: """
            Keep a copy of the file there once a listener has connected with it, and start from the copy when the file can't be \
            read or is wrong. Written only when the file has changed. Without it the agent writes nothing.
            """)

    /// Of `piko server upgrade` and `piko server drain`.
    static let binary = "binary"
    static let off = "off"
    /// Of the commands that diagnose.
    static let output = FlagSpec(
        name: "output", placeholder: "table|json", defaultText: "table", help: "How what was found is printed.")
    static let noRegister = FlagSpec(
        name: "no-register", placeholder: "BOOL", isTruth: true,
        help: "Do not ask the server for a tunnel: end with the TLS handshake, or the TCP connection, and go on with the service.")
}

/// The trees of commands.
public enum Commands {
    /// The words before the subtrees below.
    public static let parents = ["piko"]

    /// Everything: what `piko` understands.
    public static let piko = CommandSpec(
        name: "piko", summary: "Reach services that can only connect outwards.",
        details: """
            Piko makes services reachable that can only connect outwards. An agent beside a service connects to the server \
            and listens there on an endpoint; clients reach the service by sending requests for that endpoint to the server.
            """,
        examples: [
            ExampleSpec("piko server", "Run a server:"),
            ExampleSpec("piko agent http my-endpoint 3000", "Make the HTTP service on port 3000 reachable through it:"),
            ExampleSpec("curl -H 'x-piko-endpoint: my-endpoint' http://localhost:8000", "Ask for it:"),
        ],
        subcommands: [server, agent, forward, bench, test, completion, manual])

    /// What `piko-supervisor` understands: `piko server` without the commands that ask a running server.
    public static let supervisor = CommandSpec(
        name: server.name, summary: server.summary, details: server.details, command: server.command,
        flags: server.flags, examples: server.examples)

    /// What `piko-agent` understands: `agent`, `forward`, `bench` and `completion`.
    public static let agentProgram = CommandSpec(
        name: "piko", summary: piko.summary, details: piko.details, subcommands: [agent, forward, bench, completion])

    // MARK: piko server

    static let server = CommandSpec(
        name: "server", summary: "Run a server, or ask a running one.",
        details: """
            Runs a Piko server: agents connect to its upstream port and listen on endpoints, clients send requests for \
            those endpoints to its proxy port, and the admin port tells how it is.

            The flags can also be written in a file (--config.path), where --proxy.bind-addr is the key bind_addr under \
            proxy. Flags win over the file.
            """,
        command: .serverRun, flags: CommonFlags.all + ServerConfig.keys.map(FlagSpec.init),
        examples: [
            ExampleSpec("piko server", "Listen on the default ports, 8000 (clients), 8001 (agents) and 8002 (admin):"),
            ExampleSpec("piko server --proxy.bind-addr 127.0.0.1:8080", "Serve clients of this machine only, on port 8080:"),
            ExampleSpec("piko server --config.path server.yaml --log.level debug", "Read a file, but log more:"),
        ],
        subcommands: [serverCheck, serverDiagnose, serverInfo, serverWorkers, serverReload, serverUpgrade, serverDrain, serverStatus])

    private static let serverCheck = CommandSpec(
        name: "check", summary: "Check a configuration and show what would run.",
        details: """
            Reads the configuration as piko server would, with the same flags, and prints every setting as it would be used. \
            Nothing is started. The exit status is 1 when the configuration is wrong.
            """,
        command: .serverCheck, flags: CommonFlags.all + ServerConfig.keys.map(FlagSpec.init),
        examples: [ExampleSpec("piko server check --config.path server.yaml", "Check a file before it is used:")])

    private static let controlFlags =
        CommonFlags.all + ServerConfig.keys.filter { $0.path == "server.control_socket" }.map(FlagSpec.init)

    private static let serverInfo = CommandSpec(
        name: "info", summary: "Show what a server on this machine is doing.",
        details: "Asks a running server over its control socket for its version, ports and state, and prints them as YAML.",
        command: .serverInfo, flags: controlFlags,
        examples: [ExampleSpec("piko server info", "Ask the server that uses the default control socket:")])

    private static let serverWorkers = CommandSpec(
        name: "workers", summary: "List the worker processes of a server on this machine.",
        details: "Asks a running server over its control socket for its worker processes, and prints them as YAML.",
        command: .serverWorkers, flags: controlFlags,
        examples: [ExampleSpec("piko server workers", "Ask the server that uses the default control socket:")])

    private static let serverReload = CommandSpec(
        name: "reload", summary: "Let a server on this machine read its configuration again.",
        details: """
            Tells a running server to read its configuration file again, as SIGHUP does, and waits for the outcome. New workers \
            start with the new configuration; only when all of them are ready they take over, and the old ones finish what they \
            have. When anything fails, the server goes on as before, and the exit status is 1. Flags win over the file: what the \
            server was started with stays.
            """,
        command: .serverReload, flags: controlFlags,
        examples: [ExampleSpec("piko server reload", "Reload the server that uses the default control socket:")])

    private static let serverUpgrade = CommandSpec(
        name: "upgrade", summary: "Let a server on this machine go over to another version of its program.",
        details: """
            Tells a running server to go over to the program that is installed now, as SIGUSR2 does, and waits for the outcome. \
            The new program first tries the take-over beside the old one; then it takes its place, under the same process number \
            and without closing anything. When anything fails, the server goes on as before, and the exit status is 1.
            """,
        command: .serverUpgrade,
        flags: controlFlags + [
            FlagSpec(
                name: CommonFlags.binary, placeholder: "PATH",
                help: "The new program: the path of piko, beside which the others stand. By default the path that the server runs from.")
        ],
        examples: [
            ExampleSpec("piko server upgrade", "Go over to the version that was installed meanwhile:"),
            ExampleSpec("piko server upgrade --binary /opt/piko-0.2/piko", "Go over to another one:"),
        ])

    private static let serverDrain = CommandSpec(
        name: "drain", summary: "Take a server on this machine out of use, or back into it.",
        details: """
            Tells a running server to say at /ready that it is not ready, to send its agents elsewhere, and to take no new ones. \
            Requests are served as long as there are agents, so nothing is lost when a load balancer follows. --off takes it back.
            """,
        command: .serverDrain,
        flags: controlFlags + [
            FlagSpec(name: CommonFlags.off, placeholder: "BOOL", isTruth: true, help: "Take agents again, and be ready.")
        ],
        examples: [
            ExampleSpec("piko server drain", "Before the machine is worked on:"),
            ExampleSpec("piko server drain --off", "And after it:"),
        ])

    // MARK: piko agent

    static let agent = CommandSpec(
        name: "agent", summary: "Make services reachable through a server.",
        details: """
            Runs beside services and makes them reachable: it connects to a server, listens there on endpoints, and forwards \
            what arrives to the service behind each. It only connects outwards, and connects again whenever the connection \
            is lost.
            """,
        subcommands: [agentStart, agentHTTP, agentTCP, agentDiagnose])

    private static let agentStart = CommandSpec(
        name: "start", summary: "Listen on the endpoints of a file.",
        details: "Listens on all endpoints that a configuration file names under listeners.",
        command: .agentStart, flags: CommonFlags.all + [CommonFlags.lastGoodPath] + AgentConfig.keys.map(FlagSpec.init),
        examples: [ExampleSpec("piko agent start --config.path agent.yaml", "Serve the listeners of a file:")])

    static let endpointArguments = [
        ArgumentSpec(name: "ENDPOINT", help: "The endpoint's name at the server."),
        ArgumentSpec(name: "ADDR", help: "The service: a port of this machine, host:port or, for http, an http URL."),
    ]

    private static let agentHTTP = CommandSpec(
        name: "http", summary: "Listen on one endpoint for an HTTP service.",
        details: """
            Listens on an endpoint and forwards each HTTP request to the service at ADDR. Listeners in a configuration file \
            are not used.
            """,
        command: .agentHTTP, arguments: endpointArguments,
        flags: CommonFlags.all + ListenerConfig.keys(ListenerConfig.optionSettings) + AgentConfig.keys.map(FlagSpec.init),
        examples: [
            ExampleSpec("piko agent http my-endpoint 3000", "Forward requests to port 3000 of this machine:"),
            ExampleSpec(
                "piko agent http my-endpoint http://10.0.0.7:3000/api --connect.url http://piko.example.com:8001",
                "Forward requests to a path of another machine, through a server elsewhere:"),
        ])

    private static let agentTCP = CommandSpec(
        name: "tcp", summary: "Listen on one endpoint for a TCP service.",
        details: """
            Listens on an endpoint and forwards each connection's bytes to the service at ADDR. Listeners in a configuration \
            file are not used. Clients connect with piko forward.
            """,
        command: .agentTCP, arguments: endpointArguments,
        flags: CommonFlags.all + ListenerConfig.keys(ListenerConfig.tcpOptionSettings) + AgentConfig.keys.map(FlagSpec.init),
        examples: [ExampleSpec("piko agent tcp my-database 5432", "Make the database on port 5432 reachable:")])

    // MARK: piko forward

    private static let forwardArguments = [
        ArgumentSpec(name: "ADDR", help: "Where to listen: a port, which only this machine reaches, or host:port."),
        ArgumentSpec(name: "ENDPOINT", help: "The endpoint that connections are forwarded to."),
    ]

    static let forward = CommandSpec(
        name: "forward", summary: "Reach TCP endpoints through local ports.",
        details: """
            Listens on local TCP ports and forwards each connection to an endpoint of a server. With a port and an endpoint \
            it does what piko forward tcp does.
            """,
        command: .forwardTCP, arguments: forwardArguments, flags: CommonFlags.all + ForwardConfig.keys.map(FlagSpec.init),
        examples: [ExampleSpec("piko forward 3000 my-endpoint", "Reach the endpoint through port 3000 of this machine:")],
        subcommands: [forwardStart, forwardTCP])

    static let bench = CommandSpec(
        name: "bench", summary: "Measure a server.",
        details: "Sends requests through a server to upstreams of its own, and says how many came back and how fast.",
        subcommands: [
            CommandSpec(
                name: "http", summary: "Measure HTTP requests.",
                details: """
                    Registers upstreams at a server and sends them requests through it, each client one after the other over a kept \
                    connection. Prints how many were answered in a second, and how long they took. Clients and upstreams \
                    run in this process and need their share of the machine. The exit status is 1 when a request failed.
                    """,
                command: .benchHTTP, flags: CommonFlags.all + BenchConfig.keys.map(FlagSpec.init),
                examples: [
                    ExampleSpec("piko bench http", "Measure the server on this machine:"),
                    ExampleSpec("piko bench http --requests 10000 --clients 8 --endpoints 1 --upstreams 1", "A small one:"),
                ])
        ])

    private static let forwardStart = CommandSpec(
        name: "start", summary: "Listen on the ports of a file.",
        details: "Listens on all local ports that a configuration file names under ports.",
        command: .forwardStart, flags: CommonFlags.all + ForwardConfig.keys.map(FlagSpec.init),
        examples: [ExampleSpec("piko forward start --config.path forward.yaml", "Serve the ports of a file:")])

    private static let forwardTCP = CommandSpec(
        name: "tcp", summary: "Listen on one local port.",
        details: "Listens on a local TCP port and forwards each connection to an endpoint. Ports in a configuration file are not used.",
        command: .forwardTCP, arguments: forwardArguments, flags: CommonFlags.all + ForwardConfig.keys.map(FlagSpec.init),
        examples: [
            ExampleSpec("piko forward tcp 3000 my-endpoint", "Reach the endpoint through port 3000 of this machine:"),
            ExampleSpec("psql -h localhost -p 3000", "Use it:"),
        ])
}

extension ListenerConfig {
    /// Keys of a listener as flags of the commands that have one listener.
    static func keys(_ settings: [Setting<ListenerConfig>]) -> [FlagSpec] {
        let defaults = ListenerConfig()
        return settings.map { FlagSpec(SettingKey($0, default: $0.texts(defaults))) }
    }
}
