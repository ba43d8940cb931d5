// The commands that look for what is wrong with a machine, a configuration, or the way to a server.

extension Commands {
    static let serverDiagnose = CommandSpec(
        name: "diagnose", summary: "Find out what keeps a server on this machine from running well.",
        details: """
            Reads the configuration as piko server would, with the same flags, and looks at what it needs of this machine: the \
            kernel and io_uring, limits of descriptors, memory and pipes, sysctls, the cgroup, ports, certificates and the workers' \
            user. Each check is ok, note, warn, fail or skipped, and says what to do. Nothing is started or changed; ports are \
            bound for a moment, unless another process has them.

            Run it as the user, and in the container or service, that the server runs in. The exit status is 1 when a check \
            failed.
            """,
        command: .serverDiagnose, flags: CommonFlags.all + [CommonFlags.output] + ServerConfig.keys.map(FlagSpec.init),
        examples: [
            ExampleSpec("piko server diagnose --config.path server.yaml", "Before the server is started:"),
            ExampleSpec(
                "systemd-run --pipe -p LimitNOFILE=65536 piko server diagnose --config.path server.yaml",
                "With the limits of a service:"),
        ])

    private static let agentDetails = """
        Goes the way that the agent would go, step by step: the token, the proxy, the name, TCP, TLS, the upgrade, the transport, and for each \
        listener its service. Each step says what it found, how long it took, and what to do when it failed; what needs a step that failed \
        is skipped. Tokens and passwords are not shown.

        The upgrade registers each listener's endpoint for a moment. The diagnosis says go-away at once and takes no request; a request that \
        comes in between is sent to another listener of the endpoint if there is one, and fails if there is none. --no-register leaves the \
        step out. The exit status is 1 when a step failed.
        """

    static let agentDiagnose = CommandSpec(
        name: "diagnose", summary: "Find out what keeps an agent from its server or its services.",
        details: agentDetails,
        command: .agentDiagnose, flags: flags + AgentConfig.keys.map(FlagSpec.init),
        examples: [
            ExampleSpec("piko agent diagnose --config.path agent.yaml", "All listeners of a file:"),
            ExampleSpec(
                "piko agent diagnose http my-endpoint 3000 --connect.url https://piko.example.com:8001", "One listener, without a file:"),
            ExampleSpec("piko agent diagnose --config.path agent.yaml --no-register --output json", "Without a tunnel, for a program:"),
        ],
        subcommands: [
            CommandSpec(
                name: "http", summary: "The same for one HTTP service.", details: agentDetails, command: .agentDiagnoseHTTP,
                arguments: endpointArguments,
                flags: flags + ListenerConfig.keys(ListenerConfig.optionSettings) + AgentConfig.keys.map(FlagSpec.init),
                examples: [ExampleSpec("piko agent diagnose http my-endpoint 3000", "The service on port 3000:")]),
            CommandSpec(
                name: "tcp", summary: "The same for one TCP service.", details: agentDetails, command: .agentDiagnoseTCP,
                arguments: endpointArguments,
                flags: flags + ListenerConfig.keys(ListenerConfig.tcpOptionSettings) + AgentConfig.keys.map(FlagSpec.init),
                examples: [ExampleSpec("piko agent diagnose tcp my-database 5432", "The database on port 5432:")]),
        ])

    private static let flags = CommonFlags.all + [CommonFlags.output, CommonFlags.noRegister]
}
