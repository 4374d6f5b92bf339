# The provider chooses the name: versions 5 and 6 spell the argument differently.
resource "aws_batch_compute_environment" "this" {
  type         = "MANAGED"
  service_role = var.batch_service_role_arn
  tags         = var.tags

  compute_resources {
    type               = "FARGATE"
    max_vcpus          = var.max_vcpus
    subnets            = var.subnet_ids
    security_group_ids = [aws_security_group.jobs.id]
  }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_batch_job_queue" "this" {
  name     = var.name
  state    = "ENABLED"
  priority = 1
  tags     = var.tags

  compute_environment_order {
    order               = 1
    compute_environment = aws_batch_compute_environment.this.arn
  }
}

resource "aws_batch_job_definition" "this" {
  name                  = var.name
  type                  = "container"
  platform_capabilities = ["FARGATE"]
  propagate_tags        = true
  tags                  = var.tags

  # Exit 1 (not cleared) and failures of the container are tried again: the next attempt continues where
  # this one stopped. Exits 2 (wrong use) and 3 (a configured limit) are not tried again.
  retry_strategy {
    attempts = var.attempts

    evaluate_on_exit {
      action       = "EXIT"
      on_exit_code = "2"
    }
    evaluate_on_exit {
      action       = "EXIT"
      on_exit_code = "3"
    }
    evaluate_on_exit {
      action    = "RETRY"
      on_reason = "*"
    }
  }

  timeout {
    attempt_duration_seconds = var.attempt_seconds
  }

  container_properties = jsonencode({
    image            = var.image
    command          = ["--backlog", "Ref::backlog"]
    user             = "10001"
    jobRoleArn       = aws_iam_role.job.arn
    executionRoleArn = aws_iam_role.execution.arn

    readonlyRootFilesystem       = true
    linuxParameters              = { initProcessEnabled = true }
    networkConfiguration         = { assignPublicIp = "DISABLED" }
    fargatePlatformConfiguration = { platformVersion = "LATEST" }
    runtimePlatform              = { cpuArchitecture = "X86_64", operatingSystemFamily = "LINUX" }
    resourceRequirements = [
      { type = "VCPU", value = tostring(var.size.vcpu) },
      { type = "MEMORY", value = tostring(var.size.memory) },
    ]

    environment = concat(
      [for name, value in var.environment : { name = name, value = value }],
      [
        { name = "AWS_DEFAULT_REGION", value = local.region }, # botocore reads only this one
        { name = "AWS_REGION", value = local.region },
        { name = "BACKLOG_CLEARER_CONFIG", value = local.configuration },
        { name = "BACKLOG_CLEARER_DEADLINE_S", value = tostring(var.attempt_seconds - local.settle_seconds) },
      ],
    )
    secrets = [for name, arn in var.secrets : { name = name, valueFrom = arn }]

    logConfiguration = {
      logDriver = "awslogs"
      options = {
        "awslogs-group"         = aws_cloudwatch_log_group.this.name
        "awslogs-region"        = local.region
        "awslogs-stream-prefix" = "drain"
      }
    }
  })

  lifecycle {
    precondition {
      # A job definition may have 24 KiB: https://docs.aws.amazon.com/batch/latest/userguide/service_limits.html
      condition     = length(local.configuration) + length(join("", flatten([for name, value in var.environment : [name, value]]))) <= 16384
      error_message = "The configuration of all backlogs has ${length(local.configuration)} characters, and a job definition has room for 16384, including environment: use the module twice, with some of the backlogs each."
    }
  }
}
