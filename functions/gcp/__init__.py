"""The bundle on Google Cloud: HTTP functions, and Cloud Tasks between them."""
