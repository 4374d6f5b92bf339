locals {
  # The bundle's configuration. Nulls are left out, so that the bundle's own defaults hold.
  config = jsonencode({
    receipts = "gs://${local.receipts_bucket}/runs"
    backlogs = {
      for name, backlog in var.backlogs : name => { for key, value in backlog : key => value if value != null }
    }
  })

  referenced_secrets = toset(flatten([
    for backlog in var.backlogs : [
      for value in values(backlog.options) : flatten(regexall("\\$\\{env:([^}]+)\\}", value))
    ]
  ]))

  # What a slice may take from its platform: less than its timeout, by the time that acknowledging
  # what was read, verifying and storing the receipt may need.
  settle_seconds = 120

  # run.app URLs are known beforehand: https://docs.cloud.google.com/run/docs/triggering/https-request
  # ("Deterministic URL"). A function's Cloud Run service has the function's name.
  urls = { for name in keys(local.functions) : name => "https://${var.name}-${name}-${var.project_number}.${var.region}.run.app" }
}
