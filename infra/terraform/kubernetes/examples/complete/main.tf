# One backlog, cleared every night in eight slices once its schedule is enabled, in a separate namespace.

terraform {
  required_version = ">= 1.9"

  required_providers {
    kubernetes = {
      source  = "hashicorp/kubernetes"
      version = "~> 3.2"
    }
  }
}

provider "kubernetes" {
  config_path = var.kubeconfig
}

resource "kubernetes_namespace_v1" "this" {
  metadata {
    name = "backlog-clearer"
    labels = {
      "pod-security.kubernetes.io/enforce" = "restricted"
    }
  }
}

module "drain" {
  source = "../.."

  namespace = kubernetes_namespace_v1.this.metadata[0].name
  image     = var.image

  backlogs = {
    orders = {
      system = "kafka"
      options = {
        bootstrap_servers   = var.bootstrap_servers
        topic               = "orders"
        group_id            = "billing"
        "security.protocol" = "SASL_SSL"
        "sasl.mechanisms"   = "SCRAM-SHA-512"
        "sasl.username"     = "clearer"
        "sasl.password"     = "$${env:KAFKA_PASSWORD}"
      }
      workers = 8
    }
  }
  # Made beforehand: kubectl create secret generic kafka --namespace backlog-clearer --from-file=password
  secrets = { KAFKA_PASSWORD = { name = "kafka", key = "password" } }

  egress = {
    kafka  = { cidr = var.brokers_cidr, port = 9093 }
    bucket = { cidr = "0.0.0.0/0", port = 443 }
  }
  receipts                    = { url = var.receipts_url }
  service_account_annotations = var.service_account_annotations

  schedules = {
    orders = { cron = "0 3 * * *", timezone = "Europe/Berlin", slices = 8 }
  }
}
