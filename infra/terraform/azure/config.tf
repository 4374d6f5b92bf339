locals {
  receipts = "az://${local.receipts_container}/runs"

  # The bundle's configuration. Nulls are left out, so that the bundle's defaults apply.
  config = jsonencode({
    receipts = local.receipts
    backlogs = {
      for name, backlog in var.backlogs : name => { for key, value in backlog : key => value if value != null }
    }
  })

  referenced_secrets = toset(flatten([
    for backlog in var.backlogs : [
      for value in concat(values(backlog.options), compact([backlog.notify, backlog.notify_authorization])) : flatten(regexall("\\$\\{env:([^}]+)\\}", value))
    ]
  ]))

  # The time that a slice may use: its timeout less the time for acknowledging the messages that were
  # read, verifying, and storing the receipt.
  settle_seconds = 120

  # Settings that the functions and the job share, each with the client id of its identity.
  environment = {
    for name, identity in azurerm_user_assigned_identity.this : name => merge(var.environment, {
      BACKLOG_CLEARER_CONFIG                   = local.config
      BACKLOG_CLEARER_QUEUE                    = azurerm_storage_queue.slices.name
      BACKLOG_CLEARER_STORAGE__queueServiceUri = trimsuffix(azurerm_storage_account.data.primary_queue_endpoint, "/")
      BACKLOG_CLEARER_STORAGE__credential      = "managedidentity"
      BACKLOG_CLEARER_STORAGE__clientId        = identity.client_id
      AZURE_CLIENT_ID                          = identity.client_id
      AZURE_STORAGE_ACCOUNT_NAME               = azurerm_storage_account.data.name
      AZURE_STORAGE_ANON                       = "false"
    })
  }
}
