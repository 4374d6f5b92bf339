# One task for each slice. There is no dead-letter queue: after max_attempts a task is deleted, and the alert
# on failed attempts is the only notice.
resource "google_cloud_tasks_queue" "slices" {
  project  = var.project_id
  location = var.region
  name     = "${var.name}-slices${var.queue.name_suffix}"

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
