// Questions that all workers of the node answer for themselves: which tunnels they have, say. Each answers with elements of a JSON
// array, in pages; here they come together.
//
// Who asks while the same question is open, or was answered within a second, gets that answer: a worker is busy with one answer of a
// kind at a time, however many ask.
//
// Bounds: a time for the answer, and a size of each. Who does not answer in time is left out, and the answer says that it is not
// whole.

import Base
import Control
import Reactor

/// The questions that are open.
final class Inquiries {
    /// What became of a question: the elements of all workers, with commas between them.
    struct Answer {
        var elements: [UInt8] = []
        /// Whether everybody who was asked answered.
        var isWhole = true
    }

    private struct Open {
        var parts: [UInt32: [UInt8]] = [:]
        var waiting: Set<UInt32>
        var isWhole: Bool
        var timer: CallbackTimer?
        let question: String
        var done: [(Answer) -> Void]
    }

    private let loop: Loop
    private var open: [UInt64: Open] = [:]
    /// Not from 1 on: pages may come that the program asked for which was here before.
    private var nextRequest = Random.number() >> 1
    private var kept: [String: (answer: Answer, until: Instant)] = [:]
    /// Forgets what is kept: answers may be long.
    private var forgetting: CallbackTimer?

    private static let answerTime = Duration.seconds(2)
    private static let keptTime = Duration.seconds(1)
    /// Who may wait for an answer.
    private static let askersMax = 256

    init(_ loop: Loop) {
        self.loop = loop
        forgetting = CallbackTimer(loop) { [unowned self] in kept.removeAll() }
    }

    /// Asks all workers that have their place among the others; `done` is called once, perhaps at once. False: too many ask.
    func ask(_ question: String, _ workers: [WorkerProcess], _ done: @escaping (Answer) -> Void) -> Bool {
        if let known = kept[question], loop.now < known.until {
            done(known.answer)
            return true
        }
        kept[question] = nil
        if let request = open.first(where: { $0.value.question == question })?.key {
            guard open[request]?.done.count ?? 0 < Self.askersMax else { return false }
            open[request]?.done.append(done)
            return true
        }
        let asked = workers.filter { $0.isLinked && $0.link.protocolVersion >= ControlLimits.inquiryVersion }
        let request = nextRequest
        nextRequest &+= 1
        let timer = CallbackTimer(loop) { [unowned self] in timeIsUp(request) }
        open[request] = Open(
            waiting: Set(asked.map(\.worker)), isWhole: asked.count == workers.count { $0.isLinked }, timer: timer, question: question,
            done: [done])
        timer.schedule(after: Self.answerTime)
        for worker in asked { worker.link.send(.inquire(request: request, path: question)) }
        finishIfWhole(request)
        return true
    }

    /// A part of a worker's answer.
    func page(from worker: UInt32, _ request: UInt64, _ bytes: [UInt8], isLast: Bool) {
        guard open[request]?.waiting.contains(worker) ?? false else { return }
        open[request]?.parts[worker, default: []] += bytes
        if open[request]?.parts[worker]?.count ?? 0 > Report.bodyBytesMax {
            open[request]?.parts[worker] = nil
            open[request]?.isWhole = false
            open[request]?.waiting.remove(worker)
        }
        if isLast { open[request]?.waiting.remove(worker) }
        finishIfWhole(request)
    }

    /// It answers nothing any more.
    func workerEnded(_ worker: UInt32) {
        for (request, question) in open where question.waiting.contains(worker) {
            open[request]?.waiting.remove(worker)
            open[request]?.parts[worker] = nil
            open[request]?.isWhole = false
            finishIfWhole(request)
        }
    }

    private func timeIsUp(_ request: UInt64) {
        guard let question = open[request] else { return }
        for worker in question.waiting { open[request]?.parts[worker] = nil }
        open[request]?.isWhole = false
        open[request]?.waiting = []
        finishIfWhole(request)
    }

    private func finishIfWhole(_ request: UInt64) {
        guard let question = open[request], question.waiting.isEmpty else { return }
        open[request] = nil
        var answer = Answer(isWhole: question.isWhole)
        for worker in question.parts.keys.sorted() {
            guard let part = question.parts[worker], !part.isEmpty else { continue }
            if answer.elements.count + part.count > Report.bodyBytesMax - 1_024 {
                answer.isWhole = false
                break
            }
            if !answer.elements.isEmpty { answer.elements.append(UInt8(ascii: ",")) }
            answer.elements += part
        }
        kept[question.question] = (answer, loop.now + Self.keptTime)
        forgetting?.schedule(after: Self.keptTime)
        for done in question.done { done(answer) }
    }
}
