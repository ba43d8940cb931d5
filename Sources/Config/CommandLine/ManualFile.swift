// The manual pages of configuration files: every key with its value, its meaning, its default and its flag.

/// A configuration file with a page.
struct ManualFile {
    var name: String
    var summary: String
    /// The command that reads it.
    var command: String
    var keys: [SettingKey]
    /// Keys that hold lists of maps.
    var lists: [(path: String, help: String, keys: [SettingKey])]
    var example: String
    /// How such a file is tried.
    var trial: ExampleSpec

    private init<Value: Configuration>(
        _ name: String, _ summary: String, _ command: String, _ type: Value.Type, trial: ExampleSpec, _ example: String
    ) {
        self.trial = trial
        self.name = name
        self.summary = summary
        self.command = command
        keys = Value.keys
        lists = Value.schema.lists.map { ($0.path, $0.help, $0.elementKeys) }
        self.example = example
    }

    static let server = ManualFile(
        "piko-server.yaml", "Configuration of a Piko server.", "piko server", ServerConfig.self,
        trial: ExampleSpec("piko server check --config.path server.yaml", "Check a file before it is used:"),
        """
        proxy:
          bind_addr: :8000
        upstream:
          bind_addr: :8001
          auth:
            hmac_secret_key_file: /etc/piko/agents.key
        admin:
          bind_addr: 127.0.0.1:8002
        """)

    static let agent = ManualFile(
        "piko-agent.yaml", "Configuration of a Piko agent.", "piko agent start", AgentConfig.self,
        trial: ExampleSpec("piko agent diagnose --config.path agent.yaml", "Try the way to the server and to the services:"),
        """
        connect:
          url: https://piko.example.com:8001
          token_file: /etc/piko/agent.token
        listeners:
          - endpoint_id: web
            addr: 3000
          - endpoint_id: database
            addr: 127.0.0.1:5432
            protocol: tcp
        """)

    static let forward = ManualFile(
        "piko-forward.yaml", "Configuration of piko forward.", "piko forward start", ForwardConfig.self,
        trial: ExampleSpec("piko forward start --config.path forward.yaml", "Use it:"),
        """
        connect:
          url: https://piko.example.com:8000
        ports:
          - addr: 5432
            endpoint_id: database
        """)

    func write(_ page: inout ManualText) {
        ManualPage.head(name, summary, &page)
        page.section("DESCRIPTION")
        page.lead(
            """
            A file that \(command) --config.path FILE reads, in YAML. Every key may be left out, but for those that are \
            required in an element of a list. A key's flag is its path, with - where the file has _; a flag wins over the file. Unknown \
            keys are refused.
            """)
        page.paragraphs(
            """
            Keys are written here with dots between their levels. With --config.expand-env, ${NAME}, $NAME and \
            ${NAME:default} are replaced by variables of the environment.
            """)
        page.section("VALUES")
        for (kind, help) in Self.kinds { page.item(kind, "", help) }
        page.section("KEYS")
        page.lead("In the order of their groups.")
        for key in keys { write(key, path: key.path, hasFlag: true, &page) }
        for list in lists {
            page.section(list.path.uppercased())
            page.lead("\(list.path) is a list of maps. \(list.help) Its elements have no flags.")
            for key in list.keys { write(key, path: "\(list.path)[].\(key.path)", hasFlag: false, &page) }
        }
        page.section("EXAMPLES")
        page.literal(example)
        page.paragraphs(trial.help)
        page.literal(trial.line)
        ManualPage.seeAlso(except: name, &page)
    }

    private func write(_ key: SettingKey, path: String, hasFlag: Bool, _ page: inout ManualText) {
        var words = key.help
        let fallback = key.defaultTexts.joined(separator: ", ")
        if key.isRequired { words += " Required." } else if !fallback.isEmpty { words += " The default is\u{A0}\(fallback)." }
        let derived = String(key.path.map { $0 == "_" ? "-" : $0 })
        if hasFlag && key.flag != derived { words += " The flag is --\(key.flag)." }
        page.item("\(path):", key.isList ? "[\(key.placeholder), ...]" : key.placeholder, words)
    }

    private static let kinds = [
        (
            "DURATION",
            "30s, 1m30s, 100ms, 1.5h, 0. The units are ns, us, ms, s, m and h. A number without a unit is refused, but for 0."
        ),
        ("ADDRESS", "Where to listen: :8000, 127.0.0.1:8000, [::1]:8000. Without a host: all addresses, IPv6 and IPv4."),
        ("ADDR", "A service, or a local port: 3000 (of this machine), 10.0.0.7:3000, http://10.0.0.7:3000/api."),
        ("URL", "http://localhost:8001, https://example.com/piko. A path is put in front of the protocol's own."),
        ("BOOL", "true or false, not quoted."),
        ("NUMBER", "Decimal, not quoted."),
    ]
}
