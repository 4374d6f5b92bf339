"""The drain of a backlog and the rules that end it; knows brokers only through `source`."""
