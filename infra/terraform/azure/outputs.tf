locals {
  where = "--resource-group ${var.resource_group.name} --name ${azurerm_function_app_flex_consumption.this.name}"
}

output "deploy_command" {
  description = "Deploys the bundle that `make bundle-azure` writes; run it after the first apply and for every new bundle. If public_access.app is false, run it inside the virtual network."
  value       = "az functionapp deployment source config-zip ${local.where} --build-remote false --src dist/backlog-clearer-azure.zip"
}

output "dispatch_url" {
  description = "POST {\"backlog\": NAME} here, with a function key in the header x-functions-key; GET …/api/runs/RUN_ID returns the state of a run."
  value       = "https://${azurerm_function_app_flex_consumption.this.default_hostname}/api/dispatch"
}

output "dispatch_commands" {
  description = "The command that starts a drain by hand, by backlog; run it from a network that reaches the app."
  value = {
    for name in keys(var.backlogs) : name => join(" ", [
      "curl --fail-with-body --json '${jsonencode({ backlog = name })}'",
      "--header \"x-functions-key: $(az functionapp function keys list ${local.where} --function-name dispatch --query default --output tsv)\"",
      "https://${azurerm_function_app_flex_consumption.this.default_hostname}/api/dispatch",
    ])
  }
}

output "receipts" {
  description = "The URL of the receipts, for restore --run RUN_ID --receipt-dir, with AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ANON=false set."
  value       = { url = local.receipts, storage_account = azurerm_storage_account.data.name }
}

output "secrets_command" {
  description = "Makes the app read its Key Vault references again: once after the first apply, because the app is created before its permission to read them, and after a rotation that cannot wait a day."
  value       = length(var.secrets) == 0 ? null : "az rest --method post --url \"https://management.azure.com${azurerm_function_app_flex_consumption.this.id}/config/configreferences/appsettings/refresh?api-version=2022-03-01\""
}

output "queue" {
  description = "The queue of slices and its poison queue."
  value       = { storage_account = azurerm_storage_account.data.name, name = azurerm_storage_queue.slices.name, poison = azurerm_storage_queue.poison.name }
}

output "identities" {
  description = "Principal ids of the identities, by task: to grant them what a broker needs."
  value       = { for name, identity in azurerm_user_assigned_identity.this : name => identity.principal_id }
}
