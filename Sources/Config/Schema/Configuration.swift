// What the configurations of all programs have in common: made from defaults, then a file, then flags, in this order, so
// that a flag always wins; and their text form, by which a supervisor hands the result to its workers.

/// All keys of one configuration.
public struct Schema<Root>: Sendable {
    public let settings: [Setting<Root>]
    public let lists: [SettingList<Root>]

    init(_ settings: [Setting<Root>], lists: [SettingList<Root>] = []) {
        self.settings = settings
        self.lists = lists
    }
}

/// The configuration of one program: a value that is made once and not changed.
public protocol Configuration: Equatable, Sendable {
    /// The defaults.
    init()
    /// Every key.
    static var schema: Schema<Self> { get }
    /// Takes what a command's arguments say, and checks what the command needs. By default nothing.
    mutating func complete(_ invocation: Invocation) throws(ConfigError)
    /// Takes what lies in files that the configuration names. By default nothing.
    mutating func readFiles<Failure: Error>(
        _ read: (_ path: String, _ bytesMax: Int) throws(Failure) -> [UInt8]
    ) throws(ConfigError)
    /// Rules that concern more than one key.
    func validate() throws(ConfigError)
}

extension Configuration {
    public mutating func complete(_ invocation: Invocation) throws(ConfigError) {}

    public mutating func readFiles<Failure: Error>(
        _ read: (_ path: String, _ bytesMax: Int) throws(Failure) -> [UInt8]
    ) throws(ConfigError) {}
}

/// A configuration file's name, for messages, and what it holds.
public struct ConfigFile: Equatable, Sendable {
    /// A file longer than this is not read whole. What the YAML reader takes is less; it says where it stops.
    public static let bytesMax = 4_194_304

    public var name: String
    public var bytes: [UInt8]

    public init(name: String, bytes: [UInt8]) {
        self.name = name
        self.bytes = bytes
    }
}

/// A flag as it was given, without its dashes.
public struct FlagValue: Equatable, Sendable {
    public var name: String
    public var value: String

    public init(name: String, value: String) {
        self.name = name
        self.value = value
    }
}

extension Configuration {
    /// Every key's documentation, in the order of the schema. The keys of list elements are with `Schema.lists`.
    public static var keys: [SettingKey] {
        let defaults = Self()
        return schema.settings.map { SettingKey($0, default: $0.texts(defaults)) }
    }

    /// The whole configuration as text: every key with its value, a list's key once for each item. Of the elements of lists,
    /// which may be many, only those keys that are required or not as they are by default.
    public var flattened: [(String, String)] {
        let schema = Self.schema
        var pairs: [(String, String)] = []
        for setting in schema.settings {
            for text in setting.texts(self) { pairs.append((setting.path, text)) }
        }
        for list in schema.lists {
            var fresh = Self()
            list.append(&fresh)
            for index in 0..<list.count(self) {
                for (setting, new) in zip(list.settings(index), list.settings(0)) {
                    let texts = setting.texts(self)
                    guard setting.isRequired || texts != new.texts(fresh) else { continue }
                    for text in texts { pairs.append((setting.path, text)) }
                }
            }
        }
        return pairs
    }

    /// The keys whose values are not the same in both, by name.
    public static func differences(_ one: Self, _ other: Self) -> [String] {
        let left = Dictionary(grouping: one.flattened, by: \.0).mapValues { $0.map(\.1) }
        let right = Dictionary(grouping: other.flattened, by: \.0).mapValues { $0.map(\.1) }
        return Set(left.keys).union(right.keys).filter { left[$0] != right[$0] }.sorted()
    }

    /// Those of the keys that another version's `flattened` gave which this one has.
    public static func understood(_ pairs: [(String, String)]) -> [(String, String)] {
        let schema = schema
        let known = Set(schema.settings.map(\.path))
        let elementKeys = schema.lists.map { list in (path: list.path + ".", keys: Set(list.elementKeys.map(\.path))) }
        return pairs.filter { path, _ in
            if known.contains(path) { return true }
            return elementKeys.contains { list in
                guard path.hasPrefix(list.path) else { return false }
                let parts = path.dropFirst(list.path.count).split(separator: ".", maxSplits: 1)
                return parts.count == 2 && Int(parts[0]) != nil && list.keys.contains(String(parts[1]))
            }
        }
    }

    /// The configuration that `flattened` gave.
    public init(flattened pairs: [(String, String)]) throws(ConfigError) {
        self.init()
        let schema = Self.schema
        var settings: [String: Setting<Self>] = [:]
        for setting in schema.settings {
            setting.clear(&self)
            settings[setting.path] = setting
        }
        for (path, text) in pairs {
            for list in schema.lists where settings[path] == nil && path.hasPrefix("\(list.path).") {
                // Elements come in order, so a key of the next one is the first that is not known yet.
                let index = list.count(self)
                guard path.hasPrefix("\(list.path).\(index).") else { continue }
                list.append(&self)
                for setting in list.settings(index) { settings[setting.path] = setting }
            }
            guard let setting = settings[path] else { throw ConfigError("unknown key \"\(path)\"") }
            do throws(SettingError) {
                try setting.assign(&self, text)
            } catch {
                throw ConfigError("\(path): \(setting.shown(text)) \(error.message)")
            }
        }
        try validate()
    }

    /// Takes the values of a file, which must be a map or empty.
    mutating func apply(_ file: ConfigFile) throws(ConfigError) {
        let root: YAMLNode
        do throws(YAMLError) {
            root = try YAML.read(file.bytes.span)
        } catch {
            throw ConfigError("\(file.name):\(error)")
        }
        var decoder = ConfigDecoder(schema: Self.schema, fileName: file.name)
        try decoder.decode(root, into: &self)
    }

    /// Takes the values of those flags that `settings` knows; a flag that is given again wins over itself, and a list's
    /// flags add up.
    static func apply<Root>(
        _ flags: [FlagValue], _ settings: [Setting<Root>], to root: inout Root
    ) throws(ConfigError) {
        for setting in settings {
            let values = flags.filter { $0.name == setting.flag }.map(\.value)
            if values.isEmpty { continue }
            setting.clear(&root)
            let texts = setting.form == .list ? values.flatMap(splitList) : values
            for text in texts {
                do throws(SettingError) {
                    try setting.assign(&root, text)
                } catch {
                    throw ConfigError("--\(setting.flag): \(setting.shown(text)) \(error.message)")
                }
            }
        }
    }

    /// The items of a list's flag.
    static func splitList(_ text: String) -> [String] {
        text.isEmpty ? [] : text.split(separator: ",", omittingEmptySubsequences: false).map { String($0) }
    }
}
