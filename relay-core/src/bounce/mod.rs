//! Reports to senders: delivery status notifications (RFC 3461, RFC 3462, RFC 3464).
