"""The drain of a backlog and the rules that end it; reaches brokers only through `source`."""
