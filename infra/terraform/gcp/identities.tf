locals {
  # One account for each task; nothing runs as the default compute account.
  accounts = merge(
    {
      dispatch  = "surveys a backlog and puts its slices on the queue"
      drain     = "drains one slice"
      invoker   = "is what tasks call the drain function as"
      scheduler = "is what schedules call the dispatch function and the jobs as"
    },
    var.build_service_account == null ? { build = "builds the functions" } : {},
    var.job == null ? {} : { job = "drains one slice as a Cloud Run job" },
  )

  # The account that reaches brokers, secrets and receipts.
  runtimes = setsubtract(keys(local.accounts), ["build", "invoker", "scheduler"])

  build_service_account = coalesce(var.build_service_account, one([
    for name, account in google_service_account.this : account.name if name == "build"
  ]))
}

resource "google_service_account" "this" {
  for_each = local.accounts

  project      = var.project_id
  account_id   = "${var.name}-${each.key}"
  display_name = "${var.name} ${each.key}"
  description  = "backlog-clearer: ${each.value}"
}
