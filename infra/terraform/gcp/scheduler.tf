# Only starts a drain: the work is in the queue or the job.
resource "google_cloud_scheduler_job" "this" {
  for_each = var.schedules

  project          = var.project_id
  region           = var.region
  name             = "${var.name}-${each.key}"
  description      = "Clears the backlog ${each.key}"
  schedule         = each.value.cron
  time_zone        = each.value.timezone
  paused           = !each.value.enabled
  attempt_deadline = "${local.functions.dispatch.timeout_seconds + 30}s" # longer than the function, so that no attempt overlaps

  # A repeated attempt at the dispatch function has the same run id and adds nothing; a job that is started
  # twice reads twice, which is harmless.
  retry_config {
    retry_count          = 3
    min_backoff_duration = "30s"
    max_backoff_duration = "300s"
  }

  http_target {
    http_method = "POST"
    uri = (each.value.target == "functions" ? local.urls.dispatch :
    "https://run.googleapis.com/v2/projects/${var.project_id}/locations/${var.region}/jobs/${var.name}-${each.key}:run")
    headers = { "Content-Type" = "application/json" }
    body    = base64encode(each.value.target == "functions" ? jsonencode({ backlog = each.key }) : "{}")

    # A function takes an identity token; the Cloud Run API takes an access token.
    dynamic "oidc_token" {
      for_each = each.value.target == "functions" ? [local.urls.dispatch] : []
      content {
        service_account_email = google_service_account.this["scheduler"].email
        audience              = oidc_token.value
      }
    }

    dynamic "oauth_token" {
      for_each = each.value.target == "job" ? ["https://www.googleapis.com/auth/cloud-platform"] : []
      content {
        service_account_email = google_service_account.this["scheduler"].email
        scope                 = oauth_token.value
      }
    }
  }

  depends_on = [
    google_cloud_run_v2_service_iam_member.calls_dispatch,
    google_cloud_run_v2_job_iam_member.scheduler_runs_job,
  ]
}
