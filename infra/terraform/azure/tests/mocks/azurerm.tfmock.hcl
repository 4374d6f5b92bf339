mock_resource "azurerm_user_assigned_identity" {
  defaults = {
    id           = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/drains/providers/Microsoft.ManagedIdentity/userAssignedIdentities/clearer"
    client_id    = "11111111-1111-1111-1111-111111111111"
    principal_id = "22222222-2222-2222-2222-222222222222"
  }
}

mock_resource "azurerm_storage_account" {
  defaults = {
    id                     = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/drains/providers/Microsoft.Storage/storageAccounts/contoso"
    primary_blob_endpoint  = "https://contoso.blob.core.windows.net/"
    primary_queue_endpoint = "https://contoso.queue.core.windows.net/"
  }
}

mock_resource "azurerm_function_app_flex_consumption" {
  defaults = {
    id               = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/drains/providers/Microsoft.Web/sites/contoso-clearer"
    default_hostname = "contoso-clearer.azurewebsites.net"
  }
}

mock_resource "azurerm_application_insights" {
  defaults = {
    id = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/drains/providers/Microsoft.Insights/components/contoso-clearer-insights"
  }
}

mock_resource "azurerm_log_analytics_workspace" {
  defaults = {
    id = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/drains/providers/Microsoft.OperationalInsights/workspaces/contoso-clearer-logs"
  }
}

mock_resource "azurerm_key_vault" {
  defaults = {
    id = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/drains/providers/Microsoft.KeyVault/vaults/contoso-brokers"
  }
}

mock_resource "azurerm_subnet" {
  defaults = {
    id = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/drains/providers/Microsoft.Network/virtualNetworks/contoso/subnets/one"
  }
}

mock_resource "azurerm_monitor_action_group" {
  defaults = {
    id = "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/drains/providers/Microsoft.Insights/actionGroups/oncall"
  }
}
