locals {
  job_backlogs = var.job == null ? toset([]) : toset(coalesce(var.job.backlogs, keys(var.backlogs)))
}

# Task i of task_count drains slice i: the image reads CLOUD_RUN_TASK_INDEX and CLOUD_RUN_TASK_COUNT.
resource "google_cloud_run_v2_job" "this" {
  for_each = local.job_backlogs

  project             = var.project_id
  location            = var.region
  name                = "${var.name}-${each.key}"
  labels              = var.labels
  deletion_protection = var.job.deletion_protection

  template {
    labels      = var.labels
    task_count  = var.job.task_count
    parallelism = coalesce(var.job.parallelism, var.job.task_count)

    template {
      max_retries           = var.job.max_retries
      timeout               = "${var.job.timeout_seconds}s"
      service_account       = google_service_account.this["job"].email
      execution_environment = "EXECUTION_ENVIRONMENT_GEN2"

      containers {
        image = var.job.image
        args  = ["--backlog", each.key]

        resources {
          limits = { cpu = var.job.cpu, memory = var.job.memory }
        }

        env {
          name  = "BACKLOG_CLEARER_CONFIG"
          value = local.config
        }

        env {
          name  = "BACKLOG_CLEARER_DEADLINE_S"
          value = tostring(var.job.timeout_seconds - local.settle_seconds)
        }

        dynamic "env" {
          for_each = var.environment
          content {
            name  = env.key
            value = env.value
          }
        }

        dynamic "env" {
          for_each = var.secrets
          content {
            name = env.key
            value_source {
              secret_key_ref {
                secret  = "projects/${coalesce(env.value.project_id, var.project_id)}/secrets/${env.value.secret}"
                version = env.value.version
              }
            }
          }
        }
      }

      dynamic "vpc_access" {
        for_each = var.network == null ? [] : [var.network]
        content {
          connector = vpc_access.value.connector
          egress    = vpc_access.value.all_traffic ? "ALL_TRAFFIC" : "PRIVATE_RANGES_ONLY"
        }
      }
    }
  }

  depends_on = [
    google_secret_manager_secret_iam_member.reads,
    google_storage_bucket_iam_member.writes_receipts,
  ]
}
