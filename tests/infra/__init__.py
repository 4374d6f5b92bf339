"""The Terraform modules, checked as far as a machine without a cloud can."""
