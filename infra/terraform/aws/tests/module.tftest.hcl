# The provider is mocked: what is asserted is what the module asks AWS for. The runs are few, for each of
# them starts a new provider process.
mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  image      = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/team/backlog-clearer@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
  vpc_id     = "vpc-0a1b2c3d"
  subnet_ids = ["subnet-0a1b2c3d", "subnet-1a1b2c3d"]
  brokers    = { msk = { from_port = 9096, security_group_id = "sg-0a1b2c3d" } }
  secrets = {
    KAFKA_PASSWORD = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:AmazonMSK_clearer-a1b2c3:password::"
    KAFKA_USER     = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:AmazonMSK_clearer-a1b2c3:username::"
  }
  backlogs = {
    orders = {
      system = "kafka"
      options = {
        bootstrap_servers   = "b-1.msk.internal:9096,b-2.msk.internal:9096"
        topic               = "orders"
        group_id            = "billing"
        "security.protocol" = "SASL_SSL"
        "sasl.mechanisms"   = "SCRAM-SHA-512"
        "sasl.username"     = "$${env:KAFKA_USER}"
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
      options = { bootstrap_servers = "b-1.msk.internal:9096", topic = "events", group_id = "audit" }
    }
    older = {
      system     = "kafka"
      options    = { bootstrap_servers = "b-1.msk.internal:9096", topic = "older", group_id = "audit" }
      older_than = "2h"
    }
    latest = {
      system    = "kafka"
      options   = { bootstrap_servers = "b-1.msk.internal:9096", topic = "latest", group_id = "audit" }
      keep_last = 1000
    }
  }
  schedules = {
    orders = { expression = "cron(0 3 * * ? *)", timezone = "Europe/Berlin", slices = 8 }
    events = { expression = "rate(1 hour)", enabled = true }
  }
  environment = { OTEL_EXPORTER_OTLP_ENDPOINT = "http://otel.internal:4318" }
}

run "defaults" {
  # Configuration
  assert {
    condition     = jsondecode(local.configuration).receipts == "s3://backlog-clearer-receipts-mock/runs"
    error_message = "Receipts go to the module's bucket."
  }
  assert {
    condition     = !contains(keys(jsondecode(local.configuration).backlogs.events), "workers")
    error_message = "What is not set stays out: the program has the defaults."
  }
  assert {
    condition     = jsondecode(local.configuration).backlogs.orders.options["sasl.password"] == "$${env:KAFKA_PASSWORD}"
    error_message = "The configuration holds only a reference to a secret."
  }

  # Job
  assert {
    condition     = jsondecode(aws_batch_job_definition.this.container_properties).image == var.image
    error_message = "The image runs by its digest."
  }
  assert {
    condition     = jsondecode(aws_batch_job_definition.this.container_properties).networkConfiguration.assignPublicIp == "DISABLED"
    error_message = "No container has a public address."
  }
  assert {
    condition     = jsondecode(aws_batch_job_definition.this.container_properties).readonlyRootFilesystem && jsondecode(aws_batch_job_definition.this.container_properties).user == "10001"
    error_message = "Containers run without rights, on a file system that they cannot write."
  }
  assert {
    condition     = jsondecode(aws_batch_job_definition.this.container_properties).command == ["--backlog", "Ref::backlog"]
    error_message = "A job gets only the backlog's name."
  }
  assert {
    condition     = { for item in jsondecode(aws_batch_job_definition.this.container_properties).environment : item.name => item.value }["AWS_REGION"] == "eu-west-1"
    error_message = "A container has its region in the environment."
  }
  assert {
    condition     = { for item in jsondecode(aws_batch_job_definition.this.container_properties).environment : item.name => item.value }["AWS_DEFAULT_REGION"] == "eu-west-1"
    error_message = "botocore, which reads only this variable, has the region, too."
  }
  assert {
    condition     = { for item in jsondecode(aws_batch_job_definition.this.container_properties).environment : item.name => item.value }["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://otel.internal:4318"
    error_message = "Plain variables reach the containers."
  }
  assert {
    condition = (
      tonumber({ for item in jsondecode(aws_batch_job_definition.this.container_properties).environment : item.name => item.value }["BACKLOG_CLEARER_DEADLINE_S"])
      == aws_batch_job_definition.this.timeout[0].attempt_duration_seconds - 120
    )
    error_message = "The drain ends before its attempt does."
  }
  assert {
    condition     = { for rule in aws_batch_job_definition.this.retry_strategy[0].evaluate_on_exit : coalesce(rule.on_exit_code, rule.on_reason) => upper(rule.action) } == { "2" = "EXIT", "3" = "EXIT", "*" = "RETRY" }
    error_message = "Exit 2 and 3 end the job, everything else is tried again."
  }
  assert {
    condition     = tomap({ for item in jsondecode(aws_batch_job_definition.this.container_properties).secrets : item.name => item.valueFrom }) == var.secrets
    error_message = "Secrets come from Secrets Manager."
  }

  # Schedules
  assert {
    condition     = { for name, schedule in aws_scheduler_schedule.this : name => schedule.state } == { orders = "DISABLED", events = "ENABLED" }
    error_message = "A schedule is paused unless it is enabled."
  }
  assert {
    condition     = jsondecode(aws_scheduler_schedule.this["orders"].target[0].input).ArrayProperties.Size == 8
    error_message = "Eight slices are an array of eight."
  }
  assert {
    condition     = !contains(keys(jsondecode(aws_scheduler_schedule.this["events"].target[0].input)), "ArrayProperties")
    error_message = "One slice is a plain job: an array has two at least."
  }
  assert {
    condition     = jsondecode(aws_scheduler_schedule.this["orders"].target[0].input).Parameters == { backlog = "orders" }
    error_message = "A schedule names its backlog."
  }
  assert {
    condition     = aws_scheduler_schedule.this["orders"].target[0].dead_letter_config[0].arn == aws_sqs_queue.dead_letters.arn
    error_message = "A start that does not happen is kept."
  }
  assert {
    condition     = output.submit_commands["orders"] == "aws batch submit-job --region eu-west-1 --job-name backlog-clearer-orders --job-queue backlog-clearer --job-definition arn:aws:batch:eu-west-1:123456789012:job-definition/backlog-clearer:1 --parameters backlog=orders --array-properties size=8"
    error_message = "The command clears the backlog in its slices."
  }

  # Permissions
  assert {
    condition = alltrue([
      for statement in concat(
        data.aws_iam_policy_document.execution.statement,
        data.aws_iam_policy_document.job.statement,
        data.aws_iam_policy_document.scheduler.statement,
      ) : statement.sid == "Login" || !contains(statement.resources, "*")
    ])
    error_message = "Only the registry's login, which has no resource, is admitted everywhere."
  }
  assert {
    condition     = { for statement in data.aws_iam_policy_document.execution.statement : statement.sid => statement.resources }["Pull"] == toset(["arn:aws:ecr:eu-west-1:123456789012:repository/team/backlog-clearer"])
    error_message = "Only the image's repository may be pulled."
  }
  assert {
    condition     = { for statement in data.aws_iam_policy_document.execution.statement : statement.sid => statement.resources }["Secrets"] == toset(["arn:aws:secretsmanager:eu-west-1:123456789012:secret:AmazonMSK_clearer-a1b2c3"])
    error_message = "Only the named secrets may be read."
  }
  assert {
    condition     = { for statement in data.aws_iam_policy_document.scheduler.statement : statement.sid => statement.resources }["Submit"] == toset([aws_batch_job_queue.this.arn, "${aws_batch_job_definition.this.arn_prefix}:*"])
    error_message = "The scheduler may submit this definition to this queue."
  }

  # Network
  assert {
    condition = alltrue([
      for statement in data.aws_iam_policy_document.alarms.statement :
      length(statement.condition) == 0 if contains(flatten([for principal in statement.principals : tolist(principal.identifiers)]), "events.amazonaws.com")
    ])
    error_message = "EventBridge cannot publish through a statement with a condition: no failure would be reported."
  }
  assert {
    condition     = length(aws_security_group.jobs.ingress) == 0 && aws_vpc_security_group_egress_rule.brokers["msk"].referenced_security_group_id == "sg-0a1b2c3d"
    error_message = "Nothing comes in; brokers are reached."
  }
  assert {
    condition     = aws_vpc_security_group_egress_rule.brokers["msk"].to_port == 9096 && aws_vpc_security_group_egress_rule.https.to_port == 443
    error_message = "Only the named ports and HTTPS go out."
  }

  # Receipts, logs, alarms
  assert {
    condition = alltrue([
      aws_s3_bucket_public_access_block.receipts.block_public_acls, aws_s3_bucket_public_access_block.receipts.block_public_policy,
      aws_s3_bucket_public_access_block.receipts.ignore_public_acls, aws_s3_bucket_public_access_block.receipts.restrict_public_buckets,
    ])
    error_message = "Receipts are not public."
  }
  assert {
    condition     = aws_s3_bucket_versioning.receipts.versioning_configuration[0].status == "Enabled" && !aws_s3_bucket.receipts.force_destroy
    error_message = "Receipts are kept."
  }
  assert {
    condition     = aws_cloudwatch_log_group.this.retention_in_days == 30
    error_message = "Logs end."
  }
  assert {
    condition     = jsondecode(aws_cloudwatch_event_rule.failed.event_pattern).detail == { status = ["FAILED"], jobQueue = [aws_batch_job_queue.this.arn], arrayProperties = { index = [{ exists = false }] } }
    error_message = "A failed job is reported once."
  }
}

run "own_key" {
  command = plan
  variables {
    kms_key_arn = "arn:aws:kms:eu-west-1:123456789012:key/1a2b3c4d"
  }
  assert {
    condition = alltrue([
      for key in [
        aws_cloudwatch_log_group.this.kms_key_id, aws_sqs_queue.dead_letters.kms_master_key_id, aws_sns_topic.alarms.kms_master_key_id,
        one(one(aws_s3_bucket_server_side_encryption_configuration.receipts.rule).apply_server_side_encryption_by_default).kms_master_key_id,
        aws_scheduler_schedule.this["orders"].kms_key_arn,
      ] : key == var.kms_key_arn
    ])
    error_message = "The user's own key is used everywhere."
  }
}

# What cannot work is refused before anything is planned, with an example of what does.
run "refused" {
  command = plan
  variables {
    image     = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/backlog-clearer:latest" # no digest
    secrets   = { KAFKA_PASSWORD = "hunter2" }                                        # a value
    schedules = { order = { expression = "rate(1 hour)" } }                           # of no backlog
    size      = { vcpu = 1, memory = 1024 }                                           # not Fargate's
    brokers   = { msk = { from_port = 9096 } }                                        # to nowhere
  }
  expect_failures = [var.image, var.secrets, var.schedules, var.size, var.brokers]
}

run "refused_too" {
  command = plan
  variables {
    name            = "Backlog Clearer"
    backlogs        = { orders = { system = "kafka", mode = "purge", options = {} } }
    attempt_seconds = 60 # no time to drain
  }
  expect_failures = [var.name, var.backlogs, var.attempt_seconds]
}

run "variable_of_the_platform" {
  command = plan
  variables {
    environment = { AWS_BATCH_JOB_ARRAY_INDEX = "0" }
  }
  expect_failures = [var.environment]
}

run "configuration_too_long" {
  command = plan
  variables {
    backlogs  = { for number in range(100) : "b${number}" => { system = "kafka", options = { bootstrap_servers = "b-1:9092", topic = format("%0200d", number), group_id = "billing" } } }
    schedules = {}
  }
  expect_failures = [aws_batch_job_definition.this]
}

run "environment_too_long" {
  command = plan
  variables {
    environment = { OTEL_RESOURCE_ATTRIBUTES = format("%016384d", 0) }
  }
  expect_failures = [aws_batch_job_definition.this]
}

# Every variable that the runs above leave at its default, and what it changes.
run "every_other_variable" {
  command = plan
  variables {
    name                   = "nightly"
    https_cidr_ipv4        = "10.0.0.0/8"
    attempt_seconds        = 1800
    attempts               = 5
    size                   = { vcpu = 2, memory = 8192 }
    max_vcpus              = 64
    secrets_kms_key_arns   = ["arn:aws:kms:eu-west-1:123456789012:key/1a2b3c4d"]
    receipts               = { noncurrent_days = 400, force_destroy = true }
    log_retention_days     = 365
    batch_service_role_arn = "arn:aws:iam::123456789012:role/batch"
    tags                   = { team = "ops" }
    brokers = {
      one   = { from_port = 9092, to_port = 9094, cidr_ipv4 = "10.0.0.0/16" }
      two   = { from_port = 9092, cidr_ipv6 = "2001:db8::/64" }
      three = { from_port = 9092, prefix_list_id = "pl-0a1b2c3d" }
    }
  }
  assert {
    condition = alltrue([
      for tags in concat(
        [for rule in aws_vpc_security_group_egress_rule.brokers : rule.tags],
        [
          aws_batch_compute_environment.this.tags, aws_batch_job_queue.this.tags, aws_batch_job_definition.this.tags, aws_s3_bucket.receipts.tags,
          aws_sqs_queue.dead_letters.tags, aws_sns_topic.alarms.tags, aws_cloudwatch_metric_alarm.dead_letters.tags, aws_cloudwatch_event_rule.failed.tags,
          aws_cloudwatch_log_group.this.tags, aws_security_group.jobs.tags, aws_vpc_security_group_egress_rule.https.tags,
          aws_iam_role.job.tags, aws_iam_role.execution.tags, aws_iam_role.scheduler.tags, aws_scheduler_schedule_group.this.tags,
        ],
      ) : tags.team == "ops"
    ])
    error_message = "A resource lacks the tags."
  }
  assert {
    condition = alltrue([for name in [
      aws_batch_job_queue.this.name, aws_batch_job_definition.this.name, aws_s3_bucket.receipts.bucket_prefix, aws_sqs_queue.dead_letters.name,
      aws_sns_topic.alarms.name, aws_scheduler_schedule_group.this.name, trimprefix(aws_cloudwatch_log_group.this.name, "/"),
    ] : startswith(name, "nightly")])
    error_message = "A name does not begin with the prefix."
  }
  assert {
    condition = (
      aws_batch_job_definition.this.timeout[0].attempt_duration_seconds == 1800
      && aws_batch_job_definition.this.retry_strategy[0].attempts == 5
      && { for item in jsondecode(aws_batch_job_definition.this.container_properties).resourceRequirements : item.type => item.value } == { VCPU = "2", MEMORY = "8192" }
    )
    error_message = "A container has another size, time or number of attempts."
  }
  assert {
    condition = (
      one(aws_batch_compute_environment.this.compute_resources).max_vcpus == 64
      && aws_batch_compute_environment.this.service_role == "arn:aws:iam::123456789012:role/batch"
    )
    error_message = "Batch has other limits, or another role."
  }
  assert {
    condition = (
      aws_vpc_security_group_egress_rule.https.cidr_ipv4 == "10.0.0.0/8"
      && aws_vpc_security_group_egress_rule.brokers["one"].to_port == 9094
      && aws_vpc_security_group_egress_rule.brokers["one"].cidr_ipv4 == "10.0.0.0/16"
      && aws_vpc_security_group_egress_rule.brokers["two"].cidr_ipv6 == "2001:db8::/64"
      && aws_vpc_security_group_egress_rule.brokers["three"].prefix_list_id == "pl-0a1b2c3d"
    )
    error_message = "Other networks go out."
  }
  assert {
    condition = (
      aws_s3_bucket.receipts.force_destroy
      && anytrue([for rule in aws_s3_bucket_lifecycle_configuration.receipts.rule : try(one(rule.noncurrent_version_expiration).noncurrent_days, 0) == 400])
      && aws_cloudwatch_log_group.this.retention_in_days == 365
    )
    error_message = "Receipts or logs are kept for another time."
  }
  assert {
    condition     = anytrue([for item in data.aws_iam_policy_document.execution.statement : item.actions == toset(["kms:Decrypt"]) && item.resources == toset(var.secrets_kms_key_arns)])
    error_message = "Secrets cannot be decrypted."
  }
}
