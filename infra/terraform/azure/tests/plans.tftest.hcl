# What holds without asking for anything: nothing public, no keys, no role above a single resource, the
# schedule paused, timeouts that fit into one another, names that an upgrade keeps.

mock_provider "azurerm" {
  source = "./tests/mocks"
}

variables {
  resource_group = { name = "drains", location = "westeurope" }
  name           = "contoso-clearer"
  storage_name   = "contosoclearer"
  network = {
    subnet_id                  = "/subscriptions/0/resourceGroups/net/providers/Microsoft.Network/virtualNetworks/v/subnets/functions"
    private_endpoint_subnet_id = "/subscriptions/0/resourceGroups/net/providers/Microsoft.Network/virtualNetworks/v/subnets/endpoints"
    private_dns_zone_ids       = { blob = "/subscriptions/0/resourceGroups/net/providers/Microsoft.Network/privateDnsZones/privatelink.blob.core.windows.net" }
  }
  secrets = {
    KAFKA_PASSWORD = { key_vault_id = "/subscriptions/0/resourceGroups/brokers/providers/Microsoft.KeyVault/vaults/brokers", name = "kafka-password" }
  }
  backlogs = {
    orders = {
      system = "kafka"
      options = {
        bootstrap_servers = "broker:9093"
        topic             = "orders"
        group_id          = "billing"
        "sasl.password"   = "$${env:KAFKA_PASSWORD}"
      }
      workers = 8
    }
    telemetry = {
      system = "eventhubs"
      options = {
        fully_qualified_namespace = "contoso.servicebus.windows.net"
        eventhub_name             = "telemetry"
        checkpoint_store          = "https://brokers.blob.core.windows.net"
        checkpoint_container      = "checkpoints"
      }
    }
  }
  event_hubs = {
    telemetry = {
      hub_id                  = "/subscriptions/0/resourceGroups/brokers/providers/Microsoft.EventHub/namespaces/contoso/eventhubs/telemetry"
      checkpoint_container_id = "/subscriptions/0/resourceGroups/brokers/providers/Microsoft.Storage/storageAccounts/brokers/blobServices/default/containers/checkpoints"
    }
  }
  schedule    = { backlogs = ["orders"] }
  environment = { OTEL_EXPORTER_OTLP_ENDPOINT = "http://otel.internal:4318" }
}

# One run, since each starts a new provider process.
run "defaults" {
  command = apply

  # nothing is public

  assert {
    condition     = !azurerm_function_app_flex_consumption.this.public_network_access_enabled && azurerm_function_app_flex_consumption.this.https_only
    error_message = "the function app answers on the internet, or without TLS"
  }
  assert {
    condition = (
      azurerm_function_app_flex_consumption.this.site_config[0].minimum_tls_version == "1.2"
      && !azurerm_function_app_flex_consumption.this.webdeploy_publish_basic_authentication_enabled
    )
    error_message = "the function app takes old TLS or a deployment password"
  }
  assert {
    condition = alltrue([
      for account in [azurerm_storage_account.host, azurerm_storage_account.data] :
      !account.public_network_access_enabled && !account.shared_access_key_enabled && !account.allow_nested_items_to_be_public
      && !account.local_user_enabled && account.https_traffic_only_enabled && account.min_tls_version == "TLS1_2"
    ])
    error_message = "a storage account is public, has keys, or takes old TLS"
  }
  assert {
    condition     = alltrue([for container in [azurerm_storage_container.packages, azurerm_storage_container.receipts] : container.container_access_type == "private"])
    error_message = "a container can be read by anyone"
  }
  assert {
    condition = (
      toset(keys(azurerm_private_endpoint.storage)) == toset(["host-blob", "data-blob", "data-queue"])
      && azurerm_private_endpoint.app[0].private_service_connection[0].subresource_names == tolist(["sites"])
      && azurerm_function_app_flex_consumption.this.virtual_network_subnet_id == var.network.subnet_id
      && length(azurerm_private_endpoint.storage["host-blob"].private_dns_zone_group) == 1
      && length(azurerm_private_endpoint.storage["data-queue"].private_dns_zone_group) == 0
    )
    error_message = "the functions have no private way to their storage, or the network none to the functions"
  }

  # rights are on single resources

  assert {
    condition = { for key, assignment in azurerm_role_assignment.this : key => assignment.role_definition_name } == {
      "functions:host"                  = "Storage Blob Data Owner"
      "functions:logs"                  = "Monitoring Metrics Publisher"
      "functions:slices"                = "Storage Queue Data Contributor"
      "functions:poison"                = "Storage Queue Data Contributor"
      "functions:receipts"              = "Storage Blob Data Contributor"
      "functions:telemetry:hub"         = "Azure Event Hubs Data Receiver"
      "functions:telemetry:checkpoints" = "Storage Blob Data Contributor"
    }
    error_message = "the roles are others"
  }
  assert {
    condition = (
      endswith(azurerm_role_assignment.this["functions:slices"].scope, "/queueServices/default/queues/contoso-clearer-slices")
      && endswith(azurerm_role_assignment.this["functions:poison"].scope, "/queueServices/default/queues/contoso-clearer-slices-poison")
      && endswith(azurerm_role_assignment.this["functions:receipts"].scope, "/blobServices/default/containers/receipts")
      && endswith(azurerm_role_assignment.this["functions:telemetry:hub"].scope, "/eventhubs/telemetry")
      && endswith(azurerm_role_assignment.this["functions:telemetry:checkpoints"].scope, "/containers/checkpoints")
    )
    error_message = "a role is wider than one queue, container or hub"
  }
  assert {
    condition = alltrue([
      for assignment in concat(values(azurerm_role_assignment.this), values(azurerm_role_assignment.app_reads_secret)) :
      can(regex("/providers/Microsoft\\.(Storage|KeyVault|EventHub|Insights)/", assignment.scope)) && assignment.principal_type == "ServicePrincipal"
    ])
    error_message = "a role is on a resource group or a subscription"
  }
  assert {
    condition = (
      azurerm_role_assignment.app_reads_secret["KAFKA_PASSWORD"].role_definition_name == "Key Vault Secrets User"
      && endswith(azurerm_role_assignment.app_reads_secret["KAFKA_PASSWORD"].scope, "/vaults/brokers/secrets/kafka-password")
    )
    error_message = "the app may read more of the vault than its secret"
  }

  # keys are not used

  assert {
    condition = (
      azurerm_function_app_flex_consumption.this.storage_authentication_type == "UserAssignedIdentity"
      && azurerm_function_app_flex_consumption.this.identity[0].type == "SystemAssigned, UserAssigned"
      && azurerm_function_app_flex_consumption.this.app_settings.AzureWebJobsStorage == ""
      && azurerm_function_app_flex_consumption.this.app_settings.AzureWebJobsStorage__accountName == "contosoclearerhost"
      && azurerm_function_app_flex_consumption.this.app_settings.AzureWebJobsStorage__credential == "managedidentity"
    )
    error_message = "the host signs in to its storage with a key"
  }
  assert {
    condition = (
      azurerm_function_app_flex_consumption.this.app_settings.BACKLOG_CLEARER_STORAGE__queueServiceUri == "https://contoso.queue.core.windows.net"
      && azurerm_function_app_flex_consumption.this.app_settings.BACKLOG_CLEARER_STORAGE__credential == "managedidentity"
      && azurerm_function_app_flex_consumption.this.app_settings.BACKLOG_CLEARER_STORAGE__clientId == "11111111-1111-1111-1111-111111111111"
      && azurerm_function_app_flex_consumption.this.app_settings.AZURE_CLIENT_ID == "11111111-1111-1111-1111-111111111111"
      && azurerm_function_app_flex_consumption.this.app_settings.AZURE_STORAGE_ACCOUNT_NAME == "contosoclearerdata"
      && azurerm_function_app_flex_consumption.this.app_settings.AZURE_STORAGE_ANON == "false"
    )
    error_message = "the queue or the receipts are not reached with the identity"
  }
  assert {
    condition     = azurerm_function_app_flex_consumption.this.app_settings.KAFKA_PASSWORD == "@Microsoft.KeyVault(SecretUri=https://brokers.vault.azure.net/secrets/kafka-password)"
    error_message = "the secret is given otherwise than as a reference"
  }
  assert {
    condition     = azurerm_function_app_flex_consumption.this.app_settings.OTEL_EXPORTER_OTLP_ENDPOINT == "http://otel.internal:4318"
    error_message = "a plain variable does not reach the functions"
  }

  # timeouts fit

  assert {
    condition = (
      azurerm_function_app_flex_consumption.this.app_settings.AzureFunctionsJobHost__functionTimeout == "00:30:00"
      && azurerm_function_app_flex_consumption.this.app_settings.BACKLOG_CLEARER_DEADLINE_S == "1680"
    )
    error_message = "the deadline leaves less than two minutes to settle and verify"
  }

  # the schedule is paused

  assert {
    condition = (
      azurerm_function_app_flex_consumption.this.app_settings["AzureWebJobs.scheduled.Disabled"] == "true"
      && azurerm_function_app_flex_consumption.this.app_settings.BACKLOG_CLEARER_SCHEDULE == "0 0 3 * * *"
      && azurerm_function_app_flex_consumption.this.app_settings.BACKLOG_CLEARER_SCHEDULED == "orders"
    )
    error_message = "the timer runs, or names other backlogs"
  }

  # slices are limited and retried

  assert {
    condition = (
      azurerm_function_app_flex_consumption.this.maximum_instance_count == 40
      && azurerm_function_app_flex_consumption.this.app_settings["AzureWebJobs.drain.Disabled"] == "false"
      && azurerm_storage_queue.poison.name == "${azurerm_storage_queue.slices.name}-poison"
      && azurerm_function_app_flex_consumption.this.app_settings.BACKLOG_CLEARER_QUEUE == azurerm_storage_queue.slices.name
    )
    error_message = "the limits are others, or the poison queue has another name than the host looks for"
  }

  # the app is what the bundle needs

  assert {
    condition = (
      azurerm_service_plan.this.sku_name == "FC1"
      && azurerm_function_app_flex_consumption.this.runtime_name == "python"
      && azurerm_function_app_flex_consumption.this.runtime_version == "3.12"
      && azurerm_function_app_flex_consumption.this.storage_container_endpoint == "https://contoso.blob.core.windows.net/packages"
    )
    error_message = "the app's plan, runtime or package container is another"
  }
  assert {
    condition = (
      jsondecode(azurerm_function_app_flex_consumption.this.app_settings.BACKLOG_CLEARER_CONFIG).receipts == "az://receipts/runs"
      && jsondecode(azurerm_function_app_flex_consumption.this.app_settings.BACKLOG_CLEARER_CONFIG).backlogs.orders == {
        system = "kafka"
        options = {
          bootstrap_servers = "broker:9093"
          topic             = "orders"
          group_id          = "billing"
          "sasl.password"   = "$${env:KAFKA_PASSWORD}"
        }
        workers = 8
      }
    )
    error_message = "the configuration has other keys, or nulls"
  }
  assert {
    condition     = azurerm_storage_account.data.blob_properties[0].versioning_enabled && azurerm_storage_account.data.blob_properties[0].delete_retention_policy[0].days == 30
    error_message = "a deleted or overwritten receipt is lost"
  }

  # failures are reported

  assert {
    condition = (
      strcontains(azurerm_monitor_scheduled_query_rules_alert_v2.not_cleared.criteria[0].query, "AppTraces | where Message has \"backlog-clearer: not cleared\"")
      && strcontains(azurerm_monitor_scheduled_query_rules_alert_v2.not_cleared.criteria[0].query, "poisoned")
      && azurerm_monitor_scheduled_query_rules_alert_v2.not_cleared.scopes == tolist([azurerm_log_analytics_workspace.this.id])
      && azurerm_monitor_scheduled_query_rules_alert_v2.not_cleared.criteria[0].threshold == 0
      && azurerm_application_insights.this.workspace_id == azurerm_log_analytics_workspace.this.id
    )
    error_message = "a slice that was not cleared raises no alert"
  }

  # outputs have the next commands

  assert {
    condition     = output.deploy_command == "az functionapp deployment source config-zip --resource-group drains --name contoso-clearer --build-remote false --src dist/backlog-clearer-azure.zip"
    error_message = "the bundle is deployed otherwise"
  }
  assert {
    condition = (
      output.dispatch_url == "https://contoso-clearer.azurewebsites.net/api/dispatch"
      && strcontains(output.dispatch_commands.orders, "--json '{\"backlog\":\"orders\"}'")
      && output.receipts == { url = "az://receipts/runs", storage_account = "contosoclearerdata" }
      && strcontains(output.secrets_command, "/sites/contoso-clearer/config/configreferences/appsettings/refresh")
    )
    error_message = "the run command, the receipts or the refresh of secrets are others"
  }
}

run "a_timeout_of_minutes_and_seconds" {
  command = apply

  variables {
    timeout_seconds = 3599
  }

  assert {
    condition     = azurerm_function_app_flex_consumption.this.app_settings.AzureFunctionsJobHost__functionTimeout == "00:59:59"
    error_message = "the timeout is written otherwise"
  }
}

# What is made when it is asked for.

run "a_job_takes_the_slices" {
  command = apply

  variables {
    job = {
      image    = "contoso.azurecr.io/backlog-clearer:1"
      registry = { id = "/subscriptions/0/resourceGroups/tools/providers/Microsoft.ContainerRegistry/registries/contoso", server = "contoso.azurecr.io" }
    }
    max_parallel_slices = 100
  }

  assert {
    condition = (
      azurerm_container_app_job.this[0].event_trigger_config[0].scale[0].rules[0].custom_rule_type == "azure-queue"
      && azurerm_container_app_job.this[0].event_trigger_config[0].scale[0].rules[0].metadata == tomap({ accountName = "contosoclearerdata", queueName = "contoso-clearer-slices", queueLength = "1" })
      && azurerm_container_app_job.this[0].event_trigger_config[0].scale[0].rules[0].identity_id == azurerm_user_assigned_identity.this["job"].id
      && azurerm_container_app_job.this[0].event_trigger_config[0].scale[0].max_executions == 100
      && azurerm_container_app_job.this[0].event_trigger_config[0].scale[0].min_executions == 0
    )
    error_message = "the job is not scaled by the queue"
  }
  assert {
    condition     = azurerm_function_app_flex_consumption.this.app_settings["AzureWebJobs.drain.Disabled"] == "true"
    error_message = "the function and the job take each other's slices"
  }
  assert {
    condition = (
      azurerm_container_app_job.this[0].replica_timeout_in_seconds == 21600
      && azurerm_container_app_job.this[0].replica_retry_limit == 0
      && one([for env in azurerm_container_app_job.this[0].template[0].container[0].env : env.value if env.name == "BACKLOG_CLEARER_DEADLINE_S"]) == "21480"
      && azurerm_container_app_job.this[0].template[0].container[0].args == tolist(["--from-queue"])
    )
    error_message = "the job's deadline does not fit its timeout, or it takes no message"
  }
  assert {
    condition = (
      one([for env in azurerm_container_app_job.this[0].template[0].container[0].env : env.secret_name if env.name == "KAFKA_PASSWORD"]) == "kafka-password"
      && one([for secret in azurerm_container_app_job.this[0].secret : secret.key_vault_secret_id]) == "https://brokers.vault.azure.net/secrets/kafka-password"
    )
    error_message = "the job's secret is given otherwise than as a reference"
  }
  assert {
    condition     = one([for env in azurerm_container_app_job.this[0].template[0].container[0].env : env.value if env.name == "OTEL_EXPORTER_OTLP_ENDPOINT"]) == "http://otel.internal:4318"
    error_message = "a plain variable does not reach the job"
  }
  assert {
    condition = { for key, assignment in azurerm_role_assignment.this : key => assignment.role_definition_name if startswith(key, "job:") } == {
      "job:slices"                = "Storage Queue Data Contributor"
      "job:poison"                = "Storage Queue Data Message Sender"
      "job:receipts"              = "Storage Blob Data Contributor"
      "job:telemetry:hub"         = "Azure Event Hubs Data Receiver"
      "job:telemetry:checkpoints" = "Storage Blob Data Contributor"
      "job:secret:KAFKA_PASSWORD" = "Key Vault Secrets User"
      "job:registry"              = "AcrPull"
    }
    error_message = "the job's roles are others"
  }
  assert {
    condition     = strcontains(azurerm_monitor_scheduled_query_rules_alert_v2.not_cleared.criteria[0].query, "ContainerAppConsoleLogs_CL")
    error_message = "a failed job raises no alert"
  }
}

run "without_a_network" {
  command = apply

  variables {
    network       = null
    public_access = { app = true, storage = true }
  }

  assert {
    condition = (
      length(azurerm_private_endpoint.storage) == 0 && length(azurerm_private_endpoint.app) == 0
      && azurerm_function_app_flex_consumption.this.virtual_network_subnet_id == null
      && azurerm_function_app_flex_consumption.this.public_network_access_enabled
      && azurerm_storage_account.host.public_network_access_enabled
      && !azurerm_storage_account.host.shared_access_key_enabled
    )
    error_message = "endpoints are made without a network, or keys are let in with the public access"
  }
}

run "no_secret_no_second_identity" {
  command = apply

  variables {
    secrets    = {}
    event_hubs = {}
    schedule   = { backlogs = ["orders"], ncrontab = "0 30 2 * * 1-5", enabled = true }
    backlogs = {
      orders = { system = "kafka", options = { bootstrap_servers = "broker:9092", topic = "orders", group_id = "billing" } }
    }
    action_group_ids = ["/subscriptions/0/resourceGroups/ops/providers/microsoft.insights/actionGroups/oncall"]
  }

  assert {
    condition = (
      azurerm_function_app_flex_consumption.this.identity[0].type == "UserAssigned"
      && length(azurerm_role_assignment.app_reads_secret) == 0
      && output.secrets_command == null
    )
    error_message = "an identity is made that nothing needs"
  }
  assert {
    condition = (
      azurerm_function_app_flex_consumption.this.app_settings["AzureWebJobs.scheduled.Disabled"] == "false"
      && azurerm_function_app_flex_consumption.this.app_settings.BACKLOG_CLEARER_SCHEDULE == "0 30 2 * * 1-5"
    )
    error_message = "the schedule does not run"
  }
  assert {
    condition     = azurerm_monitor_scheduled_query_rules_alert_v2.not_cleared.action[0].action_groups == tolist(var.action_group_ids)
    error_message = "a failure notifies no action group"
  }
}

run "every_key_of_a_backlog" {
  command = apply

  variables {
    event_hubs = {}
    backlogs = {
      orders = {
        system               = "kafka"
        options              = { bootstrap_servers = "broker:9093", topic = "orders", group_id = "billing", "sasl.password" = "$${env:KAFKA_PASSWORD}" }
        mode                 = "consume"
        allowed_modes        = ["consume", "skip"]
        workers              = 8
        batch_size           = 5000
        max_messages         = 1000000000
        max_seconds          = 1200
        max_rate             = "50MB/s"
        metrics_file         = "/metrics/orders.prom"
        notify               = "https://hooks.example/orders"
        notify_authorization = "Bearer $${env:KAFKA_PASSWORD}"
        until                = "2026-11-01T00:00:00Z"
        ages                 = false
        force                = true
        max_slices           = 16
        messages_per_slice   = 20000000
        max_requeues         = 3
        verify_seconds       = 120.5
      }
      older = {
        system     = "kafka"
        options    = { bootstrap_servers = "broker:9093", topic = "older", group_id = "billing" }
        older_than = "2h"
      }
      latest = {
        system    = "kafka"
        options   = { bootstrap_servers = "broker:9093", topic = "latest", group_id = "billing" }
        keep_last = 1000
      }
    }
  }

  assert {
    condition     = jsondecode(azurerm_function_app_flex_consumption.this.app_settings.BACKLOG_CLEARER_CONFIG).backlogs.orders.max_requeues == 3
    error_message = "a key does not reach the bundle"
  }
}

# Every variable that the runs above leave at its default, and what it changes.
run "every_other_variable" {
  command = apply

  variables {
    instance_memory_in_mb = 4096
    log_retention_days    = 90
    receipts = {
      replication  = "GZRS"
      recover_days = 90
      key = {
        key_vault_key_id = "https://brokers.vault.azure.net/keys/receipts"
        identity_id      = "/subscriptions/0/resourceGroups/keys/providers/Microsoft.ManagedIdentity/userAssignedIdentities/storage"
      }
    }
    schedule = { backlogs = ["orders"], late = true }
    tags     = { team = "ops" }
    job      = { image = "contoso.azurecr.io/backlog-clearer:1", cpu = 2, memory = "4Gi", timeout_seconds = 3600 }
    secrets = {
      KAFKA_PASSWORD = { key_vault_id = "/subscriptions/0/resourceGroups/brokers/providers/Microsoft.KeyVault/vaults/brokers", name = "kafka-password", version = "1a2b" }
    }
    network = {
      subnet_id                  = "/subscriptions/0/resourceGroups/net/providers/Microsoft.Network/virtualNetworks/v/subnets/functions"
      private_endpoint_subnet_id = "/subscriptions/0/resourceGroups/net/providers/Microsoft.Network/virtualNetworks/v/subnets/endpoints"
      job_subnet_id              = "/subscriptions/0/resourceGroups/net/providers/Microsoft.Network/virtualNetworks/v/subnets/jobs"
    }
  }

  assert {
    condition = alltrue([for tags in concat(
      [for identity in azurerm_user_assigned_identity.this : identity.tags],
      [for endpoint in azurerm_private_endpoint.storage : endpoint.tags],
      [
        azurerm_service_plan.this.tags, azurerm_function_app_flex_consumption.this.tags, azurerm_storage_account.host.tags, azurerm_storage_account.data.tags,
        azurerm_log_analytics_workspace.this.tags, azurerm_application_insights.this.tags, azurerm_monitor_scheduled_query_rules_alert_v2.not_cleared.tags,
        azurerm_container_app_environment.this[0].tags, azurerm_container_app_job.this[0].tags,
      ],
    ) : tags.team == "ops"])
    error_message = "a resource lacks the tags"
  }
  assert {
    condition = (
      azurerm_function_app_flex_consumption.this.instance_memory_in_mb == 4096
      && azurerm_function_app_flex_consumption.this.app_settings.BACKLOG_CLEARER_SCHEDULE_LATE == "true"
      && azurerm_function_app_flex_consumption.this.app_settings.KAFKA_PASSWORD == "@Microsoft.KeyVault(SecretUri=https://brokers.vault.azure.net/secrets/kafka-password/1a2b)"
    )
    error_message = "the app has another size, or other settings"
  }
  assert {
    condition = (
      azurerm_container_app_job.this[0].template[0].container[0].cpu == 2
      && azurerm_container_app_job.this[0].template[0].container[0].memory == "4Gi"
      && azurerm_container_app_job.this[0].replica_timeout_in_seconds == 3600
      && azurerm_container_app_environment.this[0].infrastructure_subnet_id == var.network.job_subnet_id
      && azurerm_container_app_environment.this[0].internal_load_balancer_enabled
    )
    error_message = "the job has another size, time or network"
  }
  assert {
    condition = (
      azurerm_storage_account.data.account_replication_type == "GZRS"
      && azurerm_storage_account.data.blob_properties[0].delete_retention_policy[0].days == 90
      && azurerm_storage_account.data.blob_properties[0].container_delete_retention_policy[0].days == 90
      && azurerm_log_analytics_workspace.this.retention_in_days == 90
    )
    error_message = "receipts or logs are kept otherwise"
  }
  assert {
    condition = (
      azurerm_storage_account.data.customer_managed_key[0].key_vault_key_id == "https://brokers.vault.azure.net/keys/receipts"
      && azurerm_storage_account.data.customer_managed_key[0].user_assigned_identity_id == var.receipts.key.identity_id
      && azurerm_storage_account.data.identity[0].identity_ids == toset([var.receipts.key.identity_id])
      && length(azurerm_storage_account.host.customer_managed_key) == 0
    )
    error_message = "receipts are encrypted with another key"
  }
}
