// Names as keys. Swift's texts are equal when they look alike (Unicode's canonical equivalence), whatever their bytes; names of
// endpoints are what their bytes are, for tokens as for routes.

/// A text that is equal to another one when their bytes are.
public struct ExactName: Hashable, Sendable {
    public let text: String

    public init(_ text: String) { self.text = text }

    public static func == (left: ExactName, right: ExactName) -> Bool { left.text.utf8.elementsEqual(right.text.utf8) }

    public func hash(into hasher: inout Hasher) {
        for byte in text.utf8 { hasher.combine(byte) }
    }
}

extension Dictionary where Key == ExactName {
    /// The value of a name.
    public subscript(name: String) -> Value? {
        get { self[ExactName(name)] }
        _modify { yield &self[ExactName(name)] }
    }

    /// The value of a name, made when there is none.
    public subscript(name: String, default fallback: @autoclosure () -> Value) -> Value {
        get { self[ExactName(name), default: fallback()] }
        _modify { yield &self[ExactName(name), default: fallback()] }
    }
}
