// One key of a configuration, written down once: its path, its place in the value, its help and its rule. Flags, YAML
// keys, defaults, help, the text form and the documentation all come from this.
//
// A group of keys that several places share (an access log, header lists) is a table of its own that is lifted to each
// place with a path in front.

/// A property of a configuration that can be read and set.
typealias Property<Root, Value> = any WritableKeyPath<Root, Value> & Sendable

/// What form a key's value has in a file and in help.
public enum SettingForm: Sendable, Equatable {
    /// One scalar.
    case scalar(mayBeQuoted: Bool)
    /// True or false; its flag needs no value.
    case truth
    /// A list of texts; its flag may be repeated or hold commas.
    case list
}

/// A key of `Root`, whose path uses "." between levels and "_" within a word, as YAML has it.
public struct Setting<Root>: Sendable {
    /// The path in YAML: "proxy.http.read_timeout".
    public let path: String
    /// The flag's name without dashes: "proxy.http.read-timeout".
    public let flag: String
    public let form: SettingForm
    /// What help calls the value.
    public let placeholder: String
    /// What the key does, in whole sentences.
    public let help: String
    /// Whether a list's element must have the key.
    public let isRequired: Bool
    /// Whether the value is for nobody's eyes: it is never printed.
    public let isSecret: Bool
    /// Whether the flag's name was chosen, not derived, and so gets nothing in front when the key is lifted.
    private let isFlagChosen: Bool
    /// Sets the value from one text. A list gets one item a call, the first one after `clear`.
    let assign: @Sendable (inout Root, String) throws(SettingError) -> Void
    /// Empties a list; does nothing for other forms.
    let clear: @Sendable (inout Root) -> Void
    /// The value's texts: one, or one for each item.
    let texts: @Sendable (Root) -> [String]

    /// A key with one value. `check` says what is wrong with a value that its type allows, or nil.
    init<Value: SettingValue>(
        _ path: String, _ property: Property<Root, Value>, flag: String? = nil,
        placeholder: String? = nil, isRequired: Bool = false, check: @escaping @Sendable (Value) -> String? = { _ in nil },
        isSecret: Bool = false, _ help: String
    ) {
        self.path = path
        self.flag = flag ?? flagName(path)
        isFlagChosen = flag != nil
        form = Value.self == Bool.self ? .truth : .scalar(mayBeQuoted: Value.mayBeQuoted)
        self.placeholder = placeholder ?? Value.placeholder
        self.help = help
        self.isRequired = isRequired
        self.isSecret = isSecret
        assign = { (root: inout Root, text: String) throws(SettingError) in
            let value = try Value(settingText: text)
            if let refusal = check(value) { throw SettingError(refusal) }
            root[keyPath: property] = value
        }
        clear = { _ in }
        texts = { [$0[keyPath: property].settingText] }
    }

    /// A key with a list of texts. `check` says what is wrong with an item, or nil.
    init(
        _ path: String, list property: Property<Root, [String]>, placeholder: String,
        check: @escaping @Sendable (String) -> String? = { _ in nil }, isSecret: Bool = false, _ help: String
    ) {
        self.path = path
        flag = flagName(path)
        isFlagChosen = false
        form = .list
        self.placeholder = placeholder
        self.help = help
        isRequired = false
        self.isSecret = isSecret
        assign = { (root: inout Root, text: String) throws(SettingError) in
            if text.isEmpty { throw SettingError("is empty; an item must hold text") }
            if let refusal = check(text) { throw SettingError(refusal) }
            root[keyPath: property].append(text)
        }
        clear = { $0[keyPath: property].removeAll() }
        texts = { $0[keyPath: property] }
    }

    /// The key of a part, as a key of the whole: `path` and a "." are put in front.
    init<Part>(
        lifting setting: Setting<Part>, path: String, read: @escaping @Sendable (Root) -> Part,
        change: @escaping @Sendable (inout Root, (inout Part) throws(SettingError) -> Void) throws(SettingError) -> Void
    ) {
        self.path = path + "." + setting.path
        flag = setting.isFlagChosen ? setting.flag : flagName(path) + "." + setting.flag
        isFlagChosen = setting.isFlagChosen
        form = setting.form
        placeholder = setting.placeholder
        help = setting.help
        isRequired = setting.isRequired
        isSecret = setting.isSecret
        assign = { (root: inout Root, text: String) throws(SettingError) in
            try change(&root) { (part: inout Part) throws(SettingError) in try setting.assign(&part, text) }
        }
        clear = { root in
            do throws(SettingError) {
                try change(&root) { (part: inout Part) throws(SettingError) in setting.clear(&part) }
            } catch {
                preconditionFailure("clearing a list does not fail")
            }
        }
        texts = { setting.texts(read($0)) }
    }

    /// A refused value as a message shows it.
    func shown(_ text: String) -> String { isSecret ? "the value" : "\"\(Self.withoutUser(text))\"" }

    /// A URL without who its user is: there may be a password.
    private static func withoutUser(_ text: String) -> String {
        guard let colon = text.firstIndex(of: ":"), text[colon...].hasPrefix("://") else { return text }
        let start = text.index(colon, offsetBy: 3)
        let end = text[start...].firstIndex(of: "/") ?? text.endIndex
        guard let mark = text[start..<end].lastIndex(of: "@") else { return text }
        return text[..<start] + "***" + text[mark...]
    }

    /// A table of a part's keys, lifted to the whole.
    static func group<Part>(
        _ path: String, _ property: Property<Root, Part>, _ settings: [Setting<Part>]
    ) -> [Setting<Root>] {
        settings.map { setting -> Setting<Root> in
            Setting<Root>(lifting: setting, path: path, read: { $0[keyPath: property] }) {
                (root: inout Root, body: (inout Part) throws(SettingError) -> Void) throws(SettingError) in
                try body(&root[keyPath: property])
            }
        }
    }
}

/// A flag's name for a key's path.
private func flagName(_ path: String) -> String {
    String(path.map { $0 == "_" ? "-" : $0 })
}

/// A key that holds a list of maps ("listeners"): in files and in the text form only, never a flag.
public struct SettingList<Root>: Sendable {
    public let path: String
    public let help: String
    /// The path, help and form of each key of an element, for documentation.
    public let elementKeys: [SettingKey]
    let count: @Sendable (Root) -> Int
    let append: @Sendable (inout Root) -> Void
    let removeAll: @Sendable (inout Root) -> Void
    /// The keys of the element at an index: "listeners.0.timeout".
    let settings: @Sendable (Int) -> [Setting<Root>]

    init<Element: Sendable>(
        _ path: String, _ property: Property<Root, [Element]>, new: @escaping @Sendable () -> Element,
        _ settings: [Setting<Element>], _ help: String
    ) {
        self.path = path
        self.help = help
        elementKeys = settings.map { SettingKey($0, default: $0.texts(new())) }
        count = { $0[keyPath: property].count }
        append = { $0[keyPath: property].append(new()) }
        removeAll = { $0[keyPath: property].removeAll() }
        self.settings = { index in
            settings.map { setting in
                Setting<Root>(lifting: setting, path: "\(path).\(index)", read: { $0[keyPath: property][index] }) {
                    (root: inout Root, body: (inout Element) throws(SettingError) -> Void) throws(SettingError) in
                    try body(&root[keyPath: property][index])
                }
            }
        }
    }
}

/// What documentation and help say about one key.
public struct SettingKey: Sendable, Equatable {
    public let path: String
    public let flag: String
    public let placeholder: String
    public let isList: Bool
    public let isTruth: Bool
    public let isRequired: Bool
    /// The default's texts: one, or one for each item of a list.
    public let defaultTexts: [String]
    public let help: String

    init<Root>(_ setting: Setting<Root>, default texts: [String]) {
        path = setting.path
        flag = setting.flag
        placeholder = setting.placeholder
        isList = setting.form == .list
        isTruth = setting.form == .truth
        isRequired = setting.isRequired
        defaultTexts = setting.isRequired ? [] : texts
        help = setting.help
    }
}
