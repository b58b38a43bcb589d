"""Who is told of what: alerts, their channels, and what came of the messages."""
