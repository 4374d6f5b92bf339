# What is made when it is asked for.

mock_provider "google" {
  source = "./tests/mocks"
}

mock_provider "time" {}

variables {
  project_id = "my-project"
  region     = "europe-west1"
  bundle     = "tests/bundle.zip"
  backlogs = {
    orders = {
      system  = "kafka"
      options = { bootstrap_servers = "broker:9093", topic = "orders", group_id = "billing", "sasl.password" = "$${env:KAFKA_PASSWORD}" }
    }
    events = {
      system  = "googlepubsub"
      options = { subscription_id = "projects/events-project/subscriptions/audit" }
    }
  }
  secrets     = { KAFKA_PASSWORD = { secret = "kafka-password", version = "3", project_id = "vault-project" } }
  environment = { OTEL_EXPORTER_OTLP_ENDPOINT = "http://otel.internal:4318" }
}

run "one_job_a_backlog" {
  command = apply

  variables {
    job       = { image = "europe-west1-docker.pkg.dev/my-project/tools/backlog-clearer:1", backlogs = ["orders"], task_count = 16, parallelism = 4 }
    schedules = { orders = { cron = "0 3 * * *", target = "job", enabled = true } }
    network   = { connector = "projects/my-project/locations/europe-west1/connectors/brokers" }
  }

  assert {
    condition = (
      keys(google_cloud_run_v2_job.this) == ["orders"]
      && google_cloud_run_v2_job.this["orders"].template[0].task_count == 16
      && google_cloud_run_v2_job.this["orders"].template[0].parallelism == 4
      && google_cloud_run_v2_job.this["orders"].template[0].template[0].max_retries == 3
      && google_cloud_run_v2_job.this["orders"].template[0].template[0].containers[0].args == tolist(["--backlog", "orders"])
      && google_cloud_run_v2_job.this["orders"].deletion_protection == false
    )
    error_message = "the job has other slices, retries or arguments"
  }
  assert {
    condition = (
      google_cloud_run_v2_job.this["orders"].template[0].template[0].timeout == "21600s"
      && one([for env in google_cloud_run_v2_job.this["orders"].template[0].template[0].containers[0].env : tonumber(env.value) if env.name == "BACKLOG_CLEARER_DEADLINE_S"]) == 21480
    )
    error_message = "the job's deadline does not fit its timeout"
  }
  assert {
    condition = one(flatten([
      for env in google_cloud_run_v2_job.this["orders"].template[0].template[0].containers[0].env : env.value_source[*].secret_key_ref[*] if env.name == "KAFKA_PASSWORD"
      ])) == {
      secret  = "projects/vault-project/secrets/kafka-password"
      version = "3"
    }
    error_message = "the job's secret is given otherwise than as a reference"
  }
  assert {
    condition = alltrue(concat(
      [for function in google_cloudfunctions2_function.this : function.service_config[0].environment_variables.OTEL_EXPORTER_OTLP_ENDPOINT == "http://otel.internal:4318"],
      [one([for env in google_cloud_run_v2_job.this["orders"].template[0].template[0].containers[0].env : env.value if env.name == "OTEL_EXPORTER_OTLP_ENDPOINT"]) == "http://otel.internal:4318"],
    ))
    error_message = "a plain variable does not reach the functions and the job"
  }
  assert {
    condition     = google_secret_manager_secret_iam_member.reads["projects/vault-project/secrets/kafka-password:job"].role == "roles/secretmanager.secretAccessor"
    error_message = "the job's account cannot read the secret"
  }
  assert {
    condition = (
      google_cloud_scheduler_job.this["orders"].http_target[0].uri == "https://run.googleapis.com/v2/projects/my-project/locations/europe-west1/jobs/backlog-clearer-orders:run"
      && length(google_cloud_scheduler_job.this["orders"].http_target[0].oauth_token) == 1
      && length(google_cloud_scheduler_job.this["orders"].http_target[0].oidc_token) == 0
      && google_cloud_scheduler_job.this["orders"].paused == false
      && google_cloud_run_v2_job_iam_member.scheduler_runs_job["orders"].role == "roles/run.invoker"
    )
    error_message = "the schedule does not start the job"
  }
  assert {
    condition = (
      google_cloudfunctions2_function.this["drain"].service_config[0].vpc_connector == "projects/my-project/locations/europe-west1/connectors/brokers"
      && google_cloudfunctions2_function.this["drain"].service_config[0].vpc_connector_egress_settings == "PRIVATE_RANGES_ONLY"
      && google_cloud_run_v2_job.this["orders"].template[0].template[0].vpc_access[0].egress == "PRIVATE_RANGES_ONLY"
    )
    error_message = "functions and jobs do not use the connector"
  }
  assert {
    condition     = strcontains(google_monitoring_alert_policy.not_cleared.conditions[0].condition_matched_log[0].filter, "resource.labels.job_name=(\"backlog-clearer-orders\")")
    error_message = "a failed job raises no alert"
  }
  assert {
    condition     = output.job_commands.orders == "gcloud run jobs execute backlog-clearer-orders --project=my-project --region=europe-west1"
    error_message = "the run command is another"
  }
}

run "pubsub_is_bound_on_the_subscription" {
  command = apply

  assert {
    condition = (
      length(google_pubsub_subscription_iam_member.clears) == 4
      && google_pubsub_subscription_iam_member.clears["events:drain:roles/pubsub.subscriber"].subscription == "audit"
      && google_pubsub_subscription_iam_member.clears["events:drain:roles/pubsub.subscriber"].project == "events-project"
      && length(google_project_iam_member.pubsub_figures) == 0
    )
    error_message = "the subscription is bound otherwise, or the project was"
  }
}

run "project_roles_only_where_asked_for" {
  command = apply

  variables {
    project_roles = { build_logs = true, pubsub_figures = true, pubsub_snapshots = true }
  }

  assert {
    condition = (
      google_project_iam_member.build_logs[0].role == "roles/logging.logWriter"
      && google_project_iam_member.pubsub_figures["events-project:drain"].role == "roles/monitoring.viewer"
      && google_project_iam_custom_role.pubsub_snapshots["events-project"].permissions == toset(["pubsub.snapshots.create"])
      && length(google_project_iam_member.pubsub_snapshots) == 2
    )
    error_message = "the project's roles are others than asked for"
  }
}

run "an_existing_build_account" {
  command = apply

  variables {
    build_service_account = "projects/my-project/serviceAccounts/builder@my-project.iam.gserviceaccount.com"
    project_roles         = { build_logs = true }
  }

  assert {
    condition = (
      google_cloudfunctions2_function.this["drain"].build_config[0].service_account == "projects/my-project/serviceAccounts/builder@my-project.iam.gserviceaccount.com"
      && !contains(keys(google_service_account.this), "build")
      && length(google_project_iam_member.build_logs) + length(google_storage_bucket_iam_member.build_reads_source) == 0
    )
    error_message = "a separate account is made or granted something"
  }
}

run "receipts_are_kept_as_asked" {
  command = plan

  variables {
    receipts    = { delete_after_days = 400, force_destroy = true, kms_key_name = "projects/my-project/locations/europe-west1/keyRings/r/cryptoKeys/k" }
    dispatchers = ["group:oncall@example.com"]
    name        = "drain-2"
  }

  assert {
    condition = (
      one(google_storage_bucket.receipts.lifecycle_rule[0].condition).age == 400
      && google_storage_bucket.receipts.force_destroy
      && google_kms_crypto_key_iam_member.storage_uses_key[0].crypto_key_id == "projects/my-project/locations/europe-west1/keyRings/r/cryptoKeys/k"
      && google_storage_bucket.receipts.encryption[0].default_kms_key_name == "projects/my-project/locations/europe-west1/keyRings/r/cryptoKeys/k"
      && google_storage_bucket.receipts.name == "my-project-drain-2-receipts"
    )
    error_message = "the receipts' bucket is another"
  }
  assert {
    condition     = google_cloud_run_v2_service_iam_member.calls_dispatch["group:oncall@example.com"].member == "group:oncall@example.com"
    error_message = "the dispatcher may not call the function"
  }
}

run "every_key_of_a_backlog" {
  command = apply

  variables {
    backlogs = {
      orders = {
        system               = "kafka"
        options              = { bootstrap_servers = "broker:9093", topic = "orders", group_id = "billing", "sasl.password" = "$${env:KAFKA_PASSWORD}" }
        mode                 = "consume"
        allowed_modes        = ["consume", "skip"]
        workers              = 8
        batch_size           = 5000
        max_messages         = 1000000000
        max_seconds          = 1200
        max_rate             = "50MB/s"
        metrics_file         = "/metrics/orders.prom"
        notify               = "https://hooks.example/orders"
        notify_authorization = "Bearer $${env:KAFKA_PASSWORD}"
        until                = "2026-11-01T00:00:00Z"
        ages                 = false
        force                = true
        max_slices           = 16
        messages_per_slice   = 20000000
        max_requeues         = 3
        verify_seconds       = 120.5
      }
      older = {
        system     = "kafka"
        options    = { bootstrap_servers = "broker:9093", topic = "older", group_id = "billing" }
        older_than = "2h"
      }
      latest = {
        system    = "kafka"
        options   = { bootstrap_servers = "broker:9093", topic = "latest", group_id = "billing" }
        keep_last = 1000
      }
    }
  }

  assert {
    condition     = jsondecode(google_cloudfunctions2_function.this["drain"].service_config[0].environment_variables.BACKLOG_CLEARER_CONFIG).backlogs.orders.max_requeues == 3
    error_message = "a key does not reach the bundle"
  }
}

# Every variable that the runs above leave at its default, and what it changes.
run "every_other_variable" {
  command = apply

  variables {
    project_number        = "123456789012"
    labels                = { team = "ops" }
    timeout_seconds       = 900
    max_parallel_slices   = 64
    queue                 = { name_suffix = "-2", max_dispatches_per_second = 50, max_attempts = 7, min_backoff_seconds = 5, max_backoff_seconds = 60 }
    drain                 = { memory = "8Gi", cpu = "2" }
    ingress               = "ALLOW_INTERNAL_AND_GCLB"
    notification_channels = ["projects/my-project/notificationChannels/1"]
    network               = { connector = "projects/my-project/locations/europe-west1/connectors/brokers", all_traffic = true }
    job                   = { image = "image:1", memory = "16Gi", cpu = "4", max_retries = 1, timeout_seconds = 3600, deletion_protection = true }
    schedules             = { orders = { cron = "0 3 * * *", timezone = "Europe/Berlin" } }
  }

  assert {
    condition = alltrue([for labels in concat(
      [for function in google_cloudfunctions2_function.this : function.labels],
      [for job in google_cloud_run_v2_job.this : job.labels],
      [google_storage_bucket.receipts.labels, google_storage_bucket.source.labels, google_artifact_registry_repository.functions.labels],
      [google_monitoring_alert_policy.not_cleared.user_labels],
    ) : labels.team == "ops"])
    error_message = "a resource lacks the labels"
  }
  assert {
    condition = (
      google_cloudfunctions2_function.this["drain"].service_config[0].timeout_seconds == 900
      && google_cloudfunctions2_function.this["drain"].service_config[0].max_instance_count == 64
      && google_cloudfunctions2_function.this["drain"].service_config[0].available_memory == "8Gi"
      && google_cloudfunctions2_function.this["drain"].service_config[0].available_cpu == "2"
      && alltrue([for function in google_cloudfunctions2_function.this : function.service_config[0].ingress_settings == "ALLOW_INTERNAL_AND_GCLB"])
      && alltrue([for function in google_cloudfunctions2_function.this : function.service_config[0].vpc_connector_egress_settings == "ALL_TRAFFIC"])
    )
    error_message = "a function has another size, time or network"
  }
  assert {
    condition = (
      google_cloud_tasks_queue.slices.name == "backlog-clearer-slices-2"
      && google_cloud_tasks_queue.slices.rate_limits[0].max_concurrent_dispatches == 64
      && google_cloud_tasks_queue.slices.rate_limits[0].max_dispatches_per_second == 50
      && google_cloud_tasks_queue.slices.retry_config[0].max_attempts == 7
      && google_cloud_tasks_queue.slices.retry_config[0].min_backoff == "5s"
      && google_cloud_tasks_queue.slices.retry_config[0].max_backoff == "60s"
      && strcontains(google_cloudfunctions2_function.this["dispatch"].service_config[0].environment_variables.BACKLOG_CLEARER_TASKS_QUEUE, "backlog-clearer-slices-2")
    )
    error_message = "the queue is another"
  }
  assert {
    condition = alltrue([for job in google_cloud_run_v2_job.this : (
      job.template[0].template[0].containers[0].resources[0].limits == tomap({ cpu = "4", memory = "16Gi" })
      && job.template[0].template[0].max_retries == 1
      && job.template[0].template[0].timeout == "3600s"
      && job.template[0].template[0].vpc_access[0].egress == "ALL_TRAFFIC"
      && job.deletion_protection
    )])
    error_message = "a job has another size, time, network or protection"
  }
  assert {
    condition = (
      google_cloud_scheduler_job.this["orders"].time_zone == "Europe/Berlin"
      && google_monitoring_alert_policy.not_cleared.notification_channels == tolist(["projects/my-project/notificationChannels/1"])
    )
    error_message = "the schedule has another time zone, or the alert another channel"
  }
}
