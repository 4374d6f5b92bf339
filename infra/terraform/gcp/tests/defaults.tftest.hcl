# What holds without asking for anything: nothing public, no role on the project, schedules paused,
# timeouts that fit into one another, names that an upgrade keeps.

mock_provider "google" {
  source = "./tests/mocks"
}

mock_provider "time" {}

variables {
  project_id = "my-project"
  region     = "europe-west1"
  bundle     = "tests/bundle.zip"
  secrets = {
    KAFKA_PASSWORD = { secret = "kafka-password" }
    KAFKA_CA       = { secret = "kafka-password", version = "3" }
  }
  backlogs = {
    orders = {
      system = "kafka"
      options = {
        bootstrap_servers = "broker:9093"
        topic             = "orders"
        group_id          = "billing"
        "sasl.password"   = "$${env:KAFKA_PASSWORD}"
      }
      workers = 8
    }
  }
  schedules = { orders = { cron = "0 3 * * *" } }
}

# One run, since each starts a new provider process.
run "defaults" {
  command = apply

  assert {
    condition     = time_sleep.grants.create_duration == "60s"
    error_message = "the build starts before its grants take effect"
  }
  assert {
    condition     = strcontains(google_project_iam_member.build_reads_uploads[0].condition[0].expression, "gcf-v2-sources-123456789012-europe-west1")
    error_message = "the build may read more, or less, than what the service uploads for it"
  }

  # nothing is public

  assert {
    condition     = alltrue([for function in google_cloudfunctions2_function.this : function.service_config[0].ingress_settings == "ALLOW_INTERNAL_ONLY"])
    error_message = "a function is reachable from outside"
  }
  assert {
    condition = alltrue([
      for binding in concat(values(google_cloud_run_v2_service_iam_member.calls_dispatch), [google_cloud_run_v2_service_iam_member.invoker_calls_drain]) :
      binding.role == "roles/run.invoker" && !strcontains(binding.member, "allUsers") && !strcontains(binding.member, "allAuthenticatedUsers")
    ])
    error_message = "a function may be called by anyone"
  }
  assert {
    condition     = length(google_cloud_run_v2_service_iam_member.calls_dispatch) == 1
    error_message = "someone but the scheduler may call the dispatch function"
  }
  assert {
    condition = alltrue([
      for bucket in [google_storage_bucket.receipts, google_storage_bucket.source] :
      bucket.public_access_prevention == "enforced" && bucket.uniform_bucket_level_access && bucket.versioning[0].enabled
    ])
    error_message = "a bucket may be public, has ACLs or keeps no versions"
  }
  assert {
    condition     = google_storage_bucket.receipts.force_destroy == false
    error_message = "terraform destroy would delete receipts"
  }

  # no role is on the project

  assert {
    condition = (
      length(google_project_iam_member.build_logs) + length(google_project_iam_member.pubsub_figures)
      + length(google_project_iam_member.pubsub_snapshots) + length(google_project_iam_custom_role.pubsub_snapshots)
    ) == 0
    error_message = "a role is granted on the project"
  }
  assert {
    condition = (
      google_cloud_tasks_queue_iam_member.enqueues["dispatch"].role == "roles/cloudtasks.enqueuer"
      && google_cloud_tasks_queue_iam_member.enqueues["dispatch"].name == "backlog-clearer-slices"
      && google_service_account_iam_member.acts_as_invoker["drain"].role == "roles/iam.serviceAccountUser"
      && google_storage_bucket_iam_member.writes_receipts["drain"].role == "roles/storage.objectUser"
      && google_storage_bucket_iam_member.writes_receipts["drain"].bucket == "my-project-backlog-clearer-receipts"
    )
    error_message = "the queue, the invoker or the receipts are bound with another role"
  }
  assert {
    condition = toset(keys(google_secret_manager_secret_iam_member.reads)) == toset([
      "projects/my-project/secrets/kafka-password:dispatch", "projects/my-project/secrets/kafka-password:drain",
    ])
    error_message = "a secret is readable by another account than the two that use it, or bound twice"
  }

  # every task has its account

  assert {
    condition     = toset([for account in google_service_account.this : account.account_id]) == toset(["backlog-clearer-build", "backlog-clearer-dispatch", "backlog-clearer-drain", "backlog-clearer-invoker", "backlog-clearer-scheduler"])
    error_message = "the accounts are others"
  }

  # timeouts fit

  assert {
    condition     = google_cloudfunctions2_function.this["drain"].service_config[0].timeout_seconds == 1800
    error_message = "the drain function's timeout is not timeout_seconds"
  }
  assert {
    condition = alltrue([
      for function in google_cloudfunctions2_function.this :
      tonumber(function.service_config[0].environment_variables.BACKLOG_CLEARER_DEADLINE_S) == 1680
    ])
    error_message = "the deadline leaves less than two minutes to settle and verify"
  }
  assert {
    condition     = tonumber(trimsuffix(google_cloud_scheduler_job.this["orders"].attempt_deadline, "s")) > google_cloudfunctions2_function.this["dispatch"].service_config[0].timeout_seconds
    error_message = "a schedule gives up before the function does"
  }

  # schedules are paused and repeat safely

  assert {
    condition     = google_cloud_scheduler_job.this["orders"].paused && google_cloud_scheduler_job.this["orders"].retry_config[0].retry_count == 3
    error_message = "the schedule runs, or is not retried"
  }
  assert {
    condition = (
      google_cloud_scheduler_job.this["orders"].http_target[0].uri == "https://backlog-clearer-dispatch-123456789012.europe-west1.run.app"
      && jsondecode(base64decode(google_cloud_scheduler_job.this["orders"].http_target[0].body)) == { backlog = "orders" }
      && google_cloud_scheduler_job.this["orders"].http_target[0].oidc_token[0].audience == google_cloud_scheduler_job.this["orders"].http_target[0].uri
    )
    error_message = "the schedule calls something else than the dispatch function"
  }

  # slices are limited and retried

  assert {
    condition = (
      google_cloud_tasks_queue.slices.rate_limits[0].max_concurrent_dispatches == 32
      && google_cloudfunctions2_function.this["drain"].service_config[0].max_instance_count == 32
      && google_cloudfunctions2_function.this["drain"].service_config[0].max_instance_request_concurrency == 1
    )
    error_message = "the queue sends more slices than the function takes, or an instance takes several"
  }
  assert {
    condition     = google_cloud_tasks_queue.slices.retry_config[0].max_attempts == 5 && google_cloud_tasks_queue.slices.retry_config[0].min_backoff == "10s"
    error_message = "the retries are others"
  }

  # the bundle gets its configuration

  assert {
    condition = jsondecode(google_cloudfunctions2_function.this["drain"].service_config[0].environment_variables.BACKLOG_CLEARER_CONFIG) == {
      receipts = "gs://my-project-backlog-clearer-receipts/runs"
      backlogs = {
        orders = {
          system = "kafka"
          options = {
            bootstrap_servers = "broker:9093"
            topic             = "orders"
            group_id          = "billing"
            "sasl.password"   = "$${env:KAFKA_PASSWORD}"
          }
          workers = 8
        }
      }
    }
    error_message = "the configuration has other keys, or nulls"
  }
  assert {
    condition = (
      google_cloudfunctions2_function.this["dispatch"].service_config[0].environment_variables.BACKLOG_CLEARER_TASKS_QUEUE == "projects/my-project/locations/europe-west1/queues/backlog-clearer-slices"
      && google_cloudfunctions2_function.this["dispatch"].service_config[0].environment_variables.BACKLOG_CLEARER_DRAIN_URL == "https://backlog-clearer-drain-123456789012.europe-west1.run.app"
      && google_cloudfunctions2_function.this["dispatch"].service_config[0].environment_variables.BACKLOG_CLEARER_INVOKER == "clearer@my-project.iam.gserviceaccount.com"
    )
    error_message = "the dispatcher lacks its queue, the drain function or the invoker"
  }
  assert {
    condition = toset([for variable in google_cloudfunctions2_function.this["drain"].service_config[0].secret_environment_variables : "${variable.key}=${variable.project_id}/${variable.secret}/${variable.version}"]) == toset([
      "KAFKA_CA=my-project/kafka-password/3", "KAFKA_PASSWORD=my-project/kafka-password/latest",
    ])
    error_message = "a secret is given otherwise than as a reference"
  }
  assert {
    condition = alltrue([
      for name, function in google_cloudfunctions2_function.this :
      function.build_config[0].runtime == "python312" && function.build_config[0].entry_point == name
      && function.build_config[0].environment_variables.GOOGLE_VENDOR_PIP_DEPENDENCIES == "wheels"
    ])
    error_message = "a function is built otherwise"
  }
  assert {
    condition     = google_storage_bucket_object.bundle.name == "backlog-clearer-gcp-${filesha256("tests/bundle.zip")}.zip"
    error_message = "the bundle's object is not named after its content"
  }

  # failures are reported

  assert {
    condition = (
      strcontains(google_monitoring_alert_policy.not_cleared.conditions[0].condition_matched_log[0].filter, "(jsonPayload.message:\"backlog-clearer: not cleared\" OR textPayload:\"backlog-clearer: not cleared\" OR httpRequest.status>=500)")
      && strcontains(google_monitoring_alert_policy.not_cleared.conditions[0].condition_matched_log[0].filter, "\"backlog-clearer-drain\"")
      && google_monitoring_alert_policy.not_cleared.alert_strategy[0].notification_rate_limit[0].period == "900s"
      && google_logging_metric.not_cleared.filter == google_monitoring_alert_policy.not_cleared.conditions[0].condition_matched_log[0].filter
    )
    error_message = "a slice that was not cleared raises no alert"
  }

  # outputs have the next commands

  assert {
    condition = output.dispatch_commands.orders == join(" ", [
      "gcloud tasks create-http-task --project=my-project --location=europe-west1 --queue=backlog-clearer-slices",
      "--url=https://backlog-clearer-dispatch-123456789012.europe-west1.run.app --method=POST",
      "--header=Content-Type:application/json --body-content='{\"backlog\":\"orders\"}'",
      "--oidc-service-account-email=clearer@my-project.iam.gserviceaccount.com",
      "--oidc-token-audience=https://backlog-clearer-dispatch-123456789012.europe-west1.run.app",
    ])
    error_message = "the run command is another"
  }
  assert {
    condition     = output.receipts == "gs://my-project-backlog-clearer-receipts/runs" && length(output.job_commands) == 0
    error_message = "the receipts are elsewhere, or a job is promised"
  }
}
