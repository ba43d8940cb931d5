// The configuration of a node as a member of a cluster: who it is, whom it joins, how nodes talk to each other, and when it
// sends agents to other nodes.

extension ServerConfig {
    /// The node as a member of a cluster.
    public struct Cluster: Equatable, Sendable {
        /// Empty: chosen at start.
        public var nodeID = ""
        /// In front of an identifier that is chosen at start.
        public var nodeIDPrefix = ""
        /// Nodes of other clusters are not listened to.
        public var id = ""
        /// Addresses, or names that may stand for many, each with a port or without.
        public var join: [String] = []
        public var joinTimeout = Duration.seconds(60)
        public var abortsIfJoinFails = true
        public var gossip = Gossip()

        public init() {}

        /// The same node with those settings of another configuration that can change while it runs.
        public func reloaded(with new: Cluster) -> Cluster {
            var cluster = self
            cluster.join = new.join
            cluster.joinTimeout = new.joinTimeout
            cluster.abortsIfJoinFails = new.abortsIfJoinFails
            cluster.gossip.secretKeys = new.gossip.secretKeys
            cluster.gossip.secretKeyFiles = new.gossip.secretKeyFiles
            return cluster
        }

        /// The addresses to join, each with its port; `port` is for those that name none.
        public func joinAddresses(defaultPort port: UInt16) -> [BindAddress] {
            join.compactMap { AddressText.split($0, defaultPort: port) }.map { BindAddress(host: $0.host, port: $0.port) }
        }
    }

    /// How nodes talk to each other.
    public struct Gossip: Equatable, Sendable {
        public var bindAddress = BindAddress(host: "", port: 8003)
        public var advertiseAddress = AdvertiseAddress()
        public var interval = Duration.milliseconds(100)
        public var packetBytesMax = 1_400
        /// The first one signs, all verify. Those of `secretKeyFiles` come after those that are written here.
        public var secretKeys: [String] = []
        public var secretKeyFiles: [String] = []

        /// The keys as bytes.
        public var keyBytes: [[UInt8]] { secretKeys.map { Array($0.utf8) } }

        public init() {}
    }

    /// When a node sends agents to other nodes.
    public struct Rebalance: Equatable, Sendable {
        /// How much more than the mean a node may have, as a part of the mean; zero: the node never sends any away.
        public var threshold = 0.0
        /// The part of the node's tunnels that it sends away in a second.
        public var shedRate = 0.005
        /// A node with fewer tunnels sends none away.
        public var tunnelsMin = 50

        public init() {}
    }
}

extension ServerConfig.Cluster {
    static let settings: [Setting<ServerConfig.Cluster>] =
        [
            Setting(
                "node_id", \.nodeID, check: ClusterRule.nodeID,
                "The node's name in the cluster, unlike any other's. By default seven random letters and digits at each start."),
            Setting(
                "node_id_prefix", \.nodeIDPrefix, check: ClusterRule.nodeIDPrefix,
                "What a random name begins with. Not used with cluster.node_id."),
            Setting(
                "id", \.id, check: ClusterRule.clusterID,
                "The cluster's name. Nodes that have another one, or none, are not listened to."),
            Setting(
                "join", list: \.join, placeholder: "HOST[:PORT]", check: ClusterRule.joinAddress,
                """
                Nodes to join: addresses, or a name that stands for all of them. It is looked up again and again, so \
                parts of a cluster that lost each other meet. By default the port of cluster.gossip.bind_addr.
                """),
            Setting(
                "join_timeout", \.joinTimeout, check: Rule.positive,
                "How long a start may take to reach any of cluster.join, by trying again and again."),
            Setting(
                "abort_if_join_fails", \.abortsIfJoinFails,
                "Whether the server ends when none of cluster.join was reached in time. Otherwise it serves alone and goes on trying."),
        ]
        + Setting.group("gossip", \.gossip, ServerConfig.Gossip.settings)
}

extension ServerConfig.Gossip {
    static let settings: [Setting<ServerConfig.Gossip>] = [
        Setting(
            "bind_addr", \.bindAddress,
            "Where other nodes reach this one, by UDP and TCP. Without a host: all addresses, IPv6 and IPv4."),
        Setting("advertise_addr", \.advertiseAddress, AdvertiseAddress.help("cluster.gossip.bind_addr")),
        Setting(
            "interval", \.interval, check: ClusterRule.interval,
            "How often the node talks to another one."),
        Setting(
            "max_packet_size", \.packetBytesMax, check: Rule.within(512...65_000),
            "The largest UDP packet that is sent, in bytes. What does not fit goes over TCP."),
        Setting(
            "secret_keys", list: \.secretKeys, placeholder: "KEY", check: ClusterRule.secretKey, isSecret: true,
            """
            Keys of the cluster, at least 16 bytes each: nodes believe only who has one of them. The first one signs, all \
            verify, so keys can be changed one node after the other (docs/running-a-cluster.md). Flags are seen by everybody on \
            the machine: prefer the file, or secret_key_files.
            """),
        Setting(
            "secret_key_files", list: \.secretKeyFiles, placeholder: "FILE",
            """
            Files with one key each, read at start and at each reload; their keys come after those of secret_keys. White \
            space around a key is not a part of it.
            """),
    ]

    /// Puts the keys of the files behind the others.
    mutating func readKeys<Failure: Error>(
        _ read: (_ path: String, _ bytesMax: Int) throws(Failure) -> [UInt8]
    ) throws(ConfigError) {
        for path in secretKeyFiles {
            let bytes: [UInt8]
            do throws(Failure) {
                bytes = try read(path, ClusterRule.keyBytesMax + 64)
            } catch {
                throw ConfigError("cluster.gossip.secret_key_files: \(error)")
            }
            let isBlank: (UInt8) -> Bool = { $0 == 0x20 || (9...13).contains($0) }
            var key = bytes.drop(while: isBlank)
            while let last = key.last, isBlank(last) { key.removeLast() }
            guard let text = String(validating: key, as: UTF8.self) else {
                throw ConfigError("cluster.gossip.secret_key_files: \(path): is not text")
            }
            if let refusal = ClusterRule.secretKey(text) {
                throw ConfigError("cluster.gossip.secret_key_files: \(path): the key \(refusal)")
            }
            secretKeys.append(text)
        }
    }
}

extension ServerConfig.Rebalance {
    static let settings: [Setting<ServerConfig.Rebalance>] = [
        Setting(
            "threshold", \.threshold, check: ClusterRule.within(0...1_000),
            """
            How many more agents than the mean of all nodes a node may have before it asks some to go elsewhere, as a part \
            of the mean: 0.2 means a fifth more. 0 means that it never asks.
            """),
        Setting(
            "shed_rate", \.shedRate, check: ClusterRule.within(0...1),
            "The part of its agents that such a node asks each second."),
        Setting(
            "min_conns", \.tunnelsMin, check: Rule.within(0...10_000_000),
            "A node with fewer agents asks none."),
    ]
}

/// Rules of the values above: what is wrong, or nil.
enum ClusterRule {
    static let keyBytesMin = 16
    static let keyBytesMax = 256
    static let keysMax = 16

    /// A node's name goes into paths, headers and labels.
    @Sendable static func nodeID(_ text: String) -> String? {
        if text.utf8.count > 128 { return "is longer than 128 bytes" }
        if text == "local" { return "is not a node's name: it means the node that is asked" }
        return text.utf8.allSatisfy(AddressText.isPlainNameByte) ? nil : "is not a node's name (letters, digits, - . _)"
    }

    /// A name is a prefix and seven letters.
    @Sendable static func nodeIDPrefix(_ text: String) -> String? {
        text.utf8.count > 121 ? "is longer than 121 bytes (seven letters are added)" : nodeID(text)
    }

    @Sendable static func clusterID(_ text: String) -> String? {
        if text.utf8.count > 64 { return "is longer than 64 bytes" }
        return text.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7f } ? nil : "is not a cluster's name (visible ASCII characters)"
    }

    @Sendable static func joinAddress(_ text: String) -> String? {
        guard let (host, port) = AddressText.split(text, defaultPort: 1), AddressText.isHost(host), port > 0 else {
            return "is not an address to join (for example 10.0.0.7, 10.0.0.7:8003 or piko.example.com)"
        }
        return nil
    }

    @Sendable static func interval(_ duration: Duration) -> String? {
        (.milliseconds(10)...(.seconds(60))).contains(duration) ? nil : "is not between 10ms and 1m"
    }

    @Sendable static func secretKey(_ text: String) -> String? {
        if text.utf8.count < keyBytesMin { return "is shorter than \(keyBytesMin) bytes" }
        return text.utf8.count > keyBytesMax ? "is longer than \(keyBytesMax) bytes" : nil
    }

    static func within(_ range: ClosedRange<Double>) -> @Sendable (Double) -> String? {
        { range.contains($0) ? nil : "is not between \(range.lowerBound.settingText) and \(range.upperBound.settingText)" }
    }
}
