resource "aws_cloudwatch_log_group" "this" {
  # checkov:skip=CKV_AWS_158:kms_key_arn decides; without it CloudWatch Logs encrypts with its own key
  # checkov:skip=CKV_AWS_338:receipts are the record of a run, and are kept; log_retention_days decides
  name              = "/${var.name}/jobs"
  retention_in_days = var.log_retention_days
  kms_key_id        = var.kms_key_arn
  tags              = var.tags
}
