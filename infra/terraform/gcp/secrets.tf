locals {
  # Two variables may show one secret: one binding a secret and account.
  secret_ids = toset([
    for secret in var.secrets : "projects/${coalesce(secret.project_id, var.project_id)}/secrets/${secret.secret}"
  ])
  secret_readers = {
    for pair in setproduct(local.secret_ids, local.runtimes) : "${pair[0]}:${pair[1]}" => { secret = pair[0], account = pair[1] }
  }
}

resource "google_secret_manager_secret_iam_member" "reads" {
  for_each = local.secret_readers

  secret_id = each.value.secret
  role      = "roles/secretmanager.secretAccessor"
  member    = google_service_account.this[each.value.account].member
}
