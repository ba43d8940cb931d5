// What a client's request draws from the quotas of who sent it, at the worker that has checked its token: not again where a sibling
// or another node sent it on. It is given back once, whatever ends the request: its exchange, its TCP connection, the client's
// going, or its move to another worker, which checks the token again and draws itself.

import Authentication
import Base
import Memory
import Reactor
import Telemetry
import Transport
import Wire

extension ProxyConnection {
    /// Draws the request, with the stream that it is, from all the quotas (`Quota.countMax` at the most), in addition to nothing else:
    /// called once a request. Refused with 429 when one of them has no more.
    func draw(_ quotas: [Quota]) throws(HTTPError) {
        giveBackDrawn()
        do throws(QuotaRefusal) {
            drawn = try worker.quotas.draw(quotas, now: context.loop.now.nanoseconds)
        } catch {
            worker.telemetry.refusedByQuota(error.counter)
            throw HTTPError(status: 429, reason: error.text)
        }
    }

    /// Gives back what the request holds, if it does. `withRate`: it will be drawn again elsewhere.
    func giveBackDrawn(withRate: Bool = false) {
        if !drawn.isEmpty { worker.quotas.giveBack(&drawn, withRate: withRate) }
    }
}

extension QuotaRefusal {
    /// What the client is told.
    var text: StaticString {
        switch self {
        case .streams: "too many streams"
        case .requests, .noRoom: "too many requests"
        }
    }

    var counter: Counter {
        switch self {
        case .streams: .refusedQuotaStreams
        case .requests, .noRoom: .refusedQuotaRequests
        }
    }
}
