"""Whether all usage is in: what was received, what senders say they sent, and what looks unusual."""
