# The module as a user has it, on a cluster of a test's own (tests/infra/kube_cluster.py).
terraform {
  required_version = ">= 1.9"

  required_providers {
    kubernetes = {
      source  = "hashicorp/kubernetes"
      version = ">= 2.38, < 4"
    }
  }
}

variable "host" {
  description = "The API server's URL."
  type        = string
}

variable "token" {
  description = "An administrator's token."
  type        = string
  sensitive   = true
}

variable "digest" {
  description = "Digit that the image's digest consists of."
  type        = string
  default     = "0"
}

variable "slices" {
  description = "Pods of the run."
  type        = number
  default     = 4
}

variable "attempts" {
  description = "Attempts at each slice."
  type        = number
  default     = 2
}

variable "attempt_seconds" {
  description = "Timeout of one attempt."
  type        = number
  default     = 3600
}

variable "team" {
  description = "A label of every object."
  type        = string
  default     = "one"
}

variable "cron" {
  description = "When the schedule is due."
  type        = string
}

variable "enabled" {
  description = "Whether the schedule is enabled."
  type        = bool
  default     = false
}

provider "kubernetes" {
  host     = var.host
  token    = var.token
  insecure = true # the server made its certificate itself
}

resource "kubernetes_namespace_v1" "this" {
  metadata {
    name = "drains"
    labels = {
      "pod-security.kubernetes.io/enforce" = "restricted"
    }
  }
}

module "drain" {
  source = "../kubernetes"

  namespace = kubernetes_namespace_v1.this.metadata[0].name
  image     = "registry.example/backlog-clearer@sha256:${join("", [for _ in range(64) : var.digest])}"
  attempts  = var.attempts
  labels    = { team = var.team }

  attempt_seconds = var.attempt_seconds

  backlogs = {
    orders = {
      system  = "kafka"
      options = { bootstrap_servers = "kafka-0:9092", topic = "orders", group_id = "billing" }
    }
  }

  egress    = { kafka = { cidr = "10.0.0.0/16", port = 9092 } }
  receipts  = { url = "gs://ops-receipts/drains" }
  runs      = { outage = { backlog = "orders", slices = var.slices } }
  schedules = { orders = { cron = var.cron, slices = 2, enabled = var.enabled } }
}
