locals {
  # Bucket names are global: the project's id keeps them apart without a random part.
  receipts_bucket = "${var.project_id}-${var.name}-receipts"
  source_bucket   = "${var.project_id}-${var.name}-source"
}

# force_destroy is off unless asked for: `terraform destroy` then stops at a bucket that still has
# receipts, which are the only way back to the positions before a run.
resource "google_storage_bucket" "receipts" {
  # checkov:skip=CKV_GCP_62:Who reads or writes is in Cloud Audit Logs if the project enables them; access logs by the bucket would need another bucket
  project                     = var.project_id
  name                        = local.receipts_bucket
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = var.receipts.force_destroy
  labels                      = var.labels

  versioning {
    enabled = true
  }

  dynamic "lifecycle_rule" {
    for_each = var.receipts.delete_after_days == null ? [] : [var.receipts.delete_after_days]
    content {
      condition {
        age        = lifecycle_rule.value
        with_state = "ANY"
      }
      action {
        type = "Delete"
      }
    }
  }

  dynamic "encryption" {
    for_each = var.receipts.kms_key_name == null ? [] : [var.receipts.kms_key_name]
    content {
      default_kms_key_name = encryption.value
    }
  }

  depends_on = [google_kms_crypto_key_iam_member.storage_uses_key]
}

# Holds nothing that the bundle's build would not make again, so destroying it is allowed.
resource "google_storage_bucket" "source" {
  # checkov:skip=CKV_GCP_62:Who reads or writes is in Cloud Audit Logs if the project enables them; access logs by the bucket would need another bucket
  project                     = var.project_id
  name                        = local.source_bucket
  location                    = var.region
  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = true
  labels                      = var.labels

  versioning {
    enabled = true
  }

  lifecycle_rule {
    condition {
      days_since_noncurrent_time = 30
    }
    action {
      type = "Delete"
    }
  }
}

# The content's hash is in the name: another bundle is another object, and the functions follow it.
resource "google_storage_bucket_object" "bundle" {
  bucket = google_storage_bucket.source.name
  name   = "backlog-clearer-gcp-${filesha256(var.bundle)}.zip"
  source = var.bundle
}

# An own repository, so that the build account may write here and nowhere else.
resource "google_artifact_registry_repository" "functions" {
  # checkov:skip=CKV_GCP_84:The images hold this project's public code and no data; Google's own keys encrypt them
  project       = var.project_id
  location      = var.region
  repository_id = "${var.name}-functions"
  description   = "Images that the functions' builds make"
  format        = "DOCKER"
  labels        = var.labels

  cleanup_policies {
    id     = "delete-old"
    action = "DELETE"
    condition {
      older_than = "2592000s"
    }
  }

  cleanup_policies {
    id     = "keep-recent"
    action = "KEEP"
    most_recent_versions {
      keep_count = 3
    }
  }
}
