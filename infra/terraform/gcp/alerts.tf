locals {
  # Log entries of the bundle for a slice that failed, was refused or was not cleared, and of the platform for
  # one that it ended: a request answered with 5xx (504 is the timeout). A slice that is done but unproven
  # logs "backlog-clearer: unproven" and answers 200.
  failure_filter = join(" AND ", [
    "(${join(" OR ", concat(
      ["(resource.type=\"cloud_run_revision\" AND resource.labels.service_name=(${join(" OR ", [for name in keys(local.functions) : "\"${var.name}-${name}\""])}))"],
      length(local.job_backlogs) == 0 ? [] : ["(resource.type=\"cloud_run_job\" AND resource.labels.job_name=(${join(" OR ", [for name in local.job_backlogs : "\"${var.name}-${name}\""])}))"],
    ))})",
    "(jsonPayload.message:\"backlog-clearer: not cleared\" OR textPayload:\"backlog-clearer: not cleared\" OR httpRequest.status>=500)",
  ])
}

# For dashboards. The alert reads the log itself, because a policy cannot name a metric until minutes after
# it was created.
resource "google_logging_metric" "not_cleared" {
  project     = var.project_id
  name        = "${var.name}/not_cleared"
  description = "Slices that failed, were refused or were not cleared"
  filter      = local.failure_filter

  metric_descriptor {
    metric_kind = "DELTA"
    value_type  = "INT64"
    unit        = "1"
  }
}

resource "google_monitoring_alert_policy" "not_cleared" {
  project               = var.project_id
  display_name          = "${var.name}: a backlog was not cleared"
  combiner              = "OR"
  severity              = "ERROR"
  notification_channels = var.notification_channels
  user_labels           = var.labels

  conditions {
    display_name = "a slice failed, was refused or was not cleared"
    condition_matched_log {
      filter = local.failure_filter
    }
  }

  alert_strategy {
    auto_close = "86400s"
    notification_rate_limit {
      period = "900s"
    }
  }

  documentation {
    mime_type = "text/markdown"
    content   = <<-TEXT
      A slice of a backlog was not cleared. Attempts continue where the last one
      stopped, so one incident may heal by itself: read the run's receipts in gs://${local.receipts_bucket}/runs
      and the log entries of the condition before you start it again.
    TEXT
  }
}
