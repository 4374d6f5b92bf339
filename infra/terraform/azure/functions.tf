resource "azurerm_service_plan" "this" {
  # checkov:skip=CKV_AZURE_225:Not offered in every region; a slice that is lost with its zone is delivered again
  # checkov:skip=CKV_AZURE_212:Serverless: no instance runs, or is charged, while there is nothing to do
  name                = "${var.name}-plan"
  resource_group_name = var.resource_group.name
  location            = var.resource_group.location
  os_type             = "Linux"
  sku_name            = "FC1"
  tags                = var.tags
}

locals {
  app_settings = merge(
    local.environment["functions"],
    {
      # The provider writes a connection string without a key into AzureWebJobsStorage unless the
      # setting is given; empty, the settings below replace it. It is not read back, so every plan
      # shows it as added (hashicorp/terraform-provider-azurerm#29149, #33211).
      AzureWebJobsStorage              = ""
      AzureWebJobsStorage__accountName = azurerm_storage_account.host.name
      AzureWebJobsStorage__credential  = "managedidentity"
      AzureWebJobsStorage__clientId    = azurerm_user_assigned_identity.this["functions"].client_id

      APPLICATIONINSIGHTS_AUTHENTICATION_STRING = "ClientId=${azurerm_user_assigned_identity.this["functions"].client_id};Authorization=AAD"

      # The timeout and the deadline below it come from one variable.
      AzureFunctionsJobHost__functionTimeout = format("%02d:%02d:%02d", floor(var.timeout_seconds / 3600), floor(var.timeout_seconds % 3600 / 60), var.timeout_seconds % 60)
      BACKLOG_CLEARER_DEADLINE_S             = tostring(var.timeout_seconds - local.settle_seconds)

      BACKLOG_CLEARER_SCHEDULE          = var.schedule.ncrontab
      BACKLOG_CLEARER_SCHEDULED         = join(",", var.schedule.backlogs)
      BACKLOG_CLEARER_SCHEDULE_LATE     = tostring(var.schedule.late)
      "AzureWebJobs.scheduled.Disabled" = tostring(!var.schedule.enabled)
      # If a job takes the slices, the drain function is disabled.
      "AzureWebJobs.drain.Disabled" = tostring(var.job != null)
    },
    { for name, uri in local.secret_uris : name => "@Microsoft.KeyVault(SecretUri=${uri})" },
  )
}

# zip_deploy_file is not used: the provider posts it to an endpoint that this plan does not have
# (hashicorp/terraform-provider-azurerm#29630). The output deploy_command does the same.
resource "azurerm_function_app_flex_consumption" "this" {
  name                = var.name
  resource_group_name = var.resource_group.name
  location            = var.resource_group.location
  service_plan_id     = azurerm_service_plan.this.id
  tags                = var.tags

  runtime_name           = "python"
  runtime_version        = "3.12"
  maximum_instance_count = var.max_parallel_slices
  instance_memory_in_mb  = var.instance_memory_in_mb

  storage_container_type            = "blobContainer"
  storage_container_endpoint        = "${azurerm_storage_account.host.primary_blob_endpoint}${azurerm_storage_container.packages.name}"
  storage_authentication_type       = "UserAssignedIdentity"
  storage_user_assigned_identity_id = azurerm_user_assigned_identity.this["functions"].id

  https_only                                     = true
  public_network_access_enabled                  = var.public_access.app
  webdeploy_publish_basic_authentication_enabled = false
  virtual_network_subnet_id                      = try(var.network.subnet_id, null)

  app_settings = local.app_settings

  identity {
    type         = length(var.secrets) == 0 ? "UserAssigned" : "SystemAssigned, UserAssigned"
    identity_ids = [azurerm_user_assigned_identity.this["functions"].id]
  }

  site_config {
    minimum_tls_version                    = "1.2"
    scm_minimum_tls_version                = "1.2"
    http2_enabled                          = true
    application_insights_connection_string = azurerm_application_insights.this.connection_string
  }

  lifecycle {
    precondition {
      # An app setting is a variable of the process's environment, which gets 32 KiB in all on this plan's workers.
      condition     = length(local.config) + length(join("", flatten([for name, value in var.environment : [name, value]]))) <= 30000
      error_message = "The configuration of all backlogs has ${length(local.config)} characters, and 30000 fit, including environment: use the module twice, with some of the backlogs each."
    }
  }

  # The host does not start while it may not read, or cannot reach, its storage account.
  depends_on = [
    azurerm_role_assignment.this,
    azurerm_private_endpoint.storage,
  ]
}
