locals {
  functions = {
    dispatch = {
      description     = "Surveys a backlog and puts its slices on the queue"
      timeout_seconds = 300 # a survey of every partition, and one task for each slice
      memory          = "1Gi"
      cpu             = "1"
      max_instances   = 4
    }
    drain = {
      description     = "Drains one slice"
      timeout_seconds = var.timeout_seconds
      memory          = var.drain.memory
      cpu             = var.drain.cpu
      max_instances   = var.max_parallel_slices
    }
  }
}

resource "google_cloudfunctions2_function" "this" {
  for_each = local.functions

  project     = var.project_id
  location    = var.region
  name        = "${var.name}-${each.key}"
  description = each.value.description
  labels      = var.labels

  build_config {
    runtime               = "python312"
    entry_point           = each.key
    service_account       = local.build_service_account
    docker_repository     = google_artifact_registry_repository.functions.id
    environment_variables = { GOOGLE_VENDOR_PIP_DEPENDENCIES = "wheels" }

    source {
      storage_source {
        bucket = google_storage_bucket_object.bundle.bucket
        object = google_storage_bucket_object.bundle.name
      }
    }
  }

  service_config {
    timeout_seconds                  = each.value.timeout_seconds
    available_memory                 = each.value.memory
    available_cpu                    = each.value.cpu
    max_instance_count               = each.value.max_instances
    max_instance_request_concurrency = 1 # one slice in each instance
    service_account_email            = google_service_account.this[each.key].email

    # Cloud Scheduler and Cloud Tasks of the same project are internal callers of a run.app URL:
    # https://docs.cloud.google.com/run/docs/securing/ingress
    ingress_settings              = var.ingress
    vpc_connector                 = try(var.network.connector, null)
    vpc_connector_egress_settings = var.network == null ? null : (var.network.all_traffic ? "ALL_TRAFFIC" : "PRIVATE_RANGES_ONLY")

    environment_variables = merge(var.environment, {
      BACKLOG_CLEARER_CONFIG      = local.config
      BACKLOG_CLEARER_TASKS_QUEUE = "projects/${var.project_id}/locations/${var.region}/queues/${google_cloud_tasks_queue.slices.name}"
      BACKLOG_CLEARER_DRAIN_URL   = local.urls.drain
      BACKLOG_CLEARER_INVOKER     = google_service_account.this["invoker"].email
      BACKLOG_CLEARER_DEADLINE_S  = tostring(var.timeout_seconds - local.settle_seconds)
    })

    dynamic "secret_environment_variables" {
      for_each = var.secrets
      content {
        key        = secret_environment_variables.key
        project_id = coalesce(secret_environment_variables.value.project_id, var.project_id)
        secret     = secret_environment_variables.value.secret
        version    = secret_environment_variables.value.version
      }
    }
  }

  depends_on = [time_sleep.grants]

  lifecycle {
    precondition {
      condition     = length(local.config) <= 32768 # https://docs.cloud.google.com/run/quotas
      error_message = "The configuration of all backlogs has ${length(local.config)} characters, and 32768 fit: use the module twice, with some of the backlogs each."
    }
  }
}
