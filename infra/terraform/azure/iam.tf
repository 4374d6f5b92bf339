# Every assignment is on one account, queue, container, secret or hub; none on a resource group or
# subscription.

locals {
  assignments = merge(
    {
      # The minimum that Azure documents for the host's own storage:
      # https://learn.microsoft.com/azure/azure-functions/functions-reference#connecting-to-host-storage-with-an-identity
      "functions:host" = { identity = "functions", role = "Storage Blob Data Owner", scope = azurerm_storage_account.host.id }
      "functions:logs" = { identity = "functions", role = "Monitoring Metrics Publisher", scope = azurerm_application_insights.this.id }
    },
    merge([
      for name in keys(local.identities) : {
        # Not Message Processor, which the trigger's page names: it may receive and delete, but cannot keep a
        # message hidden while its slice is drained, or release it (Update Message needs
        # messages/write: https://learn.microsoft.com/rest/api/storageservices/authorize-with-azure-active-directory).
        "${name}:slices"   = { identity = name, role = "Storage Queue Data Contributor", scope = local.queue_ids.slices }
        "${name}:poison"   = { identity = name, role = name == "functions" ? "Storage Queue Data Contributor" : "Storage Queue Data Message Sender", scope = local.queue_ids.poison }
        "${name}:receipts" = { identity = name, role = "Storage Blob Data Contributor", scope = local.container_id }
      }
    ]...),
    merge(flatten([
      for name in keys(local.identities) : [
        for backlog, hub in var.event_hubs : {
          "${name}:${backlog}:hub"         = { identity = name, role = "Azure Event Hubs Data Receiver", scope = hub.hub_id }
          "${name}:${backlog}:checkpoints" = { identity = name, role = "Storage Blob Data Contributor", scope = hub.checkpoint_container_id }
        }
      ]
    ])...),
    var.job == null ? {} : merge(
      { for name, scope in local.secret_scopes : "job:secret:${name}" => { identity = "job", role = "Key Vault Secrets User", scope = scope } },
      try(var.job.registry, null) == null ? {} : { "job:registry" = { identity = "job", role = "AcrPull", scope = var.job.registry.id } },
    ),
  )
}

resource "azurerm_role_assignment" "this" {
  for_each = local.assignments

  scope                = each.value.scope
  role_definition_name = each.value.role
  principal_id         = azurerm_user_assigned_identity.this[each.value.identity].principal_id
  principal_type       = "ServicePrincipal"
}
