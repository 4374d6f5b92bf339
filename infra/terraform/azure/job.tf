resource "azurerm_container_app_environment" "this" {
  count = var.job == null ? 0 : 1

  name                           = "${var.name}-jobs"
  resource_group_name            = var.resource_group.name
  location                       = var.resource_group.location
  logs_destination               = "log-analytics"
  log_analytics_workspace_id     = azurerm_log_analytics_workspace.this.id
  infrastructure_subnet_id       = try(var.network.job_subnet_id, null)
  internal_load_balancer_enabled = try(var.network.job_subnet_id, null) == null ? null : true
  tags                           = var.tags

  # Serverless: nothing runs, and nothing is charged, while the queue is empty.
  workload_profile {
    name                  = "Consumption"
    workload_profile_type = "Consumption"
  }
}

locals {
  job_secrets = { for name, uri in local.secret_uris : name => { id = lower(replace(name, "_", "-")), uri = uri } }
}

# An execution takes one message and ends. KEDA starts one for each message in the queue.
resource "azurerm_container_app_job" "this" {
  count = var.job == null ? 0 : 1

  name                         = "${var.name}-job"
  resource_group_name          = var.resource_group.name
  location                     = var.resource_group.location
  container_app_environment_id = azurerm_container_app_environment.this[0].id
  workload_profile_name        = "Consumption"
  tags                         = var.tags

  replica_timeout_in_seconds = var.job.timeout_seconds
  replica_retry_limit        = 0 # the queue delivers the message again; another attempt here would take another message

  event_trigger_config {
    parallelism              = 1
    replica_completion_count = 1

    scale {
      min_executions              = 0
      max_executions              = var.max_parallel_slices
      polling_interval_in_seconds = 30

      rules {
        name             = "slices"
        custom_rule_type = "azure-queue"
        identity_id      = azurerm_user_assigned_identity.this["job"].id
        metadata = {
          accountName = azurerm_storage_account.data.name
          queueName   = azurerm_storage_queue.slices.name
          queueLength = "1"
        }
      }
    }
  }

  identity {
    type         = "UserAssigned"
    identity_ids = [azurerm_user_assigned_identity.this["job"].id]
  }

  dynamic "registry" {
    for_each = var.job.registry == null ? [] : [var.job.registry]
    content {
      server   = registry.value.server
      identity = azurerm_user_assigned_identity.this["job"].id
    }
  }

  dynamic "secret" {
    for_each = local.job_secrets
    content {
      name                = secret.value.id
      identity            = azurerm_user_assigned_identity.this["job"].id
      key_vault_secret_id = secret.value.uri
    }
  }

  template {
    container {
      name   = "drain"
      image  = var.job.image
      args   = ["--from-queue"]
      cpu    = var.job.cpu
      memory = var.job.memory

      dynamic "env" {
        for_each = merge(local.environment["job"], { BACKLOG_CLEARER_DEADLINE_S = tostring(var.job.timeout_seconds - local.settle_seconds) })
        content {
          name  = env.key
          value = env.value
        }
      }

      dynamic "env" {
        for_each = local.job_secrets
        content {
          name        = env.key
          secret_name = env.value.id
        }
      }
    }
  }

  depends_on = [azurerm_role_assignment.this]
}
