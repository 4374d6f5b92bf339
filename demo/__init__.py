"""`make demo`: a backlog on an embedded broker, cleared, restored and skipped."""
