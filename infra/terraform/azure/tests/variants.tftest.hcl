# What is made when it is asked for.

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
  schedule = { backlogs = ["orders"] }
}

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
    error_message = "nobody hears of a failure"
  }
}

run "every_key_of_a_backlog" {
  command = apply

  variables {
    event_hubs = {}
    backlogs = {
      orders = {
        system             = "kafka"
        options            = { bootstrap_servers = "broker:9093", topic = "orders", group_id = "billing", "sasl.password" = "$${env:KAFKA_PASSWORD}" }
        mode               = "consume"
        allowed_modes      = ["consume", "skip"]
        workers            = 8
        batch_size         = 5000
        max_messages       = 1000000000
        max_seconds        = 1200
        force              = true
        max_slices         = 16
        messages_per_slice = 20000000
        max_requeues       = 3
      }
    }
  }

  assert {
    condition     = jsondecode(azurerm_function_app_flex_consumption.this.app_settings.BACKLOG_CLEARER_CONFIG).backlogs.orders.max_requeues == 3
    error_message = "a key does not reach the bundle"
  }
}
