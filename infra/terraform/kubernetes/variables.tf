variable "name" {
  description = "Prefix of every resource's name. Changing it replaces everything."
  type        = string
  default     = "backlog-clearer"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,20}[a-z0-9]$", var.name))
    error_message = "name is 2-22 lower-case letters, digits and hyphens, as in \"backlog-clearer\"."
  }
}

variable "namespace" {
  description = "An existing namespace, best used only for this tool: the pods meet the restricted pod security standard."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", var.namespace))
    error_message = "namespace is the name of a namespace, as in \"backlog-clearer\"."
  }
}

variable "image" {
  description = "The job's image by its digest, so that exactly the reviewed image runs."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9._:/-]*@sha256:[0-9a-f]{64}$", var.image))
    error_message = "image is named by digest, as in \"registry.example/backlog-clearer@sha256:4b3c…\" (64 hexadecimal digits)."
  }
}

variable "image_pull_secrets" {
  description = "Names of secrets with which the image is pulled."
  type        = list(string)
  default     = []
  nullable    = false
}

variable "backlogs" {
  description = "The backlogs that may be cleared, by name: `backlogs` of the configuration (docs/jobs.md). Write a secret in `options` as $${env:NAME}, with NAME among `secrets`."
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
    condition     = length(var.backlogs) > 0 && alltrue([for name in keys(var.backlogs) : can(regex("^[a-z0-9]([a-z0-9-]{0,24}[a-z0-9])?$", name))])
    error_message = "backlogs has at least one entry, each name of 1-26 lower-case letters, digits and hyphens: { orders = { system = \"kafka\", options = { bootstrap_servers = \"kafka:9092\", topic = \"orders\", group_id = \"billing\" } } }."
  }

  validation {
    condition     = alltrue([for backlog in values(var.backlogs) : contains(["consume", "skip"], coalesce(backlog.mode, "consume"))])
    error_message = "mode is consume or skip: { orders = { system = \"kafka\", mode = \"skip\", options = { … } } }."
  }

  validation {
    condition     = alltrue([for backlog in values(var.backlogs) : alltrue([for mode in coalesce(backlog.allowed_modes, []) : contains(["consume", "skip"], mode)])])
    error_message = "allowed_modes has consume, skip or both: { orders = { system = \"kafka\", allowed_modes = [\"consume\", \"skip\"], options = { … } } }."
  }
}

variable "secrets" {
  description = "Name and key of a Kubernetes secret in the namespace, by the name of the environment variable that gets the value."
  type = map(object({
    name = string
    key  = string
  }))
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for name in keys(var.secrets) : can(regex("^[A-Za-z_][A-Za-z0-9_]*$", name)) && !can(regex("^(BACKLOG_CLEARER_|JOB_)", name))])
    error_message = "secrets is keyed by environment variables, none of which begins with BACKLOG_CLEARER_ or JOB_: { KAFKA_PASSWORD = { name = \"kafka\", key = \"password\" } }."
  }

  validation {
    condition     = alltrue([for name in flatten(regexall("\\$\\{env:([^}]*)\\}", jsonencode(var.backlogs))) : contains(keys(var.secrets), name)])
    error_message = "Each $${env:NAME} in backlogs has its secret: { KAFKA_PASSWORD = { name = \"kafka\", key = \"password\" } }."
  }
}

variable "schedules" {
  description = "When each backlog is cleared, by the backlog's name. Suspended unless `enabled`; `slices` pods share the backlog."
  type = map(object({
    cron     = string
    timezone = optional(string, "Etc/UTC")
    slices   = optional(number, 1)
    enabled  = optional(bool, false)
  }))
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for name in keys(var.schedules) : contains(keys(var.backlogs), name)])
    error_message = "schedules is keyed by names of backlogs: { orders = { cron = \"0 3 * * *\", slices = 8 } }."
  }

  validation {
    condition     = alltrue([for schedule in values(var.schedules) : can(regex("^(@[a-z]+|\\S+( \\S+){4})$", schedule.cron))])
    error_message = "cron has five fields: { orders = { cron = \"0 3 * * *\" } }, every night at three."
  }

  validation {
    condition     = alltrue([for schedule in values(var.schedules) : schedule.slices >= 1 && schedule.slices <= 10000 && floor(schedule.slices) == schedule.slices])
    error_message = "slices is 1-10000: { orders = { cron = \"0 3 * * *\", slices = 8 } }."
  }
}

variable "runs" {
  description = "Runs that clear a backlog once, when they are applied, by a name of your choice. Keep an entry so that a later apply does not repeat it; removing it deletes its job."
  type = map(object({
    backlog = string
    slices  = optional(number, 1)
  }))
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for run in values(var.runs) : contains(keys(var.backlogs), run.backlog) && run.slices >= 1 && run.slices <= 10000 && floor(run.slices) == run.slices])
    error_message = "A run names a backlog, and 1-10000 slices: { \"outage-of-november\" = { backlog = \"orders\", slices = 8 } }."
  }

  validation {
    condition     = alltrue([for name in keys(var.runs) : can(regex("^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$", name))])
    error_message = "The name of a run has 1-40 lower-case letters, digits and hyphens: { \"outage-of-november\" = { backlog = \"orders\" } }."
  }
}

variable "parallelism" {
  description = "Pods of one job that run at the same time; more slices wait."
  type        = number
  default     = 32
  nullable    = false

  validation {
    condition     = var.parallelism >= 1 && floor(var.parallelism) == var.parallelism
    error_message = "parallelism has to be a whole number of 1 or more, as in 32."
  }
}

variable "attempt_seconds" {
  description = "Timeout of one attempt of one slice. The drain itself ends 120 s earlier (BACKLOG_CLEARER_DEADLINE_S), to acknowledge and verify; the next attempt continues."
  type        = number
  default     = 3600
  nullable    = false

  validation {
    condition     = var.attempt_seconds >= 300 && var.attempt_seconds <= 86400 && floor(var.attempt_seconds) == var.attempt_seconds
    error_message = "attempt_seconds is 300-86400, as in 3600."
  }
}

variable "attempts" {
  description = "Attempts at each slice. After exit 2 (wrong use) or 3 (a configured limit) there is no further attempt."
  type        = number
  default     = 3
  nullable    = false

  validation {
    condition     = var.attempts >= 1 && var.attempts <= 10 && floor(var.attempts) == var.attempts
    error_message = "attempts is 1-10, as in 3."
  }
}

variable "resources" {
  description = "CPU and memory of one pod: both its request and its limit."
  type = object({
    cpu    = optional(string, "1")
    memory = optional(string, "2Gi")
  })
  default  = {}
  nullable = false

  validation {
    condition     = can(regex("^[0-9.]+m?$", var.resources.cpu)) && can(regex("^[0-9]+(Mi|Gi)$", var.resources.memory))
    error_message = "resources are quantities of Kubernetes: { cpu = \"500m\", memory = \"1Gi\" }."
  }
}

variable "egress" {
  description = "Destinations that the pods may connect to in addition to DNS: brokers and the place of receipts. All other egress, and all ingress, is denied (by a network plugin that supports policies)."
  type = map(object({
    cidr     = string
    port     = number
    end_port = optional(number)
    protocol = optional(string, "TCP")
  }))
  nullable = false

  validation {
    condition     = alltrue([for end in values(var.egress) : can(cidrhost(end.cidr, 0)) && end.port >= 1 && coalesce(end.end_port, end.port) >= end.port && coalesce(end.end_port, end.port) <= 65535])
    error_message = "egress has networks and ports: { kafka = { cidr = \"10.0.0.0/16\", port = 9092, end_port = 9094 }, bucket = { cidr = \"0.0.0.0/0\", port = 443 } }."
  }

  validation {
    condition     = alltrue([for end in values(var.egress) : contains(["TCP", "UDP"], end.protocol)])
    error_message = "protocol is TCP or UDP: { dns = { cidr = \"169.254.20.10/32\", port = 53, protocol = \"UDP\" } }."
  }
}

variable "receipts" {
  description = "Where receipts go: a bucket's URL, or an existing persistent volume claim that many pods may write at the same time."
  type = object({
    url   = optional(string)
    claim = optional(string)
  })
  nullable = false

  validation {
    condition     = (var.receipts.url == null) != (var.receipts.claim == null)
    error_message = "receipts has one of url and claim: { url = \"gs://ops-receipts/drains\" } or { claim = \"receipts\" }."
  }

  validation {
    condition     = var.receipts.url == null || can(regex("^(gs|s3|az)://[^/]+", var.receipts.url))
    error_message = "url has to be a bucket's: { url = \"gs://ops-receipts/drains\" }, or s3://… or az://…."
  }
}

variable "environment" {
  description = "Plain environment variables of the pods, as receipt stores need them: { AZURE_STORAGE_ACCOUNT_NAME = \"opsreceipts\" } for az://. Secrets belong in `secrets`."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for name in keys(var.environment) : can(regex("^[A-Za-z_][A-Za-z0-9_]*$", name)) && !can(regex("^(BACKLOG_CLEARER_|JOB_)", name)) && !contains(keys(var.secrets), name)])
    error_message = "environment is keyed by names of variables that do not begin with BACKLOG_CLEARER_ or JOB_ and are not among secrets, as in { AZURE_STORAGE_ACCOUNT_NAME = \"opsreceipts\" }."
  }
}

variable "service_account_annotations" {
  description = "Annotations that bind the pods' service account to an identity of the cloud, so that they may write to the bucket."
  type        = map(string)
  default     = {}
  nullable    = false
}

variable "labels" {
  description = "Labels of every object."
  type        = map(string)
  default     = {}
  nullable    = false
}
