// Long bodies between two sockets: once the head and what came with it have gone through us, the rest of a body whose length
// is known is carried by a pump of the core, and we hear of it again when it is whole, or broke.
//
// A body begins here and goes over to its pump at the end of the turn, when every byte that was received before has passed
// through this code in order. While it is pumped, `requestBody` and `responseBody` stand still; what was taken meanwhile is
// what the source's counter grew by.

internal import Base
internal import Memory
internal import Reactor
internal import Wire

extension HTTPConnection {
    /// Leaves the rest of a body to a pump when it is worth it and both ends are sockets.
    final func pumpIfLong(_ body: Body, from source: Channel, to target: Channel) {
        guard !pumpsSoon, isLong(body), source is Stream, target is Stream else { return }
        pumpsSoon = true
        context.pumpSoon(self)
    }

    private func isLong(_ body: Body) -> Bool {
        switch body {
        case .length(let left): left >= context.settings.pumpBytesMin
        case .untilClose: !sendsChunks
        case .none, .chunked, .done: false
        }
    }

    /// The end of the turn in which a long body was seen.
    final func startPumps() {
        pumpsSoon = false
        guard state == .exchanging, let upstream, let client = channel as? Stream, let service = upstream.channel as? Stream
        else { return }
        if requestPumpedBefore == nil, !holdsBody, isLong(requestBody), inputOffset == input.count, case .length(let left) = requestBody {
            let before = client.pumpedBytes
            if client.pump(to: service, length: left) {
                requestPumpedBefore = before
                forgetBody()
                resumeClient()
            }
        }
        if responsePumpedBefore == nil, responseState == .body, upstream.input.isEmpty, isLong(responseBody) {
            var length = UInt64.max
            if case .length(let left) = responseBody { length = left }
            let before = service.pumpedBytes
            if service.pump(to: client, length: length) {
                responsePumpedBefore = before
                service.resumeReading()
            }
        }
    }

    /// The request's body went out whole.
    final func requestPumped() {
        guard requestPumpedBefore != nil, case .length(let left) = requestBody else { return }
        requestPumpedBefore = nil
        requestBody = .done
        bodyWasSent = true
        summary.requestBodyBytes &+= left
        lastProgress = context.loop.now
    }

    /// Takes the request's body back from its pump, whose target is of no more use.
    final func endRequestPump() {
        guard let before = requestPumpedBefore, let stream = channel as? Stream, case .length(let left) = requestBody
        else { return }
        requestPumpedBefore = nil
        stream.stopPump()
        let taken = min(left, stream.pumpedBytes &- before)
        if taken > 0 { bodyWasSent = true }
        summary.requestBodyBytes &+= taken
        requestBody = taken == left ? .done : .length(left - taken)
    }

    /// The response's body went out whole.
    final func responsePumped(from upstream: HTTPUpstream) {
        guard state == .exchanging, self.upstream === upstream, responsePumpedBefore != nil,
            case .length(let left) = responseBody
        else { return }
        responsePumpedBefore = nil
        summary.responseBodyBytes &+= left
        responseBody = .done
        responseState = .complete
        finishResponse()
    }

    /// The upstream is at its end: what its pump took is part of the response.
    final func countPumpedResponse(_ upstream: HTTPUpstream) {
        guard let before = responsePumpedBefore, let stream = upstream.channel as? Stream else { return }
        responsePumpedBefore = nil
        let taken = stream.pumpedBytes &- before
        summary.responseBodyBytes &+= taken
        if case .length(let left) = responseBody { responseBody = .length(left - min(left, taken)) }
    }

    /// Whether the upstream broke only after its pump had taken the whole of the response: then it goes out whole.
    final func responseWasPumpedWhole() -> Bool {
        guard responseState == .body, case .length(0) = responseBody else { return false }
        responseBody = .done
        responseState = .complete
        return true
    }
}
