// Responses that we make ourselves: errors, health, status pages.

public import Memory

/// How a response of ours is written.
public struct LocalResponse: Sendable {
    public var status: Int
    public var connection: ConnectionMode
    /// The time for the Date field.
    public var unixSeconds: Int64
    /// The request was HEAD: everything is written but the body.
    public var omitsBody: Bool
    /// Whether to forbid browsers to guess at the type of the body.
    public var noSniff: Bool
    public var contentType: StaticString
    /// More field lines, each with its CRLF.
    public var fields: StaticString

    public init(
        status: Int, connection: ConnectionMode, unixSeconds: Int64, omitsBody: Bool = false, noSniff: Bool = false,
        contentType: StaticString = "application/json", fields: StaticString = ""
    ) {
        self.status = status
        self.connection = connection
        self.unixSeconds = unixSeconds
        self.omitsBody = omitsBody
        self.noSniff = noSniff
        self.contentType = contentType
        self.fields = fields
    }
}

extension HeadWriter {
    /// Writes a whole response with the body `{"error":"MESSAGE"}`.
    public static func writeError(_ message: StaticString, _ response: LocalResponse, into output: inout ByteBuffer) {
        writeHead(response, bodyLength: ErrorBody.length(message), into: &output)
        if !response.omitsBody { ErrorBody.write(message, into: &output) }
    }

    /// Writes a whole response with `body`.
    public static func writeResponse(_ response: LocalResponse, body: Span<UInt8>, into output: inout ByteBuffer) {
        writeHead(response, bodyLength: body.count, into: &output)
        if !response.omitsBody { output.append(body) }
    }

    /// Writes the head of a response of ours; with `bodyLength` nil, of one that has no body, such as 101, and nothing that
    /// describes one.
    public static func writeHead(_ response: LocalResponse, bodyLength: Int?, into output: inout ByteBuffer) {
        output.append("HTTP/1.1 ")
        output.appendDecimal(UInt64(response.status))
        output.append(0x20)
        output.append(reasonPhrase(response.status))
        output.append("\r\nDate: ")
        HTTPDate.write(response.unixSeconds, into: &output)
        output.append("\r\n")
        if let bodyLength {
            output.append("Content-Type: ")
            output.append(response.contentType)
            output.append("\r\n")
            writeFraming(.length(UInt64(bodyLength)), into: &output)
        }
        if response.noSniff { output.append("X-Content-Type-Options: nosniff\r\n") }
        output.append(response.fields)
        writeConnection(response.connection, alsoNaming: "", into: &output)
        output.append("\r\n")
    }

    /// Writes the interim response that lets a client send its body.
    public static func writeContinue(into output: inout ByteBuffer) { output.append("HTTP/1.1 100 Continue\r\n\r\n") }

    /// The usual phrase for a status; empty for one that is not registered.
    public static func reasonPhrase(_ status: Int) -> StaticString {
        switch status {
        case 100: "Continue"
        case 101: "Switching Protocols"
        case 200: "OK"
        case 201: "Created"
        case 202: "Accepted"
        case 204: "No Content"
        case 206: "Partial Content"
        case 301: "Moved Permanently"
        case 302: "Found"
        case 303: "See Other"
        case 304: "Not Modified"
        case 307: "Temporary Redirect"
        case 308: "Permanent Redirect"
        case 400: "Bad Request"
        case 401: "Unauthorized"
        case 403: "Forbidden"
        case 404: "Not Found"
        case 405: "Method Not Allowed"
        case 408: "Request Timeout"
        case 409: "Conflict"
        case 411: "Length Required"
        case 413: "Content Too Large"
        case 414: "URI Too Long"
        case 415: "Unsupported Media Type"
        case 417: "Expectation Failed"
        case 421: "Misdirected Request"
        case 426: "Upgrade Required"
        case 429: "Too Many Requests"
        case 431: "Request Header Fields Too Large"
        case 500: "Internal Server Error"
        case 501: "Not Implemented"
        case 502: "Bad Gateway"
        case 503: "Service Unavailable"
        case 504: "Gateway Timeout"
        case 505: "HTTP Version Not Supported"
        default: ""
        }
    }
}
