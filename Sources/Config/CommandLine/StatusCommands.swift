// The commands that ask a server's admin port.

extension Commands {
    static let serverStatus = CommandSpec(
        name: "status", summary: "Ask a server's admin port for its state.",
        details: """
            Asks a server's admin port, on this machine or another, and prints the answer. With --forward another node of its \
            cluster answers.
            """,
        subcommands: [statusNode, statusWorkers, statusUpstream, statusCluster, statusGossip])

    private static let statusNode = CommandSpec(
        name: "node", summary: "Show the server's numbers and its workers.",
        details: """
            Shows what the server has and has done since its start: connections, requests, bytes, processor time, memory, and the \
            same of its workers. With --watch what is counted is shown per second as well.
            """,
        command: .serverStatusNode, flags: statusFlags,
        examples: [
            ExampleSpec("piko server status node --output table --watch 2s", "Watch the server on this machine:"),
            ExampleSpec("piko server status node --forward node-2", "Ask another node of its cluster:"),
        ])

    private static let statusWorkers = CommandSpec(
        name: "workers", summary: "Show the workers and their event loops.",
        details: """
            Shows each worker: its generation, its state, its connections, what it uses of the machine, and how long the turns of its \
            event loop kept others waiting. During a reload there are workers of two generations.
            """,
        command: .serverStatusWorkers, flags: statusFlags,
        examples: [ExampleSpec("piko server status workers --output table --watch 1s", "Watch a reload:")])

    private static let statusFlags = StatusConfig.flags(StatusConfig.common)

    private static let statusUpstream = CommandSpec(
        name: "upstream", summary: "The agents that are connected.",
        details: "What a server knows about the agents that are connected to it.",
        subcommands: [
            CommandSpec(
                name: "endpoints", summary: "List the endpoints and how many listeners each has.",
                details: """
                    Lists the endpoints that agents listen on at the server, and how many listeners each has, sorted by name.
                    """,
                command: .serverStatusUpstreamEndpoints, flags: statusFlags,
                examples: [
                    ExampleSpec("piko server status upstream endpoints", "Ask the server on this machine:"),
                    ExampleSpec("piko server status upstream endpoints --server.url http://10.0.0.7:8002", "Ask another one:"),
                ]),
            CommandSpec(
                name: "tunnels", summary: "List the tunnels of agents.",
                details: """
                    Lists the tunnels that agents have open to the server: the endpoint, the agent's address and program, the \
                    transport, since when, and what goes through.
                    """,
                command: .serverStatusUpstreamTunnels, flags: statusFlags,
                examples: [ExampleSpec("piko server status upstream tunnels --output table", "Show them as a table:")]),
            CommandSpec(
                name: "traffic", summary: "List what each endpoint was sent.",
                details: """
                    Lists the requests, errors, connections and bytes of each endpoint that clients used at the server since its \
                    start. Up to 1,024 endpoints are counted by themselves, the rest as other.
                    """,
                command: .serverStatusUpstreamTraffic, flags: statusFlags,
                examples: [ExampleSpec("piko server status upstream traffic --output table --watch 2s", "Watch it:")]),
        ])

    private static let nodeArgument = [
        ArgumentSpec(name: "NODE", help: "The node's name; local means the one that answers.")
    ]

    private static let statusCluster = CommandSpec(
        name: "cluster", summary: "The nodes of the cluster, and what agents they have.",
        details: "What a server knows about the nodes of its cluster.",
        subcommands: [
            CommandSpec(
                name: "summary", summary: "Add up the nodes.",
                details: """
                    Asks every node of the cluster through the server, and shows each node's numbers and their sums. Nodes that do \
                    not answer are listed without numbers.
                    """,
                command: .serverStatusClusterSummary, flags: statusFlags,
                examples: [ExampleSpec("piko server status cluster summary --output table --watch 2s", "Watch the cluster:")]),
            CommandSpec(
                name: "nodes", summary: "List the nodes.",
                details: """
                    Lists the nodes of the cluster as the server sees them, itself among them: their status, their addresses, how \
                    many endpoints agents listen on at each, and how many listeners those have.
                    """,
                command: .serverStatusClusterNodes, flags: statusFlags + StatusConfig.flags(StatusConfig.ofNodes),
                examples: [
                    ExampleSpec("piko server status cluster nodes --output table", "Show all nodes as a table:"),
                    ExampleSpec("piko server status cluster nodes --status unreachable", "Show those that do not answer:"),
                ]),
            CommandSpec(
                name: "node", summary: "Show one node and its endpoints.",
                details: "Shows a node as the server sees it, and how many listeners each of its endpoints has.",
                command: .serverStatusClusterNode, arguments: nodeArgument, flags: statusFlags,
                examples: [ExampleSpec("piko server status cluster node local", "Show the server that is asked:")]),
        ])

    private static let statusGossip = CommandSpec(
        name: "gossip", summary: "What the nodes tell each other.",
        details: "What a server knows by gossip, entry by entry. For finding faults.",
        subcommands: [
            CommandSpec(
                name: "nodes", summary: "List the nodes and how far each is known.",
                details: "Lists the nodes that the server knows by gossip, and the version up to which it knows each.",
                command: .serverStatusGossipNodes, flags: statusFlags,
                examples: [ExampleSpec("piko server status gossip nodes --output table", "Show them as a table:")]),
            CommandSpec(
                name: "node", summary: "Show every entry of one node.",
                details: "Shows everything that the server knows of a node by gossip, in the order of versions.",
                command: .serverStatusGossipNode, arguments: nodeArgument, flags: statusFlags,
                examples: [
                    ExampleSpec("piko server status gossip node node-1 --forward node-2", "What node-2 knows of node-1:")
                ]),
        ])

    // MARK: piko test

    static let test = CommandSpec(
        name: "test", summary: "Try things out on this machine.",
        details: "Runs things on this machine that otherwise need several.",
        subcommands: [
            CommandSpec(
                name: "cluster", summary: "Run a cluster on this machine.",
                details: """
                    Runs several servers on this machine, which form a cluster, and listens in front of them on the default \
                    ports: connections to 8000 (clients), 8001 (agents) and 8002 (admin) go to the nodes in turn. SIGHUP reloads the \
                    nodes' configuration, SIGTERM and SIGINT end them all.

                    A file that is named with --config.path is each node's configuration, but for its addresses and names.
                    """,
                command: .testCluster,
                flags: CommonFlags.all + TestClusterConfig.keys.map(FlagSpec.init),
                examples: [
                    ExampleSpec("piko test cluster", "Run three nodes:"),
                    ExampleSpec("piko agent http my-endpoint 3000", "Listen on an endpoint at one of them:"),
                    ExampleSpec("piko server status cluster nodes --output table", "Ask one of them about the cluster:"),
                ])
        ])
}
