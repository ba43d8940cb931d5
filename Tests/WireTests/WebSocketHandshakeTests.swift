// The opening handshake: its parts against the vectors of the RFCs, then whole requests and responses as tables.

import Memory
import Testing

@testable import Wire

@Suite struct WebSocketHandshakeTests {
    private func digest(_ text: String) -> String {
        let digest = SecureHash1.digest(text.utf8Span.span)
        return (0..<20).map { String(digest[$0] >> 4, radix: 16) + String(digest[$0] & 15, radix: 16) }.joined()
    }

    // RFC 3174 section 7.3, and lengths around the edges of a block.
    @Test func secureHash() {
        let rows: [(String, String)] = [
            ("", "da39a3ee5e6b4b0d3255bfef95601890afd80709"),
            ("abc", "a9993e364706816aba3e25717850c26c9cd0d89d"),
            ("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", "84983e441c3bd26ebaae4aa1f95129e5e54670f1"),
            (String(repeating: "a", count: 1_000_000), "34aa973cd4c4daa4f61eeb2bdbad27316534016f"),
            (String(repeating: "01234567", count: 80), "dea356a2cddd90c7a7ecedc5ebb563934f460452"),
            (String(repeating: "x", count: 55), "cef734ba81a024479e09eb5a75b6ddae62e6abf1"),
            (String(repeating: "x", count: 56), "901305367c259952f4e7af8323f480d59f81335b"),
            (String(repeating: "x", count: 63), "0ddc4e0cccd9a12850deb5abb0853a4425559fec"),
            (String(repeating: "x", count: 64), "bb2fa3ee7afb9f54c6dfb5d021f14b1ffe40c163"),
            (String(repeating: "x", count: 65), "78c741ddc482e4cdf8c474a0876347a0905b6233"),
        ]
        for (text, expected) in rows { #expect(digest(text) == expected, "\(text.count) bytes") }
    }

    // RFC 4648 section 10.
    @Test func base64() {
        let rows = [
            ("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"), ("\u{7f}\u{3f}\u{3e}", "fz8+"),
        ]
        for (text, expected) in rows {
            var buffer = ByteBuffer()
            Base64.encode(text.utf8Span.span, into: &buffer)
            #expect(bytes(of: buffer) == Array(expected.utf8))
            let encodes = (0..<10).filter { Base64.isEncoding(expected.utf8Span.span, ofByteCount: $0) }
            #expect(encodes == [text.utf8.count])
        }
    }

    @Test func keys() {
        for key in [
            "dGhlIHNhbXBsZSBub25jZQ==", "AAAAAAAAAAAAAAAAAAAAAA==", "/////////////////////w==", "++++++++++++++++++++++==",
        ] {
            let isGood = key.last(where: { $0 != "=" })! != "+"
            #expect(WebSocketHandshake.isValidKey(key.utf8Span.span) == isGood, "\(key)")
        }
        for key in [
            "", "dGhlIHNhbXBsZSBub25jZQ=", "dGhlIHNhbXBsZSBub25jZQ===", "dGhlIHNhbXBsZSBub25jZQAA",
            "dGhlIHNhbXBsZSBub25jZR==",
            "dGhlIHNhbXBsZSBub25jZ===", "dGhlIHNhbXBsZSBub25j=Q==", "dGhlIHNhbXBsZSBub2 jZQ==", "dGhlIHNhbXBsZSBub25jZQ=A",
            "dGhlIHNhbXBsZSBub25-ZQ==", "Zm9v",
        ] {
            #expect(WebSocketHandshake.isValidKey(key.utf8Span.span) == false, "\(key)")
        }
        var buffer = ByteBuffer()
        WebSocketHandshake.makeKey(random: Array(0..<16 as Range<UInt8>).span, into: &buffer)
        #expect(bytes(of: buffer) == Array("AAECAwQFBgcICQoLDA0ODw==".utf8))
        #expect(buffer.count == WebSocketHandshake.keyLength)
    }

    // RFC 6455 section 1.3.
    @Test func acceptsTheKeyOfTheRFC() {
        var buffer = ByteBuffer()
        WebSocketHandshake.acceptKey(for: "dGhlIHNhbXBsZSBub25jZQ==".utf8Span.span, into: &buffer)
        #expect(bytes(of: buffer) == Array("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".utf8))
        #expect(buffer.count == WebSocketHandshake.acceptLength)
    }

    @Test func requests() {
        struct Row {
            var upgrade = "websocket"
            var option = true
            var version = "13"
            var key = "dGhlIHNhbXBsZSBub25jZQ=="
            var origin = ""
            var host = "example.com:8001"
            var refusal: WebSocketHandshake.Refusal?
        }
        let rows: [Row] = [
            Row(), Row(upgrade: "WebSocket"), Row(upgrade: "h2c, \tWEBSOCKET "),
            Row(upgrade: "", refusal: .notWebSocket), Row(upgrade: "h2c", refusal: .notWebSocket),
            Row(upgrade: "websockets", refusal: .notWebSocket), Row(option: false, refusal: .notWebSocket),
            Row(version: "", refusal: .badVersion), Row(version: "8", refusal: .badVersion),
            Row(version: "013", refusal: .badVersion),
            Row(version: "13, 8", refusal: .badVersion), Row(key: "", refusal: .badKey), Row(key: "Zm9v", refusal: .badKey),
            // Row 17 of the security tests: a page of another site.
            Row(origin: "http://example.com:8001"), Row(origin: "HTTPS://Example.COM:8001"),
            Row(origin: "http://evil", refusal: .crossOrigin), Row(origin: "http://example.com", refusal: .crossOrigin),
            Row(origin: "null", refusal: .crossOrigin), Row(origin: "://example.com:8001", refusal: .crossOrigin),
            Row(origin: "http://example.com:8001/", refusal: .crossOrigin),
            Row(origin: "http:example.com:8001", refusal: .crossOrigin),
            Row(origin: "http://a@example.com:8001", refusal: .crossOrigin),
            Row(origin: "http://", host: "", refusal: .crossOrigin),
            Row(origin: "http:", refusal: .crossOrigin), Row(origin: ":", refusal: .crossOrigin),
        ]
        for row in rows {
            let refusal = WebSocketHandshake.checkRequest(
                upgrade: row.upgrade.utf8Span.span, hasUpgradeOption: row.option, version: row.version.utf8Span.span,
                key: row.key.utf8Span.span, origin: row.origin.utf8Span.span, host: row.host.utf8Span.span)
            #expect(refusal == row.refusal, "\(row)")
        }
        let refusals: [WebSocketHandshake.Refusal] = [.notWebSocket, .badVersion, .badKey, .crossOrigin]
        #expect(refusals.map(\.status) == [426, 426, 400, 403])
    }

    @Test func responses() {
        struct Row {
            var upgrade = "websocket"
            var option = true
            var accept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
            var extensions = ""
            var subprotocol = ""
            var good = false
        }
        let rows: [Row] = [
            Row(good: true), Row(upgrade: "WebSocket", good: true), Row(upgrade: "h2c, websocket"), Row(upgrade: ""),
            Row(option: false),
            Row(accept: ""), Row(accept: "s3pPLMBiTxaQ9kYGzzhZRbK+xOo"), Row(accept: "s3pplmbitxaq9kygzzhzrbk+xoo="),
            Row(accept: "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=="), Row(extensions: "permessage-deflate"), Row(subprotocol: "chat"),
        ]
        for row in rows {
            let good = WebSocketHandshake.checkResponse(
                upgrade: row.upgrade.utf8Span.span, hasUpgradeOption: row.option, accept: row.accept.utf8Span.span,
                extensions: row.extensions.utf8Span.span, subprotocol: row.subprotocol.utf8Span.span,
                key: "dGhlIHNhbXBsZSBub25jZQ==".utf8Span.span)
            #expect(good == row.good, "\(row)")
        }
    }
}
