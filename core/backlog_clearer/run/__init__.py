"""One run from survey to result, and what it stores."""
