variable "resource_group" {
  description = "Existing resource group that everything is created in: its name and location."
  type = object({
    name     = string
    location = string
  })
  nullable = false

  validation {
    condition     = length(var.resource_group.name) > 0 && can(regex("^[A-Za-z0-9 ]+$", var.resource_group.location))
    error_message = "resource_group has a name and a location, as in { name = \"drains\", location = \"westeurope\" }."
  }
}

variable "name" {
  description = "Prefix of every name. The function app's host name contains it, so it has to be globally unique; changing it replaces everything, including the receipts."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,22}[a-z0-9]$", var.name)) && !strcontains(var.name, "--")
    error_message = "name has 3-24 lower-case letters, digits and single hyphens, as in \"contoso-backlog-clearer\"."
  }
}

variable "storage_name" {
  description = "Prefix of the two storage accounts' names, which have to be globally unique and allow no hyphens: NAMEhost for the functions' host and packages, NAMEdata for the queue and the receipts."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z0-9]{3,20}$", var.storage_name))
    error_message = "storage_name has 3-20 lower-case letters and digits, as in \"contosoclearer\"."
  }
}

variable "tags" {
  description = "Tags of everything that can have them."
  type        = map(string)
  default     = {}
  nullable    = false
}

variable "backlogs" {
  description = "The backlogs that may be cleared, by name: the same keys as in the bundle's configuration file (docs/jobs.md). Write a secret as $${env:NAME}, with NAME among `secrets`; in HCL that is \"$$$${env:NAME}\"."
  type = map(object({
    system               = string
    options              = map(string)
    mode                 = optional(string)
    allowed_modes        = optional(list(string))
    workers              = optional(number)
    batch_size           = optional(number)
    max_messages         = optional(number)
    max_seconds          = optional(number)
    until                = optional(string)
    older_than           = optional(string)
    keep_last            = optional(number)
    ages                 = optional(bool)
    max_rate             = optional(string)
    metrics_file         = optional(string)
    notify               = optional(string)
    notify_authorization = optional(string)
    force                = optional(bool)
    max_slices           = optional(number)
    messages_per_slice   = optional(number)
    max_requeues         = optional(number)
    verify_seconds       = optional(number)
  }))
  nullable = false

  validation {
    condition     = length(var.backlogs) > 0 && alltrue([for name in keys(var.backlogs) : can(regex("^[a-z][a-z0-9-]{0,99}$", name))])
    error_message = "backlogs has at least one entry, and each name has 1-100 lower-case letters, digits and hyphens, as in { orders = { system = \"kafka\", options = { … } } }."
  }

  validation {
    condition     = alltrue([for backlog in var.backlogs : contains(["kafka", "pulsar", "streamnative", "googlepubsub", "eventhubs", "iggy"], backlog.system)])
    error_message = "system must be one of kafka, pulsar, streamnative, googlepubsub, eventhubs or iggy, as in { orders = { system = \"kafka\", options = { … } } }."
  }

  validation {
    condition     = alltrue([for backlog in var.backlogs : alltrue([for mode in concat(compact([backlog.mode]), coalesce(backlog.allowed_modes, [])) : contains(["consume", "skip"], mode)])])
    error_message = "mode and allowed_modes are consume or skip, as in mode = \"consume\", allowed_modes = [\"consume\", \"skip\"]."
  }
}

variable "secrets" {
  description = "Key Vault secrets by the environment variable that gets the value. The vault needs Azure RBAC; access is granted on each secret. Without a version the newest is used: functions read it once a day and after a deployment, jobs within half an hour."
  type = map(object({
    key_vault_id = string
    name         = string
    version      = optional(string)
  }))
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for name in keys(var.secrets) : can(regex("^[A-Z][A-Z0-9_]*$", name)) && !can(regex("^(BACKLOG_CLEARER_|AZURE_)", name))])
    error_message = "secrets is keyed by environment variables that do not begin with BACKLOG_CLEARER_ or AZURE_, as in { KAFKA_PASSWORD = { key_vault_id = azurerm_key_vault.this.id, name = \"kafka-password\" } }."
  }

  validation {
    condition     = alltrue([for secret in var.secrets : can(regex("^/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft.KeyVault/vaults/[^/]+$", secret.key_vault_id)) && can(regex("^[A-Za-z0-9-]+$", secret.name))])
    error_message = "a secret has its vault's resource id and its name, as in { key_vault_id = \"/subscriptions/…/resourceGroups/…/providers/Microsoft.KeyVault/vaults/brokers\", name = \"kafka-password\" }."
  }

  validation {
    condition     = length(distinct([for secret in var.secrets : "${secret.key_vault_id}/${secret.name}"])) == length(var.secrets)
    error_message = "a secret is shown by one variable, as in { KAFKA_PASSWORD = { key_vault_id = azurerm_key_vault.this.id, name = \"kafka-password\" } }: use its variable twice instead."
  }

  validation {
    condition     = alltrue([for name in local.referenced_secrets : contains(keys(var.secrets), name)])
    error_message = "every $${env:NAME} in a backlog's options, notify and notify_authorization needs an entry, as in secrets = { NAME = { key_vault_id = azurerm_key_vault.this.id, name = \"name-in-the-vault\" } }."
  }
}

variable "environment" {
  description = "Plain environment variables of the functions and the job, as metrics need them: { OTEL_EXPORTER_OTLP_ENDPOINT = \"http://otel.internal:4318\" }. Secrets belong in `secrets`."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for name in keys(var.environment) : can(regex("^[A-Za-z_][A-Za-z0-9_]*$", name)) && !can(regex("(?i)^(BACKLOG_CLEARER_|AZURE|APPLICATIONINSIGHTS_|FUNCTIONS_|WEBSITE_)", name)) && !contains(keys(var.secrets), name)])
    error_message = "environment is keyed by names of variables that are not among secrets and do not begin with BACKLOG_CLEARER_, AZURE, APPLICATIONINSIGHTS_, FUNCTIONS_ or WEBSITE_, as in { OTEL_EXPORTER_OTLP_ENDPOINT = \"http://otel.internal:4318\" }."
  }
}

variable "timeout_seconds" {
  description = "Timeout of one slice in seconds: the functions' timeout. Draining ends 120 s earlier, to acknowledge and verify. A slice that reaches this deadline is enqueued again."
  type        = number
  default     = 1800
  nullable    = false

  validation {
    condition     = var.timeout_seconds >= 240 && var.timeout_seconds <= 3600 && floor(var.timeout_seconds) == var.timeout_seconds
    error_message = "timeout_seconds is a whole number from 240 to 3600, as in 1800: an instance that is scaled in has one hour to end."
  }
}

variable "max_parallel_slices" {
  description = "Slices that run at the same time, one for each instance of the function app or execution of the job."
  type        = number
  default     = 40
  nullable    = false

  validation {
    condition     = var.max_parallel_slices >= 1 && var.max_parallel_slices <= 1000 && floor(var.max_parallel_slices) == var.max_parallel_slices
    error_message = "max_parallel_slices is 1-1000, as in 40 (older versions of the platform take no less than 40)."
  }
}

variable "instance_memory_in_mb" {
  description = "Memory of one function instance."
  type        = number
  default     = 2048
  nullable    = false

  validation {
    condition     = contains([2048, 4096], var.instance_memory_in_mb)
    error_message = "instance_memory_in_mb is 2048 or 4096, as in 2048."
  }
}

variable "schedule" {
  description = "When these backlogs are cleared: six NCRONTAB fields in UTC, seconds first. Paused unless `enabled`. Enabling it does not make up for a start that was missed meanwhile, unless `late`."
  type = object({
    ncrontab = optional(string, "0 0 3 * * *")
    backlogs = optional(list(string), [])
    enabled  = optional(bool, false)
    late     = optional(bool, false)
  })
  default  = {}
  nullable = false

  validation {
    condition     = length(split(" ", trimspace(var.schedule.ncrontab))) == 6
    error_message = "schedule.ncrontab has six fields, seconds first, as in \"0 0 3 * * *\"."
  }

  validation {
    condition     = alltrue([for name in var.schedule.backlogs : contains(keys(var.backlogs), name)])
    error_message = "schedule.backlogs are names of backlogs, as in { backlogs = [\"orders\"] }."
  }

  validation {
    condition     = !var.schedule.enabled || length(var.schedule.backlogs) > 0
    error_message = "a schedule that is enabled names its backlogs, as in { backlogs = [\"orders\"], enabled = true }."
  }
}

variable "network" {
  description = "The virtual network of the functions, the jobs and the private endpoints. subnet_id: for the function app, delegated to Microsoft.App/environments. private_endpoint_subnet_id: for the endpoints of the storage accounts and the app. private_dns_zone_ids: by blob, queue and sites. job_subnet_id: for the Container Apps environment, delegated too."
  type = object({
    subnet_id                  = string
    private_endpoint_subnet_id = string
    private_dns_zone_ids       = optional(map(string), {})
    job_subnet_id              = optional(string)
  })
  default = null

  validation {
    condition = var.network == null || alltrue([
      for id in compact([try(var.network.subnet_id, ""), try(var.network.private_endpoint_subnet_id, ""), try(var.network.job_subnet_id, "")]) :
      can(regex("^/subscriptions/[^/]+/resourceGroups/[^/]+/providers/Microsoft.Network/virtualNetworks/[^/]+/subnets/[^/]+$", id))
    ])
    error_message = "network's subnets are resource ids, as in { subnet_id = azurerm_subnet.functions.id, private_endpoint_subnet_id = azurerm_subnet.endpoints.id }."
  }

  validation {
    condition     = var.network == null || try(length(setsubtract(keys(var.network.private_dns_zone_ids), ["blob", "queue", "sites"])) == 0, false)
    error_message = "network.private_dns_zone_ids is keyed by blob, queue and sites, as in { blob = azurerm_private_dns_zone.blob.id }."
  }
}

variable "public_access" {
  description = "Parts that are reachable from the internet; identities and keys are still required. app: the function app, for deployments and requests from outside the network. storage: both accounts; needed without `network`, because the functions have no other way to reach them."
  type = object({
    app     = optional(bool, false)
    storage = optional(bool, false)
  })
  default  = {}
  nullable = false

  validation {
    condition     = var.public_access.storage || var.network != null
    error_message = "the functions need a way to reach their storage: set `network`, or public_access = { storage = true } (Entra ID is required in both cases)."
  }
}

variable "event_hubs" {
  description = "Event Hubs that backlogs clear, by backlog: resource ids of the hub, from which the runtime may receive, and of the container of its checkpoints, to which it may write."
  type = map(object({
    hub_id                  = string
    checkpoint_container_id = string
  }))
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for name in keys(var.event_hubs) : try(var.backlogs[name].system == "eventhubs", false)])
    error_message = "event_hubs is keyed by backlogs whose system is eventhubs, as in { telemetry = { hub_id = azurerm_eventhub.telemetry.id, checkpoint_container_id = … } }."
  }

  validation {
    condition     = alltrue([for hub in var.event_hubs : can(regex("/providers/Microsoft.EventHub/namespaces/[^/]+/eventhubs/[^/]+$", hub.hub_id))])
    error_message = "event_hubs.hub_id is the hub's resource id, not the namespace's, as in azurerm_eventhub.telemetry.id."
  }

  validation {
    condition     = alltrue([for hub in var.event_hubs : can(regex("/blobServices/default/containers/[^/]+$", hub.checkpoint_container_id))])
    error_message = "event_hubs.checkpoint_container_id is a container's resource id, as in \"$${azurerm_storage_account.brokers.id}/blobServices/default/containers/checkpoints\"."
  }
}

variable "job" {
  description = "A Container Apps job that drains slices instead of the drain function, one in each execution, for slices that need longer. null: none. Build the image with `make image-context CLOUDS=azure`. registry: an Azure Container Registry to pull from with the job's identity."
  type = object({
    image           = string
    timeout_seconds = optional(number, 21600)
    cpu             = optional(number, 1)
    memory          = optional(string, "2Gi")
    registry = optional(object({
      id     = string
      server = string
    }))
  })
  default = null

  validation {
    condition     = var.job == null || can(regex("@sha256:[0-9a-f]{64}$|:[^/:]+$", var.job.image))
    error_message = "job.image names an image with its digest or tag, as in \"contoso.azurecr.io/backlog-clearer@sha256:…\"."
  }

  validation {
    condition     = var.job == null || try(var.job.timeout_seconds >= 240 && var.job.timeout_seconds <= 604800, false)
    error_message = "job.timeout_seconds is 240-604800 (the queue hides a message for a week at most), as in { timeout_seconds = 21600 }."
  }

  validation {
    condition     = var.job == null || try(var.job.cpu >= 0.25 && var.job.cpu <= 4 && var.job.memory == format("%gGi", var.job.cpu * 2), false)
    error_message = "job.memory is 2Gi for each CPU, as in { cpu = 1, memory = \"2Gi\" }."
  }

  validation {
    condition     = try(var.job.registry, null) == null || can(regex("/providers/Microsoft.ContainerRegistry/registries/[^/]+$", var.job.registry.id))
    error_message = "job.registry has the registry's resource id and login server, as in { id = azurerm_container_registry.this.id, server = \"contoso.azurecr.io\" }."
  }
}

variable "log_retention_days" {
  description = "For how many days the Log Analytics workspace keeps logs."
  type        = number
  default     = 30
  nullable    = false

  validation {
    condition     = var.log_retention_days >= 30 && var.log_retention_days <= 730
    error_message = "log_retention_days is 30-730, as in 30."
  }
}

variable "receipts" {
  description = "The container of receipts, which are needed for undo and are the audit record. replication: of their storage account. recover_days: for how many days a deleted or overwritten receipt can be recovered. key: your key that encrypts the account, and an identity that already may use it (Key Vault Crypto Service Encryption User)."
  type = object({
    replication  = optional(string, "ZRS")
    recover_days = optional(number, 30)
    key = optional(object({
      key_vault_key_id = string
      identity_id      = string
    }))
  })
  default  = {}
  nullable = false

  validation {
    condition     = contains(["LRS", "ZRS", "GRS", "GZRS"], var.receipts.replication)
    error_message = "receipts.replication is LRS, ZRS, GRS or GZRS, as in { replication = \"ZRS\" }."
  }

  validation {
    condition     = var.receipts.recover_days >= 7 && var.receipts.recover_days <= 365
    error_message = "receipts.recover_days is 7-365, as in { recover_days = 30 }."
  }

  validation {
    condition     = var.receipts.key == null || (can(regex("^https://[^/]+\\.vault\\.azure\\.net/keys/[A-Za-z0-9-]+(/[0-9a-f]+)?$", var.receipts.key.key_vault_key_id)) && can(regex("/providers/Microsoft.ManagedIdentity/userAssignedIdentities/[^/]+$", var.receipts.key.identity_id)))
    error_message = "receipts.key has the key's URL, without a version so that rotations are followed, and the resource id of an identity, as in { key_vault_key_id = azurerm_key_vault_key.receipts.versionless_id, identity_id = azurerm_user_assigned_identity.storage.id }."
  }
}

variable "action_group_ids" {
  description = "Action groups that are notified of a drain that did not clear its backlog. Without any, the alert is shown only in Azure Monitor."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for id in var.action_group_ids : can(regex("/providers/[Mm]icrosoft.[Ii]nsights/actionGroups/[^/]+$", id))])
    error_message = "action_group_ids are resource ids, as in [azurerm_monitor_action_group.oncall.id]."
  }
}
