// The page for people on the admin port, /ui/: static files out of the program. They hold nothing of the node: what the page shows
// it asks of the same port, with the token that its reader gave it.
//
// The policy that goes with them lets the page load its own files and ask its own port, and nothing else: no script of others, no
// frame around it. Names on it come from strangers; the page writes them as text only, and the policy is what stands behind that.

import CAssets
import Memory

/// A file of the page.
enum AdminPage: Int32, CaseIterable {
    case index, app, tables, style, icon

    /// Where the page is; what comes to `folder` without its slash is sent there.
    static let folder = "/ui/"

    private var name: String {
        switch self {
        case .index: ""
        case .app: "app.js"
        case .tables: "tables.js"
        case .style: "style.css"
        case .icon: "icon.svg"
        }
    }

    private var file: Int32 {
        switch self {
        case .index: CASSETS_INDEX_HTML
        case .app: CASSETS_APP_JS
        case .tables: CASSETS_TABLES_JS
        case .style: CASSETS_STYLE_CSS
        case .icon: CASSETS_ICON_SVG
        }
    }

    /// The file at a path; nil: there is none.
    init?(path: String) {
        guard path.hasPrefix(Self.folder), let page = Self.allCases.first(where: { path == Self.folder + $0.name }) else { return nil }
        self = page
    }

    var contentType: StaticString {
        switch self {
        case .index: "text/html; charset=utf-8"
        case .app, .tables: "text/javascript; charset=utf-8"
        case .style: "text/css; charset=utf-8"
        case .icon: "image/svg+xml"
        }
    }

    /// Field lines of every file.
    static let fields: StaticString = """
        Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
        base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n\
        X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\nCache-Control: no-cache\r\n
        """

    /// The field lines of the answer to `/ui`. Relative: something before this port may serve it at another path.
    static let moved: StaticString = "Location: ui/\r\n"

    /// A copy of the file.
    func append(to text: inout ByteBuffer) {
        for place in 0..<cassets_length(file) { text.append(cassets_byte(file, place)) }
    }
}
