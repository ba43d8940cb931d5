// What comes back when a configuration leads nowhere.
import Testing

@testable import Agent

@Suite struct ConfigurationTrialTests {
    typealias Trial = ConfigurationTrial<String>

    @Test func aReloadThatLeadsNowhereIsTakenBack() {
        var trial = Trial()
        let first = trial.connected()
        let second = trial.connected()
        #expect(first && !second && trial.isProven)
        trial.reloaded(from: "good", wasConnected: true)
        #expect(!trial.isProven && trial.before == "good")
        trial.wentBack(from: "bad")
        #expect(trial.before == nil && !trial.isProven)
    }

    /// The good one had connected, only not at that moment.
    @Test func whatWasProvenCountsThoughItIsNotConnected() {
        var trial = Trial()
        _ = trial.connected()
        trial.reloaded(from: "good", wasConnected: false)
        #expect(trial.before == "good")
    }

    @Test func ofSeveralReloadsTheFirstOnesPlaceCounts() {
        var trial = Trial()
        _ = trial.connected()
        trial.reloaded(from: "good", wasConnected: true)
        trial.reloaded(from: "bad", wasConnected: false)
        trial.reloaded(from: "worse", wasConnected: false)
        #expect(trial.before == "good")
        _ = trial.connected()
        #expect(trial.isProven && trial.before == nil)
    }

    @Test func whatNeverConnectedIsNothingToGoBackTo() {
        var trial = Trial()
        trial.reloaded(from: "never", wasConnected: false)
        #expect(trial.before == nil)
    }

    @Test func atTheStartTheTwoTakeTurns() {
        var trial = Trial(alternative: "copy")
        #expect(trial.before == "copy")
        trial.wentBack(from: "file")
        #expect(trial.before == "file")
        trial.wentBack(from: "copy")
        #expect(trial.before == "copy")
        _ = trial.connected()
        #expect(trial.isProven && trial.before == nil)
    }

    @Test func aReloadEndsTheTurns() {
        var trial = Trial(alternative: "copy")
        trial.reloaded(from: "file", wasConnected: false)
        #expect(trial.before == "copy")
        trial.wentBack(from: "new")
        #expect(trial.before == nil)
    }
}
