locals {
  # Keyed by environment variables, which are known before a vault exists.
  secret_scopes = { for name, secret in var.secrets : name => "${secret.key_vault_id}/secrets/${secret.name}" }

  secret_uris = {
    for name, secret in var.secrets : name => join("/", compact([
      "https://${split("/", secret.key_vault_id)[8]}.vault.azure.net/secrets", secret.name, secret.version,
    ]))
  }
}

# The provider cannot name a user-assigned identity for Key Vault references of this kind of app
# (hashicorp/terraform-provider-azurerm#28928), so the app has a system-assigned one, used only for this.
resource "azurerm_role_assignment" "app_reads_secret" {
  for_each = local.secret_scopes

  scope                = each.value
  role_definition_name = "Key Vault Secrets User"
  principal_id         = azurerm_function_app_flex_consumption.this.identity[0].principal_id
  principal_type       = "ServicePrincipal"
}
