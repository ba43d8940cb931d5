"""Independent peers of the Piko protocol, written from the wire description and the RFCs only.

Nothing in this package was derived from the Swift sources, so that a misreading of the protocol on one side cannot be
hidden by the same misreading on the other. Every peer is also a judge: what the other side sends is checked against the
specification, and each breach is collected in a list `violations`, which the tests assert to be empty.
"""
