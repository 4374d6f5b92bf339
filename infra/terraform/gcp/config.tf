locals {
  # The bundle's configuration. Nulls are left out, so that the bundle's defaults apply.
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

  # The time that a slice may use: its timeout less the time for acknowledging the messages that were
  # read, verifying, and storing the receipt.
  settle_seconds = 120

  # run.app URLs are known beforehand: https://docs.cloud.google.com/run/docs/triggering/https-request
  # ("Deterministic URL"). A function's Cloud Run service has the function's name.
  urls = { for name in keys(local.functions) : name => "https://${var.name}-${name}-${var.project_number}.${var.region}.run.app" }
}
