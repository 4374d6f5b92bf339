"""Many invocations that share one backlog: configuration, dispatch, run status, platforms."""
