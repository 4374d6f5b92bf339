resource "aws_scheduler_schedule_group" "this" {
  name = var.name
  tags = var.tags
}

resource "aws_scheduler_schedule" "this" {
  # checkov:skip=CKV_AWS_297:kms_key_arn decides; an input holds names and numbers, no secret
  for_each = var.schedules

  name        = "${var.name}-${each.key}"
  group_name  = aws_scheduler_schedule_group.this.name
  description = "Clears the backlog ${each.key} in ${each.value.slices} slices"
  state       = each.value.enabled ? "ENABLED" : "DISABLED"
  kms_key_arn = var.kms_key_arn

  schedule_expression          = each.value.expression
  schedule_expression_timezone = each.value.timezone

  flexible_time_window {
    mode = "OFF"
  }

  target {
    arn      = "arn:${local.partition}:scheduler:::aws-sdk:batch:submitJob"
    role_arn = aws_iam_role.scheduler.arn

    # An array has 2-10000 jobs; one slice is a plain job.
    input = jsonencode(merge(
      {
        JobName       = "${var.name}-${each.key}"
        JobQueue      = aws_batch_job_queue.this.arn
        JobDefinition = aws_batch_job_definition.this.arn
        Parameters    = { backlog = each.key }
      },
      each.value.slices > 1 ? { ArrayProperties = { Size = each.value.slices } } : {},
    ))

    # A start that is an hour late is dropped: the next one does the work.
    retry_policy {
      maximum_retry_attempts       = 5
      maximum_event_age_in_seconds = 3600
    }

    dead_letter_config {
      arn = aws_sqs_queue.dead_letters.arn
    }
  }
}
