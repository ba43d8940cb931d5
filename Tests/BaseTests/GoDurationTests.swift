// Go's notation for durations, checked against values that Go's own documentation and library define.
import Base
import Testing

@Suite struct GoDurationTests {
    /// Text, nanoseconds, and the form that Go prints for it.
    static let rows: [(String, Int64, String)] = [
        ("0", 0, "0s"), ("0s", 0, "0s"), ("+0", 0, "0s"), ("-0", 0, "0s"),
        ("5s", 5_000_000_000, "5s"), ("30s", 30_000_000_000, "30s"), ("1478s", 1_478_000_000_000, "24m38s"),
        ("-5s", -5_000_000_000, "-5s"), ("+5s", 5_000_000_000, "5s"),
        ("5.0s", 5_000_000_000, "5s"), ("5.6s", 5_600_000_000, "5.6s"), ("5.s", 5_000_000_000, "5s"),
        (".5s", 500_000_000, "500ms"), ("1.0s", 1_000_000_000, "1s"), ("1.004s", 1_004_000_000, "1.004s"),
        ("100.00100s", 100_001_000_000, "1m40.001s"),
        ("10ns", 10, "10ns"), ("11us", 11_000, "11\u{B5}s"), ("12\u{B5}s", 12_000, "12\u{B5}s"),
        ("12\u{3BC}s", 12_000, "12\u{B5}s"), ("13ms", 13_000_000, "13ms"), ("14s", 14_000_000_000, "14s"),
        ("15m", 900_000_000_000, "15m0s"), ("16h", 57_600_000_000_000, "16h0m0s"),
        ("3h30m", 12_600_000_000_000, "3h30m0s"), ("1m30s", 90_000_000_000, "1m30s"),
        ("1.5h", 5_400_000_000_000, "1h30m0s"), ("-1.5h", -5_400_000_000_000, "-1h30m0s"),
        ("10.5s4m", 250_500_000_000, "4m10.5s"), ("-2m3.4s", -123_400_000_000, "-2m3.4s"),
        ("1h2m3s4ms5us6ns", 3_723_004_005_006, "1h2m3.004005006s"),
        ("39h9m14.425s", 140_954_425_000_000, "39h9m14.425s"), ("52763797000ns", 52_763_797_000, "52.763797s"),
        ("0.3333333333333333333h", 1_200_000_000_000, "20m0s"),
        ("9007199254740993ns", 9_007_199_254_740_993, "2501h59m59.254740993s"),
        ("9223372036854775807ns", .max, "2562047h47m16.854775807s"),
        ("9223372036854775.807us", .max, "2562047h47m16.854775807s"),
        ("9223372036s854ms775us807ns", .max, "2562047h47m16.854775807s"),
        ("-9223372036854775808ns", .min, "-2562047h47m16.854775808s"),
        ("0.100000000000000000000h", 360_000_000_000, "6m0s"),
        ("0.830103483285477580700h", 2_988_372_539_827, "49m48.372539827s"),
        ("1100ns", 1_100, "1.1\u{B5}s"), ("2200us", 2_200_000, "2.2ms"), ("1ns", 1, "1ns"),
    ]

    @Test(arguments: rows.indices)
    func readsAndWritesWhatGoDoes(row: Int) {
        let (text, nanoseconds, printed) = Self.rows[row]
        #expect(GoDuration.parse(text) == .nanoseconds(nanoseconds), "\(text)")
        #expect(GoDuration.format(.nanoseconds(nanoseconds)) == printed)
        #expect(GoDuration.parse(printed) == .nanoseconds(nanoseconds))
    }

    @Test(arguments: [
        "", "3", "-", "s", ".", "-.", ".s", "+.s", "1d", " 1s", "1s ", "1 s", "5x", "1e3s", "1S", "--1s", "1.2.3s", "1s-1s",
        "9223372036854775810ns", "9223372036854775808ns", "-9223372036854775809ns", "9223372036854776us", "3000000h",
        "99999999999999999999999999s", "\u{B5}s", "1\u{B5}",
    ])
    func refusesWhatGoRefuses(text: String) {
        #expect(GoDuration.parse(text) == nil)
    }

    @Test func clampsWhatGoCannotHold() {
        #expect(GoDuration.format(.seconds(Int64.max)) == "2562047h47m16.854775807s")
        #expect(GoDuration.format(.seconds(-Int64.max)) == "-2562047h47m16.854775808s")
    }
}
