# Values that the provider checks the form of; it computes them when it applies.
mock_data "aws_caller_identity" {
  defaults = { account_id = "123456789012" }
}
mock_data "aws_partition" {
  defaults = { partition = "aws" }
}
mock_data "aws_region" {
  defaults = { id = "eu-west-1" }
}
mock_data "aws_iam_policy_document" {
  defaults = { json = "{\"Version\":\"2012-10-17\",\"Statement\":[]}" }
}
mock_resource "aws_iam_role" {
  defaults = { arn = "arn:aws:iam::123456789012:role/mock" }
}
mock_resource "aws_s3_bucket" {
  defaults = {
    id     = "backlog-clearer-receipts-mock"
    bucket = "backlog-clearer-receipts-mock"
    arn    = "arn:aws:s3:::backlog-clearer-receipts-mock"
  }
}
mock_resource "aws_batch_compute_environment" {
  defaults = { arn = "arn:aws:batch:eu-west-1:123456789012:compute-environment/mock" }
}
mock_resource "aws_batch_job_queue" {
  defaults = { arn = "arn:aws:batch:eu-west-1:123456789012:job-queue/backlog-clearer" }
}
mock_resource "aws_batch_job_definition" {
  defaults = {
    arn        = "arn:aws:batch:eu-west-1:123456789012:job-definition/backlog-clearer:1"
    arn_prefix = "arn:aws:batch:eu-west-1:123456789012:job-definition/backlog-clearer"
  }
}
mock_resource "aws_scheduler_schedule_group" {
  defaults = { arn = "arn:aws:scheduler:eu-west-1:123456789012:schedule-group/backlog-clearer" }
}
mock_resource "aws_cloudwatch_log_group" {
  defaults = { arn = "arn:aws:logs:eu-west-1:123456789012:log-group:/backlog-clearer/jobs" }
}
mock_resource "aws_cloudwatch_event_rule" {
  defaults = { arn = "arn:aws:events:eu-west-1:123456789012:rule/backlog-clearer-failed" }
}
mock_resource "aws_sqs_queue" {
  defaults = {
    arn = "arn:aws:sqs:eu-west-1:123456789012:backlog-clearer-dead-letters"
    url = "https://sqs.eu-west-1.amazonaws.com/123456789012/backlog-clearer-dead-letters"
  }
}
mock_resource "aws_sns_topic" {
  defaults = { arn = "arn:aws:sns:eu-west-1:123456789012:backlog-clearer-alarms" }
}
