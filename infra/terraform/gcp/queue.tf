# One task a slice. It has no dead-letter queue: after max_attempts a task is gone, and the alert on
# the failed attempts is what tells.
resource "google_cloud_tasks_queue" "slices" {
  project  = var.project_id
  location = var.region
  name     = "${var.name}-slices"

  rate_limits {
    max_concurrent_dispatches = var.max_parallel_slices
    max_dispatches_per_second = var.queue.max_dispatches_per_second
  }

  retry_config {
    max_attempts  = var.queue.max_attempts
    min_backoff   = "${var.queue.min_backoff_seconds}s"
    max_backoff   = "${var.queue.max_backoff_seconds}s"
    max_doublings = 5
  }

  stackdriver_logging_config {
    sampling_ratio = 1
  }
}
