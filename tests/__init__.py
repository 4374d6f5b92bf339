"""Tests; each states its claim in one sentence and looks at the broker, not at our output."""
