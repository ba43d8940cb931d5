// What a client connection tells the access log.

import Base
import Control
import Memory
import Reactor
import Telemetry
import Transport
import Wire

extension ProxyConnection {
    /// What is known of the request at hand, whose head is still there.
    func accessEntry(_ summary: ExchangeSummary) -> AccessEntry {
        AccessEntry(
            client: clientAddress, endpoint: endpoint, way: way, trace: trace, summary: summary,
            duration: context.loop.now - summary.started, number: trace.isKnown ? trace.low : context.traceNumbers.next())
    }

    /// The identifier that the request brought; empty: none.
    var requestIDText: [UInt8] {
        guard let range = trace.requestID else { return [] }
        return withHeadBytes { bytes in [UInt8](copying: bytes.extracting(range)) }
    }

    /// The exchange is over.
    func logExchange() {
        let log = worker.telemetry.accessLog
        guard log.isEnabled else { return }
        let entry = accessEntry(summary)
        if isTCP {
            log.connection(entry, requestID: requestIDText)
            return
        }
        let kept = responseBytes.count
        withHeadBytes { bytes in
            responseBytes.withSpan(0..<kept) { response in
                log.request(entry, head, bytes, response: responseHead, responseBytes: response)
            }
        }
        responseHead = Head()
        responseBytes.removeAll()
    }
}
