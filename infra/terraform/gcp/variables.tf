variable "project_id" {
  description = "Project that everything is created in."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project_id))
    error_message = "project_id has to be a project's id, as in \"my-project\", not its number or display name."
  }
}

variable "project_number" {
  description = "Number of that project, which the functions' run.app URLs contain. null: it is asked for; a number that is not the project's is refused, since slices would be posted to another project's host."
  type        = string
  default     = null

  validation {
    condition     = var.project_number == null || can(regex("^[0-9]{6,20}$", var.project_number))
    error_message = "project_number is a number, as in \"123456789012\"."
  }
}

variable "region" {
  description = "Region of the functions, the queue, the schedules, the jobs and the buckets."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z]+-[a-z]+[0-9]+$", var.region))
    error_message = "region is a region, not a zone, as in \"europe-west1\"."
  }
}

variable "name" {
  description = "Prefix of every name. Two installations in one project need two names; changing it replaces everything except the receipts' bucket, whose deletion is refused."
  type        = string
  default     = "backlog-clearer"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,18}[a-z0-9]$", var.name))
    error_message = "name has 3-20 lower-case letters, digits and hyphens (service accounts allow 30 with the suffix), as in \"backlog-clearer\"."
  }
}

variable "labels" {
  description = "Labels of everything that can have them."
  type        = map(string)
  default     = {}
  nullable    = false
}

variable "bundle" {
  description = "Path of the functions' zip, as `make bundle-gcp` writes it."
  type        = string
  nullable    = false

  validation {
    condition     = endswith(var.bundle, ".zip") && fileexists(var.bundle)
    error_message = "bundle names a zip that exists, as in \"../dist/backlog-clearer-gcp.zip\"; `make bundle-gcp` writes it."
  }
}

variable "backlogs" {
  description = "The backlogs that may be cleared, by name: the same keys as in the bundle's configuration file (docs/jobs.md). Write a secret as $${env:NAME}, with NAME among `secrets`; in HCL that is \"$$$${env:NAME}\"."
  type = map(object({
    system               = string
    options              = map(string)
    mode                 = optional(string)
    allowed_modes        = optional(list(string))
    workers              = optional(number)
    batch_size           = optional(number)
    max_messages         = optional(number)
    max_seconds          = optional(number)
    until                = optional(string)
    older_than           = optional(string)
    keep_last            = optional(number)
    ages                 = optional(bool)
    max_rate             = optional(string)
    metrics_file         = optional(string)
    notify               = optional(string)
    notify_authorization = optional(string)
    force                = optional(bool)
    max_slices           = optional(number)
    messages_per_slice   = optional(number)
    max_requeues         = optional(number)
    verify_seconds       = optional(number)
  }))
  nullable = false

  validation {
    condition     = length(var.backlogs) > 0 && alltrue([for name in keys(var.backlogs) : can(regex("^[a-z][a-z0-9-]{0,26}$", name))])
    error_message = "backlogs has at least one entry, and each name has 1-27 lower-case letters, digits and hyphens (schedules and jobs are named after it), as in { orders = { system = \"kafka\", options = { … } } }."
  }

  validation {
    condition     = alltrue([for backlog in var.backlogs : contains(["kafka", "pulsar", "streamnative", "googlepubsub", "eventhubs", "iggy"], backlog.system)])
    error_message = "system must be one of kafka, pulsar, streamnative, googlepubsub, eventhubs or iggy, as in { orders = { system = \"kafka\", options = { … } } }."
  }

  validation {
    condition     = alltrue([for backlog in var.backlogs : alltrue([for mode in concat(compact([backlog.mode]), coalesce(backlog.allowed_modes, [])) : contains(["consume", "skip"], mode)])])
    error_message = "mode and allowed_modes are consume or skip, as in mode = \"consume\", allowed_modes = [\"consume\", \"skip\"]."
  }

  validation {
    condition = alltrue([
      for backlog in var.backlogs :
      can(regex("^projects/[^/]+/subscriptions/[^/]+$", backlog.options.subscription_id)) || (can(regex("^[^/]+$", backlog.options.subscription_id)) && can(backlog.options.project_id))
      if backlog.system == "googlepubsub"
    ])
    error_message = "a googlepubsub backlog names its subscription, which is bound by it, as in options = { subscription_id = \"projects/my-project/subscriptions/audit\" }."
  }
}

variable "secrets" {
  description = "Secret Manager secrets by the environment variable that gets the value. A version is read when an instance starts: name one to fix it, or leave \"latest\" to rotate without an apply."
  type = map(object({
    secret     = string
    version    = optional(string, "latest")
    project_id = optional(string)
  }))
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for name in keys(var.secrets) : can(regex("^[A-Z][A-Z0-9_]*$", name)) && !startswith(name, "BACKLOG_CLEARER_")])
    error_message = "secrets is keyed by environment variables that do not begin with BACKLOG_CLEARER_, as in { KAFKA_PASSWORD = { secret = \"kafka-password\" } }."
  }

  validation {
    condition     = alltrue([for name in local.referenced_secrets : contains(keys(var.secrets), name)])
    error_message = "every $${env:NAME} in a backlog's options, notify and notify_authorization needs an entry, as in secrets = { NAME = { secret = \"name-in-secret-manager\" } }."
  }
}

variable "environment" {
  description = "Plain environment variables of the functions and jobs, as metrics need them: { OTEL_EXPORTER_OTLP_ENDPOINT = \"http://otel.internal:4318\" }. Secrets belong in `secrets`."
  type        = map(string)
  default     = {}
  nullable    = false

  # https://docs.cloud.google.com/run/docs/configuring/services/environment-variables
  validation {
    condition     = alltrue([for name in keys(var.environment) : can(regex("^[A-Za-z_][A-Za-z0-9_]*$", name)) && !can(regex("^(BACKLOG_CLEARER_|X_GOOGLE_|CLOUD_RUN_|FUNCTION_|K_|PORT$)", name)) && !contains(keys(var.secrets), name)])
    error_message = "environment is keyed by names of variables that are not among secrets, not PORT, and do not begin with BACKLOG_CLEARER_, X_GOOGLE_, CLOUD_RUN_, FUNCTION_ or K_, as in { OTEL_EXPORTER_OTLP_ENDPOINT = \"http://otel.internal:4318\" }."
  }

  validation {
    condition     = alltrue([for value in values(var.environment) : length(value) <= 32768])
    error_message = "a value of environment has at most 32768 characters, as in { OTEL_EXPORTER_OTLP_ENDPOINT = \"http://otel.internal:4318\" }."
  }
}

variable "timeout_seconds" {
  description = "Timeout of one slice in seconds: of the drain function, and of the task that waits for it. Draining ends 120 s earlier, to acknowledge and verify. A slice that reaches this deadline is enqueued again."
  type        = number
  default     = 1800
  nullable    = false

  validation {
    condition     = var.timeout_seconds >= 240 && var.timeout_seconds <= 1800 && floor(var.timeout_seconds) == var.timeout_seconds
    error_message = "timeout_seconds is a whole number from 240 to 1800, as in 1800: a Cloud Tasks task waits 30 minutes at most."
  }
}

variable "max_parallel_slices" {
  description = "Slices that run at the same time: the queue's concurrent dispatches and the drain function's instances."
  type        = number
  default     = 32
  nullable    = false

  validation {
    condition     = var.max_parallel_slices >= 1 && var.max_parallel_slices <= 1000
    error_message = "max_parallel_slices is 1-1000, as in 32."
  }
}

variable "queue" {
  description = "Rate and retries of the Cloud Tasks queue. A slice that failed `max_attempts` times is not tried again; the alert reports it. A deleted queue's name cannot be used again for up to three days: `name_suffix` gives it another one."
  type = object({
    name_suffix               = optional(string, "")
    max_dispatches_per_second = optional(number, 10)
    max_attempts              = optional(number, 5)
    min_backoff_seconds       = optional(number, 10)
    max_backoff_seconds       = optional(number, 300)
  })
  default  = {}
  nullable = false

  validation {
    condition     = can(regex("^(-[a-z0-9]{1,20})?$", var.queue.name_suffix))
    error_message = "queue.name_suffix is a hyphen and 1-20 lower-case letters and digits, as in { name_suffix = \"-2\" }."
  }

  validation {
    condition     = var.queue.max_dispatches_per_second > 0 && var.queue.max_dispatches_per_second <= 500
    error_message = "queue.max_dispatches_per_second is at most 500, as in { max_dispatches_per_second = 10 }."
  }

  validation {
    condition     = var.queue.max_attempts >= 1 && var.queue.max_attempts <= 100
    error_message = "queue.max_attempts is 1-100, as in { max_attempts = 5 }."
  }

  validation {
    condition     = var.queue.min_backoff_seconds > 0 && var.queue.min_backoff_seconds <= var.queue.max_backoff_seconds
    error_message = "queue.min_backoff_seconds is above 0 and not above max_backoff_seconds, as in { min_backoff_seconds = 10, max_backoff_seconds = 300 }."
  }
}

variable "drain" {
  description = "Size of one drain instance, which runs one slice."
  type = object({
    memory = optional(string, "2Gi")
    cpu    = optional(string, "1")
  })
  default  = {}
  nullable = false

  validation {
    condition     = can(regex("^[1-9][0-9]*(Mi|Gi)$", var.drain.memory)) && can(regex("^[0-9.]+$", var.drain.cpu))
    error_message = "drain is a memory with its unit and a number of CPUs, as in { memory = \"2Gi\", cpu = \"1\" }."
  }

  # https://docs.cloud.google.com/run/docs/configuring/services/memory-limits
  validation {
    condition     = try((tonumber(regex("^[0-9]+", var.drain.memory)) * (endswith(var.drain.memory, "Gi") ? 1024 : 1)) >= local.cpu_memory[var.drain.cpu][0] && (tonumber(regex("^[0-9]+", var.drain.memory)) * (endswith(var.drain.memory, "Gi") ? 1024 : 1)) <= local.cpu_memory[var.drain.cpu][1], false)
    error_message = "Cloud Run has no such pair: with 1 CPU memory is 512Mi-4Gi, with 2 CPUs 512Mi-8Gi, with 4 2Gi-16Gi, with 6 4Gi-24Gi, with 8 4Gi-32Gi, as in { memory = \"8Gi\", cpu = \"2\" }."
  }
}

variable "ingress" {
  description = "Networks that reach the functions' URLs; IAM is required in all cases. Internal is enough for Cloud Scheduler and Cloud Tasks of the same project."
  type        = string
  default     = "ALLOW_INTERNAL_ONLY"
  nullable    = false

  validation {
    condition     = contains(["ALLOW_INTERNAL_ONLY", "ALLOW_INTERNAL_AND_GCLB"], var.ingress)
    error_message = "ingress is ALLOW_INTERNAL_ONLY or ALLOW_INTERNAL_AND_GCLB, as in \"ALLOW_INTERNAL_ONLY\"; the internet is not an option."
  }
}

variable "dispatchers" {
  description = "Additional IAM members that may call the dispatch function, which starts a drain. They reach it through the network that `ingress` allows."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for member in var.dispatchers : can(regex("^(user|group|serviceAccount):.+@.+$", member))])
    error_message = "dispatchers are people, groups and service accounts, as in [\"group:oncall@example.com\"]; allUsers and domains are not accepted."
  }
}

variable "schedules" {
  description = "When backlogs are cleared, by backlog. Paused unless `enabled`. target: \"functions\" sends the backlog to the dispatcher, \"job\" starts its Cloud Run job."
  type = map(object({
    cron     = string
    timezone = optional(string, "Etc/UTC")
    enabled  = optional(bool, false)
    target   = optional(string, "functions")
  }))
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for name in keys(var.schedules) : contains(keys(var.backlogs), name)])
    error_message = "schedules is keyed by names of backlogs, as in { orders = { cron = \"0 3 * * *\" } }."
  }

  validation {
    condition     = alltrue([for schedule in var.schedules : length(split(" ", trimspace(schedule.cron))) == 5])
    error_message = "cron has five fields, as in \"0 3 * * *\"."
  }

  validation {
    condition     = alltrue([for name, schedule in var.schedules : schedule.target == "functions" || (schedule.target == "job" && contains(local.job_backlogs, name))])
    error_message = "target is functions, or job for a backlog that `job` includes, as in { orders = { cron = \"0 3 * * *\", target = \"job\" } } with job = { image = \"…\" }."
  }
}

variable "job" {
  description = "Cloud Run jobs for drains that need longer than a function may run: one job for each backlog, with `task_count` slices. null: none. Build the image with `make image-context CLOUDS=gcp`. Destroying a job loses nothing (receipts are in the bucket), so deletion_protection is off."
  type = object({
    image               = string
    backlogs            = optional(set(string))
    task_count          = optional(number, 8)
    parallelism         = optional(number)
    max_retries         = optional(number, 3)
    timeout_seconds     = optional(number, 21600)
    memory              = optional(string, "2Gi")
    cpu                 = optional(string, "1")
    deletion_protection = optional(bool, false)
  })
  default = null

  validation {
    condition     = var.job == null || can(regex("@sha256:[0-9a-f]{64}$|:[^/:]+$", var.job.image))
    error_message = "job.image names an image with its digest or tag, as in \"europe-west1-docker.pkg.dev/my-project/tools/backlog-clearer@sha256:…\"."
  }

  validation {
    condition     = var.job == null || alltrue([for name in coalesce(try(var.job.backlogs, null), []) : contains(keys(var.backlogs), name)])
    error_message = "job.backlogs are names of backlogs, as in [\"orders\"]; left out, every backlog has a job."
  }

  validation {
    condition     = var.job == null || try(var.job.task_count >= 1 && var.job.task_count <= 10000 && coalesce(var.job.parallelism, 1) >= 1 && coalesce(var.job.parallelism, 1) <= var.job.task_count, false)
    error_message = "job.task_count is 1-10000 and parallelism not above it, as in { task_count = 8, parallelism = 8 }."
  }

  validation {
    condition     = var.job == null || try(var.job.max_retries >= 0 && var.job.max_retries <= 10, false)
    error_message = "job.max_retries is 0-10, as in { max_retries = 3 }."
  }

  validation {
    condition     = var.job == null || try(var.job.timeout_seconds >= 240 && var.job.timeout_seconds <= 604800, false)
    error_message = "job.timeout_seconds is 240-604800 (a week), as in { timeout_seconds = 21600 }."
  }

  validation {
    condition     = var.job == null || try((tonumber(regex("^[0-9]+", var.job.memory)) * (endswith(var.job.memory, "Gi") ? 1024 : 1)) >= local.cpu_memory[var.job.cpu][0] && (tonumber(regex("^[0-9]+", var.job.memory)) * (endswith(var.job.memory, "Gi") ? 1024 : 1)) <= local.cpu_memory[var.job.cpu][1], false)
    error_message = "Cloud Run has no such pair: with 1 CPU memory is 512Mi-4Gi, with 2 CPUs 512Mi-8Gi, with 4 2Gi-16Gi, with 6 4Gi-24Gi, with 8 4Gi-32Gi, as in job = { memory = \"8Gi\", cpu = \"2\", … }."
  }
}

variable "network" {
  description = "How functions and jobs reach brokers with private addresses: a Serverless VPC Access connector of the same region. null: over the internet."
  type = object({
    connector   = string
    all_traffic = optional(bool, false)
  })
  default = null

  validation {
    condition     = var.network == null || can(regex("^projects/[^/]+/locations/[^/]+/connectors/[^/]+$", var.network.connector))
    error_message = "network.connector is a connector's full name, as in { connector = \"projects/my-project/locations/europe-west1/connectors/brokers\" }."
  }
}

variable "receipts" {
  description = "The bucket of receipts, which are needed for undo and are the audit record. delete_after_days: null keeps them for ever. force_destroy: whether `terraform destroy` may delete the bucket with receipts in it."
  type = object({
    delete_after_days = optional(number)
    force_destroy     = optional(bool, false)
    kms_key_name      = optional(string)
  })
  default  = {}
  nullable = false

  validation {
    condition     = coalesce(var.receipts.delete_after_days, 30) >= 7
    error_message = "receipts.delete_after_days is at least 7, as in { delete_after_days = 400 }: a run cannot be undone without its receipt."
  }
}

variable "build_service_account" {
  description = "Existing service account that builds the functions, as projects/P/serviceAccounts/E-MAIL, if a platform team provides one. null: the module creates one."
  type        = string
  default     = null

  validation {
    condition     = var.build_service_account == null || can(regex("^projects/[^/]+/serviceAccounts/[^/]+@[^/]+$", var.build_service_account))
    error_message = "build_service_account is a full name, as in \"projects/my-project/serviceAccounts/builder@my-project.iam.gserviceaccount.com\"."
  }
}

variable "project_roles" {
  description = "Roles that Google Cloud grants only on a project; each is off by default. build_logs: the build account writes its build's log (roles/logging.logWriter). pubsub_figures: read the backlog of Pub/Sub subscriptions (roles/monitoring.viewer); without it that backlog is unknown. pubsub_snapshots: take the snapshot that makes a Pub/Sub run undoable (a custom role with pubsub.snapshots.create); without it set the option no_snapshot."
  type = object({
    build_logs       = optional(bool, false)
    pubsub_figures   = optional(bool, false)
    pubsub_snapshots = optional(bool, false)
  })
  default  = {}
  nullable = false
}

variable "notification_channels" {
  description = "Monitoring notification channels that are notified of a drain that did not clear its backlog. Without any, the incident is shown only in Monitoring."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for channel in var.notification_channels : can(regex("^projects/[^/]+/notificationChannels/[^/]+$", channel))])
    error_message = "notification_channels are full names, as in [\"projects/my-project/notificationChannels/1234567890\"]."
  }
}
