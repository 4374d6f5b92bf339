variable "name" {
  description = "Prefix of every resource's name. Changing it replaces everything, including the receipts' bucket."
  type        = string
  default     = "backlog-clearer"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,22}[a-z0-9]$", var.name))
    error_message = "name is 2-24 lower-case letters, digits and hyphens, as in \"backlog-clearer\"."
  }
}

variable "image" {
  description = "The job's image in ECR, by its digest, so that exactly the reviewed image runs."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[0-9]{12}\\.dkr\\.ecr\\.[a-z0-9-]+\\.[a-z.]+/[a-z0-9][a-z0-9._/-]*@sha256:[0-9a-f]{64}$", var.image))
    error_message = "image names an ECR image by digest, as in \"123456789012.dkr.ecr.eu-west-1.amazonaws.com/backlog-clearer@sha256:4b3c…\" (64 hexadecimal digits)."
  }
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
    condition     = length(var.backlogs) > 0 && alltrue([for name in keys(var.backlogs) : can(regex("^[a-zA-Z0-9][a-zA-Z0-9_-]{0,38}$", name))])
    error_message = "backlogs has at least one entry, each name of 1-39 letters, digits, hyphens and underscores: { orders = { system = \"kafka\", options = { bootstrap_servers = \"b-1:9096\", topic = \"orders\", group_id = \"billing\" } } }."
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
  description = "Secrets Manager ARN by the name of the environment variable that gets the value; a key of a JSON secret as ARN:KEY::."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for name in keys(var.secrets) : can(regex("^[A-Za-z_][A-Za-z0-9_]*$", name)) && !can(regex("^(AWS_|BACKLOG_CLEARER_)", name))])
    error_message = "secrets is keyed by environment variables, none of which begins with AWS_ or BACKLOG_CLEARER_: { KAFKA_PASSWORD = \"arn:aws:secretsmanager:eu-west-1:123456789012:secret:AmazonMSK_clearer-a1b2c3:password::\" }."
  }

  validation {
    condition     = alltrue([for arn in values(var.secrets) : can(regex("^arn:[a-z-]+:secretsmanager:[a-z0-9-]+:[0-9]{12}:secret:[^:]+(:[^:]*:[^:]*:[^:]*)?$", arn))])
    error_message = "secrets holds ARNs of Secrets Manager, never values: { KAFKA_PASSWORD = \"arn:aws:secretsmanager:eu-west-1:123456789012:secret:AmazonMSK_clearer-a1b2c3:password::\" }."
  }

  validation {
    condition     = alltrue([for name in flatten(regexall("\\$\\{env:([^}]*)\\}", jsonencode(var.backlogs))) : contains(keys(var.secrets), name)])
    error_message = "Each $${env:NAME} in backlogs has its secret: { KAFKA_PASSWORD = \"arn:aws:secretsmanager:eu-west-1:123456789012:secret:AmazonMSK_clearer-a1b2c3:password::\" }."
  }
}

variable "environment" {
  description = "Plain environment variables of the containers, as metrics need them: { OTEL_EXPORTER_OTLP_ENDPOINT = \"http://otel.internal:4318\" }. Secrets belong in `secrets`."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for name in keys(var.environment) : can(regex("^[A-Za-z_][A-Za-z0-9_]*$", name)) && !can(regex("^(AWS_BATCH_|AWS_(DEFAULT_)?REGION$|BACKLOG_CLEARER_)", name)) && !contains(keys(var.secrets), name)])
    error_message = "environment is keyed by names of variables that do not begin with BACKLOG_CLEARER_ or AWS_BATCH_, are not the region and not among secrets: { OTEL_EXPORTER_OTLP_ENDPOINT = \"http://otel.internal:4318\" }."
  }
}

variable "schedules" {
  description = "When each backlog is cleared, by the backlog's name. Paused unless `enabled`. `slices` is the size of the array job; 1 is a plain job."
  type = map(object({
    expression = string
    timezone   = optional(string, "UTC")
    slices     = optional(number, 1)
    enabled    = optional(bool, false)
  }))
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for name in keys(var.schedules) : contains(keys(var.backlogs), name)])
    error_message = "schedules is keyed by names of backlogs: { orders = { expression = \"cron(0 3 * * ? *)\", slices = 8 } }."
  }

  validation {
    condition     = alltrue([for schedule in values(var.schedules) : can(regex("^(cron|rate|at)\\(.+\\)$", schedule.expression))])
    error_message = "expression is one of EventBridge Scheduler: { orders = { expression = \"cron(0 3 * * ? *)\" } } or \"rate(1 hour)\"."
  }

  validation {
    condition     = alltrue([for schedule in values(var.schedules) : schedule.slices >= 1 && schedule.slices <= 10000 && floor(schedule.slices) == schedule.slices])
    error_message = "slices is 1-10000, the size that an array job may have: { orders = { expression = \"rate(1 hour)\", slices = 8 } }."
  }
}

variable "vpc_id" {
  description = "The VPC from which the brokers are reached."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^vpc-[0-9a-f]+$", var.vpc_id))
    error_message = "vpc_id is the id of a VPC, as in \"vpc-0a1b2c3d4e5f60718\"."
  }
}

variable "subnet_ids" {
  description = "Private subnets for the containers. They need a route to the brokers, and to ECR, S3, CloudWatch Logs and Secrets Manager: a NAT gateway or VPC endpoints. Containers have no public address."
  type        = list(string)
  nullable    = false

  validation {
    condition     = length(var.subnet_ids) > 0 && alltrue([for id in var.subnet_ids : can(regex("^subnet-[0-9a-f]+$", id))])
    error_message = "subnet_ids has at least one subnet: [\"subnet-0a1b2c3d4e5f60718\", \"subnet-1a1b2c3d4e5f60718\"]."
  }
}

variable "brokers" {
  description = "Destinations that the containers may connect to in addition to HTTPS: ports, and a network, prefix list or security group."
  type = map(object({
    from_port         = number
    to_port           = optional(number)
    cidr_ipv4         = optional(string)
    cidr_ipv6         = optional(string)
    prefix_list_id    = optional(string)
    security_group_id = optional(string)
  }))
  nullable = false

  validation {
    condition = alltrue([for broker in values(var.brokers) :
      length([for end in [broker.cidr_ipv4, broker.cidr_ipv6, broker.prefix_list_id, broker.security_group_id] : end if end != null]) == 1
    ])
    error_message = "Each of brokers names one destination: { msk = { from_port = 9096, security_group_id = \"sg-0a1b2c3d4e5f60718\" } } or { kafka = { from_port = 9092, to_port = 9094, cidr_ipv4 = \"10.0.0.0/16\" } }."
  }

  validation {
    condition     = alltrue([for broker in values(var.brokers) : broker.from_port >= 1 && coalesce(broker.to_port, broker.from_port) >= broker.from_port && coalesce(broker.to_port, broker.from_port) <= 65535])
    error_message = "Ports of brokers are 1-65535, the first not above the last: { kafka = { from_port = 9092, to_port = 9094, cidr_ipv4 = \"10.0.0.0/16\" } }."
  }
}

variable "https_cidr_ipv4" {
  description = "Network that the containers may connect to by HTTPS: the AWS APIs, through NAT or endpoints. Narrow it to the VPC's network if all of them have endpoints."
  type        = string
  default     = "0.0.0.0/0"
  nullable    = false

  validation {
    condition     = can(cidrhost(var.https_cidr_ipv4, 0))
    error_message = "https_cidr_ipv4 is a network, as in \"10.0.0.0/16\"."
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

variable "size" {
  description = "Size of one container: virtual CPUs and MiB of memory, a pair that Fargate offers."
  type = object({
    vcpu   = optional(number, 1)
    memory = optional(number, 2048)
  })
  default  = {}
  nullable = false

  # https://docs.aws.amazon.com/AmazonECS/latest/developerguide/fargate-tasks-services.html#fargate-tasks-size
  validation {
    condition = contains(lookup({
      "0.25" = [512, 1024, 2048]
      "0.5"  = range(1024, 4097, 1024)
      "1"    = range(2048, 8193, 1024)
      "2"    = range(4096, 16385, 1024)
      "4"    = range(8192, 30721, 1024)
      "8"    = range(16384, 61441, 4096)
      "16"   = range(32768, 122881, 8192)
    }, tostring(var.size.vcpu), []), var.size.memory)
    error_message = "size has to be a pair that Fargate offers, as in { vcpu = 1, memory = 2048 } or { vcpu = 4, memory = 8192 }."
  }
}

variable "max_vcpus" {
  description = "Virtual CPUs of all containers that run at the same time; more slices wait."
  type        = number
  default     = 16
  nullable    = false

  validation {
    condition     = var.max_vcpus >= 1 && floor(var.max_vcpus) == var.max_vcpus
    error_message = "max_vcpus has to be a whole number of 1 or more, as in 16."
  }
}

variable "kms_key_arn" {
  description = "Your KMS key for receipts, logs, the dead-letter queue and the topic; null: the services' own keys. Its policy has to admit logs, sqs, sns, events, scheduler and cloudwatch.amazonaws.com."
  type        = string
  default     = null

  validation {
    condition     = var.kms_key_arn == null || can(regex("^arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:key/.+$", var.kms_key_arn))
    error_message = "kms_key_arn is the ARN of a key, as in \"arn:aws:kms:eu-west-1:123456789012:key/1a2b3c4d-…\"."
  }
}

variable "secrets_kms_key_arns" {
  description = "Your KMS keys that encrypt the secrets, so that the containers may decrypt them."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for arn in var.secrets_kms_key_arns : can(regex("^arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:key/.+$", arn))])
    error_message = "secrets_kms_key_arns has ARNs of keys: [\"arn:aws:kms:eu-west-1:123456789012:key/1a2b3c4d-…\"]."
  }
}

variable "receipts" {
  description = "The receipts' bucket: for how many days overwritten and deleted versions are kept, and whether `terraform destroy` may delete receipts, without which no run can be undone."
  type = object({
    noncurrent_days = optional(number, 90)
    force_destroy   = optional(bool, false)
  })
  default  = {}
  nullable = false

  validation {
    condition     = var.receipts.noncurrent_days >= 1
    error_message = "noncurrent_days is 1 or more: { noncurrent_days = 90 }."
  }
}

variable "log_retention_days" {
  description = "For how many days the jobs' logs are kept."
  type        = number
  default     = 30
  nullable    = false

  validation {
    condition     = contains([1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653], var.log_retention_days)
    error_message = "log_retention_days has to be a retention of CloudWatch Logs, as in 30 or 365."
  }
}

variable "batch_service_role_arn" {
  description = "The role with which Batch manages the containers; null: its service-linked role, which Batch creates."
  type        = string
  default     = null

  validation {
    condition     = var.batch_service_role_arn == null || can(regex("^arn:[a-z-]+:iam::[0-9]{12}:role/.+$", var.batch_service_role_arn))
    error_message = "batch_service_role_arn is the ARN of a role, as in \"arn:aws:iam::123456789012:role/batch\"."
  }
}

variable "tags" {
  description = "Tags of every resource."
  type        = map(string)
  default     = {}
  nullable    = false
}
