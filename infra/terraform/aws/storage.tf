resource "aws_s3_bucket" "receipts" {
  # checkov:skip=CKV_AWS_18:access logs need a bucket of yours; add aws_s3_bucket_logging with the output receipts_bucket
  # checkov:skip=CKV_AWS_144:receipts matter where the broker is; versions are kept in the region
  # checkov:skip=CKV_AWS_145:kms_key_arn decides; without it S3 encrypts with its own key
  # checkov:skip=CKV2_AWS_62:no program reacts to a new receipt
  bucket_prefix = "${var.name}-receipts-"
  force_destroy = var.receipts.force_destroy
  tags          = var.tags
}

locals {
  receipts_url = "s3://${aws_s3_bucket.receipts.bucket}/runs"
}

resource "aws_s3_bucket_public_access_block" "receipts" {
  bucket                  = aws_s3_bucket.receipts.id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "receipts" {
  bucket = aws_s3_bucket.receipts.id

  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "receipts" {
  bucket = aws_s3_bucket.receipts.id

  rule {
    bucket_key_enabled = var.kms_key_arn != null

    apply_server_side_encryption_by_default {
      sse_algorithm     = var.kms_key_arn == null ? "AES256" : "aws:kms"
      kms_master_key_id = var.kms_key_arn
    }
  }
}

resource "aws_s3_bucket_versioning" "receipts" {
  bucket = aws_s3_bucket.receipts.id

  versioning_configuration {
    status = "Enabled"
  }
}

# A receipt is written at the start and again, completed, at the end: the first version is the old one.
resource "aws_s3_bucket_lifecycle_configuration" "receipts" {
  bucket     = aws_s3_bucket.receipts.id
  depends_on = [aws_s3_bucket_versioning.receipts]

  rule {
    id     = "old-versions"
    status = "Enabled"

    filter {}

    noncurrent_version_expiration {
      noncurrent_days = var.receipts.noncurrent_days
    }
    abort_incomplete_multipart_upload {
      days_after_initiation = 7
    }
  }
}

data "aws_iam_policy_document" "receipts" {
  statement {
    sid       = "TlsOnly"
    effect    = "Deny"
    actions   = ["s3:*"]
    resources = [aws_s3_bucket.receipts.arn, "${aws_s3_bucket.receipts.arn}/*"]

    principals {
      type        = "*"
      identifiers = ["*"]
    }
    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }
}

resource "aws_s3_bucket_policy" "receipts" {
  bucket     = aws_s3_bucket.receipts.id
  policy     = data.aws_iam_policy_document.receipts.json
  depends_on = [aws_s3_bucket_public_access_block.receipts]
}
