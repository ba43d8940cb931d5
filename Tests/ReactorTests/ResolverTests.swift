// Names that are looked up on threads, which are the only ones of our programs: many at once, and loops that go away while their
// threads are at work. Worth running under the thread sanitizer (script/soak threads).
import Base
import Reactor
import TestKit
import Testing

extension ReactorTests {
    @Suite struct Resolvers {
        /// The second name is refused by the machine's own rules; nobody is asked for it.
        private func host(_ index: Int) -> String { index.isMultiple(of: 3) ? "no such host!" : "localhost" }

        @Test(arguments: backends)
        func manyLookUpsAreAnsweredOnce(_ backend: BackendChoice) throws {
            let loop = try Loop(backend: backend)
            let resolver = Resolver(loop)
            var answers = [Int](repeating: 0, count: 200)
            for index in answers.indices {
                resolver.resolve(host: host(index), port: UInt16(index + 1)) { result in
                    answers[index] += 1
                    #expect((try? result.get()) == nil || !index.isMultiple(of: 3))
                }
            }
            pump(loop, "answers", limit: .seconds(60)) { answers.allSatisfy { $0 > 0 } }
            pump(loop, "closed") { loop.openHandles == 0 }
            #expect(answers.allSatisfy { $0 == 1 })
        }

        @Test(arguments: backends)
        func lookUpsOutliveTheirLoop(_ backend: BackendChoice) throws {
            for round in 0..<20 {
                let loop = try Loop(backend: backend)
                let resolver = Resolver(loop)
                var answered = 0
                let lookUps = (0..<40).map { index in resolver.resolve(host: host(index), port: 1) { _ in answered += 1 } }
                if round.isMultiple(of: 2) { pump(loop, "an answer", limit: .seconds(30)) { answered > 0 } }
                for lookUp in lookUps { lookUp.cancel() }
                let before = answered
                if round.isMultiple(of: 3) { pump(loop, for: .milliseconds(1)) }
                #expect(answered == before)
            }
        }
    }
}
