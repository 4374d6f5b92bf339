locals {
  receipts = "az://${local.receipts_container}/runs"

  # The bundle's configuration. Nulls are left out, so that the bundle's own defaults hold.
  config = jsonencode({
    receipts = local.receipts
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

  # What functions and the job need alike, each with the client id of its own identity.
  environment = {
    for name, identity in azurerm_user_assigned_identity.this : name => {
      BACKLOG_CLEARER_CONFIG                   = local.config
      BACKLOG_CLEARER_QUEUE                    = azurerm_storage_queue.slices.name
      BACKLOG_CLEARER_STORAGE__queueServiceUri = trimsuffix(azurerm_storage_account.data.primary_queue_endpoint, "/")
      BACKLOG_CLEARER_STORAGE__credential      = "managedidentity"
      BACKLOG_CLEARER_STORAGE__clientId        = identity.client_id
      AZURE_CLIENT_ID                          = identity.client_id
      AZURE_STORAGE_ACCOUNT_NAME               = azurerm_storage_account.data.name
      AZURE_STORAGE_ANON                       = "false"
    }
  }
}
