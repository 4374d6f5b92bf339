# Every binding adds one member to one resource. On the project are only a role that its condition limits to one
# bucket, and what var.project_roles asks for.

# --- build ---------------------------------------------------------------------------------------

resource "google_storage_bucket_iam_member" "build_reads_source" {
  count = var.build_service_account == null ? 1 : 0

  bucket = google_storage_bucket.source.name
  role   = "roles/storage.objectViewer"
  member = google_service_account.this["build"].member
}

# The build reads what the service uploads to a bucket that it makes itself, at the first deployment in a region:
# only the project can grant that beforehand. The condition limits it to that bucket.
resource "google_project_iam_member" "build_reads_uploads" {
  count = var.build_service_account == null ? 1 : 0

  project = var.project_id
  role    = "roles/storage.objectViewer"
  member  = google_service_account.this["build"].member

  condition {
    title      = "${var.name} build sources"
    expression = "resource.name.startsWith(\"projects/_/buckets/gcf-v2-sources-${data.google_project.this.number}-${var.region}\")"
  }
}

resource "google_artifact_registry_repository_iam_member" "build_writes_images" {
  count = var.build_service_account == null ? 1 : 0

  project    = var.project_id
  location   = var.region
  repository = google_artifact_registry_repository.functions.name
  role       = "roles/artifactregistry.writer"
  member     = google_service_account.this["build"].member
}

# --- who may call what ---------------------------------------------------------------------------

# A 2nd gen function is a Cloud Run service; its invoker role is that service's.
resource "google_cloud_run_v2_service_iam_member" "invoker_calls_drain" {
  project  = var.project_id
  location = var.region
  name     = google_cloudfunctions2_function.this["drain"].name
  role     = "roles/run.invoker"
  member   = google_service_account.this["invoker"].member
}

resource "google_cloud_run_v2_service_iam_member" "calls_dispatch" {
  for_each = merge(
    { scheduler = google_service_account.this["scheduler"].member },
    { for member in var.dispatchers : member => member },
  )

  project  = var.project_id
  location = var.region
  name     = google_cloudfunctions2_function.this["dispatch"].name
  role     = "roles/run.invoker"
  member   = each.value
}

resource "google_cloud_run_v2_job_iam_member" "scheduler_runs_job" {
  for_each = toset([for name, schedule in var.schedules : name if schedule.target == "job"])

  project  = var.project_id
  location = var.region
  name     = google_cloud_run_v2_job.this[each.key].name
  role     = "roles/run.invoker"
  member   = google_service_account.this["scheduler"].member
}

# --- the queue -----------------------------------------------------------------------------------

# The drain function enqueues too: a slice that reached its deadline is enqueued again.
resource "google_cloud_tasks_queue_iam_member" "enqueues" {
  for_each = toset(["dispatch", "drain"])

  project  = var.project_id
  location = var.region
  name     = google_cloud_tasks_queue.slices.name
  role     = "roles/cloudtasks.enqueuer"
  member   = google_service_account.this[each.key].member
}

# Naming the account that a task calls as needs iam.serviceAccounts.actAs on it.
resource "google_service_account_iam_member" "acts_as_invoker" {
  for_each = toset(["dispatch", "drain"])

  service_account_id = google_service_account.this["invoker"].name
  role               = "roles/iam.serviceAccountUser"
  member             = google_service_account.this[each.key].member
}

# --- receipts ------------------------------------------------------------------------------------

resource "google_storage_bucket_iam_member" "writes_receipts" {
  for_each = local.runtimes

  bucket = google_storage_bucket.receipts.name
  role   = "roles/storage.objectUser"
  member = google_service_account.this[each.key].member
}

# A key encrypts the bucket on behalf of Cloud Storage's own account.
data "google_storage_project_service_account" "this" {
  count = var.receipts.kms_key_name == null ? 0 : 1

  project = var.project_id
}

resource "google_kms_crypto_key_iam_member" "storage_uses_key" {
  count = var.receipts.kms_key_name == null ? 0 : 1

  crypto_key_id = var.receipts.kms_key_name
  role          = "roles/cloudkms.cryptoKeyEncrypterDecrypter"
  member        = data.google_storage_project_service_account.this[0].member
}

# --- time ----------------------------------------------------------------------------------------

# A grant takes effect some time after it was made; a build that starts before fails the apply.
resource "time_sleep" "grants" {
  create_duration = "60s"
  triggers = {
    build = local.build_service_account
    reads = join(",", sort(keys(google_secret_manager_secret_iam_member.reads)))
  }

  depends_on = [
    google_storage_bucket_iam_member.build_reads_source,
    google_project_iam_member.build_reads_uploads,
    google_artifact_registry_repository_iam_member.build_writes_images,
    google_project_iam_member.build_logs,
    google_secret_manager_secret_iam_member.reads,
  ]
}
