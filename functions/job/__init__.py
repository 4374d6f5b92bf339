"""The container job: Cloud Run jobs, AWS Batch arrays, Kubernetes indexed jobs, Container Apps."""
