output "submit_commands" {
  description = "The command that clears a backlog now, by the backlog's name, with the slices of its schedule."
  value = {
    for name in keys(var.backlogs) : name => join(" ", concat(
      [
        "aws batch submit-job --region ${local.region}",
        "--job-name ${var.name}-${name}",
        "--job-queue ${aws_batch_job_queue.this.name}",
        "--job-definition ${aws_batch_job_definition.this.arn}",
        "--parameters backlog=${name}",
      ],
      try(var.schedules[name].slices, 1) > 1 ? ["--array-properties size=${var.schedules[name].slices}"] : [],
    ))
  }
}

output "receipts_url" {
  description = "Where receipts go; `cleaner.py restore --run RUN_ID --receipt-dir URL` undoes a run."
  value       = local.receipts_url
}

output "receipts_bucket" {
  description = "The receipts' bucket."
  value       = aws_s3_bucket.receipts.bucket
}

output "job_queue_arn" {
  description = "The queue that takes the jobs."
  value       = aws_batch_job_queue.this.arn
}

output "job_definition_arn" {
  description = "The job's definition, in its newest revision."
  value       = aws_batch_job_definition.this.arn
}

output "job_role_name" {
  description = "The role that the containers run as; attach the permissions that the brokers require."
  value       = aws_iam_role.job.name
}

output "security_group_id" {
  description = "The containers' security group, which the brokers have to admit."
  value       = aws_security_group.jobs.id
}

output "alarm_topic_arn" {
  description = "The topic for failed jobs and starts: subscribe to it."
  value       = aws_sns_topic.alarms.arn
}

output "dead_letter_queue_url" {
  description = "The dead-letter queue of starts that failed."
  value       = aws_sqs_queue.dead_letters.url
}

output "log_group_name" {
  description = "The jobs' logs; each has one line with its result."
  value       = aws_cloudwatch_log_group.this.name
}
