# Every validation refuses what it is for.

mock_provider "azurerm" {
  source = "./tests/mocks"
}

variables {
  resource_group = { name = "drains", location = "westeurope" }
  name           = "contoso-clearer"
  storage_name   = "contosoclearer"
  public_access  = { storage = true }
  backlogs       = { orders = { system = "kafka", options = { bootstrap_servers = "broker:9092", topic = "orders", group_id = "billing" } } }
}

# A run refuses one value of each of several variables, since each run starts a new provider process.

run "refused_1" {
  command = plan

  variables {
    # location by its code
    resource_group = { name = "drains", location = "west_europe" }
    # name with capitals
    name = "Contoso"
    # storage name with hyphens
    storage_name = "contoso-clearer"
    # no backlog
    backlogs = {}
    # slice longer than an instance may end
    timeout_seconds = 7200
    # no slice at a time
    max_parallel_slices = 0
    # memory of another size
    instance_memory_in_mb = 1024
    # subnet by its name
    network = { subnet_id = "functions", private_endpoint_subnet_id = "/subscriptions/0/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/v/subnets/endpoints" }
    # logs for a week
    log_retention_days = 7
    # unknown replication
    receipts = { replication = "RAGRS" }
    # action group by its name
    action_group_ids = ["oncall"]
  }

  expect_failures = [
    var.resource_group,
    var.name,
    var.storage_name,
    var.backlogs,
    var.timeout_seconds,
    var.max_parallel_slices,
    var.instance_memory_in_mb,
    var.network,
    var.log_retention_days,
    var.receipts,
    var.action_group_ids,
  ]
}

run "refused_2" {
  command = plan

  variables {
    # backlog name with capitals
    backlogs = { Orders = { system = "kafka", options = {} } }
    # no time to settle
    timeout_seconds = 120
    # unknown zone
    network = { subnet_id = "/subscriptions/0/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/v/subnets/f", private_endpoint_subnet_id = "/subscriptions/0/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/v/subnets/e", private_dns_zone_ids = { vault = "zone" } }
    # receipts gone at once
    receipts = { recover_days = 1 }
  }

  expect_failures = [
    var.backlogs,
    var.timeout_seconds,
    var.network,
    var.receipts,
  ]
}

run "refused_3" {
  command = plan

  variables {
    # unknown system
    backlogs = { orders = { system = "rabbitmq", options = {} } }
    # no way to the storage
    public_access = {}
  }

  expect_failures = [
    var.backlogs,
    var.public_access,
  ]
}

run "refused_4" {
  command = plan

  variables {
    # unknown mode
    backlogs = { orders = { system = "kafka", options = {}, mode = "delete" } }
  }

  expect_failures = [
    var.backlogs,
  ]
}

run "refused_5" {
  command = plan

  variables {
    # unknown allowed mode
    backlogs = { orders = { system = "kafka", options = {}, allowed_modes = ["delete"] } }
  }

  expect_failures = [
    var.backlogs,
  ]
}

run "refused_6" {
  command = plan

  variables {
    # reserved variable
    secrets = { AZURE_CLIENT_ID = { key_vault_id = "/subscriptions/0/resourceGroups/g/providers/Microsoft.KeyVault/vaults/brokers", name = "id" } }
    # schedule without seconds
    schedule = { ncrontab = "0 3 * * *", backlogs = ["orders"] }
    # hub of another system
    event_hubs = { orders = { hub_id = "/subscriptions/0/resourceGroups/g/providers/Microsoft.EventHub/namespaces/contoso/eventhubs/orders", checkpoint_container_id = "/subscriptions/0/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/brokers/blobServices/default/containers/checkpoints" } }
    # image without tag
    job = { image = "contoso.azurecr.io/backlog-clearer" }
  }

  expect_failures = [
    var.secrets,
    var.schedule,
    var.event_hubs,
    var.job,
  ]
}

run "refused_7" {
  command = plan

  variables {
    # vault by its url
    secrets = { KAFKA_PASSWORD = { key_vault_id = "https://brokers.vault.azure.net", name = "kafka-password" } }
    # schedule of no backlog
    schedule = { backlogs = ["payments"] }
    # job longer than a week
    job = { image = "image:1", timeout_seconds = 604801 }
  }

  expect_failures = [
    var.secrets,
    var.schedule,
    var.job,
  ]
}

run "refused_8" {
  command = plan

  variables {
    # secret without entry
    backlogs = { orders = { system = "kafka", options = { bootstrap_servers = "broker:9093", topic = "orders", group_id = "billing", "sasl.password" = "$${env:KAFKA_PASSWORD}" } } }
  }

  expect_failures = [
    var.secrets,
  ]
}

run "refused_notify" {
  command = plan

  variables {
    # secret of a notification without entry
    backlogs = { orders = { system = "kafka", options = { bootstrap_servers = "broker:9093", topic = "orders", group_id = "billing" }, notify = "$${env:HOOK_URL}" } }
  }

  expect_failures = [
    var.secrets,
  ]
}

run "refused_9" {
  command = plan

  variables {
    # schedule of nothing runs
    schedule = { enabled = true }
    # a key by its resource id
    receipts = { key = { key_vault_key_id = "/subscriptions/0/resourceGroups/g/providers/Microsoft.KeyVault/vaults/v/keys/k", identity_id = "storage" } }
    # a setting of the host
    environment = { AzureWebJobsStorage = "UseDevelopmentStorage=true" }
    # memory that does not go with the cpu
    job = { image = "image:1", cpu = 1, memory = "4Gi" }
  }

  expect_failures = [
    var.schedule,
    var.receipts,
    var.environment,
    var.job,
  ]
}

run "configuration_too_long" {
  command = plan

  variables {
    backlogs = { for number in range(200) : "b${number}" => { system = "kafka", options = { bootstrap_servers = "broker:9092", topic = format("%0200d", number), group_id = "billing" } } }
  }

  expect_failures = [azurerm_function_app_flex_consumption.this]
}

run "environment_too_long" {
  command = plan

  variables {
    environment = { OTEL_RESOURCE_ATTRIBUTES = format("%030000d", 0) }
  }

  expect_failures = [azurerm_function_app_flex_consumption.this]
}

run "refused_10" {
  command = plan

  variables {
    # a whole namespace
    backlogs   = { telemetry = { system = "eventhubs", options = { fully_qualified_namespace = "contoso.servicebus.windows.net", eventhub_name = "telemetry" } } }
    event_hubs = { telemetry = { hub_id = "/subscriptions/0/resourceGroups/g/providers/Microsoft.EventHub/namespaces/contoso", checkpoint_container_id = "/subscriptions/0/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/brokers/blobServices/default/containers/checkpoints" } }
  }

  expect_failures = [
    var.event_hubs,
  ]
}

run "refused_11" {
  command = plan

  variables {
    # a whole checkpoint account
    backlogs   = { telemetry = { system = "eventhubs", options = { fully_qualified_namespace = "contoso.servicebus.windows.net", eventhub_name = "telemetry" } } }
    event_hubs = { telemetry = { hub_id = "/subscriptions/0/resourceGroups/g/providers/Microsoft.EventHub/namespaces/contoso/eventhubs/telemetry", checkpoint_container_id = "/subscriptions/0/resourceGroups/g/providers/Microsoft.Storage/storageAccounts/brokers" } }
  }

  expect_failures = [
    var.event_hubs,
  ]
}

run "refused_12" {
  command = plan

  variables {
    # registry by its name
    job = { image = "image:1", registry = { id = "contoso", server = "contoso.azurecr.io" } }
  }

  expect_failures = [
    var.job,
  ]
}

run "one_secret_twice" {
  command = plan

  variables {
    # a name with two hyphens
    name = "contoso--clearer"
    secrets = {
      KAFKA_PASSWORD = { key_vault_id = "/subscriptions/0/resourceGroups/g/providers/Microsoft.KeyVault/vaults/brokers", name = "kafka-password" }
      KAFKA_SECRET   = { key_vault_id = "/subscriptions/0/resourceGroups/g/providers/Microsoft.KeyVault/vaults/brokers", name = "kafka-password" }
    }
  }

  expect_failures = [
    var.name,
    var.secrets,
  ]
}
