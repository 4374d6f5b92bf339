# The provider is mocked: what is asserted is what the module asks the cluster for. The runs are few, for each
# of them starts a new provider process.
mock_provider "kubernetes" {}

variables {
  namespace = "drains"
  image     = "registry.example:5000/team/backlog-clearer@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
  egress = {
    kafka  = { cidr = "10.0.0.0/16", port = 9092, end_port = 9094 }
    bucket = { cidr = "0.0.0.0/0", port = 443 }
  }
  receipts = { url = "gs://ops-receipts/drains" }
  secrets  = { KAFKA_PASSWORD = { name = "kafka", key = "password" } }
  backlogs = {
    orders = {
      system = "kafka"
      options = {
        bootstrap_servers   = "kafka-0:9093,kafka-1:9093"
        topic               = "orders"
        group_id            = "billing"
        "security.protocol" = "SASL_SSL"
        "sasl.mechanisms"   = "SCRAM-SHA-512"
        "sasl.username"     = "clearer"
        "sasl.password"     = "$${env:KAFKA_PASSWORD}"
      }
      mode                 = "consume"
      allowed_modes        = ["consume", "skip"]
      workers              = 8
      batch_size           = 1000
      max_messages         = 5000000
      max_seconds          = 1800.5
      max_rate             = "50MB/s"
      metrics_file         = "/metrics/orders.prom"
      notify               = "https://hooks.example/orders"
      notify_authorization = "Bearer $${env:KAFKA_PASSWORD}"
      until                = "2026-11-01T00:00:00Z"
      ages                 = false
      force                = false
      max_slices           = 16
      messages_per_slice   = 1000000
      max_requeues         = 3
      verify_seconds       = 120.5
    }
    events = {
      system  = "kafka"
      options = { bootstrap_servers = "kafka-0:9092", topic = "events", group_id = "audit" }
    }
    older = {
      system     = "kafka"
      options    = { bootstrap_servers = "kafka-0:9092", topic = "older", group_id = "audit" }
      older_than = "2h"
    }
    latest = {
      system    = "kafka"
      options   = { bootstrap_servers = "kafka-0:9092", topic = "latest", group_id = "audit" }
      keep_last = 1000
    }
  }
  schedules = {
    orders = { cron = "0 3 * * *", timezone = "Europe/Berlin", slices = 80 }
    events = { cron = "@hourly", enabled = true }
  }
  runs        = { outage = { backlog = "orders", slices = 8 } }
  environment = { AZURE_STORAGE_ACCOUNT_NAME = "opsreceipts", OTEL_EXPORTER_OTLP_ENDPOINT = "http://otel.internal:4318" }
}

# Before anything is applied, so that the plan has only the requested values.
run "claim" {
  command = plan
  variables {
    receipts = { claim = "receipts" }
  }
  assert {
    condition     = kubernetes_job_v1.this["outage"].spec[0].template[0].spec[0].container[0].volume_mount[0].mount_path == jsondecode(kubernetes_config_map_v1.this.data["BACKLOG_CLEARER_CONFIG"]).receipts
    error_message = "Receipts go to the volume."
  }
  assert {
    condition     = kubernetes_cron_job_v1.this["events"].spec[0].job_template[0].spec[0].template[0].spec[0].volume[0].persistent_volume_claim[0].claim_name == "receipts"
    error_message = "The volume is the claim's."
  }
}

run "defaults" {
  # Configuration
  assert {
    condition     = jsondecode(kubernetes_config_map_v1.this.data["BACKLOG_CLEARER_CONFIG"]).receipts == "gs://ops-receipts/drains"
    error_message = "Receipts go to the bucket."
  }
  assert {
    condition     = !contains(keys(jsondecode(kubernetes_config_map_v1.this.data["BACKLOG_CLEARER_CONFIG"]).backlogs.events), "workers")
    error_message = "What is not set stays out: the program has the defaults."
  }
  assert {
    condition     = { for env in kubernetes_job_v1.this["outage"].spec[0].template[0].spec[0].container[0].env : env.name => one(env.value_from).secret_key_ref[0] if env.name == "KAFKA_PASSWORD" }["KAFKA_PASSWORD"].name == "kafka"
    error_message = "A secret comes from the secret's key."
  }

  # Cron jobs
  assert {
    condition     = { for name, job in kubernetes_cron_job_v1.this : name => job.spec[0].suspend } == { orders = true, events = false }
    error_message = "A schedule is suspended unless it is enabled."
  }
  assert {
    condition     = alltrue([for job in kubernetes_cron_job_v1.this : job.spec[0].concurrency_policy == "Forbid"])
    error_message = "Runs of a schedule do not overlap."
  }
  assert {
    condition     = kubernetes_cron_job_v1.this["orders"].spec[0].job_template[0].spec[0].completions == 80 && kubernetes_cron_job_v1.this["orders"].spec[0].job_template[0].spec[0].parallelism == 32
    error_message = "Every slice runs, so many at the same time."
  }

  # Jobs
  assert {
    condition     = kubernetes_job_v1.this["outage"].spec[0].completion_mode == "Indexed" && kubernetes_job_v1.this["outage"].spec[0].completions == 8
    error_message = "Eight slices are eight indexes."
  }
  assert {
    condition     = kubernetes_job_v1.this["outage"].spec[0].ttl_seconds_after_finished == null && !kubernetes_job_v1.this["outage"].wait_for_completion
    error_message = "A run stays, so that no apply repeats it, and apply does not wait for it."
  }
  assert {
    condition = [
      for env in kubernetes_job_v1.this["outage"].spec[0].template[0].spec[0].container[0].env : env.name
      if contains(["JOB_NAME", "JOB_UID", "BACKLOG_CLEARER_RUN_ID"], env.name)
    ] == ["JOB_NAME", "JOB_UID", "BACKLOG_CLEARER_RUN_ID"]
    error_message = "What the run id is made of precedes it: Kubernetes expands only what it has seen."
  }

  assert {
    condition     = { for env in kubernetes_job_v1.this["outage"].spec[0].template[0].spec[0].container[0].env : env.name => env.value }["BACKLOG_CLEARER_RUN_ID"] == "$(JOB_NAME)-$(JOB_UID)"
    error_message = "A run id belongs to one job, also after another job had its name."
  }

  assert {
    condition     = { for env in kubernetes_job_v1.this["outage"].spec[0].template[0].spec[0].container[0].env : env.name => env.value }["BACKLOG_CLEARER_TOTAL"] == "8"
    error_message = "A pod gets the number of slices."
  }
  assert {
    condition     = tonumber(kubernetes_config_map_v1.this.data["BACKLOG_CLEARER_DEADLINE_S"]) == kubernetes_job_v1.this["outage"].spec[0].template[0].spec[0].active_deadline_seconds - 120
    error_message = "The drain ends before its pod does."
  }
  assert {
    condition     = kubernetes_cron_job_v1.this["orders"].spec[0].job_template[0].spec[0].active_deadline_seconds == 3 * 3 * (3600 + 360)
    error_message = "A job has time for three waves of slices, three attempts each."
  }
  assert {
    condition     = kubernetes_job_v1.this["outage"].spec[0].backoff_limit_per_index == 2 && kubernetes_job_v1.this["outage"].spec[0].backoff_limit >= 8 * 3
    error_message = "Each slice has three attempts, independent of the others."
  }
  assert {
    condition = (
      kubernetes_job_v1.this["outage"].spec[0].max_failed_indexes == 8
      && kubernetes_cron_job_v1.this["orders"].spec[0].job_template[0].spec[0].max_failed_indexes == 80
    )
    error_message = "A failed slice does not end the others."
  }
  assert {
    condition     = alltrue([for job in kubernetes_cron_job_v1.this : job.spec[0].starting_deadline_seconds <= 30])
    error_message = "Enabling a schedule starts no run whose time has passed."
  }
  assert {
    condition     = { for env in kubernetes_job_v1.this["outage"].spec[0].template[0].spec[0].container[0].env : env.name => env.value }["AZURE_STORAGE_ACCOUNT_NAME"] == "opsreceipts"
    error_message = "Plain variables reach the pods."
  }
  assert {
    condition = (
      kubernetes_job_v1.this["outage"].spec[0].pod_failure_policy[0].rule[0].action == "FailIndex"
      && kubernetes_job_v1.this["outage"].spec[0].pod_failure_policy[0].rule[0].on_exit_codes[0].values == tolist([2, 3])
    )
    error_message = "Exit 2 and 3 are not tried again."
  }

  # Rights
  assert {
    condition = alltrue([
      for pod in [kubernetes_job_v1.this["outage"].spec[0].template[0].spec[0], kubernetes_cron_job_v1.this["orders"].spec[0].job_template[0].spec[0].template[0].spec[0]] :
      pod.security_context[0].run_as_non_root && pod.security_context[0].seccomp_profile[0].type == "RuntimeDefault" && !pod.automount_service_account_token
      && pod.container[0].security_context[0].read_only_root_filesystem && !pod.container[0].security_context[0].allow_privilege_escalation
      && pod.container[0].security_context[0].capabilities[0].drop == tolist(["ALL"])
    ])
    error_message = "Pods run without rights, on a file system that they cannot write, without a token."
  }
  assert {
    condition     = !kubernetes_service_account_v1.this.automount_service_account_token
    error_message = "The service account gives no token."
  }

  # Network
  assert {
    condition     = length(kubernetes_network_policy_v1.this.spec[0].ingress) == 0 && contains(kubernetes_network_policy_v1.this.spec[0].policy_types, "Ingress")
    error_message = "Nothing comes in."
  }
  assert {
    condition     = [for rule in kubernetes_network_policy_v1.this.spec[0].egress : rule.ports[0].port] == ["53", "443", "9092"]
    error_message = "DNS and what is named go out."
  }
}

# Everything that could replace a job changes while it runs: it stays as it was.
run "changed_during_a_run" {
  variables {
    image           = "registry.example:5000/team/backlog-clearer@sha256:fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210"
    runs            = { outage = { backlog = "orders", slices = 4 } }
    attempts        = 5
    attempt_seconds = 1800
    labels          = { team = "ops" }
    secrets         = { KAFKA_PASSWORD = { name = "kafka-2", key = "password" } }
  }
  assert {
    condition     = kubernetes_job_v1.this["outage"].spec[0].completions == 8 && endswith(kubernetes_job_v1.this["outage"].spec[0].template[0].spec[0].container[0].image, "0123456789abcdef")
    error_message = "A change never ends or repeats a run."
  }
}

# What cannot work is refused before anything is planned, with an example of what does.
run "refused" {
  command = plan
  variables {
    image     = "registry.example/backlog-clearer:latest"       # no digest
    secrets   = {}                                              # references without one
    schedules = { order = { cron = "0 3 * * *" } }              # of no backlog
    runs      = { outage = { backlog = "orders", slices = 0 } } # of nothing
    receipts  = {}                                              # to nowhere
    egress    = { kafka = { cidr = "kafka", port = 9092 } }     # a name
  }
  expect_failures = [var.image, var.secrets, var.schedules, var.runs, var.receipts, var.egress]
}

run "refused_too" {
  command = plan
  variables {
    name     = "Backlog Clearer"
    backlogs = { orders = { system = "kafka", mode = "purge", options = {} } }
  }
  expect_failures = [var.name, var.backlogs]
}

run "variable_of_the_platform" {
  command = plan
  variables {
    environment = { JOB_COMPLETION_INDEX = "0" }
  }
  expect_failures = [var.environment]
}

run "variable_of_a_secret" {
  command = plan
  variables {
    environment = { KAFKA_PASSWORD = "hunter2" }
  }
  expect_failures = [var.environment]
}

run "configuration_too_long" {
  command = plan
  variables {
    backlogs  = { for number in range(200) : "b${number}" => { system = "kafka", options = { bootstrap_servers = "kafka-0:9092", topic = format("%0500d", number), group_id = "billing" } } }
    schedules = {}
    runs      = {}
  }
  expect_failures = [kubernetes_config_map_v1.this]
}

# Every variable that the runs above leave at its default, and what it changes.
run "every_other_variable" {
  command = plan
  variables {
    name               = "nightly"
    image_pull_secrets = ["registry"]
    parallelism        = 3
    attempts           = 5
    attempt_seconds    = 1800
    resources          = { cpu = "500m", memory = "1Gi" }
    labels             = { team = "ops" }
    egress             = { dns = { cidr = "169.254.20.10/32", port = 53, protocol = "UDP" } }
    runs               = { other = { backlog = "orders", slices = 9 } }

    service_account_annotations = { "iam.gke.io/gcp-service-account" = "clearer@shop.iam.gserviceaccount.com" }
  }
  assert {
    condition = alltrue([
      for meta in concat(
        [for job in kubernetes_cron_job_v1.this : job.metadata[0]], [for job in kubernetes_job_v1.this : job.metadata[0]],
        [kubernetes_config_map_v1.this.metadata[0], kubernetes_service_account_v1.this.metadata[0], kubernetes_network_policy_v1.this.metadata[0]],
      ) : startswith(meta.name, "nightly") && meta.labels.team == "ops"
    ])
    error_message = "An object has another name, or lacks the labels."
  }
  assert {
    condition = alltrue([
      for pod in [kubernetes_job_v1.this["other"].spec[0].template[0], kubernetes_cron_job_v1.this["orders"].spec[0].job_template[0].spec[0].template[0]] : (
        pod.metadata[0].labels.team == "ops"
        && one(pod.spec[0].image_pull_secrets).name == "registry"
        && pod.spec[0].container[0].resources[0].limits == tomap({ cpu = "500m", memory = "1Gi" })
        && pod.spec[0].container[0].resources[0].requests == tomap({ cpu = "500m", memory = "1Gi" })
        && pod.spec[0].active_deadline_seconds == 1800
      )
    ])
    error_message = "A pod has other labels, pull secrets, resources or another time."
  }
  assert {
    condition = (
      kubernetes_job_v1.this["other"].spec[0].parallelism == 3
      && kubernetes_job_v1.this["other"].spec[0].backoff_limit_per_index == 4
      && kubernetes_cron_job_v1.this["orders"].spec[0].job_template[0].spec[0].parallelism == 3
      && kubernetes_cron_job_v1.this["orders"].spec[0].job_template[0].spec[0].backoff_limit_per_index == 4
    )
    error_message = "Jobs have another parallelism, or other attempts."
  }
  assert {
    condition     = kubernetes_service_account_v1.this.metadata[0].annotations == var.service_account_annotations
    error_message = "The service account is not bound to the cloud's identity."
  }
  assert {
    condition     = kubernetes_network_policy_v1.this.spec[0].egress[1].ports[0].protocol == "UDP"
    error_message = "The cache on the node cannot be reached."
  }
}
