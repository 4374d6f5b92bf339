locals {
  # The bundle's configuration. Nulls are left out, so that the bundle's defaults apply.
  config = jsonencode({
    receipts = "gs://${local.receipts_bucket}/runs"
    backlogs = {
      for name, backlog in var.backlogs : name => { for key, value in backlog : key => value if value != null }
    }
  })

  # Cloud Run's limits of an instance: CPUs to the least and the most memory in MiB.
  cpu_memory = { "1" = [512, 4096], "2" = [512, 8192], "4" = [2048, 16384], "6" = [4096, 24576], "8" = [4096, 32768] }

  referenced_secrets = toset(flatten([
    for backlog in var.backlogs : [
      for value in concat(values(backlog.options), compact([backlog.notify, backlog.notify_authorization])) : flatten(regexall("\\$\\{env:([^}]+)\\}", value))
    ]
  ]))

  # The time that a slice may use: its timeout less the time for acknowledging the messages that were
  # read, verifying, and storing the receipt.
  settle_seconds = 120

  # run.app URLs are known beforehand: https://docs.cloud.google.com/run/docs/triggering/https-request
  # ("Deterministic URL"). A function's Cloud Run service has the function's name.
  urls = { for name in keys(local.functions) : name => "https://${var.name}-${name}-${data.google_project.this.number}.${var.region}.run.app" }
}

data "google_project" "this" {
  project_id = var.project_id

  lifecycle {
    postcondition {
      condition     = var.project_number == null || self.number == var.project_number
      error_message = "project_number is ${coalesce(var.project_number, "null")}, but the number of ${var.project_id} is ${self.number}: leave it out, or correct it."
    }
  }
}
