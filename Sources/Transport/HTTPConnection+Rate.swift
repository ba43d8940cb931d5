// How fast a request's body has to come: so many bytes in each stretch of `readTimeout`, instead of the one byte that is asked for
// without it. It bounds no upload as a whole, and no response.

internal import Base
internal import Reactor

extension HTTPConnection {
    /// Whether the stretch that ends now brought too little. Asked now and then, while the exchange runs.
    final func bodyIsTooSlow(_ now: Instant) -> Bool {
        let settings = context.settings
        let time = now - rateStart
        guard settings.bodyRateMin > 0, settings.readTimeout != .zero, !requestBody.isDone, time >= settings.readTimeout else { return false }
        var received = summary.requestBodyBytes
        if let before = requestPumpedBefore, let stream = channel as? Stream { received &+= stream.pumpedBytes &- before }
        // The client is not to blame for what the service does not take or has not asked for, nor for a body that is sent again.
        let isExcused = isReadPaused || holdsBody || lastBlocked >= rateStart || received < rateBytes
        let isSlow = !isExcused && received - rateBytes < UInt64(settings.bodyRateMin) * UInt64(time.components.seconds)
        rateStart = now
        rateBytes = received
        return isSlow
    }
}
