// Addresses as people write them.
import Config
import Testing

@Suite struct AddressTests {
    static let binds: [(String, String, UInt16)] = [
        (":8000", "", 8000), ("127.0.0.1:80", "127.0.0.1", 80), ("[::1]:80", "::1", 80), ("localhost:0", "localhost", 0),
        ("[fe80::1%eth0]:65535", "fe80::1%eth0", 65535), ("my_host.example-1.com:1", "my_host.example-1.com", 1), ("[::]:1", "::", 1),
        ("[::ffff:1.2.3.4]:5", "::ffff:1.2.3.4", 5),
    ]

    @Test(arguments: binds.indices)
    func bindAddresses(row: Int) throws {
        let (text, host, port) = Self.binds[row]
        #expect(try BindAddress(settingText: text) == BindAddress(host: host, port: port))
        #expect(BindAddress(host: host, port: port).settingText == text)
    }

    @Test(arguments: [
        "", ":", "8000", "localhost", "localhost:", ":65536", ":-1", ":+1", ":080", ":http", "::1:80", "[::1]", "[::1]80", "[]:80", "[a]:80",
        "[::1:80", "::1]:80", "a b:80", "a:80 ", "a:8 0", "a/b:80", "http://a:80", "[::1%]:80", "[::g]:80", "é:80", ":100000",
    ])
    func refusesBindAddresses(text: String) {
        #expect(throws: SettingError.self) { try BindAddress(settingText: text) }
    }

    @Test func localAddressesMayBeAPort() throws {
        #expect(try LocalAddress(settingText: "3000").bindAddress == BindAddress(host: "localhost", port: 3000))
        #expect(try LocalAddress(settingText: ":3000").bindAddress == BindAddress(host: "", port: 3000))
        #expect(try LocalAddress(settingText: "127.0.0.1:0").bindAddress == BindAddress(host: "127.0.0.1", port: 0))
        #expect(try LocalAddress(settingText: "65535").settingText == "localhost:65535")
        for text in ["0", "65536", "", "a", "03000", "3000 "] {
            #expect(throws: SettingError.self) { try LocalAddress(settingText: text) }
        }
    }

    /// A text, its parts, and its canonical form.
    static let services: [(String, ServiceAddress, String)] = [
        ("3000", ServiceAddress(host: "localhost", port: 3000), "localhost:3000"),
        ("65535", ServiceAddress(host: "localhost", port: 65535), "localhost:65535"),
        ("10.0.0.7:3000", ServiceAddress(host: "10.0.0.7", port: 3000), "10.0.0.7:3000"),
        ("[::1]:3000", ServiceAddress(host: "::1", port: 3000), "[::1]:3000"),
        ("http://a:3000", ServiceAddress(host: "a", port: 3000, isURL: true), "http://a:3000"),
        ("https://a", ServiceAddress(host: "a", port: 443, isURL: true, isSecure: true), "https://a:443"),
        ("HTTP://a", ServiceAddress(host: "a", port: 80, isURL: true), "http://a:80"),
        ("http://[::1]/", ServiceAddress(host: "::1", port: 80, isURL: true), "http://[::1]:80"),
        ("http://a:1/b/c/", ServiceAddress(host: "a", port: 1, pathPrefix: "/b/c", isURL: true), "http://a:1/b/c"),
        ("http://a/b%20c", ServiceAddress(host: "a", port: 80, pathPrefix: "/b%20c", isURL: true), "http://a:80/b%20c"),
    ]

    @Test(arguments: services.indices)
    func serviceAddresses(row: Int) throws {
        let (text, address, canonical) = Self.services[row]
        #expect(try ServiceAddress(settingText: text) == address)
        #expect(address.settingText == canonical)
        #expect(try ServiceAddress(settingText: canonical) == address)
    }

    @Test(arguments: [
        "", "0", "65536", ":3000", "a", "a:0", "a:", "http://", "http://:80", "http://a:0", "http://a:b", "http://a?b", "http://a/b?c", "http://a/#b",
        "http://u@a", "http://a/b c", "https://", "ftp://a", "://a", "http:/a", "http//a:80", "http://a/\r\nb", "http://a:80:90",
    ])
    func refusesServiceAddresses(text: String) {
        #expect(throws: SettingError.self) { try ServiceAddress(settingText: text) }
    }

    @Test func serverURLs() throws {
        #expect(try ServerURL(settingText: "http://localhost:8001").authority == "localhost:8001")
        #expect(try ServerURL(settingText: "http://piko.example.com/").authority == "piko.example.com")
        #expect(try ServerURL(settingText: "http://[::1]:80/a/").settingText == "http://[::1]/a")
        #expect(try ServerURL(settingText: "https://a").settingText == "https://a")
        #expect(try ServerURL(settingText: "https://a:80/b").authority == "a:80")
        #expect(throws: SettingError("is not an http or https URL (for example http://localhost:8001)")) {
            try ServerURL(settingText: "ws://a")
        }
    }
}
