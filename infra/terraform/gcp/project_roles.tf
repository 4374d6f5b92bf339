# Roles that Google Cloud grants only on a project. Nothing here exists unless var.project_roles asks for it.

resource "google_project_iam_member" "build_logs" {
  count = var.project_roles.build_logs && var.build_service_account == null ? 1 : 0

  project = var.project_id
  role    = "roles/logging.logWriter"
  member  = google_service_account.this["build"].member
}

resource "google_project_iam_member" "pubsub_figures" {
  for_each = var.project_roles.pubsub_figures ? local.pubsub_members : {}

  project = each.value.project
  role    = "roles/monitoring.viewer"
  member  = google_service_account.this[each.value.account].member
}

resource "google_project_iam_custom_role" "pubsub_snapshots" {
  for_each = var.project_roles.pubsub_snapshots ? local.pubsub_projects : toset([])

  project     = each.key
  role_id     = "${replace(var.name, "-", "_")}_snapshots"
  title       = "${var.name}: take snapshots"
  description = "Takes the Pub/Sub snapshot that makes a run undoable"
  permissions = ["pubsub.snapshots.create"]
}

resource "google_project_iam_member" "pubsub_snapshots" {
  for_each = var.project_roles.pubsub_snapshots ? local.pubsub_members : {}

  project = each.value.project
  role    = google_project_iam_custom_role.pubsub_snapshots[each.value.project].name
  member  = google_service_account.this[each.value.account].member
}
