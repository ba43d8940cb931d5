// What the configuration says about HTTP and sessions, as the parts that carry them take it.

import Config
import Transport
import Wire

extension Worker {
    static func proxySettings(_ config: ServerConfig) -> HTTPSettings {
        var settings = HTTPSettings()
        let http = config.proxy.http
        settings.headLimits = HeadLimits(bytesMax: http.headBytesMax, fieldsMax: http.headersMax)
        settings.headTimeout = http.readHeaderTimeout
        settings.idleTimeout = http.idleTimeout
        settings.responseTimeout = config.proxy.timeout
        settings.readTimeout = http.readTimeout
        settings.bodyRateMin = http.bodyRateMin
        settings.writeTimeout = http.writeTimeout
        settings.makesTraces = !config.proxy.isTraceDisabled
        return settings
    }

    static func yamuxLimits(_ config: ServerConfig) -> YamuxLimits {
        var limits = YamuxLimits()
        limits.streamsMax = config.upstream.streamsMax
        return limits
    }

    /// For the ports on which we answer ourselves: small heads, short times.
    static func ownSettings() -> HTTPSettings {
        var settings = HTTPSettings()
        settings.headLimits = HeadLimits(bytesMax: 16_384)
        settings.idleTimeout = .seconds(60)
        return settings
    }
}
